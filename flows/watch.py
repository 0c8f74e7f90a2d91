"""Each few minutes: fetch, detect, and ring the bell for every symbol with a reason nobody has claimed.

The event is only the doorbell: reasons are kept and coalesced in the store, so a lost or doubled event costs nothing.
"""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.events import emit_event

from flows.clock import cycle_time, run_name, to_the_end, too_old
from tasks import alerts, detect, features, fetch, strategies
from tasks.connections import log
from tasks.features import TOGETHER
from tasks.settings import settings
from tasks.stage import Tried, result

EVENT = "quarterdeck.reasons"


@flow(name="watch", flow_run_name=run_name)
async def watch(max_age_s: int = 240) -> Any:
    """Detect on every symbol and emit one event per symbol with claimable reasons."""
    if late := too_old(max_age_s):
        return late
    return await to_the_end(_look_and_ring(), beat="watch")


async def _look_and_ring() -> dict[str, int]:
    """Look for each strategy, and ring for it; one that fails keeps the others from nothing, and is raised."""
    found, tried = dict[str, int](), Tried("watch")
    for each in strategies.each_in_turn():
        with tried(each.strategy):
            waiting = await look()
            for symbol, n in waiting.items():
                resource = {
                    "prefect.resource.id": f"quarterdeck.symbol.{symbol}",
                    "quarterdeck.strategy": each.strategy,
                }
                emit_event(event=EVENT, resource=resource, payload={"symbols": [symbol], "reasons": n})
            found |= waiting
    for error in tried.failed.values():
        raise error
    return found


async def look(as_of: datetime | None = None) -> dict[str, int]:
    """Return how many reasons wait per symbol, after fetching and detecting; one that fails keeps its trouble."""
    symbols = settings().symbols
    as_of = as_of or await cycle_time()
    await fetch.fetch_candles(symbols, as_of)
    strategy = await fetch.fetch_strategy()
    frames = features.load_candles(symbols, as_of, strategy.history_bars)
    waiting, tried = dict[str, int](), Tried("watch")
    known = [symbol for symbol in symbols if not frames[symbol]["5m"].empty]
    for first in range(0, len(known), TOGETHER):
        some = {symbol: frames[symbol] for symbol in known[first : first + TOGETHER]}
        markets = features.build_markets(some, strategy.thresholds)
        for symbol, reasons in detect.detect_reasons(strategy, markets, as_of).items():
            with tried(f"symbol={symbol}"):
                result(reasons)
                if n := detect.claimable(symbol, as_of):
                    waiting[symbol] = n
    alerts.look_around(as_of)
    for error in () if waiting else tried.failed.values():
        raise error
    log().info("watch as_of=%s waiting=%s", as_of.isoformat(), waiting)
    return waiting
