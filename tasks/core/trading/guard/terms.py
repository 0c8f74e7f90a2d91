"""The terms on which an action may be carried out: final prices and quantities, and the rules that depend on them.

One function per kind of action, a case in, `Terms` out. `guard` holds the tables of rules and makes the verdict.
"""

from collections.abc import Iterable
from decimal import Decimal
from math import prod
from typing import NamedTuple

from tasks.core.trading.guard import caps, checks, sizing
from tasks.core.trading.guard.caps import Cap, Shrink
from tasks.core.trading.guard.checks import ZERO, Case, Ticket, TicketRule, check
from tasks.core.trading.guard.sizing import direction, protective_price
from tasks.core.trading.money import floor_to_step
from tasks.core.types.base import Price, Quantity
from tasks.core.types.decision import (
    Add,
    CloseAll,
    ClosePartial,
    Decision,
    MoveStop,
    OpenLong,
    OpenShort,
    SetTarget,
    Trim,
)
from tasks.core.types.orders import Instrument, PositionSide
from tasks.core.types.portfolio import HeldPosition
from tasks.core.types.verdict import Check, Code

Enter = OpenLong | OpenShort | Add


class Terms(NamedTuple):
    """What an action comes to. `risk`: quote lost at the stop once it is done, units held before included."""

    checks: tuple[Check, ...]
    decision: Decision
    quantity: Quantity = Quantity(ZERO)
    price: Decimal | None = None
    stop: Decimal | None = None
    target: Decimal | None = None
    risk: Decimal | None = None  # None: as it was


# --- entries


def ticket(case: Case, decision: Enter, shrinks: Iterable[Shrink]) -> Ticket | None:
    """Return the entry's final prices; None where price, ATR, equity or the position to add to is missing."""
    a = case.account
    side = _entry_side(decision, a.position)
    if side is None or case.last is None or case.atr is None or a.state.equity <= 0:
        return None
    tick, way = a.instrument.tick, direction(side)
    entry = sizing.entry_price(decision.entry, side, case.last, tick)
    stop = protective_price(side, entry - way * decision.stop_atr * case.atr, tick)
    target = protective_price(side, entry + way * decision.tp_atr * case.atr, tick)
    stop = _tighter(side, stop, a.position, tick)
    offset = None if decision.entry.type == "market" else decision.entry.offset_bps
    shares = [shrink(case, side) for shrink in shrinks]
    return Ticket(
        case, a, side, entry, offset, stop, target, case.last, case.atr,
        prod((share for share, _ in shares), start=caps.WHOLE), tuple(c for _, c in shares),
        sizing.loss_per_unit(side, entry, stop, a.costs),
    )  # fmt: skip


def _entry_side(decision: Enter, held: HeldPosition | None) -> PositionSide | None:
    if isinstance(decision, Add):
        return held.side if held else None
    return "long" if isinstance(decision, OpenLong) else "short"


def _tighter(side: PositionSide, stop: Price, held: HeldPosition | None, tick: Decimal) -> Price:
    """Keep the stop of a position that is added to where it would be loosened: the venue holds one for all of it."""
    if held is None or held.stop is None:
        return stop
    kept = protective_price(side, held.stop, tick)
    return max(stop, kept) if side == "long" else min(stop, kept)


def enter(t: Ticket, decision: Enter, rules: Iterable[TicketRule], limits: Iterable[Cap]) -> Terms:
    """Size an entry whose prices pass `rules`: the smallest of what was asked and what each cap leaves."""
    done = [rule(t) for rule in rules]
    if any(c.fired for c in done):
        return Terms(tuple(done), decision)
    instrument, equity = t.account.instrument, caps.sizing_equity(t)
    asked = sizing.by_notional(equity, decision.size_pct, t.entry, instrument.step)
    rooms = [cap(t, asked) for cap in limits]
    quantity = min(asked, *(most for most, _ in rooms))
    if ZERO < quantity < asked:
        size_pct = sizing.pct_of_quantity(equity, quantity, t.entry, instrument.step)
        quantity = sizing.by_notional(equity, size_pct, t.entry, instrument.step)
        decision = decision.model_copy(update={"size_pct": size_pct})
    done += [*t.shrunk, *(c for _, c in rooms), *_floors(instrument, quantity, t.entry)]
    held = t.account.position
    before = checks.position_risk(held, t.account.costs) if held else ZERO
    return Terms(tuple(done), decision, quantity, t.entry, t.stop, t.target, before + quantity * t.loss)


def _floors(instrument: Instrument, quantity: Quantity, entry: Decimal) -> tuple[Check, Check]:
    notional, least = quantity * entry, instrument.min_notional
    return (
        below_min_quantity(instrument, quantity),
        check(Code.BELOW_MIN_NOTIONAL, notional < least, notional=notional, least=least),
    )


def below_min_quantity(instrument: Instrument, quantity: Quantity) -> Check:
    least = max(instrument.step, instrument.min_quantity)
    return check(Code.BELOW_MIN_QUANTITY, quantity < least, quantity=quantity, least=least)


# --- exits


def trim(case: Case, decision: Trim | ClosePartial, held: HeldPosition) -> Terms:
    """Reduce a position; all of it where the rest would be too small to be sold later."""
    instrument = case.account.instrument
    quantity = floor_to_step(held.quantity * decision.size_pct / sizing.HUNDRED, instrument.step)
    enough = below_min_quantity(instrument, quantity)
    rest = held.quantity - quantity
    stranded = not enough.fired and rest > 0 and sizing.too_small(instrument, rest, case.last)
    done = (enough, check(Code.REMAINDER_CLOSED, stranded, rest=rest, last_price=case.last))
    if stranded:
        told = decision.model_dump(exclude={"action", "size_pct"})
        return Terms(done, CloseAll(**told), sizing.sellable(instrument, held.quantity), case.last, risk=ZERO)
    risk = checks.position_risk(held.model_copy(update={"quantity": rest}), case.account.costs)
    return Terms(done, decision, quantity, case.last, risk=risk)


def close_all(case: Case, decision: CloseAll, held: HeldPosition) -> Terms:
    """Close a position: allowed whatever else is true."""
    return Terms((), decision, sizing.sellable(case.account.instrument, held.quantity), case.last, risk=ZERO)


# --- protection


def move_stop(case: Case, decision: MoveStop, held: HeldPosition) -> Terms:
    """Tighten the stop: never further from the market than it is, and never through it."""
    if case.last is None or (decision.to.kind == "atr" and case.atr is None):
        return Terms((check(Code.DATA_MISSING, True, last_price=case.last, atr_15m=case.atr),), decision)
    way = direction(held.side)
    away = way * decision.to.x * case.atr if decision.to.kind == "atr" and case.atr is not None else ZERO
    stop = protective_price(held.side, held.avg_price + away, case.account.instrument.tick)
    wrong = stop <= 0 or way * (case.last - stop) <= 0
    looser = held.stop is not None and way * (stop - held.stop) < 0
    done = (
        check(Code.STOP_WRONG_SIDE, wrong, side=held.side, stop=stop, last_price=case.last),
        check(Code.STOP_WOULD_LOOSEN, looser, side=held.side, stop=stop, stop_now=held.stop),
    )
    risk = checks.position_risk(held.model_copy(update={"stop": stop}), case.account.costs)
    return Terms(done, decision, Quantity(held.quantity), case.last, stop, risk=risk)


def set_target(case: Case, decision: SetTarget, held: HeldPosition) -> Terms:
    """Put the target `tp_atr` from the average entry; it must be ahead of the market."""
    if case.last is None or case.atr is None:
        return Terms((check(Code.DATA_MISSING, True, last_price=case.last, atr_15m=case.atr),), decision)
    way = direction(held.side)
    aim = held.avg_price + way * decision.tp_atr * case.atr
    target = protective_price(held.side, aim, case.account.instrument.tick)
    wrong = target <= 0 or way * (target - case.last) <= 0
    done = (check(Code.TARGET_WRONG_SIDE, wrong, side=held.side, target=target, last_price=case.last),)
    return Terms(done, decision, Quantity(held.quantity), case.last, target=target)
