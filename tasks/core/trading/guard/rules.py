"""The guard's rules, one small function each, and which actions each of them is asked about.

Rules on the account alone are known before the model is asked, and are told to it. What a rule on an entry needs and
does not know counts against the entry. Two exceptions, both modelled instead from `Costs`: the spread and the slippage
where there was no order book at all (a replay, a dry run on files).
"""

from collections.abc import Callable, Set
from datetime import timedelta
from decimal import Decimal

from tasks.core.trading.guard.cases import Account, Case, EntryTerms, Exposure
from tasks.core.types import (
    ACTIONS,
    HUNDRED,
    MAY_AS_FALLBACK,
    ZERO,
    Check,
    Code,
    HeldPosition,
    check,
    direction,
    known,
    r_scale,
)

RISING, FALLING = "20>50>200", "200>50>20"
OPEN = frozenset({"OPEN_LONG", "OPEN_SHORT"})
ENTER = OPEN | {"ADD"}
ACT = frozenset(ACTIONS) - {"HOLD", "PAUSE", "REDUCE"}  # no rule applies to these

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


def price_stale(a: Account) -> Check:
    age = None if a.state.last_price_at is None else (a.at - a.state.last_price_at).total_seconds()
    fired = age is not None and abs(age) > a.limits.max_lateness_s
    return check(Code.STALE_PRICE, fired, age_s=age, max_lateness_s=a.limits.max_lateness_s)


def symbol_unlisted(a: Account) -> Check:
    listed = a.strategy.symbols
    return check(Code.SYMBOL_NOT_ALLOWED, bool(listed) and a.symbol not in listed, symbol=a.symbol)


def venue_unlisted(a: Account) -> Check:
    venues = a.limits.venues
    return check(Code.VENUE_NOT_ALLOWED, bool(venues) and a.state.venue not in venues, venue=a.state.venue)


def equity_gone(a: Account) -> Check:
    """Without equity no share of it can be sized."""
    return check(Code.DATA_MISSING, a.state.equity <= 0, equity=a.state.equity)


def shorting_off(a: Account) -> Check:
    instrument = a.instrument
    fired = not instrument.shorting or instrument.kind == "spot"
    return check(Code.SHORTING_NOT_ALLOWED, fired, shorting=instrument.shorting, kind=instrument.kind)


def not_ours(a: Account) -> Check:
    """A contract's positions are netted: an entry beside somebody else's would become part of it."""
    return check(Code.FOREIGN_POSITION, bool(a.state.foreign), foreign=a.state.foreign)


def position_exists(a: Account) -> Check:
    """A working entry order is a position to be: two of them could both fill."""
    pending = any(p.symbol == a.symbol for p in a.state.pending)
    return check(Code.POSITION_EXISTS, a.position is not None or pending, held=a.position is not None, pending=pending)


def no_position(a: Account) -> Check:
    return check(Code.NO_POSITION, a.position is None, symbol=a.symbol)


def positions_full(a: Account) -> Check:
    taken, limit = len({p.symbol for p in a.state.exposures}), a.limits.max_positions
    return check(Code.MAX_POSITIONS, taken >= limit, positions=taken, max_positions=limit)


def opens_in_hour(a: Account) -> Check:
    return _opens(a, Code.OPENS_PER_HOUR, timedelta(hours=1), a.limits.opens_per_hour)


def opens_in_day(a: Account) -> Check:
    return _opens(a, Code.OPENS_PER_DAY, timedelta(days=1), a.limits.opens_per_day)


def _opens(a: Account, code: Code, span: timedelta, limit: int) -> Check:
    opens = len([sent for sent in a.state.opens if sent > a.at - span])
    return check(code, opens >= limit, opens=opens, limit=limit)


def cooling_down(a: Account) -> Check:
    """Where there is a cooldown: the exit may be after the close that this is about."""
    last, minutes = a.last_exit, a.limits.reentry_cooldown_min
    return check(Code.REENTRY_COOLDOWN, last is not None and minutes > 0, last_exit=last, cooldown_min=minutes)


def cooled_off(a: Account) -> Check:
    """Losses in a row say that the market is not the one we think: stay out of it, where that is the setting."""
    losses, least = a.losses, a.limits.cool_off_losses
    fired = a.limits.cool_off == "pause" and losses >= least
    return check(Code.COOL_OFF, fired, losses=losses, least=least, minutes=a.limits.cool_off_min)


def rejection_streak(a: Account) -> Check:
    rejections, limit = a.state.rejections, a.limits.max_rejections
    return check(Code.REJECTION_STREAK, rejections >= limit, rejections=rejections, limit=limit)


def liquidated(a: Account) -> Check:
    last, minutes = a.state.last_liquidation, a.limits.liquidation_cooldown_min
    fired = last is not None and a.at - last < timedelta(minutes=minutes)
    return check(Code.LIQUIDATED, fired, last_liquidation=last, cooldown_min=minutes)


def daily_loss(a: Account) -> Check:
    """The worst of three views: equity since the day began, trades closed today (UTC), and the snapshot's own.

    Where strategies share the account, these are this one's; what all of them have lost today counts besides.
    """
    start, limit, closed = a.state.day_start_equity, a.limits.daily_loss_halt_pct, a.pnl_today
    least = a.state.least_equity
    fired = (
        (start is not None and (start - a.state.worth) * HUNDRED >= limit * start)
        or (least is not None and a.state.equity <= least)
        or -closed * HUNDRED >= limit * a.state.capital
        or (a.daily_pnl_pct is not None and -a.daily_pnl_pct >= limit)
    )
    shared = {} if least is None else {"account_equity": a.state.equity, "least_equity": least}
    return check(
        Code.DAILY_LOSS, fired, day_start_equity=start, equity=a.state.worth, closed_today=closed,
        daily_pnl_pct=a.daily_pnl_pct, halt_pct=limit, **shared,
    )  # fmt: skip


def drawdown(a: Account) -> Check:
    peak, equity, limit = a.state.peak_equity, a.state.worth, a.limits.drawdown_halt_pct
    fired = peak is not None and (peak - equity) * HUNDRED >= limit * peak
    return check(Code.DRAWDOWN, fired, peak_equity=peak, equity=equity, halt_pct=limit)


def total_risk_used(a: Account) -> Check:
    limit = a.limits.max_total_risk_pct * a.state.equity / HUNDRED
    return check(Code.TOTAL_RISK_EXCEEDED, a.open_risk >= limit, open_risk=a.open_risk, limit=limit)


def gross_used(a: Account) -> Check:
    return check(Code.GROSS_EXCEEDED, a.gross >= a.gross_limit, gross=a.gross, limit=a.gross_limit)


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


def stop_wrong_side(t: EntryTerms) -> Check:
    fired = t.stop <= 0 or direction(t.side) * (t.entry - t.stop) <= 0
    return check(Code.STOP_WRONG_SIDE, fired, side=t.side, entry=t.entry, stop=t.stop)


def stop_too_close(t: EntryTerms) -> Check:
    distance, least = abs(t.entry - t.stop), t.account.limits.min_stop_atr * t.atr
    return check(Code.STOP_TOO_CLOSE, distance < least, distance=distance, least=least)


def stop_too_far(t: EntryTerms) -> Check:
    distance, most = abs(t.entry - t.stop), t.entry * t.account.limits.max_stop_pct / HUNDRED
    return check(Code.STOP_TOO_FAR, distance > most, distance=distance, most=most)


def liquidation_near(t: EntryTerms) -> Check:
    """The stop must lie clearly before the price at which the margin is gone, or it protects nothing.

    Liquidation is reckoned as if the entry had only its own margin, at the leverage in force: entry less
    (1 / leverage - maintenance margin) of it. An ADD reckons from the worse of the entry and the price it holds at.
    The margin is what the limits say, or more where the instrument's tiers ask for more of what is entered.
    """
    a, way = t.account, direction(t.side)
    if a.instrument.kind == "spot":
        return check(Code.LIQUIDATION_NEAR, False, kind="spot")
    base = t.entry if a.position is None else way * max(way * t.entry, way * a.position.avg_price)
    tiers = [tier for tier in a.instrument.maintenance if tier.above < t.asked * t.entry]
    rates = (a.limits.maintenance_margin_pct, *(tier.rate * HUNDRED for tier in tiers))
    margin = base * (HUNDRED / a.leverage - max(rates)) / HUNDRED
    liquidation, distance = base - way * margin, way * (base - t.stop)
    most = margin * (HUNDRED - a.limits.liquidation_buffer_pct) / HUNDRED
    return check(
        Code.LIQUIDATION_NEAR, distance > most, stop=t.stop, liquidation=liquidation, distance=distance, most=most,
        leverage=a.leverage,
    )  # fmt: skip


def target_wrong_side(t: EntryTerms) -> Check:
    fired = t.target <= 0 or direction(t.side) * (t.target - t.entry) <= 0
    return check(Code.TARGET_WRONG_SIDE, fired, side=t.side, entry=t.entry, target=t.target)


def reward_too_low(t: EntryTerms) -> Check:
    reward, risk, least = abs(t.target - t.entry), abs(t.entry - t.stop), t.account.limits.min_reward_risk
    return check(Code.REWARD_RISK_TOO_LOW, reward < least * risk, reward=reward, risk=risk, least=least)


def offset_too_far(t: EntryTerms) -> Check:
    """A limit far from the market is a wish: at most so many spreads away.

    The spread is the modelled one where none was seen, and where the book is narrower: of a book one tick wide three
    spreads are less than the price moves while the model thinks, and no limit order would ever be allowed.
    """
    seen, costs, most = t.case.snapshot.orderbook.spread_bps, t.account.costs, t.account.limits.max_offset_spreads
    spread = max(known(seen) or ZERO, 2 * costs.half_spread_bps)
    fired = t.offset_bps is not None and t.offset_bps > most * spread
    return check(Code.OFFSET_TOO_FAR, fired, offset_bps=t.offset_bps, spread_bps=spread, most=most)


# --- the market


def slippage_too_high(t: EntryTerms) -> Check:
    """What the book said our size would cost; a book too thin to say so is too thin. Without one, see `caps`."""
    book, most = t.case.snapshot.orderbook, t.account.limits.max_slippage_bps
    spread, slippage = known(book.spread_bps), known(book.slippage_bps_for_size)
    thin = spread is not None and slippage is None
    fired = t.offset_bps is None and (thin or (slippage is not None and slippage > most))
    return check(Code.SLIPPAGE_TOO_HIGH, fired, spread_bps=spread, slippage_bps=slippage, most=most)


def chasing(t: EntryTerms) -> Check:
    """No buying above the last close by limit, nor at market what has run: RSI and z of 15m both beyond their bounds.

    A breakout in the trade's direction may be bought, with a volume spike. Mirrored for shorts.
    """
    snapshot, limits, way = t.case.snapshot, t.account.limits, direction(t.side)
    if t.offset_bps is not None:
        close = snapshot.last_price
        beyond = close is None or way * (t.entry - close) > 0
        return check(Code.CHASING, beyond, entry=t.entry, close=close)
    view = snapshot.view("15m")
    rsi, z = view.rsi, view.price_z20
    by_rsi = rsi is not None and way * (rsi - 50) <= limits.chase_rsi - 50
    calm = by_rsi or (z is not None and way * z <= limits.chase_z)
    broke_out = view.vol_spike is True and way in t.case.breakouts
    return check(Code.CHASING, not (calm or broke_out), rsi=rsi, price_z20=z, breakout=broke_out)


def stacked(t: EntryTerms) -> Check:
    """Add to a direction only from strength; see `earned`.

    What is stacked on: the position of an ADD, and for any entry the positions and pending entries that move with it.
    While the 1h averages are in order that way (or their order is unknown), each must have earned `stack_min_r` and
    risk nothing any more; otherwise the position of an ADD must just not be losing.
    """
    a, order = t.account, t.case.snapshot.view("1h").ma_stack
    with_regime = order is None or order == (RISING if t.side == "long" else FALLING)
    weak = [p.symbol for p in a.alike(t.side) if not earned(p, t)] if with_regime else []
    if a.position is not None and not (earned(a.position, t) if with_regime else gain(a.position) >= 0):
        weak.append(a.symbol)
    return check(Code.STACKED, bool(weak), ma_stack_1h=order, weak=tuple(weak), min_r=a.limits.stack_min_r)


def gain(p: HeldPosition) -> Decimal:
    """Return what a unit has gained at its mark; nothing where that is unknown."""
    return direction(p.side) * ((p.mark_price or p.avg_price) - p.avg_price)


def earned(p: Exposure, t: EntryTerms) -> bool:
    """Return whether a position is up by `stack_min_r` and its stop at or beyond breakeven; a pending entry never is.

    Where it has no R, one 15m ATR of this entry stands in for the same share of its price.
    """
    if not isinstance(p, HeldPosition) or p.stop is None or direction(p.side) * (p.stop - p.avg_price) < 0:
        return False
    zero, unit = r_scale(p) or (p.avg_price, t.atr / t.last * p.avg_price)
    return direction(p.side) * ((p.mark_price or zero) - zero) >= t.account.limits.stack_min_r * abs(unit)


# --- which actions each rule is asked about, in the order in which a verdict lists them

ACCOUNT_RULES: tuple[tuple[Callable[[Account], Check], Set[str]], ...] = tuple(
    (rule, actions)
    for actions, rules in (
        (ENTER, (halted, paused, stale, price_stale, symbol_unlisted, venue_unlisted, equity_gone)),
        ({"OPEN_SHORT"}, (shorting_off,)),
        (ENTER, (not_ours,)),
        (OPEN, (position_exists,)),
        (ACT - OPEN, (no_position,)),
        (OPEN, (positions_full,)),
        (ENTER, (opens_in_hour, opens_in_day)),
        (OPEN, (cooling_down,)),
        (ENTER, (cooled_off, rejection_streak, liquidated, daily_loss, drawdown, total_risk_used, gross_used)),
    )
    for rule in rules
)
CASE_RULES: tuple[tuple[Callable[[Case], Check], Set[str]], ...] = (
    (symbol_differs, ACT),
    (action_not_offered, ACT - {"CLOSE_ALL"}),
    (unsure, ENTER),
    (fallback_opens, ACT),
    (prices_missing, ENTER),
)
ENTRY_RULES = (
    stop_wrong_side, stop_too_close, stop_too_far, liquidation_near, target_wrong_side, reward_too_low, offset_too_far,
    slippage_too_high, chasing, stacked,
)  # fmt: skip
