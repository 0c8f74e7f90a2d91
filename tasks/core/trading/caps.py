"""What limits the size of an entry: each cap says the largest quantity it leaves room for.

A cap only ever shrinks. Caps are floored to the step before they are compared with what was asked, so that a verdict
says "clamped" only when the order really is smaller than asked for.
"""

from collections.abc import Callable
from decimal import Decimal

from tasks.core.trading import checks, sizing
from tasks.core.trading.checks import Ticket, check
from tasks.core.trading.money import bps
from tasks.core.types.base import Quantity
from tasks.core.types.limits import Costs
from tasks.core.types.portfolio import AccountState
from tasks.core.types.verdict import Check, Code

HALF, WHOLE = Decimal("0.5"), Decimal(1)
POOR_SCORE = Decimal("-0.5")
Cap = Callable[[Ticket, Quantity], tuple[Quantity, Check]]


def sizing_factor(risk_mode: str, recent_score: Decimal | None) -> Decimal:
    """Return the share of equity that sizes are computed on: half when risk is tightened or results are poor."""
    poor = recent_score is not None and recent_score < POOR_SCORE
    return HALF if risk_mode == "tighten" or poor else WHOLE


def halved(t: Ticket) -> Check:
    return check(Code.SIZE_CLAMPED, t.factor < 1, sizing_equity=sizing_equity(t), factor=t.factor)


def sizing_equity(t: Ticket) -> Decimal:
    """Return what `size_pct` and the trade's risk are a share of; guarding a verdict again gives the same size."""
    return t.account.state.equity * t.factor


def trade_risk(t: Ticket, asked: Quantity) -> tuple[Quantity, Check]:
    """Risk of one position: an ADD has what the units already held leave of it."""
    held = t.account.position
    used = checks.position_risk(held, t.account.costs) if held else checks.ZERO
    budget = sizing_equity(t) * t.account.limits.max_trade_risk_pct / sizing.HUNDRED
    return _cap(Code.TRADE_RISK_CLAMPED, t, asked, budget - used, unit_loss(t))


def total_risk(t: Ticket, asked: Quantity) -> tuple[Quantity, Check]:
    a = t.account
    budget = a.state.equity * a.limits.max_total_risk_pct / sizing.HUNDRED
    return _cap(Code.TOTAL_RISK_CLAMPED, t, asked, budget - checks.open_risk(a.state, a.costs), unit_loss(t))


def gross(t: Ticket, asked: Quantity) -> tuple[Quantity, Check]:
    room = checks.gross_limit(t.account) - checks.gross_notional(t.account.state)
    return _cap(Code.GROSS_CLAMPED, t, asked, room, t.entry)


def net(t: Ticket, asked: Quantity) -> tuple[Quantity, Check]:
    a = t.account
    room = a.state.equity * a.limits.max_net_pct / sizing.HUNDRED - _leaning(a.state, t)
    return _cap(Code.NET_CLAMPED, t, asked, room, t.entry)


def _leaning(state: AccountState, t: Ticket) -> Decimal:
    """Return net notional in the ticket's direction; pending entries the other way are not counted on to fill."""
    total = sum((p.quantity * p.price for p in state.pending if p.side == t.side), checks.ZERO)
    for p in state.positions:
        notional = p.quantity * (p.mark_price or p.avg_price)
        total += notional if p.side == t.side else -notional
    return total


def available(t: Ticket, asked: Quantity) -> tuple[Quantity, Check]:
    """Margin and the way in must be paid from what is free."""
    a = t.account
    free = a.state.equity if a.state.available is None else a.state.available
    margin = t.entry / checks.leverage(a) + _way_in(t.entry, a.costs)
    return _cap(Code.AVAILABLE_CLAMPED, t, asked, free, margin)


def _way_in(entry: Decimal, costs: Costs) -> Decimal:
    return bps(entry, costs.taker_bps + costs.half_spread_bps)


def unit_loss(t: Ticket) -> Decimal:
    return sizing.loss_per_unit(t.side, t.entry, t.stop, t.account.costs)


def _cap(code: Code, t: Ticket, asked: Quantity, room: Decimal, per_unit: Decimal) -> tuple[Quantity, Check]:
    most = sizing.by_budget(room, per_unit, t.account.state.instrument.step)
    return most, check(code, most < asked, room=room, per_unit=per_unit, most=most, asked=asked)
