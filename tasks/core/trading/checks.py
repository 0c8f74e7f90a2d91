"""The guard's rules on account and decision: one small function each, a case in, a Check out.

A rule states what it compared, never what follows; `guard` says which rules apply to which action. Percentages of
equity are compared as amounts, so that nothing here divides. The size of an entry is the matter of `caps`.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import inf
from typing import NamedTuple

from tasks.core.trading.sizing import HUNDRED, direction, known, loss_per_unit
from tasks.core.types.base import Price
from tasks.core.types.decision import MAY_AS_FALLBACK, Decision
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import PositionSide
from tasks.core.types.portfolio import AccountState, HeldPosition
from tasks.core.types.snapshot import Snapshot
from tasks.core.types.verdict import Check, Code

ZERO = Decimal(0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Account(NamedTuple):
    """What is true of the account and `symbol` at `at`, before any decision is asked for."""

    state: AccountState
    symbol: str
    limits: Limits
    costs: Costs
    at: datetime
    lateness_s: float | None
    symbols: tuple[str, ...] | None
    risk_mode: str
    daily_pnl_pct: Decimal | None
    position: HeldPosition | None


class Case(NamedTuple):
    """A decision before the guard; `last` and `atr` are None when they are unknown or not positive."""

    account: Account
    decision: Decision
    snapshot: Snapshot
    fallback: bool
    last: Decimal | None
    atr: Decimal | None


class Ticket(NamedTuple):
    """Final prices of an entry, rounded to the tick, and the share of equity its size is computed on."""

    account: Account
    side: PositionSide
    entry: Price
    stop: Price
    target: Price
    atr: Decimal
    factor: Decimal


AccountRule = Callable[[Account], Check]
CaseRule = Callable[[Case], Check]
TicketRule = Callable[[Ticket], Check]


def check(code: Code, fired: bool, **inputs: object) -> Check:
    """Build a Check; its inputs are text, computed numbers cut to 12 digits."""
    texts = {name: format(x, ".12g") if isinstance(x, Decimal) else str(x) for name, x in inputs.items()}
    return Check(code=code, fired=fired, inputs=texts)


def number(value: float | None) -> Decimal | None:
    """Cross a price or distance of the snapshot; None unless it is positive."""
    crossed = known(value)
    return crossed if crossed is not None and crossed > 0 else None


def lateness_s(now: datetime | None, as_of: datetime) -> float | None:
    """Return seconds from `as_of` to `now`; None when there is no now, infinite when it has no timezone."""
    if now is None:
        return None
    return (now - as_of).total_seconds() if now.tzinfo else inf


# --- the account


def halted(a: Account) -> Check:
    return check(Code.HALTED, bool(a.state.halt), halt=a.state.halt)


def paused(a: Account) -> Check:
    until = a.state.paused_until
    fired = a.risk_mode == "pause" or (until is not None and until > a.at)
    return check(Code.PAUSED, fired, paused_until=until, at=a.at, risk_mode=a.risk_mode)


def stale(a: Account) -> Check:
    late = a.lateness_s
    fired = late is not None and abs(late) > a.limits.max_lateness_s
    return check(Code.STALE, fired, lateness_s=late, max_lateness_s=a.limits.max_lateness_s)


def symbol_unlisted(a: Account) -> Check:
    fired = a.symbols is not None and a.symbol not in a.symbols
    return check(Code.SYMBOL_NOT_ALLOWED, fired, symbol=a.symbol)


def equity_gone(a: Account) -> Check:
    """Without equity no share of it can be sized."""
    return check(Code.DATA_MISSING, a.state.equity <= 0, equity=a.state.equity)


def shorting_off(a: Account) -> Check:
    instrument = a.state.instrument
    fired = not instrument.shorting or instrument.kind == "spot"
    return check(Code.SHORTING_NOT_ALLOWED, fired, shorting=instrument.shorting, kind=instrument.kind)


def position_exists(a: Account) -> Check:
    """A working entry order is a position to be: two of them could both fill."""
    pending = any(p.symbol == a.symbol for p in a.state.pending)
    return check(Code.POSITION_EXISTS, a.position is not None or pending, held=a.position is not None, pending=pending)


def no_position(a: Account) -> Check:
    return check(Code.NO_POSITION, a.position is None, symbol=a.symbol)


def positions_full(a: Account) -> Check:
    taken = {p.symbol for p in a.state.positions} | {p.symbol for p in a.state.pending}
    limit = a.limits.max_positions
    return check(Code.MAX_POSITIONS, len(taken) >= limit, positions=len(taken), max_positions=limit)


def opens_in_hour(a: Account) -> Check:
    opens, limit = _opens_within(a, HOUR), a.limits.opens_per_hour
    return check(Code.OPENS_PER_HOUR, opens >= limit, opens=opens, limit=limit)


def opens_in_day(a: Account) -> Check:
    opens, limit = _opens_within(a, DAY), a.limits.opens_per_day
    return check(Code.OPENS_PER_DAY, opens >= limit, opens=opens, limit=limit)


def _opens_within(a: Account, span: timedelta) -> int:
    return sum(abs(a.at - sent) < span for sent in a.state.opens)


def cooling_down(a: Account) -> Check:
    """A trade that does not name its symbol counts as this one's."""
    cooldown = timedelta(minutes=a.limits.reentry_cooldown_min)
    recent = [
        t.closed_at for t in a.state.closed_trades if t.symbol in ("", a.symbol) and abs(a.at - t.closed_at) < cooldown
    ]
    last = max(recent, default=None)
    return check(Code.REENTRY_COOLDOWN, bool(recent), last_exit=last, cooldown_min=a.limits.reentry_cooldown_min)


def daily_loss(a: Account) -> Check:
    """The worst of three views: equity since the day began, trades closed today (UTC), and the snapshot's own."""
    start, limit = a.state.day_start_equity, a.limits.daily_loss_halt_pct
    today = a.at.astimezone(UTC).date()
    closed = sum((t.pnl for t in a.state.closed_trades if t.closed_at.date() == today), ZERO)
    fired = (
        (start is not None and (start - a.state.equity) * HUNDRED >= limit * start)
        or -closed * HUNDRED >= limit * a.state.equity
        or (a.daily_pnl_pct is not None and -a.daily_pnl_pct >= limit)
    )
    return check(
        Code.DAILY_LOSS, fired, day_start_equity=start, equity=a.state.equity, closed_today=closed,
        daily_pnl_pct=a.daily_pnl_pct, halt_pct=limit,
    )  # fmt: skip


def drawdown(a: Account) -> Check:
    peak, equity, limit = a.state.peak_equity, a.state.equity, a.limits.drawdown_halt_pct
    fired = peak is not None and (peak - equity) * HUNDRED >= limit * peak
    return check(Code.DRAWDOWN, fired, peak_equity=peak, equity=equity, halt_pct=limit)


def total_risk_used(a: Account) -> Check:
    risk, limit = open_risk(a.state, a.costs), a.limits.max_total_risk_pct * a.state.equity / HUNDRED
    return check(Code.TOTAL_RISK_EXCEEDED, risk >= limit, open_risk=risk, limit=limit)


def gross_used(a: Account) -> Check:
    gross, limit = gross_notional(a.state), gross_limit(a)
    return check(Code.GROSS_EXCEEDED, gross >= limit, gross=gross, limit=limit)


# --- the decision


def symbol_differs(c: Case) -> Check:
    fired = c.decision.symbol != c.snapshot.pair
    return check(Code.SYMBOL_MISMATCH, fired, decision=c.decision.symbol, snapshot=c.snapshot.pair)


def action_not_offered(c: Case) -> Check:
    action, offered = c.decision.action, c.snapshot.constraints.allowed_actions
    return check(Code.ACTION_NOT_ALLOWED, action not in offered, action=action, offered=",".join(offered))


def unsure(c: Case) -> Check:
    least = c.account.limits.min_confidence
    return check(Code.LOW_CONFIDENCE, c.decision.confidence < least, confidence=c.decision.confidence, least=least)


def fallback_opens(c: Case) -> Check:
    fired = c.fallback and not c.account.limits.fallback_may_open and c.decision.action not in MAY_AS_FALLBACK
    return check(Code.FALLBACK_MAY_NOT_OPEN, fired, fallback=c.fallback, action=c.decision.action)


def prices_missing(c: Case) -> Check:
    return check(Code.DATA_MISSING, c.last is None or c.atr is None, last_price=c.last, atr_15m=c.atr)


# --- the prices of an entry


def stop_wrong_side(t: Ticket) -> Check:
    fired = t.stop <= 0 or direction(t.side) * (t.entry - t.stop) <= 0
    return check(Code.STOP_WRONG_SIDE, fired, side=t.side, entry=t.entry, stop=t.stop)


def stop_too_close(t: Ticket) -> Check:
    distance, least = abs(t.entry - t.stop), t.account.limits.min_stop_atr * t.atr
    return check(Code.STOP_TOO_CLOSE, distance < least, distance=distance, least=least)


def stop_too_far(t: Ticket) -> Check:
    """A stop beyond the price at which the margin is gone protects nothing."""
    distance, lever = abs(t.entry - t.stop), leverage(t.account)
    return check(Code.STOP_TOO_FAR, distance * lever >= t.entry, distance=distance, entry=t.entry, leverage=lever)


def target_wrong_side(t: Ticket) -> Check:
    fired = t.target <= 0 or direction(t.side) * (t.target - t.entry) <= 0
    return check(Code.TARGET_WRONG_SIDE, fired, side=t.side, entry=t.entry, target=t.target)


def reward_too_low(t: Ticket) -> Check:
    reward, risk, least = abs(t.target - t.entry), abs(t.entry - t.stop), t.account.limits.min_reward_risk
    return check(Code.REWARD_RISK_TOO_LOW, reward < least * risk, reward=reward, risk=risk, least=least)


# --- what is open already


def position_risk(p: HeldPosition, costs: Costs) -> Decimal:
    """Return what the position loses at its stop, in quote; without a stop its whole notional is at risk."""
    if p.stop is None:
        return p.quantity * (p.mark_price or p.avg_price)
    return p.quantity * loss_per_unit(p.side, p.avg_price, p.stop, costs)


def open_risk(state: AccountState, costs: Costs) -> Decimal:
    """Return the risk of every open position and pending entry, in quote."""
    risk = sum((position_risk(p, costs) for p in state.positions), ZERO)
    for p in state.pending:
        risk += p.quantity * (p.price if p.stop is None else loss_per_unit(p.side, p.price, p.stop, costs))
    return risk


def gross_notional(state: AccountState) -> Decimal:
    """Return the notional of every open position (at its mark, else its entry) and pending entry, in quote."""
    held = sum((p.quantity * (p.mark_price or p.avg_price) for p in state.positions), ZERO)
    return held + sum((p.quantity * p.price for p in state.pending), ZERO)


def leverage(a: Account) -> Decimal:
    """Return the leverage in force: ours, capped by the instrument's; 1 on spot."""
    instrument = a.state.instrument
    return Decimal(1) if instrument.kind == "spot" else min(a.limits.leverage, instrument.max_leverage)


def gross_limit(a: Account) -> Decimal:
    return a.state.equity * min(a.limits.max_gross_pct / HUNDRED, leverage(a))
