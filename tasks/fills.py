"""Fills into the ledger: positions as a projection of them, with the follow-ups their decision asked for."""

from datetime import UTC, datetime, timedelta

from prefect import task

from tasks import ledger
from tasks.connections import log, store, venue
from tasks.core.trading import booking, reconcile
from tasks.core.types.decision import ENTRIES
from tasks.core.types.orders import Order
from tasks.core.types.portfolio import Position
from tasks.core.types.reconcile import BookFills, ToldFills, VenueView
from tasks.crash_points import reached
from tasks.lost_orders import adopt_orders
from tasks.retries import STAGE

LOST = timedelta(days=2)  # how far back orders of ours are looked for where the ledger knows of none


@task(task_run_name="book-{symbol}", **STAGE)
async def book_fills(symbol: str) -> list[Position]:
    """Bring the ledger's positions of `symbol` up to the venue's fills; returns those that changed.

    Fills of orders that are ours and that the ledger knows nothing of are taken over with their orders.
    """
    kept, ours = store(), ledger.view(symbol)
    first = ours.intents[0].persisted_at if ours.intents else await venue().now() - LOST
    since = booking.flat_at([p for p in ours.open if p.symbol == symbol], ours.closed, first)
    known = kept.fills.since(since, symbol)
    fetched = await venue().fills(symbol, max(since, known[-1].at - booking.OVERLAP) if known else since)
    reached("fills_fetched")
    dust, intents = await ledger.dust(symbol), ours.intents
    if await adopt_orders(symbol, {fill.client_order_id for fill in fetched}):
        intents = ledger.view(symbol).intents
    if not intents:
        return []
    new = frozenset(fill.fill_id for fill in kept.fills.save(fetched))
    reached("fills_saved")
    ours = ledger.view(symbol, intents=intents, dust={symbol: dust})  # a stop may have been moved meanwhile
    told, now = ToldFills(since=since, fills=tuple(kept.fills.since(since, symbol)), new=new), datetime.now(UTC)
    actions = reconcile.reconcile(ours, VenueView(observed_at=now, fills={symbol: told}), None, now)
    changed = [position for action in actions if isinstance(action, BookFills) for position in _keep(action)]
    reached("booked")
    return changed


def is_booked(order: Order) -> bool:
    """Say whether the ledger has all fills of an order: the venue may tell them later than the order itself."""
    return reconcile.is_booked(order, ledger.booked_of(order))


def _keep(book: BookFills) -> list[Position]:
    if book.foreign:
        log().error("foreign symbol=%s fills=%s: not ours, left alone", book.symbol, [f.fill_id for f in book.foreign])
    for fill in book.manual:
        log().warning(
            "exit symbol=%s reason=manual fill_id=%s side=%s quantity=%s price=%s: taken over",
            book.symbol, fill.fill_id, fill.side, fill.quantity, fill.price,
        )  # fmt: skip
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
    """Take the follow-ups from the decision that opened the position."""
    if position.followups:
        return position
    record = store().cycles.get(position.cycle_id)
    decision = record.verdict.decision if record and record.verdict else None
    if isinstance(decision, ENTRIES) and decision.followups:
        return position.model_copy(update={"followups": decision.followups})
    return position
