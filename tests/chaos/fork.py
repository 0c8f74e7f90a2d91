"""The forked runner: a child runs the real stories, says which steps it reached, and dies where it is told to."""

import asyncio
import json
import os
import random
import select
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import update

from flows import protect
from flows.protect import reconcile
from flows.trade import Request, run_cycles
from tasks import crash_points, execute, fetch, validate
from tasks import ledger as ours
from tasks import protect as stage
from tasks.adapters.store.tables import LeaseRow
from tasks.adapters.venue import client
from tasks.connections import store, venue
from tasks.core.errors import TradingError
from tasks.settings import Settings, settings
from tests.closing import close_stores

DONE, FAILED, BROKEN = 0, 3, 4
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HANG_S = 120  # a child that is not through by then is a finding


@dataclass(frozen=True)
class Plan:
    """Where to die: as `step` is reached for the n-th time, or after some seconds; neither: nowhere."""

    step: str = ""
    n: int = 1
    after_s: float | None = None


@dataclass
class Run:
    """What became of a child."""

    killed: bool = False
    code: int = DONE
    reached: list[str] = field(default_factory=list)
    seconds: float = 0.0
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not self.killed and self.code == DONE


Story = Callable[[], Awaitable[dict[str, Any] | None]]


def prepare() -> None:
    """Make a fork cheap: everything imported, pauses short, and the bars' validation, which no kill can hurt, away."""
    execute.PAUSES, execute.IN_FLIGHT_S = (0.02, 0.02, 0.05, 0.1), 0.1
    stage.PAUSES = ours.PAUSES = (0.02, 0.02)
    fetch.PAUSES = (0.02, 0.05)
    protect.PAUSE_S = 0.02  # a stepped clock stands still meanwhile
    ssl.create_default_context = cache(ssl.create_default_context)  # half of what was left of it; nothing here is TLS
    validate.validate_candles.fn = lambda *_: []  # type: ignore[method-assign]  # half of a cycle's CPU
    build, built = client.build, dict[int, Any]()

    def once(chosen: Settings) -> Any:
        if os.getpid() not in built:
            built[os.getpid()] = build(chosen)
        return built[os.getpid()]

    client.build = once


def warm_up() -> None:
    """Run one cycle in this process, in some world, so that no fork has to import anything."""

    async def once() -> None:
        try:
            await trade(settings().symbols[0], "hold", False)()
        finally:
            await venue().close()

    asyncio.run(once())
    close_stores()


def trade(symbol: str, decider: str, after_a_death: bool) -> Story:
    """Return one bar's work. After a death the leases of the dead have run out and the watchdog comes first."""

    async def story() -> None:
        if after_a_death:
            end_leases()
            await reconcile()
        await run_cycles(Request(symbols=(symbol,), decider=decider, reason="chaos asks"))
        await reconcile()

    return story


def protected(after_a_death: bool) -> Story:
    """Return the watchdog's work alone."""

    async def story() -> None:
        if after_a_death:
            end_leases()
        await reconcile()

    return story


def halted(after_a_death: bool) -> Story:
    """Return the watchdog's work under a halt, which is gone afterwards: entries that rest are cancelled."""

    async def story() -> None:
        if store().halts.newest() is None:
            store().halts.add("chaos halts", "chaos", datetime.now(UTC))
        await protected(after_a_death)()
        store().halts.resume("chaos", datetime.now(UTC))

    return story


async def take_stop_away(symbol: str) -> None:
    """Do what a hand at the venue's own page can do."""
    await venue().set_protection(symbol, Decimal(0), None)


async def books() -> dict[str, Any]:
    """Tell what the ledger has, as it is."""
    return ledger()


async def look() -> dict[str, Any]:
    """Reconcile once more, with nothing in the way, and tell what the ledger has."""
    end_leases()
    await reconcile()
    return ledger()


def end_leases() -> None:
    """Let the time pass after which the leases of a dead process are free."""
    with store().database.writing() as connection:
        connection.execute(update(LeaseRow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))


def fork(story: Story, plan: Plan = Plan()) -> Run:
    """Run `story` in a child and wait for its end, whichever it is."""
    reads, writes = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        _child(story, plan, writes)
    os.close(writes)
    text, status = _follow(pid, reads, plan)
    run = Run(killed=os.WIFSIGNALED(status), seconds=time.monotonic() - began)
    run.code = 0 if run.killed else os.WEXITSTATUS(status)
    for line in text.splitlines():
        if line.startswith("{"):
            run.said = json.loads(line)
        elif line:
            run.reached.append(line)
    return run


def _follow(pid: int, reads: int, plan: Plan) -> tuple[str, int]:
    """Read what the child says until it has ended; kill it when its time is up."""
    deadline = time.monotonic() + (HANG_S if plan.after_s is None else plan.after_s)
    text = b""
    while True:
        ready, _, _ = select.select([reads], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(reads, 65536)
        if not part:
            break
        text += part
    os.close(reads)
    return text.decode(), os.waitpid(pid, 0)[1]


def _child(story: Story, plan: Plan, writes: int) -> None:
    """Run to the end or to death; never returns."""
    code = DONE
    seen = 0

    def hook(step: str) -> None:
        nonlocal seen
        os.write(writes, f"{step}\n".encode())
        if step == plan.step:
            seen += 1
            if seen == plan.n:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        crash_points.hook = hook
        settings.cache_clear()
        random.seed()
        said = asyncio.run(_closing(story))
        os.write(writes, f"\n{json.dumps(said or {}, default=str)}\n".encode())
    except TradingError as e:
        os.write(writes, f"\n{json.dumps({'error': str(e)[:300]})}\n".encode())
        code = FAILED
    except BaseException:  # noqa: BLE001  (a child never returns)
        traceback.print_exc()
        code = BROKEN
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _closing(story: Story) -> dict[str, Any] | None:
    try:
        return await story()
    finally:
        await venue().close()


def ledger() -> dict[str, Any]:
    """Return our side of the account, to be held against the venue's."""
    kept, strategy = store(), settings().strategy
    known = [own for symbol in settings().symbols for own in kept.intents.own(strategy, symbol)]
    halt = kept.halts.newest()
    if halt:
        kept.halts.resume("chaos", datetime.now(UTC))  # it is told; the next bar shall trade again
    return {
        "positions": {p.symbol: [p.side, str(p.quantity), str(p.stop)] for p in kept.positions.open(strategy)},
        "states": {own.intent.client_order_id: own.state for own in known},
        "cycles": {own.intent.client_order_id: own.cycle_id for own in known},
        "fills": [fill.fill_id for symbol in settings().symbols for fill in kept.fills.since(LONG_AGO, symbol)],
        "unfinished": [record.cycle_id for record in kept.cycles.unfinished(strategy)],
        "halt": halt.reason if halt else "",
    }
