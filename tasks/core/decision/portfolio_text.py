"""The portfolio as text for a prompt: the account, then its positions, working entries and refusals, in 1,024 bytes.

What does not fit goes in this order: the older refusals, the end of theses, follow-ups, refusals, theses, then the
smallest positions, which are counted.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tasks.core.decision.plain_text import not_understood
from tasks.core.market.lean import cell
from tasks.core.types import Portfolio, PortfolioPosition

MAX_BYTES = 1024


class _Detail(NamedTuple):
    """How much is written: refusals and closings by hand, characters of a thesis, follow-ups, how many positions."""

    refusals: int
    thesis: int
    followups: bool
    positions: int


def portfolio_text(portfolio: Portfolio | None) -> str:
    """Write `portfolio` in at most MAX_BYTES, or that it is unknown."""
    if portfolio is None:
        return "unknown"
    return next(text for detail in _details(portfolio) if len((text := _text(portfolio, detail)).encode()) <= MAX_BYTES)


def _details(portfolio: Portfolio) -> Iterator[_Detail]:
    """Yield what may be written, the most first; the last one always fits."""
    count = len(portfolio.positions) + len(portfolio.pending)
    for refusals, thesis, followups in ((5, 100, True), (2, 100, True), (2, 50, True), (2, 50, False), (0, 0, False)):
        yield _Detail(refusals, thesis, followups, count)
    for positions in reversed(range(count)):
        yield _Detail(0, 0, False, positions)


def _text(p: Portfolio, detail: _Detail) -> str:
    day = f"today {_pct(p.daily_pnl_pct)} (realized {_pct(p.realized_today_pct)})"
    lines = [
        f"equity {cell(p.equity, 7)} cash {cell(p.cash, 7)} gross {_pct(p.gross_pct, '')} net {_pct(p.net_pct)} "
        f"open risk {_pct(p.open_risk_pct, '')} of {_pct(p.max_total_risk_pct, '')}",
        f"{day} drawdown {_pct(p.drawdown_today_pct, '')} today, {_pct(p.drawdown_pct, '')} from the peak",
    ]
    held = sorted(p.positions, key=lambda each: -(each.size_pct or 0))
    rows = [_position(each, detail) for each in held]
    rows += [f"entry waits: {_what(each)}" for each in p.pending]
    left_out = len(rows) - detail.positions
    lines += rows[: detail.positions] or ([] if rows else ["no open positions"])
    lines += [f"and {left_out} more"] * (left_out > 0)
    closed = p.by_hand[: detail.refusals]
    lines += [f"closed by hand {each.closed_at:%m-%d %H:%M} {each.symbol}" for each in closed]
    for each in p.refusals[: detail.refusals]:
        lines.append(f"refused {each.as_of:%m-%d %H:%M} {each.symbol} {each.action}: {', '.join(each.codes)}")
    return "\n".join(lines)


def _position(each: PortfolioPosition, detail: _Detail) -> str:
    r = "R -" if each.r is None else f"{each.r:+.3g}R"
    age = "-" if each.age_bars_5m is None else f"{each.age_bars_5m * 5} min"
    row = f"{_what(each)} {r} stop {cell(each.stop, 6)} target {cell(each.target, 6)} age {age}"
    if thesis := each.thesis[: detail.thesis].rstrip():
        row += f' "{thesis}"'
    if each.followups and detail.followups:
        row += f" then {'; '.join(each.followups)}"
    if each.unread and detail.followups:
        row += f" ({not_understood(each.unread)})"
    return row


def _what(each: PortfolioPosition) -> str:
    return f"{each.symbol} {each.side} {_pct(each.size_pct, '')} at {cell(each.avg_price, 6)}"


def _pct(number: float | None, sign: str = "+") -> str:
    return "-" if number is None else f"{number:{sign}.3g}%"
