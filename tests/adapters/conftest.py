"""The store on both databases: every test that asks for `store` runs on SQLite and on a real PostgreSQL.

PostgreSQL is QUARTERDECK_TEST_POSTGRES_URL (a user who may create databases) or a server of our own from a wheel.
Each test gets a database of its own, copied from one that was migrated once.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, text

from tasks.adapters.postgres import cluster
from tasks.adapters.store.database import parse_url
from tasks.adapters.store.store import Store
from tasks.settings import CLUSTER
from tests.clusters import a_cluster


@cache
def _engine(server_url: str) -> Engine:
    return create_engine(parse_url(server_url), isolation_level="AUTOCOMMIT")


def _execute(server_url: str, statement: str) -> None:
    with _engine(server_url).connect() as connection:
        connection.execute(text(statement))


def _database_url(server_url: str, database: str) -> str:
    return parse_url(server_url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server's maintenance database."""
    given = os.environ.get("QUARTERDECK_TEST_POSTGRES_URL")
    if given:
        yield given
        _engine(given).dispose()
        return
    home = Path(tempfile.mkdtemp(prefix="quarterdeck-pg-"))
    url = a_cluster(home)
    yield url
    _engine(url).dispose()
    cluster.leave(home / CLUSTER)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database, to copy."""
    name = f"quarterdeck_template_{uuid4().hex[:8]}"
    _execute(postgres_url, f"CREATE DATABASE {name}")
    template = Store(_database_url(postgres_url, name))
    template.migrate()
    template.close()
    yield name
    _execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    template = Store(f"sqlite:///{path}")
    template.migrate()
    template.close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server_url = request.getfixturevalue("postgres_url")
    name = f"quarterdeck_{uuid4().hex[:8]}"
    _execute(server_url, f"CREATE DATABASE {name}")
    yield _database_url(server_url, name)
    _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated, empty database."""
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server_url, template = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_template")
    name = f"quarterdeck_{uuid4().hex[:8]}"
    _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _database_url(server_url, name)
    _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def open_store() -> Iterator[Callable[[str], Store]]:
    """Open stores that are closed when the test ends."""
    opened: list[Store] = []

    def open_one(url: str) -> Store:
        opened.append(Store(url))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def store(store_url: str, open_store: Callable[[str], Store]) -> Store:
    """A migrated, empty store."""
    return open_store(store_url)
