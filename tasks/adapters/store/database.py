"""The connection under the store: URL, engine, transactions, one-line errors, migration.

Every call is one short transaction on a connection of its own, so threads need no care. Writers on SQLite begin
IMMEDIATE: they wait for the lock up front (15 s) instead of failing half way. No SQLAlchemy error leaves this module.
"""

import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from psycopg import OperationalError
from pydantic import ValidationError
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    Executable,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tasks import clock
from tasks.adapters.postgres import cluster
from tasks.adapters.store.tables import Base
from tasks.adapters.store.types import storable_json
from tasks.core.types import AnyDto, Dto, InputError, Json, StoreError, first_error
from tasks.redaction import redacted, remember, secrets_of

MIGRATIONS = Path(__file__).resolve().parents[3] / "infra" / "migrations"
LOCK_WAIT_S = 15
FIRST = "0009"  # the oldest schema that migrations start from
MIGRATION_LOCK = 7_305_114_806  # any number, the same in every process
POSTGRES_OPTIONS: Json = {
    "connect_timeout": 4,
    "keepalives_idle": 10,  # a server that vanished is noticed within half a minute
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": f"-c lock_timeout={LOCK_WAIT_S}s",
    "application_name": "quarterdeck",
}
ENGINE_OPTIONS: Json = {
    "pool_timeout": LOCK_WAIT_S,
    "hide_parameters": True,
    "json_serializer": storable_json,
}
REMEDIES = {  # by what the cause says, the first that fits
    "after drop|depend on it": "drop what is not ours, that view or index, and make it anew afterwards",
    "no such table|relation.*does not exist": "its schema is missing: run `quarterdeck up` or Store.migrate() first",
    "no such column|column.*does not exist": "its schema is of an earlier version: `quarterdeck up` updates it",
    "locked|lock timeout": f"another process has held its write lock for {LOCK_WAIT_S} s: find and end it",
    "not a database|malformed": "restore the file or name another in QUARTERDECK_DATABASE_URL",
    "foreign key": "write what it refers to first (the cycle before its parts, the position before its outcome)",
    "connect|unable to open|authentication|timeout": "start it, or correct QUARTERDECK_DATABASE_URL",
}
BEGINNING, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
EXAMPLE = "use sqlite:////path/to/file.db or postgresql://user:password@host:5432/name"


class Database:
    """An open database, shared by all repositories of a store."""

    def __init__(self, url: str) -> None:
        """Open `url` and see that it answers.

        Raises InputError if it is no URL of ours or its folder cannot be made, StoreError if it does not answer in 5 s.
        """
        self._url = parse_url(url)
        self.is_postgres = self._url.get_backend_name() == "postgresql"
        self._engine = _postgres_engine(self._url) if self.is_postgres else _sqlite_engine(self._url)
        self._writer = self._engine.execution_options(writes=True)
        with self.reading() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def migrate(self) -> None:
        """Bring the schema to its newest version; when two processes do it at once, the second waits.

        Every process does it first: one that finds nothing to do waits for nobody's lock.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        config = Config(MIGRATIONS / "alembic.ini")
        try:
            with self.reading() as connection:
                has = MigrationContext.configure(connection).get_current_revision()
            newest = ScriptDirectory.from_config(config).get_current_head()
            if has == newest:
                return
            with self.writing() as connection:
                if self.is_postgres:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                has = MigrationContext.configure(connection).get_current_revision()
                if has is not None and has < FIRST:
                    raise InputError(
                        f"database {self.place} has schema {has}, from before {FIRST}: this release cannot update it; "
                        "run `quarterdeck migrate` of an earlier release on it first, then again with this one"
                    )
                config.attributes["connection"] = connection
                if has is None:  # a new one has today's tables at once
                    Base.metadata.create_all(connection, checkfirst=False)
                elif has < str(newest):  # the one migration looks what it has already
                    command.stamp(config, FIRST, purge=True)
                (command.stamp if has is None else command.upgrade)(config, "head")
        except CommandError as e:
            raise InputError(
                f"database {self.place}: {e}; it belongs to another program or a newer version: give another URL"
            ) from e

    @property
    def place(self) -> str:
        """Return the database's URL without its password."""
        if not self.is_postgres:
            return str(self._url.database)
        if folder := cluster.folder_of(self._url):
            return f"PostgreSQL in {folder}"
        host = self._url.host or self._url.query.get("host") or "local socket"
        return f"{self._url.database} on {host}:{self._url.port or 5432}"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open one transaction: all of it is written at the end of the block, or nothing if the block raises."""
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as e:
            cause = redacted(" ".join(str(getattr(e, "orig", None) or e).split()))[:300]
            fitting = (remedy for words, remedy in REMEDIES.items() if re.search(words, cause, re.IGNORECASE))
            raise StoreError(f"database {self.place}: {cause}; {next(fitting, 'nothing was written')}") from e


@dataclass(eq=False)  # a store is a key
class Repository:
    """One kind of thing in a database."""

    database: Database

    def rows(self, statement: Executable) -> Sequence[Any]:
        """Return the rows that a query selects, or that an INSERT or UPDATE returns."""
        with self.database.writing() if statement.is_dml else self.database.reading() as connection:
            return connection.execute(statement).all()

    def values(self, statement: Executable) -> list[Any]:
        """Return the first column of `rows`."""
        return [row[0] for row in self.rows(statement)]

    def value(self, statement: Executable) -> Any:
        """Return the first of `values`; None if there is none."""
        return next(iter(self.values(statement)), None)

    def all(self, dto: type[AnyDto], statement: Executable) -> list[AnyDto]:
        """Return `rows` as DTOs: each made of the columns of its names, or of the one column, its document."""
        return [dto_of(dto, row) for row in self.rows(statement)]

    def first(self, dto: type[AnyDto], statement: Executable) -> AnyDto | None:
        """Return the first of `all`; None if there is none."""
        return next(iter(self.all(dto, statement)), None)

    def write(self, statement: Executable) -> None:
        """Carry out a statement."""
        with self.database.writing() as connection:
            connection.execute(statement)

    def add_row(self, table: type[Base], row: Json) -> bool:
        """Insert a row unless its key is there; returns whether it was new."""
        key = inspect(table).primary_key[0]
        return bool(self.rows(self.insert(table).values(row).returning(key)))

    def put(self, table: type[Base], row: Json, **how: Any) -> None:
        """Carry out `upsert`."""
        self.write(self.upsert(table, row, **how))

    def insert(self, table: type[Base]) -> postgresql.Insert:
        """Return an INSERT that leaves rows alone that are there already."""
        return self.raw_insert(table).on_conflict_do_nothing()

    def upsert(
        self,
        table: type[Base],
        row: Json,
        keep: Collection[str] = (),
        only: Callable[[Any], ColumnElement[bool]] | None = None,
    ) -> postgresql.Insert:
        """Return INSERT of `row`; if its key is there, UPDATE of everything but `keep`.

        only: given the new values, the condition under which a row that exists is changed at all.
        """
        statement = self.raw_insert(table).values(row)
        key = [column.name for column in inspect(table).primary_key]
        changed = {name: statement.excluded[name] for name in row if name not in (*key, *keep)}
        where = only(statement.excluded) if only else None
        return statement.on_conflict_do_update(index_elements=key, set_=changed, where=where)

    def raw_insert(self, table: type[Base]) -> postgresql.Insert:
        """Return an INSERT that knows ON CONFLICT; SQLite's has the same methods."""
        return postgresql.insert(table) if self.database.is_postgres else cast(postgresql.Insert, sqlite.insert(table))


def dto_of(dto: type[AnyDto], row: Any) -> AnyDto:
    """Build a DTO of a row: of the columns of its names, or of the one column, its document."""
    try:
        return dto.model_validate(row[0] if len(row) == 1 else row, from_attributes=True)
    except ValidationError as e:
        wrong = ": ".join(first_error(e))
        raise StoreError(f"a {dto.__name__} that is stored cannot be read ({wrong}): a newer release wrote it?") from e


def known(**values: Any) -> Json:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def row_of(table: type[Base], dto: Dto, **more: Any) -> Json:
    """Return the fields of `dto` that `table` has columns for, and `more`."""
    return {name: getattr(dto, name) for name in type(dto).model_fields if name in table.__table__.columns} | more


def exists(url: str) -> bool:
    """Return whether there is a database to open; SQLite would create the file."""
    parsed = parse_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(str(parsed.database)).exists()


def parse_url(url: str) -> URL:
    """Return the SQLAlchemy URL, PostgreSQL always through psycopg 3; raises InputError saying what would be right."""
    remember(secrets_of(url))
    shown = redacted(re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as e:
        raise InputError(f"database URL {shown!r} cannot be read; {EXAMPLE}") from e
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InputError(f"database URL {shown!r}: {backend} is not supported; {EXAMPLE}")
    if not parsed.database or parsed.database == ":memory:":
        raise InputError(f"database URL {shown!r} names no file; a store must outlive its process: {EXAMPLE}")
    return parsed.set(drivername="sqlite")


def _postgres_engine(url: URL) -> Engine:
    options = {name: value for name, value in POSTGRES_OPTIONS.items() if name not in url.query}
    engine = create_engine(url, connect_args=options, pool_pre_ping=True, **ENGINE_OPTIONS)
    if folder := cluster.folder_of(url):
        event.listen(engine, "do_connect", partial(_connect_to_own, folder))
    return engine


def _connect_to_own(folder: Path, dialect: Dialect, _entry: Any, arguments: Any, options: Any) -> Any:
    """Connect to HOME's PostgreSQL, which whoever comes first starts; once more where it has just ended."""
    cluster.ensure(folder)
    try:
        return dialect.connect(*arguments, **options)
    except OperationalError:
        cluster.ensure(folder)
        return None  # SQLAlchemy connects


def _sqlite_engine(url: URL) -> Engine:
    folder = Path(str(url.database)).expanduser().resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"database {url.database}: cannot make {folder} ({e.strerror}); name another file") from e
    engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_S}, **ENGINE_OPTIONS)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver would begin late, and not IMMEDIATE
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # an intent must survive a power cut before it is sent
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; SQLite does not wait for its lock here, so two first starts at once must try again."""
    give_up = clock.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or clock.monotonic() > give_up:
                raise
            clock.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
