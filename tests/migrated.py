"""New SQLite databases as the migrations make them, copied: a test process migrates once, and not for each test."""

import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

from tasks.adapters.store.database import Database

REAL = Database.migrate


def migrate(database: Database) -> None:
    """Take the place of `Database.migrate`: copy into a file that has no tables, and migrate any other."""
    if database.is_postgres or not _is_new(database.place):
        REAL(database)
        return
    with closing(sqlite3.connect(database.place)) as file:
        _made().backup(file)


def _is_new(path: str) -> bool:
    with closing(sqlite3.connect(path)) as file:
        return not file.execute("SELECT 1 FROM sqlite_master").fetchone()


@cache
def _made() -> sqlite3.Connection:
    kept = sqlite3.connect(":memory:", check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        template = Database(f"sqlite:///{Path(folder) / 'template.db'}")
        REAL(template)
        template.close()
        with closing(sqlite3.connect(template.place)) as file:
            file.backup(kept)
    return kept
