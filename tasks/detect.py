"""Notice what changed, and claim it: a change is a reason for one cycle only."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from tasks import account
from tasks.adapters.files.calendar import read_calendar
from tasks.connections import log, store
from tasks.core.market import position_events
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.market import Market
from tasks.core.types import Reason, Strategy
from tasks.settings import settings
from tasks.stage import apart, stage

WINDOW = timedelta(minutes=15)  # an unclaimed change older than this is no longer news


@stage
def detect_reasons(
    strategy: Strategy, markets: dict[str, Market | Exception], as_of: datetime
) -> dict[str, list[Reason] | Exception]:
    """Find every reason of the last window and keep the new ones in the store; returns all found by symbol."""
    kept, thresholds = store(), strategy.thresholds
    daily_pnl_pct = account.daily_pnl_pct(strategy.name, as_of)
    open_now = kept.positions.open(strategy.name)
    about_account = position_events.account_symbol(strategy.symbols or markets, open_now)

    def detect(symbol: str, market: Market) -> list[Reason]:
        bars, start = market.bars["5m"], as_of - WINDOW
        closes = position_events.Closes(epoch_s(bars.index) + position_events.STEP, bars["close"].to_numpy())
        fired = list(market.reasons(start, as_of))
        for position in (each for each in open_now if each.symbol == symbol):
            reasons = position_events.reasons_at(position, closes, as_of, thresholds)
            fired += [reason for reason in reasons if reason.as_of > start]
            if review := position_events.next_review(position, closes, start, as_of, thresholds):
                fired.append(review)
        if symbol == about_account:
            fired += position_events.drawdown(symbol, daily_pnl_pct, as_of, thresholds)
        fired += calendar_reasons(_calendar(settings().calendar), symbol, start, as_of)
        new = kept.events.add(strategy.name, fired)
        log().info("detect symbol=%s found=%d new=%d", symbol, len(fired), new)
        return fired

    return apart(detect, markets)


@cache
def _calendar(path: Path | None) -> tuple[CalendarEvent, ...]:
    return () if path is None else read_calendar(path)


@stage
def claim_reasons(cycle_ids: dict[str, str | Exception], as_of: datetime) -> dict[str, list[Reason] | Exception]:
    """Claim every unconsumed reason of each symbol for its cycle, in one atomic statement a symbol."""
    kept, strategy = store(), settings().strategy

    def claim(symbol: str, cycle_id: str) -> list[Reason]:
        return kept.events.claim(strategy, symbol, cycle_id, as_of, as_of - WINDOW, as_of)

    return apart(claim, cycle_ids)


def claimable(symbol: str, as_of: datetime) -> int:
    """Return how many reasons wait for a cycle."""
    return store().events.claimable(settings().strategy, symbol, as_of, as_of - WINDOW)
