"""Venue against ledger: what to set, book, adopt, cancel, end, close, halt or tell, as typed actions.

A view holds what was asked for it, and what it does not hold is not decided on. One odd look is never a fact: it asks
to be looked at again, and is a fact once every look since has found the same for `patience`, by the venue's clock:
venues tell fills, orders and positions late. Only a missing or looser stop is acted on in the look that misses it. What
is not ours is told and left alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from tasks.core.trading import orders
from tasks.core.trading.positions import is_spot, positions_from_fills
from tasks.core.types import (
    ZERO,
    Action,
    Adopt,
    AlertKind,
    BookFills,
    CancelOrder,
    CycleRecord,
    CycleStatus,
    EndCycle,
    EndIntent,
    Finding,
    Flatten,
    KeepOrder,
    LedgerView,
    Limits,
    LookAgain,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    OwnIntent,
    Position,
    SendAgain,
    SetStop,
    ToldFills,
    VenuePosition,
    VenueView,
    direction,
    exact_sum,
    floor_time,
)

AT_ONCE = timedelta(0)  # two looks in a row, however close
GRACE = timedelta(minutes=5)  # after the last moment a decision may be sent at
BAR = timedelta(minutes=5)
LATELY = timedelta(minutes=6)  # after the close of a decision it is sent, and the venue may tell late
RESENT_AFTER = timedelta(minutes=3)  # its own run has given it up by then, and a venue that tells late has told
SENT = (OrderType.MARKET.value, OrderType.LIMIT.value)
FEE_SHARE = Decimal("0.98")  # a fee that is taken in the coin makes fills less than their order, by at most 2 %
Again = Callable[[str, str], LookAgain | None]
ADOPTED = "adopted: the venue has its order, the ledger knew nothing of it"


def reconcile(
    ledger: LedgerView, look: VenueView, earlier: Iterable[Action], now: datetime, patience: timedelta = AT_ONCE
) -> tuple[Action, ...]:
    """Return what is to be done, in its order; nothing where venue and ledger agree.

    earlier: what came of the look before this one; now: the venue's clock, by which orders and cycles are too late.
    """
    odd = {action.about: action.since for action in earlier if isinstance(action, LookAgain)}

    def again(symbol: str, about: str) -> LookAgain | None:
        """Request another look; None once the difference has lasted `patience` and is a fact."""
        since = odd.get(about, now)
        if about in odd and now - since >= patience:
            return None
        return LookAgain(symbol=symbol, about=about, since=since)

    return (
        *_missing_stops(ledger, look, now),
        *_orders(ledger, look, again, now),
        *_unknown(ledger, look),
        *(book for symbol, fills in look.fills.items() for book in _booked(ledger, symbol, fills)),
        *_compared(ledger, look, again),
        *_exits(ledger, look),
        *_abandoned(ledger, now),
    )


# --- no position without its stop


def _missing_stops(ledger: LedgerView, look: VenueView, now: datetime) -> Iterator[Action]:
    """Set what is missing or looser than ours; where the venue will not have it, our position goes.

    One that is looser or for another quantity is not told where we just changed it: the list may be of before.
    """
    for at_venue in look.positions or ():
        symbol, ours = at_venue.symbol, ledger.position(at_venue.symbol, at_venue.side)
        settled = at_venue.stop is not None and look.booked is not None and symbol not in look.refused
        if settled and (apart := _apart(ledger, at_venue, ours)):
            yield apart
            continue
        flaw = "" if at_venue.stop is None else None
        if at_venue.stop is not None and look.booked is not None and ours:  # an ADD not booked yet may have brought it
            flaw = _flaw(ours, at_venue.stop, at_venue.stop_quantity, ledger.dust.get(symbol, ZERO))
        if flaw is None:
            continue
        own, what = [] if ours else _unbooked_entries(ledger, at_venue), flaw or "naked position"
        enough = own and exact_sum(each.intent.quantity for each in own) >= at_venue.quantity
        wanted = own[-1].intent if enough else ours
        if wanted is not None and wanted.stop is not None and symbol not in look.refused:
            text = f"{what} {symbol}: stop {wanted.stop} restored"
            tell = not (flaw and ours and any(_changed(own, ours, now) for own in ledger.intents))
            yield SetStop(symbol=symbol, stop=wanted.stop, target=wanted.target, position=ours, text=text, tell=tell)
        elif ours is not None:
            text = f"{what} {symbol}: flattened, no stop could be placed"
            yield Flatten(symbol=symbol, position=ours, quantity=min(at_venue.quantity, ours.quantity), text=text)


def _apart(ledger: LedgerView, at_venue: VenuePosition, ours: Position | None) -> SetStop | None:
    """Let our stop cover what is ours beside a person's part, and take it away where only theirs is left."""
    symbol, stop = at_venue.symbol, at_venue.stop
    if ours is not None:
        shared = 0 < at_venue.quantity - ours.quantity == ledger.beside.get(symbol)
        if not shared or at_venue.stop_quantity is not None or ours.stop != stop:
            return None
        text = f"stop {stop} of {symbol} set for our {ours.quantity} alone"
        return SetStop(symbol=symbol, stop=stop, target=ours.target, position=ours, text=text, tell=False)
    closed = [p for p in ledger.closed if (p.symbol, p.side) == (symbol, at_venue.side)]
    last = max(closed, key=lambda p: p.opened_at, default=None)
    if last is None or last.stop != stop:
        return None
    text = f"stop {stop} of {symbol} taken away: what it was for is closed, and what is left is not ours"
    return SetStop(symbol=symbol, stop=ZERO, target=ZERO if at_venue.target else None, text=text, tell=False)


def _changed(own: OwnIntent, ours: Position, now: datetime) -> bool:
    """Return whether an order of ours was about this position lately, its entry apart."""
    at = max(own.persisted_at, ours.opened_at)
    return own.intent.symbol == ours.symbol and at > ours.opened_at and now - at < LATELY


def _flaw(ours: Position, stop: Decimal, covers: Decimal | None, dust: Decimal) -> str | None:
    if ours.stop is not None and direction(ours.side) * (stop - ours.stop) < 0:
        return f"stop {stop} looser than ours"
    if covers is not None and 0 != abs(covers - ours.quantity) >= dust:
        return f"stop for {covers} instead of {ours.quantity}"
    return None


def unbooked(ledger: LedgerView, positions: Iterable[VenuePosition]) -> list[Position]:
    """Return what our entries made that no fill tells of yet, by their orders, as positions to be closed."""
    found = []
    for p in positions:
        if ledger.position(p.symbol) or not (entries := _unbooked_entries(ledger, p)):
            continue
        sent = [
            own.intent.quantity
            for own in ledger.intents
            if (own.intent.symbol, own.intent.reduce_only, own.intent.type) == (p.symbol, True, OrderType.MARKET)
            and own.state != "rejected"
            and own.persisted_at >= entries[0].persisted_at
        ]
        ours = min(p.quantity, exact_sum(own.filled for own in entries) - exact_sum(sent))
        if ours > 0:
            own = entries[-1]
            found.append(
                Position(
                    position_id=own.intent.client_order_id, strategy=ledger.strategy, cycle_id=own.cycle_id,
                    symbol=p.symbol, side=p.side, quantity=ours, entry_quantity=ours, avg_price=p.avg_price,
                    opened_at=own.persisted_at,
                )
            )  # fmt: skip
    return found


def _unbooked_entries(ledger: LedgerView, at_venue: VenuePosition) -> list[OwnIntent]:
    """Return our entries that can have made what the ledger does not have yet, newest last; they were sent."""
    last = max((p.closed_at for p in ledger.closed if p.symbol == at_venue.symbol and p.closed_at), default=None)
    side = "buy" if at_venue.side == "long" else "sell"
    return [
        own
        for own in ledger.intents
        if (own.intent.symbol, own.intent.side, own.intent.reduce_only) == (at_venue.symbol, side, False)
        and own.intent.stop is not None
        and (last is None or own.persisted_at > last)
        and (own.filled > 0 or own.state in ("sending", "sent"))
    ]


# --- orders on their way or resting


def too_late(limits: Limits) -> timedelta:
    """Return how long after its close nothing of a decision can still be sent."""
    return timedelta(seconds=limits.max_lateness_s) + GRACE


def is_booked(order: Order, booked: Decimal) -> bool:
    """Return whether the ledger has all fills of an order: the venue may tell them later than the order itself."""
    return booked >= order.filled * FEE_SHARE


def _orders(ledger: LedgerView, look: VenueView, again: Again, now: datetime) -> Iterator[Action]:
    """Keep, cancel or end what was begun; fills come first: until they are booked their risk counts as pending."""
    for own in ledger.intents:
        name, symbol = own.intent.client_order_id, own.intent.symbol
        if own.ended or name not in look.orders:
            continue
        order, is_told = look.orders[name], symbol in (look.booked or ())
        if order is None:
            yield from _not_found(own, ledger, again, now)
            continue
        yield KeepOrder(order=order)
        if order.status is OrderStatus.OPEN:
            yield from _working(own, order, ledger, look, now)
        elif order.filled > 0 and not is_told:
            yield _fills_of(own, now)
        elif is_booked(order, own.booked) or now - order.updated_at > too_late(ledger.limits):
            yield EndIntent(client_order_id=name, state="done")


def _fills_of(own: OwnIntent, now: datetime) -> LookAgain:
    about = f"fills of {own.intent.client_order_id}"  # no word on the order itself
    return LookAgain(symbol=own.intent.symbol, about=about, since=now)


def _not_found(own: OwnIntent, ledger: LedgerView, again: Again, now: datetime) -> Iterator[Action]:
    """Send an exit again; end what else the venue knows nothing of, once it is too old to be sent.

    Protect's own wait for their position: a retry of the flow may still send one, and its position is what it reduces.
    """
    intent, held = own.intent, ledger.position(own.intent.symbol)
    if orders.is_protects(intent.client_order_id):
        waits = held is not None
    else:
        waits, exits = now - own.persisted_at <= too_late(ledger.limits), intent.reduce_only and own.state != "sent"
        if exits and intent.type is OrderType.MARKET and held and held.opened_at <= own.persisted_at:
            waits = True  # tried until it is done, or the venue refuses it
            if now - own.persisted_at > RESENT_AFTER:
                yield SendAgain(intent=intent)
    if waits:
        return
    # nobody notes when protect begins to send, and its order may have filled though the venue does not list it yet
    unsent = own.state == "persisted" and not orders.is_protects(intent.client_order_id)
    state: Literal["done", "rejected"] = "rejected" if unsent else "done"
    why = f"{own.state} at {own.persisted_at}: the venue has no such order"
    yield again(intent.symbol, intent.client_order_id) or EndIntent(
        client_order_id=intent.client_order_id, state=state, reason=why
    )


def _working(own: OwnIntent, order: Order, ledger: LedgerView, look: VenueView, now: datetime) -> Iterator[Action]:
    """Cancel an entry past its time, under a halt, or whose position is gone that its rest would have added to."""
    intent = own.intent
    cancel = CancelOrder(symbol=intent.symbol, client_order_id=intent.client_order_id)
    if intent.expires_at is not None and intent.expires_at <= now:
        yield cancel
    elif intent.reduce_only:
        return
    elif ledger.halts:
        yield cancel
    elif own.adds or order.filled > 0:
        if intent.symbol not in (look.booked or ()):
            yield _fills_of(own, now)
        elif is_booked(order, own.booked) and ledger.position(intent.symbol) is None:
            yield cancel


# --- orders the ledger does not know, as after it was restored from an older backup


def _unknown(ledger: LedgerView, look: VenueView) -> Iterator[Action]:
    """Take over what is proven ours, oldest first: an exit belongs to the entry before it. The rest is told."""
    at_venue = [order for order in look.orders.values() if order is not None]
    at_venue += [order for resting in look.resting.values() for order in resting]
    known = [(own.persisted_at, own.intent.symbol, own.cycle_id) for own in ledger.intents]
    for order in sorted(at_venue, key=lambda order: order.created_at):
        name = order.client_order_id
        if order.type not in SENT or name in ledger.known or ledger.intent(name):
            continue
        adopted = _adopt(order, known, ledger) if orders.is_ours(name) else None
        if adopted is not None:
            known.append((order.created_at, order.symbol, adopted.cycle_id))
            yield adopted
        else:
            what = f"{order.symbol} {order.side} {order.quantity} {name or order.venue_order_id}"
            yield Finding(kind=AlertKind.FOREIGN, symbol=order.symbol, text=f"foreign order {what}: left alone")


def _adopt(order: Order, known: Sequence[tuple[datetime, str, str]], ledger: LedgerView) -> Adopt | None:
    cycle = _cycle_of(order, ledger)
    before = [(at, cycle_id) for at, symbol, cycle_id in known if symbol == order.symbol and at <= order.created_at]
    if cycle is None and not (order.reduce_only and before):
        return None
    cycle_id = cycle.cycle_id if cycle else max(before, key=lambda entry: entry[0])[1]
    limit = order.type == OrderType.LIMIT.value
    ends_at = order.created_at + timedelta(minutes=ledger.limits.limit_entry_minutes)
    sent = order.model_dump(include=set(OrderIntent.model_fields))
    intent = OrderIntent(**sent | {"price": order.price if limit else None, "expires_at": ends_at if limit else None})
    return Adopt(
        order=order, intent=intent, cycle_id=cycle_id, cycle=cycle,
        state="sent" if order.status is OrderStatus.OPEN else "done",
    )  # fmt: skip


def _cycle_of(order: Order, ledger: LedgerView) -> CycleRecord | None:
    """Return the cycle that an order's id proves: it derives from strategy, symbol and a close shortly before."""
    close = floor_time(order.created_at, "5m")
    for number in range(ledger.limits.max_lateness_s // 300 + 2):
        as_of = close - number * BAR
        named = orders.cycle_id(ledger.strategy, order.symbol, as_of)
        if orders.derives_from(order.client_order_id, named):
            return CycleRecord(
                cycle_id=named, strategy=ledger.strategy, symbol=order.symbol, as_of=as_of,
                status=CycleStatus.FAILED, error=ADOPTED,
            )  # fmt: skip
    return None


# --- fills


def _booked(ledger: LedgerView, symbol: str, seen: ToldFills) -> Iterator[BookFills]:
    """Project the fills; a position that began since is gone through once more and, closed, stays as it is."""
    if not ledger.intents:
        return
    before = {p.position_id: p for p in ledger.open if p.symbol == symbol}
    past = [p for p in ledger.closed if p.symbol == symbol]
    again = {p.position_id for p in past if p.opened_at >= seen.since}
    ended = {p.position_id for p in past} - again
    least = ledger.dust.get(symbol, ZERO)
    positions, fold = positions_from_fills(seen.fills, ledger.entries, before, ledger.strategy, ended, least)
    changed = [p for p in positions if before.get(p.position_id) != p and p.position_id not in again]
    left, manual = (tuple(f for f in fills if f.fill_id in seen.new) for fills in (fold.foreign, fold.manual))
    if changed or left or manual or fold.aside:
        yield BookFills(symbol=symbol, positions=tuple(changed), foreign=left, manual=manual, aside=tuple(fold.aside))


# --- positions that differ


def _compared(ledger: LedgerView, look: VenueView, again: Again) -> Iterator[Action]:
    """Tell and halt on what stays different.

    The two sides are read at different instants while orders fill. Where the venue tells no fills and holds no more
    than the ledger has, a trade of ours was just not told yet: the next look's.
    """
    if look.positions is None or look.booked is None:
        return
    for finding, more in _differences(ledger, look.positions):
        halts = finding.kind is AlertKind.MISMATCH and (more or finding.symbol in look.booked)
        yield again(finding.symbol, finding.text) or finding.replace(halts=halts)  # another difference is a new one


def _differences(ledger: LedgerView, positions: Sequence[VenuePosition]) -> Iterator[tuple[Finding, bool]]:
    """Yield what differs by more than can be sold, and whether the venue holds risk that nobody counts."""
    for venue in positions:
        symbol, ours = venue.symbol, ledger.position(venue.symbol)
        held = ours.quantity if ours and ours.side == venue.side else ZERO
        rest = venue.quantity - held
        if is_spot(symbol) and rest > 0:
            continue  # a person's own coins
        if ours is None or (held and 0 < rest == ledger.beside.get(symbol)):
            text = f"foreign position {symbol} {venue.side} {rest}: left alone"
            yield Finding(kind=AlertKind.FOREIGN, symbol=symbol, text=text), True
        elif 0 != abs(rest) >= ledger.dust.get(symbol, 0):
            text = f"mismatch {symbol}: venue {venue.side} {venue.quantity}, ledger {ours.side} {ours.quantity}"
            yield Finding(kind=AlertKind.MISMATCH, symbol=symbol, text=text), rest > 0
    for p in ledger.open:
        if p.symbol not in {position.symbol for position in positions}:
            text = f"mismatch {p.symbol}: ledger {p.side} {p.quantity}, venue flat"
            yield Finding(kind=AlertKind.MISMATCH, symbol=p.symbol, text=text), False


def foreign(ledger: LedgerView, positions: Iterable[VenuePosition], symbol: str) -> Decimal:
    """Return how much the venue holds in a contract that is not ours (base); on spot coins are nobody's.

    What our orders on their way can have brought is ours: their fills may be told late.
    """
    held = next((p for p in positions if p.symbol == symbol), None)
    if held is None or is_spot(symbol):
        return ZERO
    ours, side = ledger.position(symbol, held.side), "buy" if held.side == "long" else "sell"
    coming = [
        own.intent.quantity - own.booked
        for own in ledger.intents
        if (own.intent.symbol, own.intent.side, own.intent.reduce_only, own.ended) == (symbol, side, False, False)
    ]
    return max(ZERO, held.quantity - (ours.quantity if ours else ZERO) - exact_sum(coming))


# --- what must be closed, and what nobody ends


def _exits(ledger: LedgerView, look: VenueView) -> Iterator[Action]:
    """Close everything under a halt that asks for it, else what has reached a target that only we can take."""
    if look.prices is None:
        return
    halted = any(halt.flatten for halt in ledger.halts)
    for p in ledger.open:
        bid, ask = look.prices.get(p.symbol, (None, None))
        out = bid if p.side == "long" else ask
        if halted:
            yield Flatten(symbol=p.symbol, position=p, quantity=p.quantity, text=f"{p.symbol} closed: halted")
        elif ledger.attaches_protection or p.target is None or out is None:
            continue
        elif direction(p.side) * (out - p.target) >= 0:
            text = f"{p.symbol} closed: target {p.target}"
            yield Flatten(symbol=p.symbol, position=p, quantity=p.quantity, why="target", text=text)


def _abandoned(ledger: LedgerView, now: datetime) -> Iterator[EndCycle]:
    """End cycles whose process died and that no run can take up any more."""
    for record in ledger.unfinished:
        late = now - record.as_of
        if late > too_late(ledger.limits):
            error = f"abandoned: its process ended before it did; found unfinished {late.total_seconds():.0f} s"
            yield EndCycle(record=record, error=f"{error} after its close")
