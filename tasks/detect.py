"""Notice what changed, and claim it: a change is a reason for one cycle only."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.adapters.calendar import read_calendar
from tasks.connections import log, store
from tasks.core.market import position_events
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.snapshot import Market
from tasks.core.types.portfolio import Position
from tasks.core.types.record import Reason
from tasks.settings import settings

WINDOW = timedelta(minutes=15)  # an unclaimed change older than this is no longer news


@task(task_run_name="detect-{market.symbol}", cache_policy=NO_CACHE)
def detect_reasons(
    market: Market, as_of: datetime, positions: list[Position], daily_pnl_pct: float | None
) -> list[Reason]:
    """Find every reason of the last window and keep the new ones in the store; returns all found."""
    thresholds = settings().events
    found = list(market.reasons(as_of - WINDOW, as_of))
    for position in positions:
        if position.symbol == market.symbol:
            given = position_events.position_reasons(position, market.bars["5m"], as_of, thresholds)
            found += [reason for reason in given if reason.as_of > as_of - WINDOW]
    found += position_events.drawdown(market.symbol, daily_pnl_pct, as_of, thresholds)
    found += calendar_reasons(_calendar(settings().calendar), market.symbol, as_of - WINDOW, as_of)
    new = store().add_reasons(settings().strategy, found, as_of)
    log().info("detect symbol=%s found=%d new=%d", market.symbol, len(found), new)
    return found


@cache
def _calendar(path: Path | None) -> tuple[CalendarEvent, ...]:
    return () if path is None else read_calendar(path)


@task(task_run_name="claim-{symbol}", cache_policy=NO_CACHE)
def claim_reasons(symbol: str, cycle_id: str, as_of: datetime, at: datetime) -> list[Reason]:
    """Claim every unconsumed reason of `symbol` for this cycle, in one atomic statement."""
    return store().claim_reasons(settings().strategy, symbol, cycle_id, as_of, as_of - WINDOW, at)


def claimable(symbol: str, as_of: datetime) -> int:
    """Return how many reasons wait for a cycle."""
    return store().claimable(settings().strategy, symbol, as_of, as_of - WINDOW)
