"""What the guard's rules are given, what they answer, and what is open already.

A rule is one small function, a case in, a Check out, that states what it compared and never what follows. The rules
are in `account_rules` and `entry_rules`, what limits the size of an entry in `caps`; `guard` says which apply to which
action. Percentages of equity are compared as amounts, so that a rule divides as little as it can.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf
from typing import NamedTuple

from tasks.core.trading.guard.sizing import HUNDRED, direction, known, loss_per_unit
from tasks.core.trading.ledger import realized_today
from tasks.core.types.base import Price
from tasks.core.types.decision import Decision
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import Instrument, PositionSide
from tasks.core.types.portfolio import AccountState, HeldPosition, PendingEntry
from tasks.core.types.snapshot import Snapshot
from tasks.core.types.verdict import Check, Code

ZERO = Decimal(0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Closed(NamedTuple):
    """What the closed trades say at one moment: PnL of the UTC day, last exit of the symbol, losses of late."""

    pnl_today: Decimal
    last_exit: datetime | None
    losses: int


class Account(NamedTuple):
    """What is true of the account and `symbol` at `at`, before any decision is asked for."""

    state: AccountState
    instrument: Instrument
    symbol: str
    limits: Limits
    costs: Costs
    at: datetime
    lateness_s: float | None
    symbols: tuple[str, ...] | None
    risk_mode: str
    daily_pnl_pct: Decimal | None
    position: HeldPosition | None
    closed: Closed
    open_risk: Decimal
    gross: Decimal
    leverage: Decimal


class Case(NamedTuple):
    """A decision before the guard; `last` and `atr` are None when they are unknown or not positive.

    breakouts: the ways (+1, -1) in which the market has just broken out.
    """

    account: Account
    decision: Decision
    snapshot: Snapshot
    fallback: bool
    last: Decimal | None
    atr: Decimal | None
    breakouts: frozenset[int] = frozenset()


class Ticket(NamedTuple):
    """Final prices of an entry, rounded to the tick, and the share of equity its size is computed on."""

    case: Case
    account: Account
    side: PositionSide
    entry: Price
    offset_bps: Decimal | None  # None: at market
    stop: Price
    target: Price
    last: Decimal
    atr: Decimal
    factor: Decimal
    shrunk: tuple[Check, ...]
    loss: Decimal  # quote per base at the stop, costs included


AccountRule = Callable[[Account], Check]
CaseRule = Callable[[Case], Check]
TicketRule = Callable[[Ticket], Check]


def check(code: Code, fired: bool, **inputs: object) -> Check:
    """Build a Check; `Check` itself is what is passed around."""
    return tuple.__new__(Check, (code, fired, inputs))


def number(value: float | None) -> Decimal | None:
    """Cross a price or distance of the snapshot; None unless it is positive."""
    crossed = known(value)
    return crossed if crossed is not None and crossed > 0 else None


def lateness_s(now: datetime | None, as_of: datetime) -> float | None:
    """Return seconds from `as_of` to `now`; None when there is no now, infinite when it has no timezone."""
    if now is None:
        return None
    return (now - as_of).total_seconds() if now.tzinfo else inf


def account(
    state: AccountState,
    instrument: Instrument,
    symbol: str,
    limits: Limits,
    costs: Costs,
    at: datetime,
    *,
    risk_mode: str,
    symbols: tuple[str, ...] | None = None,
    lateness_s: float | None = None,
    daily_pnl_pct: Decimal | None = None,
) -> Account:
    """Work out once what several rules compare."""
    mode = "tighten" if risk_mode == "normal" and losing(state, limits) else risk_mode
    return Account(
        state, instrument, symbol, limits, costs, at, lateness_s, symbols, mode, daily_pnl_pct, state.position(symbol),
        _closed(state, symbol, limits, at), open_risk(state, costs), gross_notional(state),
        leverage(instrument, symbol, limits),
    )  # fmt: skip


def losing(state: AccountState, limits: Limits) -> bool:
    """Say whether half of what halts trading is lost, of the day's start or of the peak: risk is tightened then."""
    for before, halt_pct in (
        (state.day_start_equity, limits.daily_loss_halt_pct),
        (state.peak_equity, limits.drawdown_halt_pct),
    ):
        if before is not None and (before - state.equity) * 2 * HUNDRED >= halt_pct * before > 0:
            return True
    return False


def _closed(state: AccountState, symbol: str, limits: Limits, at: datetime) -> Closed:
    """Look through the closed trades once. One that does not name its symbol counts as this one's."""
    lately, cooled = at - timedelta(minutes=limits.cool_off_min), at - timedelta(minutes=limits.reentry_cooldown_min)
    recent = min(lately, cooled)
    last_exit, losses = None, 0
    for trade in state.closed_trades:
        closed_at = trade.closed_at
        if closed_at <= recent:
            continue
        if closed_at > lately and trade.pnl < 0:
            losses += 1
        if closed_at > cooled and trade.symbol in ("", symbol) and (last_exit is None or closed_at > last_exit):
            last_exit = closed_at
    return Closed(realized_today(state.closed_trades, at), last_exit, losses)


# --- what is open already


def position_risk(p: HeldPosition, costs: Costs) -> Decimal:
    """Return what the position loses at its stop, in quote; without a stop its whole notional is at risk."""
    if p.stop is None:
        return p.quantity * (p.mark_price or p.avg_price)
    return p.quantity * loss_per_unit(p.side, p.avg_price, p.stop, costs)


def pending_risk(p: PendingEntry, costs: Costs) -> Decimal:
    return p.quantity * (p.price if p.stop is None else loss_per_unit(p.side, p.price, p.stop, costs))


def open_risk(state: AccountState, costs: Costs) -> Decimal:
    """Return the risk of every open position and pending entry, in quote."""
    held = sum((position_risk(p, costs) for p in state.positions), ZERO)
    return held + sum((pending_risk(p, costs) for p in state.pending), ZERO)


def notional(p: HeldPosition) -> Decimal:
    """Return what a position is worth at its mark, else at its entry."""
    return p.quantity * (p.mark_price or p.avg_price)


def gross_notional(state: AccountState) -> Decimal:
    """Return the notional of every open position and pending entry, in quote."""
    held = sum((notional(p) for p in state.positions), ZERO)
    return held + sum((p.quantity * p.price for p in state.pending), ZERO)


def leverage(instrument: Instrument, symbol: str, limits: Limits) -> Decimal:
    """Return the leverage in force: ours, capped by the symbol's and the instrument's; 1 on spot."""
    if instrument.kind == "spot":
        return Decimal(1)
    return min(limits.leverage_of(symbol), instrument.max_leverage)


def gross_limit(a: Account) -> Decimal:
    return a.state.equity * min(a.limits.max_gross_pct / HUNDRED, a.leverage)


def alike(a: Account, side: PositionSide) -> tuple[list[HeldPosition], list[PendingEntry]]:
    """Return what is open or pending in other symbols and wins and loses with a `side` entry in this one.

    Their returns must be correlated beyond the limit, or be of unknown correlation and on the same side.
    """
    correlations, way = a.state.correlations, direction(side)
    if correlations is None:
        return [], []

    def is_alike(p: HeldPosition | PendingEntry) -> bool:
        if p.symbol == a.symbol:
            return False
        together = way * direction(p.side) * correlations.get(p.symbol, inf)
        return not together <= a.limits.max_correlation  # NaN is unknown, too

    return [p for p in a.state.positions if is_alike(p)], [p for p in a.state.pending if is_alike(p)]
