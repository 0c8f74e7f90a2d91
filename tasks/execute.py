"""Send what the guard let through: persisted first, looked up before sent, looked up again when in doubt."""

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import log, store, venue
from tasks.core.errors import OrderRejected
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType
from tasks.sending import send


@task(retries=2, retry_delay_seconds=[5, 15], cache_policy=NO_CACHE)
async def execute_intents(
    cycle_id: str, intents: tuple[OrderIntent, ...], as_of: datetime, late: bool = False
) -> tuple[Order, ...]:
    """Write every intent to the store, then carry them out in order. A retry finds what was sent, by its id.

    late: the decision is too old to act on; what the venue has is taken over, the rest is not sent any more.
    """
    store().save_intents(cycle_id, intents, as_of)
    return tuple([await _carry_out(cycle_id, intent, late) for intent in intents])


async def _carry_out(cycle_id: str, intent: OrderIntent, late: bool) -> Order:
    kept = store()
    try:
        order = await (found_or_stale(intent) if late else send(venue(), intent))
    except OrderRejected as e:
        order = _refused(intent, str(e))
    kept.save_order(order, cycle_id)
    state = "rejected" if order.status is OrderStatus.REJECTED else "done"
    if order.status is OrderStatus.OPEN and intent.type is OrderType.LIMIT:
        state = "sent"
    kept.mark_intent(intent.client_order_id, state, datetime.now(UTC))
    level = log().error if order.status is OrderStatus.REJECTED else log().info
    level(
        "execute symbol=%s cycle_id=%s client_order_id=%s status=%s filled=%s avg_price=%s reason=%s",
        intent.symbol, cycle_id, intent.client_order_id, order.status, order.filled, order.avg_price,
        order.reason or "-",
    )  # fmt: skip
    return order


async def found_or_stale(intent: OrderIntent) -> Order:
    """Return the order if the venue has it; one that was never sent is too late now."""
    found = await venue().find_order(intent.symbol, intent.client_order_id)
    return found or _refused(intent, "stale: never sent")


def _refused(intent: OrderIntent, reason: str) -> Order:
    now = datetime.now(UTC)
    return Order(
        client_order_id=intent.client_order_id, venue_order_id="", symbol=intent.symbol, side=intent.side,
        type=intent.type, status=OrderStatus.REJECTED, quantity=intent.quantity, price=intent.price,
        reduce_only=intent.reduce_only, reason=reason, created_at=now, updated_at=now,
    )  # fmt: skip
