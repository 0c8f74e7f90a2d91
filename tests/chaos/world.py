"""Where chaos happens: a sandbox exchange in a process of its own and a fresh database, SQLite or PostgreSQL."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

from sqlalchemy import create_engine, text

from tasks.adapters.store.database import parse_url
from tasks.adapters.store.store import Store
from tests.clusters import a_cluster

SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
# a killed process loses nothing that it has written, so no disk has to be waited for
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
START = "2025-03-10T12:00:00+00:00"
# What would keep the account from trading at every bar; sizes and risk keep their limits, which are on trial.
OFTEN = {
    "opens_per_hour": "1000", "opens_per_day": "10000", "reentry_cooldown_min": "0", "daily_loss_halt_pct": "99",
    "drawdown_halt_pct": "99", "max_rejections": "1000", "cool_off_losses": "1000", "liquidation_cooldown_min": "0",
    "chase_rsi": "100", "chase_z": "100", "stack_min_r": "0", "min_reward_risk": "0", "kelly_min_outcomes": "1000000",
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One market, one account, one database."""

    url: str
    home: Path
    database: str
    databases: "Databases"

    def environment(self) -> dict[str, str]:
        return {
            # a halt by variable of some Prefect that runs beside us is none of ours
            "QUARTERDECK_PREFECT_API_URL": os.environ.get("QUARTERDECK_PREFECT_API_URL", "http://127.0.0.1:9/api"),
            "QUARTERDECK_HOME": str(self.home), "QUARTERDECK_SANDBOX_URL": self.url, "QUARTERDECK_MLFLOW_URL": "",
            "QUARTERDECK_DATABASE_URL": self.database, "QUARTERDECK_SYMBOLS": ",".join(SYMBOLS),
            "QUARTERDECK_HISTORY_BARS": "300", "QUARTERDECK_PROFILE": "sandbox", "QUARTERDECK_MODEL": "",
            **{f"QUARTERDECK_LIMITS__{name.upper()}": value for name, value in OFTEN.items()},
        }  # fmt: skip

    def admin(self, path: str, body: object = None, method: str = "") -> dict[str, Any]:
        """Call an admin endpoint: a GET without a body, a POST with one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/__admin/{path}", data, {"Content-Type": "application/json"})
        request.method = method or ("GET" if data is None else "POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document

    def state(self) -> dict[str, Any]:
        return self.admin("state")

    def advance(self, seconds: float) -> None:
        self.admin("clock", {"advance_s": seconds})

    def fault(self, **fault: object) -> None:
        self.admin("faults", fault)

    def person(self, symbol: str, side: str, quantity: Decimal, **more: object) -> bool:
        """Trade as a person does at the venue's own page; returns whether the venue took it."""
        try:
            self.admin("trades", {"symbol": symbol, "side": side, "qty": str(quantity), **more})
        except HTTPError as e:
            print(
                f"a person's trade was refused: {e.read().decode()} {symbol} {side} {quantity} {more}", file=sys.stderr
            )
            return False
        return True

    def clear_faults(self) -> None:
        self.admin("faults", method="DELETE")

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Bring the database back, at the end, to what it was at the beginning."""
        with self.databases.copy(self.database, self.home):
            yield


class Databases:
    """Copies of databases that were migrated once."""

    def __init__(self, folder: Path, postgres: bool) -> None:
        self._template = folder / "template.db"
        _migrate(f"sqlite:///{self._template}")
        self.postgres = _postgres(folder) if postgres else ""
        if self.postgres:
            _execute(self.postgres, "CREATE DATABASE template_quarterdeck")
            _migrate(_database(self.postgres, "template_quarterdeck"))

    def fresh(self, home: Path, postgres: bool) -> str:
        if not postgres:
            shutil.copy(self._template, home / "quarterdeck.db")
            return f"sqlite:///{home / 'quarterdeck.db'}"
        name = f"quarterdeck_{uuid4().hex[:10]}"
        _execute(self.postgres, f"CREATE DATABASE {name} TEMPLATE template_quarterdeck")
        return _database(self.postgres, name)

    @contextmanager
    def copy(self, url: str, home: Path) -> Iterator[None]:
        """Take a copy that is put back at the end; nobody may be connected at either moment."""
        if url.startswith("sqlite"):
            _copy_sqlite(home / "quarterdeck.db", home / "backup.db")
            yield
            _copy_sqlite(home / "backup.db", home / "quarterdeck.db")
            return
        name = str(parse_url(url).database)
        _execute(self.postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        _execute(self.postgres, f"CREATE DATABASE {name}_copy TEMPLATE {name}")
        yield
        _execute(self.postgres, f"DROP DATABASE {name} WITH (FORCE)")
        _execute(self.postgres, f"ALTER DATABASE {name}_copy RENAME TO {name}")

    def drop(self, url: str) -> None:
        if not url.startswith("sqlite"):
            _execute(self.postgres, f"DROP DATABASE {parse_url(url).database} WITH (FORCE)")


def _postgres(folder: Path) -> str:
    """Return the URL of a server's maintenance database: the one given, or one of our own in `folder`."""
    given = os.environ.get("QUARTERDECK_TEST_POSTGRES_URL")
    if given:
        return given
    return a_cluster(folder)


def _copy_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


def _migrate(url: str) -> None:
    store = Store(url)
    store.migrate()
    store.close()


def _execute(server: str, statement: str) -> None:
    engine = create_engine(parse_url(server), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _database(server: str, name: str) -> str:
    return parse_url(server).set(database=name).render_as_string(hide_password=False)


@contextmanager
def sandbox(seed: int, *, start: str = START, arguments: tuple[str, ...] = ("--stepped",)) -> Iterator[str]:
    """Run an exchange in its own process and yield its URL."""
    command = (sys.executable, "-m", "infra.sandbox", "--port", "0", "--seed", str(seed), "--symbols")
    command += (",".join(SYMBOLS), *(("--start", start) if start else ()), *arguments)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            yield process.stderr.readline().split("url=")[1].split()[0]
        finally:
            process.terminate()


@contextmanager
def world(databases: Databases, seed: int, postgres: bool) -> Iterator[World]:
    """Begin a world, put its settings into the environment, and leave nothing of it behind."""
    home = Path(tempfile.mkdtemp(prefix="quarterdeck-chaos-", dir=MEMORY))
    database = databases.fresh(home, postgres)
    with sandbox(seed, start=_some_noon(seed)) as url:
        here = World(url, home, database, databases)
        os.environ.update(here.environment())
        try:
            yield here
        finally:
            databases.drop(database)
            shutil.rmtree(home, ignore_errors=True)


def _some_noon(seed: int) -> str:
    return START.replace("-03-10", f"-{random.Random(seed).randint(1, 6):02d}-{random.Random(seed).randint(1, 28):02d}")
