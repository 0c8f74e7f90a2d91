"""What stands in for the outside of a world: clock, database, venue and decider; all put back afterwards."""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pandas as pd
from sqlalchemy.pool import QueuePool

from tasks import clock, connections, crash_points, decide, features, fetch, halts, leases, record, validate
from tasks.adapters.store import database as database_module
from tasks.adapters.store.candles import CandleRepository
from tasks.adapters.store.database import Database, Repository
from tasks.adapters.store.store import Store
from tasks.adapters.venue import ccxt_venue
from tasks.core.errors import StoreError
from tasks.core.market.bars import Frames
from tasks.core.market.market import Market
from tasks.core.types import DataFailure, EventThresholds, duration
from tasks.settings import settings
from tests.simulation import aims
from tests.simulation.model import Scripted
from tests.simulation.process import CURRENT, Process
from tests.simulation.venue import TAPE

if TYPE_CHECKING:
    from tests.simulation.world import World

# what may become of a transaction
DATABASE = {"unwritten": 2.0, "written": 1.0, "killed before": 1.0, "killed after": 1.0}
DEADLY = 0.5  # how often a process dies at a step that a visit has chosen
OFTEN = {  # what would keep the account from trading at every visit; sizes and risk keep their limits
    "opens_per_hour": "1000", "opens_per_day": "10000", "reentry_cooldown_min": "0", "daily_loss_halt_pct": "99",
    "drawdown_halt_pct": "99", "max_rejections": "1000", "cool_off_losses": "1000", "liquidation_cooldown_min": "0",
    "chase_rsi": "100", "chase_z": "100", "stack_min_r": "0", "min_reward_risk": "0", "kelly_min_outcomes": "1000000",
    "max_offset_spreads": "30",
}  # fmt: skip
_worlds = count()
_markets: dict[int, dict[tuple[str, datetime], Market]] = {}


class WorldDatabase(Database):
    """A migrated database in memory; it lasts as long as it is open."""

    def __init__(self) -> None:
        url = f"sqlite:///file:world{next(_worlds)}?mode=memory&cache=shared&uri=true"
        with patch.dict(database_module.ENGINE_OPTIONS, poolclass=QueuePool):
            super().__init__(url)
        self._kept_open = self._engine.connect()
        self.raw: sqlite3.Connection = self._kept_open.connection.driver_connection  # type: ignore[assignment]
        _template().backup(self.raw)

    def close(self) -> None:
        self._kept_open.close()
        super().close()

    def store(self) -> Store:
        """Return what one process has open of it."""
        store = object.__new__(Store)
        Repository.__init__(store, self)
        store.migrate, store.close, store.place = (lambda: None), (lambda: None), self.place
        for name, repository in Store.__annotations__.items():
            setattr(store, name, repository(self))
        return store


@cache
def _template() -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:")
    with tempfile.TemporaryDirectory(prefix="quarterdeck-simulation-") as folder:
        store = Store(f"sqlite:///{folder}/template.db")
        store.migrate()
        store.close()
        file = sqlite3.connect(f"{folder}/template.db")
        file.backup(memory)
        file.close()
    return memory


@contextmanager
def installed(world: "World") -> Iterator[None]:
    """Put the world in the place of the clock, the database, the venue and the decider."""
    process = Process("outside", world.database.store(), mortal=False)
    token = CURRENT.set(process)
    logging.getLogger("quarterdeck").setLevel(os.environ.get("SIMULATION_LOG", "CRITICAL"))
    with tempfile.TemporaryDirectory(prefix="quarterdeck-simulation-") as home, ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        for name in [name for name in os.environ if name.startswith("QUARTERDECK_")]:
            del os.environ[name]
        os.environ.update(_environment(world, home))
        for target, name, value in (*_edges(world), *_from_the_tape(world)):
            stack.enter_context(patch.object(target, name, value))
        settings.cache_clear()
        halts._asked.clear()
        decide._unkept.clear()
        try:
            yield
        finally:
            CURRENT.reset(token)
    settings.cache_clear()


def _environment(world: "World", home: str) -> dict[str, str]:
    limits = OFTEN | ({"max_offset_spreads": "1000"} if world.aim.rests else {})
    often = {f"QUARTERDECK_LIMITS__{name.upper()}": value for name, value in limits.items()} if world.often else {}
    return {
        "QUARTERDECK_HOME": home, "QUARTERDECK_MLFLOW_URL": "", "QUARTERDECK_SYMBOLS": ",".join(world.symbols),
        "QUARTERDECK_HISTORY_BARS": "300", "QUARTERDECK_SAMPLE_QUIET": "1", "QUARTERDECK_TOML": f"{home}/none.toml",
        **often,
    }  # fmt: skip


def _edges(world: "World") -> Iterator[tuple[object, str, object]]:
    async def nothing() -> None:
        return None

    yield clock, "source", world.clock
    yield connections, "opened", lambda _url: CURRENT.get().store
    asked = (world.luck, world.aim)
    yield connections, "decider", lambda _name, shadow=False: Scripted(*asked, world.asked_to, world.note_question)
    yield ccxt_venue, "connect", lambda _settings: world.venue
    yield ccxt_venue, "close_all", nothing
    yield crash_points, "hook", _hook(world)
    yield leases, "POLL_S", 5.0
    yield halts, "_ask", lambda _url: None
    yield validate.validate_candles, "fn", lambda *_: []
    if world.luck.draw("missed") > 0.2:  # an eighth of the time, for bars that nobody was there for
        yield record.record_missed, "fn", lambda *_: 0
    yield Database, "_translated", _transactions(world, Database._translated)


def _from_the_tape(world: "World") -> Iterator[tuple[object, str, object]]:
    """Let bars and what follows from them come from the tape, as nothing here touches them: half of the time saved."""
    if world.luck.draw("tape") > 0.95:  # these worlds fetch and keep them
        return
    markets = _markets.setdefault(world.exchange.config.seed, {})

    def load(_self: object, _venue: str, symbol: str, timeframe: str, until: datetime, limit: int) -> pd.DataFrame:
        until = min(until, world.exchange.now)
        return TAPE.bars(world.exchange, symbol, timeframe, until - (limit + 1) * duration(timeframe), until)[-limit:]

    def load_frames(
        self: object, venue: str, symbols: Sequence[str], timeframe: str, until: datetime, limit: int
    ) -> dict[str, pd.DataFrame]:
        return {symbol: load(self, venue, symbol, timeframe, until, limit) for symbol in symbols}

    def build(symbol: str, frames: Frames, thresholds: EventThresholds) -> Market:
        key = symbol, frames["5m"].index[-1]
        if key not in markets:
            markets[key] = Market(symbol, frames, thresholds)
            for other in list(markets)[:-8]:
                del markets[other]
        return markets[key]

    async def fetched(*_: object) -> list[DataFailure]:
        return []

    yield CandleRepository, "load", load
    yield CandleRepository, "load_frames", load_frames
    yield features, "build_market", build
    yield fetch.fetch_candles, "fn", fetched


def _hook(world: "World") -> Callable[[str], None]:
    """Die at a crash point where the seed says so."""

    def reached(step: str) -> None:
        process = CURRENT.get()
        place = process.place(step)
        process.steps.append(step)
        deadly = aims.DEADLY if step in world.aim.steps else DEADLY
        rate = max(world.kill_rate, deadly * (world.deadly.get(step, 0) > 0))
        if process.mortal and world.luck.fault(place, {"killed": 1.0}, rate):
            world.deadly[step] = world.deadly.get(step, 0) - 1
            process.die()

    return reached


def _transactions(world: "World", translated: Callable[[Database], Any]) -> Any:
    """Let a transaction fail before it has begun or after it was written, or kill its process there."""

    @contextmanager
    def with_faults(self: Database) -> Iterator[None]:
        process = CURRENT.get()
        place = process.place("database")
        kind = world.luck.fault(place, DATABASE, world.database_rate) if process.mortal else ""
        if kind:
            world.tell(f"{place} {kind}")
        if kind == "killed before":
            process.die()
        if kind == "unwritten":
            raise StoreError("database: disk I/O error; nothing was written")
        with translated(self):
            yield
        if kind == "killed after":
            process.die()
        if kind == "written":
            raise StoreError("database: the connection was lost at commit")

    return with_faults
