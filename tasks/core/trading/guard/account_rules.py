"""The guard's rules on the account alone: they are known before the model is asked, and are told to it."""

from datetime import timedelta

from tasks.core.trading.guard.checks import DAY, HOUR, Account, check, gross_limit
from tasks.core.trading.guard.sizing import HUNDRED
from tasks.core.types.verdict import Check, Code


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
    fired = a.symbols is not None and a.symbol not in a.symbols
    return check(Code.SYMBOL_NOT_ALLOWED, fired, symbol=a.symbol)


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
    since = a.at - span
    return len([sent for sent in a.state.opens if sent > since])


def cooling_down(a: Account) -> Check:
    last = a.closed.last_exit
    return check(
        Code.REENTRY_COOLDOWN, last is not None, last_exit=last, cooldown_min=a.limits.reentry_cooldown_min
    )  # fmt: skip


def cooled_off(a: Account) -> Check:
    """Losses in a row say that the market is not the one we think: stay out of it, where that is the setting."""
    losses, least = a.closed.losses, a.limits.cool_off_losses
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
    """The worst of three views: equity since the day began, trades closed today (UTC), and the snapshot's own."""
    start, limit, closed = a.state.day_start_equity, a.limits.daily_loss_halt_pct, a.closed.pnl_today
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
    limit = a.limits.max_total_risk_pct * a.state.equity / HUNDRED
    return check(Code.TOTAL_RISK_EXCEEDED, a.open_risk >= limit, open_risk=a.open_risk, limit=limit)


def gross_used(a: Account) -> Check:
    limit = gross_limit(a)
    return check(Code.GROSS_EXCEEDED, a.gross >= limit, gross=a.gross, limit=limit)
