"""Fills into the ledger: positions as a projection of them, with the follow-ups their decision asked for."""

from datetime import datetime, timedelta
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.adopt import adopt_orders
from tasks.connections import log, store, venue
from tasks.core.trading import booking
from tasks.core.types.decision import ENTRIES
from tasks.core.types.orders import Fill, Order, OrderIntent
from tasks.core.types.portfolio import Position
from tasks.settings import settings
from tasks.steps import reached

OVERLAP = timedelta(minutes=10)  # fills are asked for again this far back: a late one is not missed
LOST = timedelta(days=2)  # how far back orders of ours are looked for where the ledger knows of none


def symbols_of_ours() -> tuple[str, ...]:
    """Return the strategy's symbols and those in which it still has a position or an order."""
    kept, strategy = store(), settings().strategy
    held = [p.symbol for p in kept.open_positions(strategy)]
    working = [intent.symbol for _, intent, _ in kept.open_intents(strategy)]
    return tuple(dict.fromkeys((*settings().symbols, *held, *working)))


@task(task_run_name="book-{symbol}", retries=2, retry_delay_seconds=[1, 3], cache_policy=NO_CACHE)
async def book_fills(symbol: str) -> list[Position]:
    """Bring the ledger's positions of `symbol` up to the venue's fills; returns those that changed.

    Fills of orders that are ours and that the ledger knows nothing of are taken over with their orders.
    """
    kept, strategy = store(), settings().strategy
    entries = kept.own_intents(strategy, symbol)
    first = min(at for at, *_ in entries.values()) if entries else await venue().now() - LOST
    past = kept.closed_positions(strategy, symbol=symbol)
    since = _start(open_in(symbol), past, first)
    known = kept.fills(symbol, since)
    fetched = await venue().fills(symbol, max(since, known[-1].at - OVERLAP) if known else since)
    reached("fills_fetched")
    least = await dust(symbol)
    if await adopt_orders(symbol, {fill.client_order_id: fill.at for fill in fetched}):
        entries = kept.own_intents(strategy, symbol)
    if not entries:
        return []
    new = kept.save_fills(fetched)
    reached("fills_saved")
    ours = {key: (cycle_id, intent) for key, (_, cycle_id, intent) in entries.items()}
    before = open_in(symbol)  # only now: a stop may have been moved while the venue was asked
    again = {p.position_id for p in past if p.opened_at >= since}
    ended = {p.position_id for p in kept.closed_positions(strategy, symbol=symbol)} - again
    positions, foreign = booking.project(kept.fills(symbol, since), ours, before, strategy, ended, least)
    _tell_of_others(symbol, [fill for fill in new if booking.is_manual(fill, ours)], foreign)
    changed = [_with_followups(p) for p in positions if before.get(p.position_id) != p and p.position_id not in again]
    for position in changed:
        kept.save_position(position)
        reached("position_saved")
        log().info(
            "position symbol=%s position_id=%s side=%s quantity=%s avg_price=%s stop=%s closed_at=%s",
            symbol, position.position_id, position.side, position.quantity, position.avg_price, position.stop,
            position.closed_at,
        )  # fmt: skip
    reached("booked")
    return changed


async def dust(symbol: str) -> Decimal:
    """Return what less of cannot be sold, and so is nothing: spot fees taken in the coin leave some."""
    if ":" in symbol:
        return Decimal(0)
    instrument = await venue().instrument(symbol)
    return max(instrument.step, instrument.min_quantity)


def is_booked(order: Order) -> bool:
    """Say whether the ledger has all fills of an order: the venue may tell them later than the order itself.

    A fee that was taken in the coin makes them less, by at most 2 %.
    """
    told = store().fills(order.symbol, order.created_at - OVERLAP)
    had = sum((fill.quantity for fill in told if fill.client_order_id == order.client_order_id), Decimal(0))
    return had >= order.filled * Decimal("0.98")


def open_in(symbol: str) -> dict[str, Position]:
    """Return our open positions of `symbol` by id."""
    return {p.position_id: p for p in store().open_positions(settings().strategy) if p.symbol == symbol}


def last_closed(symbol: str) -> datetime | None:
    """Return when our last position in `symbol` ended."""
    closed = store().closed_positions(settings().strategy, limit=1, symbol=symbol)
    return closed[0].closed_at if closed else None


def own_intents(symbol: str) -> dict[str, tuple[datetime, str, OrderIntent]]:
    """Return our order intents of `symbol` by client order id, with when and by which cycle."""
    return store().own_intents(settings().strategy, symbol)


def _start(open_now: dict[str, Position], past: list[Position], first_intent: datetime) -> datetime:
    """Return the moment our position was last flat; past: what is closed, newest first.

    A position that began at the very instant its predecessor ended (a liquidation, then an order under way) shares
    that instant's fills with it: both are gone through once more.
    """
    if not open_now:
        last = past[0].closed_at if past else None
        return first_intent - OVERLAP if last is None else last + timedelta(milliseconds=1)
    start = min(p.opened_at for p in open_now.values())
    for position in past:
        if position.closed_at != start:
            break
        start = position.opened_at
    return start


def _tell_of_others(symbol: str, manual: list[Fill], foreign: list[Fill]) -> None:
    if foreign:
        log().error("foreign symbol=%s fills=%s: not ours, left alone", symbol, [f.fill_id for f in foreign])
    left = {f.fill_id for f in foreign}
    for fill in manual:
        if fill.fill_id not in left:
            log().warning(
                "exit symbol=%s reason=manual fill_id=%s side=%s quantity=%s price=%s: taken over",
                symbol, fill.fill_id, fill.side, fill.quantity, fill.price,
            )  # fmt: skip


def _with_followups(position: Position) -> Position:
    """Take the follow-ups from the decision that opened the position."""
    if position.followups:
        return position
    record = store().cycle(position.cycle_id)
    decision = record.verdict.decision if record and record.verdict else None
    if isinstance(decision, ENTRIES) and decision.followups:
        return position.model_copy(update={"followups": decision.followups})
    return position
