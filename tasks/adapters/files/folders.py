"""Folders that commands write: a result never goes into a folder that has another."""

import os
from pathlib import Path

from tasks.core.errors import InputError


def check_new(out: Path) -> None:
    """Raise InputError where there is something in `out` already, or where it cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; choose another folder")
    check_writable(out)


def check_writable(out: Path) -> None:
    """Raise InputError where the folder `out` is not to be written to, or cannot be made."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"--out {out}: nothing can be written to {place}; choose another folder")
