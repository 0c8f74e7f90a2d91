"""What the guard needs to know of the past, worked out in one way for the live cycle and for a replay.

Closes are close columns of 5m frames, index open_time; later bars may be in them and are not looked at. A replay judges
thousands of decisions, and need not work out each time what has not changed: it computes `correlations` once per UTC
day and pair (the 7 days end at midnight for that), `kelly` when a position closes.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal

import numpy as np
import pandas as pd

from tasks.core.types import ClosedTrade, Limits, Outcome, day_start, duration, exact_sum

KEPT = 200  # outcomes that a decider is judged by
BARS = 2016  # of 5m in 7 days
LEAST_BARS = 288  # returns in common; fewer say nothing
PLACES = Decimal("0.000001")


def recent_trades(
    closed: Sequence[Outcome], as_of: datetime, limits: Limits, decided_at: datetime | None
) -> tuple[ClosedTrade, ...]:
    """Return the closed trades in the guard's lookback or since the last decision, and the one before them.

    By that one a reader sees that none is missing, and credits what closed between two decisions to the first. A clock
    behind as_of sees no less.
    """
    now = as_of - timedelta(seconds=limits.max_lateness_s)
    looked_back = timedelta(minutes=max(limits.cool_off_min, limits.reentry_cooldown_min))
    start = min(day_start(now), now - looked_back, decided_at or now)
    first = max((outcome.closed_at for outcome in closed if outcome.closed_at < start), default=start)
    return tuple(outcome.trade for outcome in closed if outcome.closed_at >= first)


def correlations(symbol: str, closes: Mapping[str, pd.Series], as_of: datetime) -> dict[str, float]:
    """Return the correlation of 5m returns over the 7 days before the UTC day of as_of, by other symbol.

    One that cannot be told (too few bars in common, a price that never moved) is left out: the guard takes it for
    close.
    """
    opens = pd.date_range(end=day_start(as_of) - duration("5m"), periods=BARS, freq="5min")
    week = pd.DataFrame({name: column.reindex(opens) for name, column in closes.items()})
    moves = week.apply(np.log).diff()
    known = moves.corr(min_periods=LEAST_BARS)[symbol].drop(symbol).dropna()
    return {str(other): round(r, 4) for other, r in known.items()}


def kelly(outcomes: Sequence[Outcome], least: int) -> Decimal | None:
    """Return the share of equity that Kelly would risk: p / mean loss - (1 - p) / mean win, in `outcome_r`.

    None with fewer than `least` outcomes, and where nothing was lost yet; -1 where nothing was won. Below 0 the decider
    has no edge. p counts trades that were won among those won or lost.
    """
    newest = sorted(outcomes, key=lambda o: o.closed_at)[-KEPT:]
    rs = [outcome.outcome_r for outcome in newest if outcome.outcome_r is not None]
    wins, losses = [r for r in rs if r > 0], [-r for r in rs if r < 0]
    if len(rs) < least or not losses:
        return None
    if not wins:
        return Decimal(-1)
    decided = len(wins) + len(losses)
    mean_win, mean_loss = exact_sum(wins) / len(wins), exact_sum(losses) / len(losses)
    edge = (len(wins) / mean_loss - len(losses) / mean_win) / decided
    return edge.quantize(PLACES, ROUND_FLOOR)


def rejections(sent: Iterable[tuple[datetime, bool]], since: datetime) -> int:
    """Return how many of the newest entries were refused in a row; older ones than `since` are forgotten."""
    streak = 0
    for at, refused in sorted(sent, reverse=True):
        if at <= since or not refused:
            break
        streak += 1
    return streak
