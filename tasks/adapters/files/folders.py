"""Folders that commands write: a result never goes into a folder that has another."""

from pathlib import Path

from tasks.core.errors import InputError


def check_new(out: Path) -> None:
    """Raise InputError where there is something in `out` already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; choose another folder")
