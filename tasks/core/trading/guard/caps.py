"""What limits the size of an entry: each cap says the largest quantity it leaves room for.

A cap only ever shrinks. Caps are floored to the step before they are compared with what was asked, so that a verdict
says "clamped" only when the order really is smaller than asked for.
"""

from decimal import ROUND_FLOOR, Decimal

from tasks.core.trading.guard import sizing
from tasks.core.trading.guard.cases import Case, EntryTerms
from tasks.core.types import (
    HUNDRED,
    ZERO,
    Check,
    Code,
    PositionSide,
    Quantity,
    bps,
    check,
    direction,
    exact_sum,
    floor_to_step,
    known,
)

HALF, WHOLE = Decimal("0.5"), Decimal(1)
POOR_SCORE = Decimal("-0.5")
SHARE = Decimal("0.0001")
Room = tuple[Quantity, Check]

# --- the share of equity that sizes are computed on; guarding a verdict again gives the same size


def careful(c: Case, _side: PositionSide) -> tuple[Decimal, Check]:
    """Half when risk is tightened or the digest's results are poor."""
    score = known(c.snapshot.digest.recent_performance_score)
    poor = score is not None and score < POOR_SCORE
    factor = HALF if poor or c.account.risk_mode == "tighten" else WHOLE
    return factor, check(Code.SIZE_CLAMPED, factor < 1, risk_mode=c.account.risk_mode, score=score, factor=factor)


def volatile(c: Case, _side: PositionSide) -> tuple[Decimal, Check]:
    """Scale down to the target volatility, by the 15m ATR in percent of the price; a calm market scales nothing up."""
    target, atr, last = c.account.limits.target_atr_pct, c.atr or ZERO, c.last or WHOLE
    wild = atr * HUNDRED > target * last
    factor = (target * last / (atr * HUNDRED)).quantize(SHARE, ROUND_FLOOR) if wild else WHOLE
    return factor, check(Code.VOLATILITY_CLAMPED, wild, atr=atr, price=last, target_atr_pct=target, factor=factor)


def cooled(c: Case, side: PositionSide) -> tuple[Decimal, Check]:
    """Half after losing trades in a short time, unless the market speaks clearly for this direction."""
    limits, losses = c.account.limits, c.account.losses
    votes = direction(side) * c.snapshot.confluence.signed
    fired = losses >= limits.cool_off_losses and votes < limits.cool_off_confluence
    factor = HALF if fired else WHOLE
    return factor, check(Code.COOL_OFF_CLAMPED, fired, losses=losses, confluence=votes, factor=factor)


def confident(c: Case, _side: PositionSide) -> tuple[Decimal, Check]:
    """As much as the decision is sure of itself; asked only where the strategy wants that."""
    factor = min(c.decision.confidence, WHOLE)
    return factor, check(Code.CONFIDENCE_CLAMPED, factor < 1, factor=factor)


def reduced(c: Case, _side: PositionSide) -> tuple[Decimal, Check]:
    """Half for the rest of a day on which that was decided about the account; asked only then."""
    until = c.account.state.reduced_until
    fired = until is not None and until > c.account.at
    factor = HALF if fired else WHOLE
    return factor, check(Code.REDUCED_CLAMPED, fired, reduced_until=until, factor=factor)


# --- how many units there is room for


def trade_risk(t: EntryTerms) -> Room:
    """Risk of one position: an ADD has what the units already held leave of it."""
    budget = t.equity * t.account.limits.max_trade_risk_pct / HUNDRED
    return _cap(Code.TRADE_RISK_CLAMPED, t, budget - t.account.position_risk, t.loss, t.impact)


def total_risk(t: EntryTerms) -> Room:
    a = t.account
    budget = a.state.equity * a.limits.max_total_risk_pct / HUNDRED
    return _cap(Code.TOTAL_RISK_CLAMPED, t, budget - a.open_risk, t.loss, t.impact)


def correlation(t: EntryTerms) -> Room:
    """Positions that move alike, whichever strategy's, are one position's risk, this one included."""
    a, alike = t.account, t.account.alike(t.side)
    if not alike:
        return t.asked, check(Code.CORRELATION_CLAMPED, False, alike=())
    used = sum(map(a.risk, alike), a.position_risk)
    room = a.state.equity * a.limits.max_trade_risk_pct / HUNDRED - used
    return _cap(Code.CORRELATION_CLAMPED, t, room, t.loss, t.impact, alike=tuple(p.symbol for p in alike))


def kelly(t: EntryTerms) -> Room:
    """Risk a fraction of what Kelly would; a decider without an edge keeps the floor, so that it can still show one."""
    a, limits = t.account, t.account.limits
    if a.state.kelly is None:
        return t.asked, check(Code.KELLY_CLAMPED, False, kelly=None)
    share = max(a.state.kelly * limits.kelly_fraction, limits.kelly_floor_pct / HUNDRED)
    room = t.equity * share - t.account.position_risk
    return _cap(Code.KELLY_CLAMPED, t, room, t.loss, t.impact, kelly=a.state.kelly)


def gross(t: EntryTerms) -> Room:
    return _cap(Code.GROSS_CLAMPED, t, t.account.gross_limit - t.account.gross, t.entry)


def symbol(t: EntryTerms) -> Room:
    a = t.account
    own = a.limits.per_symbol.get(a.symbol)
    most = a.limits.max_symbol_pct if own is None or own.max_pct is None else min(own.max_pct, a.limits.max_symbol_pct)
    taken = exact_sum(p.notional for p in a.state.exposures if p.symbol == a.symbol)
    return _cap(Code.SYMBOL_CLAMPED, t, a.state.capital * most / HUNDRED - taken, t.entry)


def net(t: EntryTerms) -> Room:
    """Net notional in the entry's direction; pending entries the other way are not counted on to fill."""
    state = t.account.state
    leaning = exact_sum(p.notional for p in state.exposures if p.side == t.side)
    leaning -= exact_sum(p.notional for p in state.positions if p.side != t.side)
    return _cap(Code.NET_CLAMPED, t, state.equity * t.account.limits.max_net_pct / HUNDRED - leaning, t.entry)


def slippage(t: EntryTerms) -> Room:
    """Size at market must stay where half the modelled spread and its own impact are within the slippage limit."""
    costs, impact = t.account.costs, t.account.costs.impact_bps_per_million
    if t.offset_bps is not None or impact <= 0:
        return t.asked, check(Code.SLIPPAGE_CLAMPED, False, offset_bps=t.offset_bps, impact_bps_per_million=impact)
    room = (t.account.limits.max_slippage_bps - costs.half_spread_bps) / impact * sizing.MILLION
    return _cap(Code.SLIPPAGE_CLAMPED, t, room, t.entry)


def available(t: EntryTerms) -> Room:
    """Margin and the way in must be paid from what is free."""
    a = t.account
    free = a.state.equity if a.state.available is None else a.state.available
    margin = t.entry / a.leverage + bps(t.entry, a.costs.taker_bps + a.costs.half_spread_bps)
    return _cap(Code.AVAILABLE_CLAMPED, t, free, margin)


def largest(t: EntryTerms) -> Room:
    """What the venue takes in one order; asked only where it says so."""
    most = sizing.in_one_order(t.account.instrument, t.asked)
    return most, check(Code.LARGEST_ORDER_CLAMPED, most < t.asked, most=most, asked=t.asked)


def _cap(
    code: Code, t: EntryTerms, room: Decimal, per_unit: Decimal, per_unit2: Decimal = ZERO, **also: object
) -> Room:
    most = floor_to_step(sizing.by_risk(max(room, ZERO), per_unit, per_unit2), t.account.instrument.step)
    return most, check(code, most < t.asked, room=room, per_unit=per_unit, most=most, asked=t.asked, **also)


SHRINKS = (careful, volatile, cooled)
SIZE_CAPS = (trade_risk, total_risk, correlation, kelly, gross, symbol, net, slippage, available, largest)
