"""The terms on which an action may be carried out: final prices and quantities, and the rules that depend on them.

One function per kind of action, a case in, `ActionTerms` out. `guard` makes the verdict of it.
"""

from decimal import Decimal
from math import prod
from typing import NamedTuple

from tasks.core.trading.guard import caps, sizing
from tasks.core.trading.guard.cases import Case, EntryTerms
from tasks.core.trading.guard.rules import ENTRY_RULES
from tasks.core.trading.guard.sizing import protective_price
from tasks.core.types import (
    HUNDRED,
    ZERO,
    Add,
    Check,
    CloseAll,
    ClosePartial,
    Code,
    Decision,
    HeldPosition,
    Instrument,
    MoveStop,
    OpenLong,
    OpenShort,
    Quantity,
    SetTarget,
    Trim,
    check,
    direction,
    floor_to_step,
)

Enter = OpenLong | OpenShort | Add


class ActionTerms(NamedTuple):
    """What an action comes to. `risk`: quote lost at the stop once it is done, units held before included."""

    checks: tuple[Check, ...]
    decision: Decision
    quantity: Quantity = Quantity(ZERO)
    price: Decimal | None = None
    stop: Decimal | None = None
    target: Decimal | None = None
    risk: Decimal | None = None  # None: as it was


def terms(case: Case) -> ActionTerms:
    """Ask what depends on the action; without what that needs, the rule that said so has fired already."""
    decision, position = case.decision, case.account.position
    if isinstance(decision, OpenLong | OpenShort | Add):
        priced = price(case, decision)
        return enter(priced, decision) if priced else ActionTerms((), decision)
    if position is None:
        return ActionTerms((), decision)
    if isinstance(decision, Trim | ClosePartial):
        return trim(case, decision, position)
    if isinstance(decision, CloseAll):  # allowed whatever else is true
        return in_one_order(
            case, position, ActionTerms((), decision, Quantity(position.quantity), case.last, risk=ZERO)
        )
    if isinstance(decision, MoveStop):
        return move_stop(case, decision, position)
    if isinstance(decision, SetTarget):
        return set_target(case, decision, position)
    return ActionTerms((), decision, Quantity(position.quantity), case.last)


# --- entries


def price(case: Case, decision: Enter) -> EntryTerms | None:
    """Return the entry's final prices; None where price, ATR, equity or the position to add to is missing."""
    a = case.account
    side = decision.side or (a.position.side if a.position else None)
    if side is None or case.last is None or case.atr is None or a.state.equity <= 0:
        return None
    tick, way = a.instrument.tick, direction(side)
    entry = sizing.entry_price(decision.entry, side, case.last, tick)
    stop = protective_price(side, entry - way * decision.stop_atr * case.atr, tick)
    target = protective_price(side, entry + way * decision.tp_atr * case.atr, tick)
    if a.position and a.position.stop is not None:  # the venue holds one for all of it: it is not loosened
        now = protective_price(side, a.position.stop, tick)
        stop = max(stop, now) if side == "long" else min(stop, now)
    held = a.position.quantity if a.position else ZERO
    way_out = sizing.impact_per_unit2(max(entry, stop), a.risk_costs)
    loss = sizing.loss_per_unit(side, entry, stop, a.costs)
    loss += 2 * held * way_out if held and way_out else ZERO  # it goes out with what is held
    shrinks = (*caps.SHRINKS, caps.confident) if a.limits.size_by_confidence else caps.SHRINKS
    shrinks = (*shrinks, caps.reduced) if a.state.reduced_until else shrinks
    shares, shrunk = zip(*(shrink(case, side) for shrink in shrinks), strict=True)
    equity = a.state.capital * prod(shares)
    return EntryTerms(
        case, a, side, entry, None if decision.entry.type == "market" else decision.entry.offset_bps, stop, target,
        case.last, case.atr, loss, sizing.impact_per_unit2(entry, a.risk_costs) + way_out, equity,
        sizing.by_notional(equity, decision.size_pct, entry, a.instrument.step), shrunk,
    )  # fmt: skip


def enter(t: EntryTerms, decision: Enter) -> ActionTerms:
    """Size an entry whose prices pass the rules: the smallest of what was asked and what each cap leaves."""
    done = [rule(t) for rule in ENTRY_RULES]
    if any(c.fired for c in done):
        return ActionTerms(tuple(done), decision)
    instrument = t.account.instrument
    rooms = [cap(t) for cap in caps.SIZE_CAPS if cap is not caps.largest or instrument.max_quantity]
    quantity = min(t.asked, *(most for most, _ in rooms))
    if ZERO < quantity < t.asked:
        size_pct = sizing.pct_of_quantity(t.equity, quantity, t.entry, instrument.step)
        quantity = sizing.by_notional(t.equity, size_pct, t.entry, instrument.step)
        decision = decision.replace(size_pct=size_pct)
    notional, least = quantity * t.entry, instrument.min_notional
    done += [*t.shrunk, *(c for _, c in rooms), below_min_quantity(instrument, quantity)]
    done.append(check(Code.BELOW_MIN_NOTIONAL, notional < least, notional=notional, least=least))
    risk = t.account.position_risk + sizing.lost(quantity, t.loss, t.impact)
    return ActionTerms(tuple(done), decision, quantity, t.entry, t.stop, t.target, risk)


def below_min_quantity(instrument: Instrument, quantity: Quantity) -> Check:
    least = max(instrument.step, instrument.min_quantity)
    return check(Code.BELOW_MIN_QUANTITY, quantity < least, quantity=quantity, least=least)


# --- exits


def trim(case: Case, decision: Trim | ClosePartial, position: HeldPosition) -> ActionTerms:
    """Reduce a position; all of it where the rest would be too small to be sold later."""
    instrument = case.account.instrument
    quantity = floor_to_step(position.quantity * decision.size_pct / HUNDRED, instrument.step)
    enough = below_min_quantity(instrument, quantity)
    rest = position.quantity - quantity
    stranded = not enough.fired and rest > 0 and sizing.too_small(instrument, rest, case.last)
    done = (enough, check(Code.REMAINDER_CLOSED, stranded, rest=rest, last_price=case.last))
    if stranded:
        everything = CloseAll.of(decision, action="CLOSE_ALL")
        all_of_it = ActionTerms(done, everything, Quantity(position.quantity), case.last, risk=ZERO)
        return in_one_order(case, position, all_of_it)
    risk = case.account.risk(position.replace(quantity=rest))
    return in_one_order(case, position, ActionTerms(done, decision, quantity, case.last, risk=risk))


def in_one_order(case: Case, position: HeldPosition, wanted: ActionTerms) -> ActionTerms:
    """Keep an exit to whole steps, and to what the venue takes in one order: the rest stays, with its stop."""
    instrument = case.account.instrument
    wanted = wanted._replace(quantity=sizing.sellable(instrument, wanted.quantity))
    most = sizing.in_one_order(instrument, wanted.quantity)
    if most == wanted.quantity:
        return wanted
    clamped = check(Code.LARGEST_ORDER_CLAMPED, True, most=most, asked=wanted.quantity)
    risk = case.account.risk(position.replace(quantity=position.quantity - most))
    return wanted._replace(checks=(*wanted.checks, clamped), quantity=most, risk=risk)


# --- protection


def _unknown(case: Case) -> ActionTerms:
    return ActionTerms((check(Code.DATA_MISSING, True, last_price=case.last, atr_15m=case.atr),), case.decision)


def move_stop(case: Case, decision: MoveStop, position: HeldPosition) -> ActionTerms:
    """Tighten the stop: never further from the market than it is, and never through it."""
    atr = case.atr if decision.to.kind == "atr" else ZERO
    if case.last is None or atr is None:
        return _unknown(case)
    way = direction(position.side)
    stop = protective_price(position.side, position.avg_price + way * decision.to.x * atr, case.account.instrument.tick)
    wrong = stop <= 0 or way * (case.last - stop) <= 0
    looser = position.stop is not None and way * (stop - position.stop) < 0
    done = (
        check(Code.STOP_WRONG_SIDE, wrong, side=position.side, stop=stop, last_price=case.last),
        check(Code.STOP_WOULD_LOOSEN, looser, side=position.side, stop=stop, stop_now=position.stop),
    )
    risk = case.account.risk(position.replace(stop=stop))
    return ActionTerms(done, decision, Quantity(position.quantity), case.last, stop, risk=risk)


def set_target(case: Case, decision: SetTarget, position: HeldPosition) -> ActionTerms:
    """Put the target `tp_atr` from the average entry; it must be ahead of the market."""
    if case.last is None or case.atr is None:
        return _unknown(case)
    way = direction(position.side)
    aim = position.avg_price + way * decision.tp_atr * case.atr
    target = protective_price(position.side, aim, case.account.instrument.tick)
    wrong = target <= 0 or way * (target - case.last) <= 0
    done = (check(Code.TARGET_WRONG_SIDE, wrong, side=position.side, target=target, last_price=case.last),)
    return ActionTerms(done, decision, Quantity(position.quantity), case.last, target=target)
