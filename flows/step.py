"""Time faster than real: advance the sandbox to the next close, run every story, wait for them, advance again.

Cycles take the venue's clock, so a day takes minutes and comes out the same each time. Needs a sandbox started
with --stepped; no Prefect server.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import httpx

from flows.cycle import Request
from flows.protect import reconcile
from flows.settle import settle_all
from flows.trade import run_cycles
from flows.watch import look
from tasks import fetch, strategies
from tasks.connections import log, venue
from tasks.core.types import (
    CycleRecord,
    CycleStatus,
    InputError,
    T,
    TradingError,
    Trigger,
    VenueUnavailable,
    floor_time,
)
from tasks.settings import settings

AFTER_CLOSE_S = 5  # where a schedule would wake up


async def step(hours: float, show: Callable[[CycleRecord], object] = bool) -> dict[str, int]:
    """Step through `hours` of the sandbox's time, showing each record; returns how often each status came out."""
    if settings().profile != "sandbox":
        raise InputError(f"step needs the sandbox profile, not {settings().profile}")
    counts = Counter[str]()
    now = await venue().now()
    end = now + timedelta(hours=hours)
    while (close := floor_time(now, "5m") + timedelta(minutes=5)) <= end:
        await advance((close - now).total_seconds() + AFTER_CLOSE_S)
        now = await venue().now()
        for record in await one_close(close):
            counts[record.status] += 1
            show(record)
    await settle_all()
    return dict(sorted(counts.items()))


async def one_close(close: datetime) -> list[CycleRecord]:
    """Run what the schedules and triggers would run at one 5m close; a run that fails leaves the others their turn."""
    await fetch.fetch_candles(settings().all_symbols, close)
    await _as_a_run(reconcile())
    records = [record for _ in strategies.each_in_turn() for record in await _strategy_s_close(close)]
    if any(record.status is CycleStatus.EXECUTED for record in records):
        await _as_a_run(reconcile())
    if close.minute == 0:
        await _as_a_run(settle_all())
    return records


async def _strategy_s_close(close: datetime) -> list[CycleRecord]:
    waiting = await _as_a_run(look(as_of=close)) or {}
    quarter = close.minute % 15 == 0
    symbols = settings().symbols if quarter else tuple(waiting)
    if not symbols:
        return []
    trigger: Trigger = "schedule" if quarter else "event"
    request = Request(symbols=symbols, decider=settings().decider_name, as_of=close, trigger=trigger)
    return await _as_a_run(run_cycles(request)) or []


async def _as_a_run(story: Awaitable[T]) -> T | None:
    """Wait for one story; what it raises on purpose would have failed its own run, not the next one."""
    try:
        return await story
    except TradingError as e:
        log().error("step %s", e)
        return None


async def advance(seconds: float) -> None:
    """Move the sandbox's clock; raises when it runs by itself."""
    url = f"{settings().sandbox_url}/__admin/clock"
    try:
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(url, json={"advance_s": seconds})
    except httpx.HTTPError as e:
        raise VenueUnavailable(f"{url} does not answer ({type(e).__name__}); is the sandbox running?") from e
    if answer.status_code != httpx.codes.OK:
        raise InputError(f"{url} refused: {answer.text[:120]}; start the sandbox with --stepped")
