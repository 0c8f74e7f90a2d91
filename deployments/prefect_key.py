"""HOME/prefect.key: what Prefect encrypts its blocks with, kept outside its database and outside every backup."""

import os
from contextlib import closing
from pathlib import Path

from cryptography.fernet import Fernet
from sqlalchemy import JSON, inspect, text

from tasks.adapters.files.private import kept_once, write_new
from tasks.adapters.store import Database, exists
from tasks.settings import Settings

VARIABLE = "PREFECT_SERVER_ENCRYPTION_KEY"
KEPT = "configuration WHERE key = 'ENCRYPTION_KEY'"


def prefect_key(settings: Settings) -> str:
    """Return the operator's own key, else this HOME's, which is made once."""
    file, url = settings.home / "prefect.key", settings.databases["prefect"]
    if own := os.environ.get(VARIABLE):
        return own
    if exists(url) and not file.exists():
        _move(url, file)
    return kept_once(file, lambda: Fernet.generate_key().decode())


def _move(url: str, file: Path) -> None:
    """Take over the key that a Prefect without one of ours wrote into its database.

    Where there is none, what is encrypted there is of a key that is lost: our alert blocks go, which `up` makes anew.
    """
    with closing(Database(url)) as database, database.writing() as connection:
        if not database.is_postgres:
            connection.execute(text("PRAGMA secure_delete = ON"))
        tables = inspect(connection).get_table_names()
        if "configuration" in tables:
            known = text(f"SELECT value FROM {KEPT}").columns(value=JSON)  # noqa: S608  (our own words)
            if found := connection.execute(known).scalar():
                write_new(file, found["fernet_key"])
                connection.execute(text(f"DELETE FROM {KEPT}"))  # noqa: S608
                return
        write_new(file, Fernet.generate_key().decode())
        if "block_document" in tables:
            connection.execute(text("DELETE FROM block_document WHERE name LIKE 'quarterdeck-alerts-%'"))
