"""Reasons that our own account gives: R crossed, a day's loss, a position that went nowhere.

Judged on 5m closes since the position opened. The fingerprint names the position and the level, not the time,
so that each fires once however often it is looked for.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from tasks.core.types import SECONDS, EventThresholds, Position, Reason, r_scale

STEP = SECONDS["5m"]


class Closes(NamedTuple):
    """5m closes, ascending: when (s since 1970), and at what price or R; NaN where a position never had a stop."""

    at_s: np.ndarray
    level: np.ndarray


def since_opened(position: Position, closes: Closes, until: datetime) -> Closes:
    """Return those of the closes up to `until` that came after the position opened."""
    opened_s, until_s = int(position.opened_at.timestamp()), int(until.timestamp())  # whole: a float copies the array
    part = slice(*np.searchsorted(closes.at_s, (opened_s, until_s), side="right").tolist())
    return Closes(closes.at_s[part], closes.level[part])


def r_path(position: Position, closes: Closes, until: datetime) -> Closes:
    """Return `r` of `position` at each of the closes up to `until` after it opened."""
    path = since_opened(position, closes, until)
    zero, unit = map(float, r_scale(position) or (np.nan, np.nan))
    return Closes(path.at_s, (path.level - zero) / unit)


def account_symbol(symbols: Iterable[str], positions: Iterable[Position]) -> str:
    """Return the symbol that a question about the account is put with: the largest position's by entry, else the first.

    Raises ValueError without a symbol.
    """
    names = tuple(symbols)
    held = [position for position in positions if position.symbol in names]
    if not held:
        return min(names, key=names.index)
    return max(held, key=lambda p: (p.quantity * p.avg_price, -names.index(p.symbol))).symbol


def drawdown(symbol: str, daily_pnl_pct: float | None, as_of: datetime, thresholds: EventThresholds) -> list[Reason]:
    """Return a reason when today's realized loss has passed the threshold, and again at each further percent.

    It is the account's, so its fingerprint names no symbol; symbol: what `account_symbol` says.
    """
    if daily_pnl_pct is None or daily_pnl_pct >= -thresholds.drawdown_pct:
        return []
    step = int(-daily_pnl_pct - thresholds.drawdown_pct)
    level = thresholds.drawdown_pct + step
    mark = f"Drawdown|account|{as_of:%Y-%m-%d}|{level:g}"
    detail = f"account {daily_pnl_pct:+.1f}%"
    return [Reason(rule="Drawdown", symbol=symbol, detail=detail, as_of=as_of, fingerprint=mark)]


def reasons_at(position: Position, closes: Closes, until: datetime, thresholds: EventThresholds) -> list[Reason]:
    """Return each level of R first reached on either side up to `until`, and that the position went nowhere.

    Whether it ever reached +/- age_r is known only from closes that go back to its opening.
    """
    path, reasons, n = r_path(position, closes, until), [], thresholds.age_bars
    for level in thresholds.r_levels:
        for sign in (1, -1):
            reached = path.level * sign >= level
            if reached.any():
                at_s = path.at_s[reached.argmax()]
                reasons.append(_reason("RMultiple", position, f"{sign * level:+.1f}R", at_s))
    from_its_opening = len(closes.at_s) and closes.at_s[0] - STEP <= position.opened_at.timestamp()
    if from_its_opening and len(path.at_s) > n and not (np.abs(path.level[: n + 1]) >= thresholds.age_r).any():
        reasons.append(_reason("PositionAge", position, f"{n} bars", path.at_s[n]))
    return reasons


def reviewed_at(at_s: Any, review_bars: int) -> Any:
    """Return whether a close at `at_s` (s since 1970, or an array of them) is one at which positions are reviewed."""
    return at_s % (review_bars * STEP) == STEP if review_bars else False


def next_review(
    position: Position, closes: Closes, after: datetime, until: datetime, thresholds: EventThresholds
) -> Reason | None:
    """Return the first review in (after, until] of a position that has been open for as long as between two.

    It is due 5 minutes past: on a close of its own, where no higher bar closes.
    """
    every, begin = thresholds.review_bars, int(max(after, position.opened_at).timestamp())
    if not every:
        return None
    at_s = closes.at_s[slice(*np.searchsorted(closes.at_s, (begin, int(until.timestamp())), side="right").tolist())]
    held_s = at_s - int(position.opened_at.timestamp())
    due = np.flatnonzero(reviewed_at(at_s, every) & (held_s >= every * STEP))
    if not len(due):
        return None
    first = due[0]
    return _reason("Review", position, f"open {held_s[first] // STEP} bars", at_s[first])


def _reason(rule: str, position: Position, detail: str, at_s: int) -> Reason:
    return Reason(
        rule=rule,
        symbol=position.symbol,
        timeframe="5m",
        detail=detail,
        as_of=datetime.fromtimestamp(int(at_s), UTC),
        fingerprint=f"{rule}|{position.position_id}|{detail}",
    )
