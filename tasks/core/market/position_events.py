"""Reasons that our own account gives: R crossed, a day's loss, a position that went nowhere.

Judged on 5m closes since the position opened. The fingerprint names the position and the level, not the time,
so that each fires once however often it is looked for.
"""

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pandas as pd

from tasks.core.types.bars import duration
from tasks.core.types.limits import EventThresholds
from tasks.core.types.portfolio import Position
from tasks.core.types.record import Reason


def r_path(position: Position, bars: pd.DataFrame) -> pd.Series:
    """Return unrealized R at each 5m close after the position opened, indexed by close time."""
    risk = position.risk_per_unit
    closes_at = pd.DatetimeIndex(bars.index) + duration("5m")
    since = np.asarray(closes_at > pd.Timestamp(position.opened_at))
    sign = 1.0 if position.side == "long" else -1.0
    unit = np.nan if risk is None else sign * float(risk)
    move = bars["close"].to_numpy()[since] - float(position.avg_price)
    return pd.Series(move / unit, index=closes_at[since])


def r_crossings(position: Position, path: pd.Series, thresholds: EventThresholds) -> Iterator[Reason]:
    """Yield one reason for each level of R first reached in `path`, on either side."""
    for level in thresholds.r_levels:
        for sign in (1, -1):
            reached = np.flatnonzero(path.to_numpy() * sign >= level)
            if len(reached):
                text = f"{sign * level:+.1f}R"
                yield _reason("RMultiple", position, text, path.index[reached[0]])


def stale_position(position: Position, path: pd.Series, thresholds: EventThresholds) -> Iterator[Reason]:
    """Yield a reason when the position is older than the limit and never reached +/- age_r."""
    n = thresholds.age_bars
    if len(path) > n and not (path.iloc[: n + 1].abs() >= thresholds.age_r).any():
        yield _reason("PositionAge", position, f"{n} bars", path.index[n])


def drawdown(symbol: str, daily_pnl_pct: float | None, as_of: datetime, thresholds: EventThresholds) -> list[Reason]:
    """Return a reason when today's realized loss has passed the threshold, and again at each further percent."""
    if daily_pnl_pct is None or daily_pnl_pct >= -thresholds.drawdown_pct:
        return []
    step = int(-daily_pnl_pct - thresholds.drawdown_pct)
    level = thresholds.drawdown_pct + step
    mark = f"Drawdown|{symbol}|{as_of:%Y-%m-%d}|{level:g}"
    detail = f"{daily_pnl_pct:+.1f}%"
    return [Reason(rule="Drawdown", symbol=symbol, detail=detail, as_of=as_of, fingerprint=mark)]


def position_reasons(
    position: Position, bars: pd.DataFrame, until: datetime, thresholds: EventThresholds
) -> list[Reason]:
    """Return every reason `position` has given on 5m bars closed by `until`.

    Whether it ever reached +/- age_r is known only from bars that go back to its opening.
    """
    path = r_path(position, bars)
    path = path[path.index <= until]
    reasons = list(r_crossings(position, path, thresholds))
    if len(bars) and bars.index[0] <= pd.Timestamp(position.opened_at):
        reasons += stale_position(position, path, thresholds)
    return reasons


def _reason(rule: str, position: Position, detail: str, at: pd.Timestamp) -> Reason:
    return Reason(
        rule=rule,
        symbol=position.symbol,
        timeframe="5m",
        detail=detail,
        as_of=at.to_pydatetime(),
        fingerprint=f"{rule}|{position.position_id}|{detail}",
    )
