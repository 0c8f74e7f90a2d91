"""Our side: read at one moment, and brought up to the venue's fills.

Positions are a projection of the fills, with the follow-ups their decision asked for. Orders of ours that the ledger
does not know, as after it was restored from an older backup, are taken over. A cycle's order proves it by its id.
An order of `protect` proves only that it is this system's; it is taken over with the entry before it, and only to
reduce. What proves nothing is reported and left.
"""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tasks import alerts, clock
from tasks.connections import answered, log, store, venue
from tasks.core.trading import followups, orders, reconcile
from tasks.core.trading.positions import OVERLAP, flat_at, is_no_trade, positions_from_fills
from tasks.core.types import (
    MANAGES,
    ZERO,
    Action,
    Adopt,
    Alert,
    AlertKind,
    BookFills,
    CycleStatus,
    Decision,
    Finding,
    LedgerView,
    Order,
    Position,
    ToldFills,
    VenuePosition,
    VenueView,
    exact_sum,
)
from tasks.crash_points import reached
from tasks.halts import halt
from tasks.settings import settings
from tasks.stage import stage


def view(*symbols: str, **more: Any) -> LedgerView:
    """Read our open positions; of each of `symbols` also what closed lately and our orders. more: fields as they are.

    Read it after the venue: then an order that the venue has and the view lacks is none of ours.
    """
    kept, s = store(), settings()
    read = {
        "open": tuple(kept.positions.open(s.strategy)),
        "closed": tuple(p for symbol in symbols for p in kept.positions.closed(s.strategy, symbol=symbol)),
        "intents": tuple(own for symbol in symbols for own in kept.intents.own(s.strategy, symbol)),
    }
    return LedgerView(strategy=s.strategy, limits=s.limits, **read | more)


def actions(
    ours: LedgerView,
    now: datetime | None = None,
    earlier: Iterable[Action] = (),
    patience: timedelta = reconcile.AT_ONCE,
    **seen: Any,
) -> tuple[Action, ...]:
    """Return what is to be done by what was `seen` of the venue just now; now: its own clock, where it matters."""
    return reconcile.reconcile(ours, VenueView(**seen), earlier, now or clock.now(), patience)


def symbols_of_ours(now: datetime | None = None, at_venue: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the strategy's symbols, and those in which it still has a position or an order.

    now: also what it entered lately. at_venue: where the venue holds anything. After the ledger was restored from an
    older backup these tell where to look for what it knows nothing of, in a symbol that is the strategy's no more.
    """
    kept, strategy = store(), settings().strategy
    in_position = [p.symbol for p in kept.positions.open(strategy)]
    intents = kept.intents.open(strategy) + (kept.intents.recent_entries(strategy, now - LOST) if now else [])
    return tuple(dict.fromkeys((*settings().symbols, *in_position, *(own.intent.symbol for own in intents), *at_venue)))


def open_in(symbol: str) -> list[Position]:
    """Return our open positions of `symbol`."""
    return store().positions.open(settings().strategy, symbol)


def beside(position: Position) -> Decimal:
    """Return what a person added to a position of ours (base), by what was told since its entry was decided.

    The guard had found nothing there that was not ours.
    """
    ours = view(position.symbol)
    entered = [own.persisted_at for own in ours.intents if own.cycle_id == position.cycle_id]
    since = min([flat_at([position], ours.closed, position.opened_at), *entered])
    fills = store().fills.since(since, position.symbol)
    return positions_from_fills(fills, ours.entries, {}, ours.strategy)[1].theirs


def booked_of(order: Order) -> Decimal:
    """Return how much of an order the ledger has fills of."""
    fills = store().fills.since(order.created_at - OVERLAP, order.symbol)
    return exact_sum(fill.quantity for fill in fills if fill.client_order_id == order.client_order_id)


async def dust(symbol: str) -> Decimal:
    """Return the smallest sellable quantity; less is dust that spot fees leave, and counts as nothing."""
    if ":" in symbol:
        return ZERO
    instrument = await venue().instrument(symbol)
    return max(instrument.step, instrument.min_quantity)


# --- orders that the ledger does not know

PAUSES = (0.5, 1.0)  # seconds before a venue that did not answer is asked again


async def adopt_orders(symbol: str, seen: Collection[str]) -> bool:
    """Take over those of the orders `seen` (client ids) that are ours and unknown; returns whether there were any."""
    unknown = [name for name in seen if orders.is_ours(name) and store().intents.get(name) is None]
    if not unknown:
        return False
    at_venue = {name: await venue().find_order(symbol, name) for name in unknown}
    return any(isinstance(action, Adopt) for action in _take_over(symbol, orders=at_venue))


async def adopt_working(symbol: str) -> list[Finding]:
    """Take over working orders of ours that the ledger does not know; returns those that are foreign."""
    resting = await answered(lambda: venue().open_orders(symbol), f"orders of {symbol}", PAUSES)
    if not resting:
        return []
    known = frozenset(o.client_order_id for o in resting if store().intents.get(o.client_order_id) is not None)
    taken_over = _take_over(symbol, known, resting={symbol: tuple(resting)})
    return [action for action in taken_over if isinstance(action, Finding)]


def _take_over(symbol: str, known: frozenset[str] = frozenset(), **seen: Any) -> tuple[Action, ...]:
    done = actions(view(symbol, known=known), **seen)
    for action in done:
        if isinstance(action, Adopt):
            _adopt(action)
        elif isinstance(action, Finding):
            log().error("%s", action.text)
    return done


def _adopt(action: Adopt) -> None:
    kept, order, cycle_id, now = store(), action.order, action.cycle_id, clock.now()
    if action.cycle is not None:
        kept.cycles.begin(action.cycle.replace(status=CycleStatus.STARTED), now)
        kept.cycles.save(action.cycle, now, first=True)
    kept.intents.save(cycle_id, (action.intent,), order.created_at)
    kept.orders.save(order)
    kept.intents.mark(order.client_order_id, action.state)
    reached("adopted")
    log().error("adopted symbol=%s cycle_id=%s client_order_id=%s", order.symbol, cycle_id, order.client_order_id)


# --- fills

LOST = timedelta(days=2)  # how far back orders of ours are looked for where the ledger knows of none


async def book_unheard(symbol: str, at_venue: Iterable[VenuePosition]) -> None:
    """Book fills where the venue does not hold what the ledger does: ours may be closed, and that a person's."""
    held = {(position.symbol, position.side): position.quantity for position in at_venue}
    if any(held.get((ours.symbol, ours.side)) != ours.quantity for ours in open_in(symbol)):
        await book_fills(symbol)


@stage(task_run_name="book-{symbol}")
async def book_fills(symbol: str) -> list[Position]:
    """Bring the ledger's positions of `symbol` up to the venue's fills; returns those that changed.

    Fills of orders that are ours and that the ledger knows nothing of are taken over with their orders. All are
    reckoned before any is kept; one that cannot be is kept, told, tried again at each look, and halts new entries.
    """
    kept, ours = store(), view(symbol)
    first = (ours.intents[0].persisted_at if ours.intents else await venue().now()) - LOST
    since = flat_at([p for p in ours.open if p.symbol == symbol], ours.closed, first)
    known = kept.fills.since(since, symbol)
    fetched = await venue().fills(symbol, max(since, known[-1].at - OVERLAP) if known else since)
    reached("fills_fetched")
    least = await dust(symbol)
    if not (await adopt_orders(symbol, {fill.client_order_id for fill in fetched}) or ours.intents):
        return []
    told = {fill.fill_id: fill for fill in (*known, *fetched)}
    new = frozenset(told.keys() - {fill.fill_id for fill in known})
    ours = view(symbol, dust={symbol: least})  # a stop may have been moved meanwhile
    fills = ToldFills(since=since, fills=tuple(fill for fill in told.values() if fill.at >= since), new=new)
    books = [action for action in actions(ours, fills={symbol: fills}) if isinstance(action, BookFills)]
    kept.fills.save(fetched)
    reached("fills_saved")
    changed = [position for book in books for position in _keep(book)]
    reached("booked")
    return changed


async def book_moved(symbol: str, at_venue: Iterable[VenuePosition]) -> bool:
    """Book what the venue took off ours by no trade, where what it told of is just what is missing; returns whether.

    A delivery or a move between accounts stays as it was told; beside each an exit at its price is kept.
    """
    for position in open_in(symbol):
        held = exact_sum(p.quantity for p in at_venue if (p.symbol, p.side) == (symbol, position.side))
        told = {fill.fill_id: fill for fill in store().fills.since(position.opened_at, symbol)}
        exits = [
            fill.replace(fill_id=f"{fill.fill_id}:exit", reason="exit")
            for fill in told.values()
            if is_no_trade(fill) and (fill.side == "sell") == (position.side == "long")
        ]
        exits = [fill for fill in exits if fill.fill_id not in told]
        if 0 < exact_sum(fill.quantity for fill in exits) == position.quantity - held:
            store().fills.save(exits)
            await book_fills(symbol)
            text = f"{symbol}: the venue closed {position.quantity - held} of ours by no trade, taken over"
            alerts.tell([Alert(kind=AlertKind.FOREIGN, key=exits[0].fill_id, text=text)])
            return True
    return False


def is_booked(order: Order) -> bool:
    """Return whether the ledger has all fills of an order: the venue may tell them later than the order itself."""
    return reconcile.is_booked(order, booked_of(order))


def _keep(book: BookFills) -> list[Position]:
    if book.foreign:
        log().error("foreign symbol=%s fills=%s: not ours, left alone", book.symbol, [f.fill_id for f in book.foreign])
    for one in book.aside:
        text = f"fill of {book.symbol} set aside, it fits nowhere: {one}"
        alerts.tell([Alert(kind=AlertKind.MISMATCH, key=one.partition(" ")[0], text=text)])
        halt(f"ledger mismatch: {text}")
    for fill in book.manual:
        text = f"{book.symbol}: a person closed {fill.quantity} of ours at {fill.price}, taken over"
        alerts.tell([Alert(kind=AlertKind.FOREIGN, key=fill.venue_order_id, text=text)])
    changed = [_with_followups(position) for position in book.positions]
    for position in changed:
        store().positions.save(position)
        reached("position_saved")
        log().info(
            "position symbol=%s position_id=%s side=%s quantity=%s avg_price=%s stop=%s closed_at=%s",
            book.symbol, position.position_id, position.side, position.quantity, position.avg_price, position.stop,
            position.closed_at,
        )  # fmt: skip
    return changed


def _with_followups(position: Position) -> Position:
    """Take the follow-ups from every decision that has entered the position, the first one's first."""
    kept, until = store(), position.closed_at
    fills = kept.fills.since(position.opened_at, position.symbol)
    filled = {fill.client_order_id for fill in fills if until is None or fill.at <= until}
    own = kept.intents.own(position.strategy, position.symbol)
    entered = (each.cycle_id for each in own if each.intent.client_order_id in filled and not each.intent.reduce_only)
    for record in map(kept.cycles.get, dict.fromkeys((position.cycle_id, *entered))):
        if record and record.verdict:
            position = followups.joined(position, record.verdict.decision)
    return position


def join_followups(symbol: str, decision: Decision) -> None:
    """Keep the follow-ups of a decision about the open position with it; those of an entry come with its fills."""
    for position in open_in(symbol) if isinstance(decision, MANAGES) and decision.followups else ():
        store().positions.save(followups.joined(position, decision))
