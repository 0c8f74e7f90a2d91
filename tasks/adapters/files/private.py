"""Files of HOME that only their owner reads, made once and never through a link that somebody planted."""

import os
from collections.abc import Callable
from pathlib import Path

from tasks.core.errors import InputError


def kept_once(file: Path, make: Callable[[], str]) -> str:
    """Return what the file holds, which is made if there is none; raises InputError for one that is empty."""
    if not os.path.lexists(file):
        write_new(file, make())
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW)) as kept:
        if text := kept.read().strip():
            return text
    raise InputError(f"{file} is empty: bring back what it held, or remove it")


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet."""
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as out:
        out.write(text)
