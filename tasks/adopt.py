"""Orders of ours that the ledger does not know, as after it was restored from an older backup: taken over.

The id of a cycle's order proves the cycle: it derives from strategy, symbol and close, and the close is at most
`max_lateness` before the order. An order of `protect` proves only that it is this system's; it is taken over with the
entry before it, and only to reduce. What proves nothing is reported and left.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from tasks.connections import answered, log, store, venue
from tasks.core.trading import orders
from tasks.core.types.bars import floor_time
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.settings import settings
from tasks.steps import reached

BAR = timedelta(minutes=5)
PAUSES = (0.5, 1.0)  # seconds before a venue that did not answer is asked again
SENT = {OrderType.MARKET.value, OrderType.LIMIT.value}
WHY = "adopted: the venue has its order, the ledger knew nothing of it"


async def adopt_orders(symbol: str, seen: Mapping[str, datetime]) -> int:
    """Take over those of the orders `seen` (client id, when) that are ours and unknown; returns how many."""
    unknown = [key for key in seen if key and orders.is_ours(key) and store().intent(key) is None]
    adopted = 0
    for key in sorted(unknown, key=lambda key: seen[key]):
        order = await venue().find_order(symbol, key)
        if order is not None and order.type in SENT:
            adopted += _adopt(order)
    return adopted


async def adopt_working(symbol: str) -> list[str]:
    """Take over working orders of ours that the ledger does not know; returns a line for each that is foreign."""
    resting = await answered(lambda: venue().open_orders(symbol), f"orders of {symbol}", PAUSES)
    found = [order for order in resting if order.type in SENT]
    await adopt_orders(symbol, {order.client_order_id: order.created_at for order in found})
    foreign = [order for order in found if store().intent(order.client_order_id) is None]
    return [f"foreign order {symbol} {order.side} {order.quantity} {_name(order)}: left alone" for order in foreign]


def _name(order: Order) -> str:
    return order.client_order_id or order.venue_order_id


def _adopt(order: Order) -> bool:
    cycle_id = _cycle_of(order)
    if cycle_id is None:
        log().error("foreign order symbol=%s client_order_id=%s: not ours", order.symbol, order.client_order_id)
        return False
    kept, ends_at = store(), order.created_at + timedelta(minutes=settings().limits.limit_entry_minutes)
    intent = OrderIntent(
        client_order_id=order.client_order_id, symbol=order.symbol, side=order.side, type=OrderType(order.type),
        quantity=order.quantity, price=order.price if order.type == OrderType.LIMIT.value else None, stop=order.stop,
        target=order.target, reduce_only=order.reduce_only,
        expires_at=ends_at if order.type == OrderType.LIMIT.value else None,
    )  # fmt: skip
    kept.save_intents(cycle_id, (intent,), order.created_at)
    kept.save_order(order, cycle_id)
    state = "sent" if order.status is OrderStatus.OPEN else "done"
    kept.mark_intent(order.client_order_id, state, datetime.now(UTC))
    reached("adopted")
    log().error("adopted symbol=%s cycle_id=%s client_order_id=%s", order.symbol, cycle_id, order.client_order_id)
    return True


def _cycle_of(order: Order) -> str | None:
    """Return the cycle an order belongs to, kept in the ledger from now on; None: it is not this strategy's."""
    named, strategy = orders.cycle_of(order.client_order_id), settings().strategy
    close = floor_time(order.created_at, "5m")
    for number in range(settings().limits.max_lateness_s // 300 + 2):
        as_of = close - number * BAR
        if orders.cycle_id(strategy, order.symbol, as_of) == named:
            _keep_cycle(CycleRecord(cycle_id=named, strategy=strategy, symbol=order.symbol, as_of=as_of, error=WHY))
            return named
    if not order.reduce_only:
        return None
    before = [entry for entry in store().own_intents(strategy, order.symbol).values() if entry[0] <= order.created_at]
    return max(before, key=lambda entry: entry[0])[1] if before else None


def _keep_cycle(record: CycleRecord) -> None:
    now = datetime.now(UTC)
    store().begin_cycle(record, now)
    store().save_cycle(record.model_copy(update={"status": CycleStatus.FAILED}), now, first=True)
