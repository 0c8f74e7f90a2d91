"""Backfill and repair of stored candles."""

from datetime import datetime

from prefect import flow

from flows.forms import Symbol, Timeframe
from tasks import clock
from tasks.connections import log, store, venue
from tasks.core.market.bars import segments
from tasks.core.types import TIMEFRAMES, InputError, Json, floor_time
from tasks.settings import settings


@flow(name="ingest")
async def ingest(symbol: Symbol, timeframe: Timeframe, since: datetime, venue_name: str = "") -> Json:
    """Fetch every closed bar of `symbol` since `since`, keep those the store lacks, and the instrument beside them.

    Returns what was new, what the venue has revised, and the gaps that remain.
    """
    if timeframe not in TIMEFRAMES:
        raise InputError(f"--timeframe {timeframe!r}: there are {', '.join(TIMEFRAMES)}")
    if since is None:
        raise InputError("--since is empty; give an ISO time such as 2025-03-01T00:00Z")
    chosen = settings() if not venue_name else settings().replace(venue=venue_name, profile="paper")
    client = venue(chosen)
    try:
        instrument = await client.instrument(symbol)
        now = await client.now()
        bars = await client.fetch_bars(symbol, timeframe, floor_time(since, timeframe), now)
    finally:
        await client.close()
    kept, at = store(), clock.now()
    new, revised = kept.candles.save(client.name, {(symbol, timeframe): bars}, at)
    kept.instruments.save(client.name, instrument)
    gaps = [bars.index[part.start].isoformat() for part in segments(bars.index, timeframe)][1:]
    result = {"fetched": len(bars), "new": new, "revised": revised.total(), "gaps_before": gaps}
    log().info("ingest symbol=%s timeframe=%s %s", symbol, timeframe, result)
    return result
