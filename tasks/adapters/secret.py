"""The secret of a HOME, `user:password`: whoever knows it may use its Prefect, MLflow and metrics.

HOME/secret holds it, made by the first `up`; PREFECT_API_AUTH_STRING goes before it, and is how a worker on another
machine is told.
"""

import os
from pathlib import Path
from secrets import token_urlsafe

from tasks.adapters.files.private import kept_once
from tasks.core.errors import InputError
from tasks.redaction import remember

FILE = "secret"
VARIABLES = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")


def read(home: Path) -> str:
    """Return the secret; empty: there is none, or none yet."""
    said = next(filter(None, map(os.environ.get, VARIABLES)), None) or of_home(home)
    remember({said, said.partition(":")[2]})
    return said


def of_home(home: Path) -> str:
    """Return what HOME/secret holds; empty without it."""
    try:
        return (home / FILE).read_text().strip()
    except FileNotFoundError:
        return ""


def make(home: Path) -> None:
    """Make HOME/secret where there is none; raises InputError for one that is no secret."""
    if ":" not in kept_once(home / FILE, lambda: f"quarterdeck:{token_urlsafe(32)}"):
        raise InputError(f"{home / FILE} holds no user:password; remove it, and the next `up` makes another")


def login(home: Path) -> tuple[str, str] | None:
    """Return user and password; None where nothing is asked for."""
    user, colon, password = read(home).partition(":")
    return (user, password) if colon else None
