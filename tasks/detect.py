"""Notice what changed, and claim it: a change is a reason for one cycle only."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from prefect import task

from tasks.adapters.files.calendar import read_calendar
from tasks.connections import log, store
from tasks.core.market import position_events
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.market import Market
from tasks.core.types.limits import EventThresholds
from tasks.core.types.portfolio import Position
from tasks.core.types.question import Reason
from tasks.core.types.strategy import Strategy
from tasks.retries import STAGE, apart
from tasks.settings import settings

WINDOW = timedelta(minutes=15)  # an unclaimed change older than this is no longer news


@task(**STAGE)
def detect_reasons(
    strategy: Strategy,
    markets: dict[str, Market | Exception],
    as_of: datetime,
    positions: list[Position],
    daily_pnl_pct: float | None,
) -> dict[str, list[Reason] | Exception]:
    """Find every reason of the last window and keep the new ones in the store; returns all found by symbol."""

    def detect(symbol: str, market: Market) -> list[Reason]:
        held = [p for p in positions if p.symbol == symbol]
        found = _reasons(strategy.thresholds, market, as_of, held, daily_pnl_pct)
        new = store().events.add(strategy.name, found)
        log().info("detect symbol=%s found=%d new=%d", symbol, len(found), new)
        return found

    return apart(detect, markets)


def _reasons(
    thresholds: EventThresholds, market: Market, as_of: datetime, held: list[Position], daily_pnl_pct: float | None
) -> list[Reason]:
    found = list(market.reasons(as_of - WINDOW, as_of))
    for position in held:
        given = position_events.position_reasons(position, market.bars["5m"], as_of, thresholds)
        found += [reason for reason in given if reason.as_of > as_of - WINDOW]
    found += position_events.drawdown(market.symbol, daily_pnl_pct, as_of, thresholds)
    found += calendar_reasons(_calendar(settings().calendar), market.symbol, as_of - WINDOW, as_of)
    return found


@cache
def _calendar(path: Path | None) -> tuple[CalendarEvent, ...]:
    return () if path is None else read_calendar(path)


@task(**STAGE)
def claim_reasons(cycle_ids: dict[str, str | Exception], as_of: datetime) -> dict[str, list[Reason] | Exception]:
    """Claim every unconsumed reason of each symbol for its cycle, in one atomic statement a symbol."""
    kept, strategy = store(), settings().strategy

    def claim(symbol: str, cycle_id: str) -> list[Reason]:
        return kept.events.claim(strategy, symbol, cycle_id, as_of, as_of - WINDOW, as_of)

    return apart(claim, cycle_ids)


def claimable(symbol: str, as_of: datetime) -> int:
    """Return how many reasons wait for a cycle."""
    return store().events.claimable(settings().strategy, symbol, as_of, as_of - WINDOW)
