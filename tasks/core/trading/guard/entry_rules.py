"""The guard's rules on the decision itself, on the prices of an entry, and on the market it would enter.

What a rule needs and does not know counts against the entry. Two exceptions, both modelled instead from `Costs`: the
spread and the slippage where there was no order book at all (a replay, a dry run on files).
"""

from decimal import Decimal

from tasks.core.trading.guard.checks import Case, Ticket, alike, check
from tasks.core.trading.guard.sizing import HUNDRED, direction, known
from tasks.core.types.decision import MAY_AS_FALLBACK
from tasks.core.types.portfolio import HeldPosition
from tasks.core.types.snapshot import TimeframeView
from tasks.core.types.verdict import Check, Code

RISING, FALLING = "20>50>200", "200>50>20"
UNKNOWN = TimeframeView()

# --- the decision


def symbol_differs(c: Case) -> Check:
    fired = c.decision.symbol != c.snapshot.pair
    return check(Code.SYMBOL_MISMATCH, fired, decision=c.decision.symbol, snapshot=c.snapshot.pair)


def action_not_offered(c: Case) -> Check:
    action, offered = c.decision.action, c.snapshot.constraints.allowed_actions
    return check(Code.ACTION_NOT_ALLOWED, action not in offered, action=action, offered=offered)


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
    distance, most = abs(t.entry - t.stop), t.entry * t.account.limits.max_stop_pct / HUNDRED
    return check(Code.STOP_TOO_FAR, distance > most, distance=distance, most=most)


def liquidation_near(t: Ticket) -> Check:
    """The stop must lie clearly before the price at which the margin is gone, or it protects nothing.

    Liquidation is reckoned as if the entry had only its own margin, at the leverage in force: entry less
    (1 / leverage - maintenance margin) of it. An ADD reckons from the worse of the entry and the price it holds at.
    """
    a, way = t.account, direction(t.side)
    if a.instrument.kind == "spot":
        return check(Code.LIQUIDATION_NEAR, False, kind="spot")
    base = t.entry if a.position is None else way * max(way * t.entry, way * a.position.avg_price)
    margin = base * (HUNDRED / a.leverage - a.limits.maintenance_margin_pct) / HUNDRED
    liquidation, distance = base - way * margin, way * (base - t.stop)
    most = margin * (HUNDRED - a.limits.liquidation_buffer_pct) / HUNDRED
    return check(
        Code.LIQUIDATION_NEAR, distance > most, stop=t.stop, liquidation=liquidation, distance=distance, most=most,
        leverage=a.leverage,
    )  # fmt: skip


def target_wrong_side(t: Ticket) -> Check:
    fired = t.target <= 0 or direction(t.side) * (t.target - t.entry) <= 0
    return check(Code.TARGET_WRONG_SIDE, fired, side=t.side, entry=t.entry, target=t.target)


def reward_too_low(t: Ticket) -> Check:
    reward, risk, least = abs(t.target - t.entry), abs(t.entry - t.stop), t.account.limits.min_reward_risk
    return check(Code.REWARD_RISK_TOO_LOW, reward < least * risk, reward=reward, risk=risk, least=least)


def offset_too_far(t: Ticket) -> Check:
    """A limit far from the market is a wish: at most so many spreads away.

    The spread is the modelled one where none was seen, and where the book is narrower: of a book one tick wide three
    spreads are less than the price moves while the model thinks, and no limit order would ever be allowed.
    """
    seen, costs, most = t.case.snapshot.orderbook.spread_bps, t.account.costs, t.account.limits.max_offset_spreads
    spread = max(known(seen) or Decimal(0), 2 * costs.half_spread_bps)
    fired = t.offset_bps is not None and t.offset_bps > most * spread
    return check(Code.OFFSET_TOO_FAR, fired, offset_bps=t.offset_bps, spread_bps=spread, most=most)


# --- the market


def slippage_too_high(t: Ticket) -> Check:
    """What the book said our size would cost; a book too thin to say so is too thin. Without one, see `caps`."""
    book, most = t.case.snapshot.orderbook, t.account.limits.max_slippage_bps
    spread, slippage = known(book.spread_bps), known(book.slippage_bps_for_size)
    thin = spread is not None and slippage is None
    fired = t.offset_bps is None and (thin or (slippage is not None and slippage > most))
    return check(Code.SLIPPAGE_TOO_HIGH, fired, spread_bps=spread, slippage_bps=slippage, most=most)


def chasing(t: Ticket) -> Check:
    """No buying above the last close by limit, nor at market what has run: RSI and z of 15m both beyond their bounds.

    A breakout in the trade's direction may be bought, with a volume spike. Mirrored for shorts.
    """
    snapshot, limits, way = t.case.snapshot, t.account.limits, direction(t.side)
    if t.offset_bps is not None:
        close = known(snapshot.timeframes.get("5m", UNKNOWN).close)
        beyond = close is None or way * (t.entry - close) > 0
        return check(Code.CHASING, beyond, entry=t.entry, close=close)
    view = snapshot.timeframes.get("15m", UNKNOWN)
    rsi, z = view.rsi, view.price_z20
    by_rsi = rsi is not None and way * (rsi - 50) <= limits.chase_rsi - 50
    calm = by_rsi or (z is not None and way * z <= limits.chase_z)
    broke_out = view.vol_spike is True and way in t.case.breakouts
    return check(Code.CHASING, not (calm or broke_out), rsi=rsi, price_z20=z, breakout=broke_out)


def stacked(t: Ticket) -> Check:
    """Add to a direction only from strength; see `earned`.

    What is stacked on: the position of an ADD, and for any entry the positions and pending entries that move with it.
    While the 1h averages are in order that way (or their order is unknown), each must have earned `stack_min_r` and
    risk nothing any more; otherwise the position of an ADD must just not be losing.
    """
    a, order = t.account, t.case.snapshot.timeframes.get("1h", UNKNOWN).ma_stack
    with_regime = order is None or order == (RISING if t.side == "long" else FALLING)
    held, waiting = alike(a, t.side) if with_regime else ([], [])
    weak = [p.symbol for p in held if not earned(p, t)] + [p.symbol for p in waiting]
    if a.position is not None and not (earned(a.position, t) if with_regime else gain(a.position) >= 0):
        weak.append(a.symbol)
    return check(Code.STACKED, bool(weak), ma_stack_1h=order, weak=tuple(weak), min_r=a.limits.stack_min_r)


def gain(p: HeldPosition) -> Decimal:
    """Return what a unit has gained at its mark; nothing where that is unknown."""
    return direction(p.side) * ((p.mark_price or p.avg_price) - p.avg_price)


def earned(p: HeldPosition, t: Ticket) -> bool:
    """Say whether a position is up by `stack_min_r` and its stop at or beyond breakeven.

    R is its initial risk; where that is unknown, one 15m ATR of this entry stands in for the same share of the price.
    """
    safe = p.stop is not None and direction(p.side) * (p.stop - p.avg_price) >= 0
    unit = t.atr / t.last * p.avg_price if p.initial_stop is None else abs(p.avg_price - p.initial_stop)
    return safe and gain(p) >= t.account.limits.stack_min_r * unit
