"""Send what the guard let through: persisted first, looked up before sent, looked up again when in doubt."""

from datetime import UTC, datetime
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import log, store, venue
from tasks.core.errors import OrderRejected
from tasks.core.trading import booking
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType
from tasks.sending import PROTECTION, send
from tasks.settings import settings


@task(retries=2, retry_delay_seconds=[5, 15], cache_policy=NO_CACHE)
async def execute_intents(
    cycle_id: str, intents: tuple[OrderIntent, ...], as_of: datetime, price: Decimal | None = None
) -> tuple[Order, ...]:
    """Write every intent to the store, then carry them out in order. A retry finds what was sent, by its id.

    price: what the decision was sized at. An entry is not sent when the decision is too old by now, when the market
    has run away from that price, or while trading is halted; what the venue has already is taken over all the same.
    """
    store().save_intents(cycle_id, intents, as_of)
    return tuple([await _carry_out(cycle_id, intent, as_of, price) for intent in intents])


async def _carry_out(cycle_id: str, intent: OrderIntent, as_of: datetime, price: Decimal | None) -> Order:
    kept = store()
    try:
        objection = await _objection(intent, as_of, price)
        order = _refused(intent, objection) if objection else await send(venue(), intent)
    except OrderRejected as e:
        order = _refused(intent, str(e))
    kept.save_order(order, cycle_id)
    state = "rejected" if order.status is OrderStatus.REJECTED else "sent"
    if intent.type in PROTECTION and state == "sent":
        _note_protection(intent)
        state = "done"
    kept.mark_intent(intent.client_order_id, state, datetime.now(UTC))
    level = log().error if order.status is OrderStatus.REJECTED else log().info
    level(
        "execute symbol=%s cycle_id=%s client_order_id=%s status=%s filled=%s avg_price=%s reason=%s",
        intent.symbol, cycle_id, intent.client_order_id, order.status, order.filled, order.avg_price,
        order.reason or "-",
    )  # fmt: skip
    return order


def _note_protection(intent: OrderIntent) -> None:
    """Take the new stop or target over into the ledger: no fill ever tells of it."""
    for position in store().open_positions(settings().strategy):
        if position.symbol == intent.symbol:
            store().save_position(booking.with_protection(position, intent))


async def _objection(intent: OrderIntent, as_of: datetime, price: Decimal | None) -> str:
    """Return why an entry must not be sent now, or nothing; exits and protection always may."""
    if intent.reduce_only or intent.type in PROTECTION:
        return ""
    if await venue().find_order(intent.symbol, intent.client_order_id) is not None:
        return ""  # it was sent before: take it over
    late = (await venue().now() - as_of).total_seconds()
    if late > settings().limits.max_lateness_s:
        return f"stale: {late:.0f} s after the close, at most {settings().limits.max_lateness_s} s"
    if halt := store().active_halt():
        return f"halted: {halt.reason}"
    if intent.type is OrderType.MARKET and price is not None:
        return await _slipped(intent, price)
    return ""


async def _slipped(intent: OrderIntent, price: Decimal) -> str:
    """Return how far the book has run from the decision's price, if that is beyond the limit."""
    book = await venue().fetch_book(intent.symbol)
    side, sign = (book.asks, 1) if intent.side == "buy" else (book.bids, -1)
    if not side:
        return "the book is empty: nothing to trade against"
    bps = sign * (side[0][0] - price) / price * 10_000
    limit = settings().limits.max_slippage_bps
    return f"slippage: {bps:.1f} bps from the decision's {price}, at most {limit}" if bps > limit else ""


def _refused(intent: OrderIntent, reason: str) -> Order:
    now = datetime.now(UTC)
    return Order(
        client_order_id=intent.client_order_id, venue_order_id="", symbol=intent.symbol, side=intent.side,
        type=intent.type, status=OrderStatus.REJECTED, quantity=intent.quantity, price=intent.price,
        reduce_only=intent.reduce_only, reason=reason, created_at=now, updated_at=now,
    )  # fmt: skip
