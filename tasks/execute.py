"""Send what the guard let through: persisted first, looked up before sent, looked up again when in doubt."""

import asyncio
from datetime import timedelta

from tasks import clock, ledger
from tasks.connections import answered, log, store, venue
from tasks.core.ports import Venue
from tasks.core.trading.positions import with_protection
from tasks.core.types import (
    CycleRecord,
    DuplicateOrder,
    Lease,
    LeaseLost,
    Order,
    OrderIntent,
    OrderRejected,
    OrderStatus,
    OrderType,
    OwnIntent,
    VenueBusy,
    VenueUnavailable,
)
from tasks.crash_points import reached
from tasks.halts import active_halt
from tasks.settings import settings
from tasks.stage import stage

PROTECTION = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)
PAUSES = (0.5, 1.0, 2.0, 4.0, 4.0)  # seconds between looks while the venue does not answer
IN_FLIGHT_S = 10.0  # for so long a venue takes a signed request: one that was held up may still come


def prove(intent: OrderIntent, lease: Lease) -> None:
    """Note that `intent` is now sent under `lease`; raises LeaseLost where another run may be sending by now."""
    if not store().intents.begin_sending(intent.client_order_id, lease):
        raise LeaseLost(f"{intent.client_order_id} was not sent: {lease.name} is held by another run")
    reached("lease_proven")


async def send(client: Venue, intent: OrderIntent, lease: Lease | None = None) -> Order:
    """Make sure the venue has `intent` exactly once, and return its order.

    lease: proven right before each attempt to send. An answer that leaves the outcome unknown is followed by a look-up,
    never by a second id, nor by a second request while the first may still come: not every venue refuses the id of an
    order that has ended. Raises OrderRejected when refused, LeaseLost where the lease is another run's by now,
    VenueUnavailable when the venue stays silent: a later retry looks up first.
    """
    what, unheard = f"execute client_order_id={intent.client_order_id}", list[float]()
    return await answered(lambda: _find_or_submit(client, intent, lease, unheard), what, PAUSES)


async def _find_or_submit(client: Venue, intent: OrderIntent, lease: Lease | None, unheard: list[float]) -> Order:
    """unheard: when it was sent without an answer, by the loop's clock."""
    now, by_another = asyncio.get_running_loop().time, False
    if intent.type not in PROTECTION:  # setting the same stop twice changes nothing
        reached("before_look_up")
        if (order := await client.find_order(intent.symbol, intent.client_order_id)) is not None:
            return order
        own = store().intents.get(intent.client_order_id)
        in_doubt = own if own and own.state == "sending" else None
        by_another = bool(in_doubt) and not unheard
        may_come = bool(unheard) and now() - unheard[-1] < IN_FLIGHT_S
        if may_come or (in_doubt and not (client.keeps_ids or _would_be_told(in_doubt))):
            raise VenueUnavailable(f"{intent.client_order_id} was sent without an answer, and may still arrive")
    if lease is not None:
        prove(intent, lease)
    reached("before_send")
    unheard.append(now())
    try:
        order = await _submitted(client, intent)
    except VenueBusy:
        unheard.clear()  # nothing was done
        if lease is not None:
            store().intents.take_back(intent.client_order_id, lease)
        raise
    except OrderRejected as e:
        if by_another:
            raise VenueUnavailable(f"{e}; what a run before this one has sent may still arrive") from e
        raise
    reached("sent")
    return order


async def _submitted(client: Venue, intent: OrderIntent) -> Order:
    """Send it; what is refused may be there already, sent by another run at the same moment."""
    try:
        return await client.submit(intent)
    except (DuplicateOrder, OrderRejected) as e:
        if intent.type in PROTECTION:
            raise
        is_there, order = isinstance(e, DuplicateOrder), await client.find_order(intent.symbol, intent.client_order_id)
        if order is not None and (is_there or order.status is not OrderStatus.REJECTED):
            return order
        if is_there:
            raise VenueUnavailable(f"{intent.client_order_id} is a duplicate, yet the venue does not show it") from e
        raise


def _would_be_told(own: OwnIntent) -> bool:
    """Return whether a venue that lists orders late would list by now what was sent without an answer.

    What reduces is sent again then. An entry never is: a request that was held up and a listing that is late may
    outlast any wait, and the venue would fill it again under the id of the one that has ended.
    """
    waited = clock.now() - (own.sending_at or own.persisted_at)
    return own.intent.reduce_only and waited >= timedelta(seconds=max(settings().patience_s, IN_FLIGHT_S))


@stage(retry_delay_seconds=[15, 15])  # nothing is in flight by then; not given up early: orders that were let through
async def execute_intents(record: CycleRecord, lease: Lease) -> tuple[Order, ...]:
    """Write every intent of a cycle to the store, then carry them out in order. A retry finds what was sent, by its id.

    lease: under which they are sent; once it is lost nothing more is, and fewer orders than intents come back.
    An entry is not sent when the decision is too old by now, when the market has run away from the price it was sized
    at, or while trading is halted; what the venue has already is taken over all the same.
    """
    store().intents.save(record.cycle_id, record.intents, record.as_of)
    done: list[Order] = []
    for intent in record.intents:
        try:
            done.append(_ended(intent) or await _carry_out(record, intent, lease))
        except LeaseLost as e:
            log().error("execute symbol=%s cycle_id=%s %s", intent.symbol, record.cycle_id, e)
            break
    return tuple(done)


def _ended(intent: OrderIntent) -> Order | None:
    """Return what became of an intent that a run before this one has ended."""
    own = store().intents.get(intent.client_order_id)
    if own is None or not own.ended:
        return None
    reason = "its intent was ended by another run before it was sent"
    return store().orders.get(intent.client_order_id) or _refused(intent, reason)


async def _carry_out(record: CycleRecord, intent: OrderIntent, lease: Lease) -> Order:
    kept = store()
    try:
        objection = await _objection(record, intent)
        if objection:
            prove(intent, lease)  # a run that has lost the lease may not end it either
            order = _refused(intent, objection)
        else:
            order = await send(venue(), intent, lease)
    except OrderRejected as e:
        order = _refused(intent, str(e))
    kept.orders.save(order)
    reached("order_saved")
    state = "rejected" if order.status is OrderStatus.REJECTED else "sent"
    if intent.type in PROTECTION and state == "sent":
        for position in ledger.open_in(intent.symbol):  # no fill ever tells of it
            kept.positions.save(with_protection(position, intent))
        reached("protection_noted")
        state = "done"
    kept.intents.mark(intent.client_order_id, state)
    reached("intent_marked")
    level = log().error if order.status is OrderStatus.REJECTED else log().info
    level(
        "execute symbol=%s cycle_id=%s client_order_id=%s status=%s filled=%s avg_price=%s reason=%s",
        intent.symbol, record.cycle_id, intent.client_order_id, order.status, order.filled, order.avg_price,
        order.reason or "-",
    )  # fmt: skip
    return order


async def _objection(record: CycleRecord, intent: OrderIntent) -> str:
    """Return why an entry must not be sent now, or nothing; exits and protection always may."""
    if intent.reduce_only or intent.type in PROTECTION:
        return ""
    if await venue().find_order(intent.symbol, intent.client_order_id) is not None:
        return ""  # it was sent before: take it over
    late, limits = (await venue().now() - record.as_of).total_seconds(), settings().limits
    if late > limits.max_lateness_s:
        return f"stale: {late:.0f} s after the close, at most {limits.max_lateness_s} s"
    if intent.type is OrderType.LIMIT and not venue().attaches_protection:
        return "the venue takes no stop with an entry: one that rests could fill unprotected; enter at market"
    if halt := active_halt():
        return f"halted: {halt.reason}"
    price = record.verdict and record.verdict.price
    if intent.type is not OrderType.MARKET or price is None:
        return ""
    book = await venue().fetch_book(intent.symbol)
    side, sign = (book.asks, 1) if intent.side == "buy" else (book.bids, -1)
    if not side:
        return "the book is empty: nothing to trade against"
    bps = sign * (side[0][0] - price) / price * 10_000
    if bps > limits.max_slippage_bps:
        return f"slippage: {bps:.1f} bps from the decision's {price}, at most {limits.max_slippage_bps}"
    return ""


def _refused(intent: OrderIntent, reason: str) -> Order:
    now = clock.now()
    order = {"venue_order_id": "", "status": OrderStatus.REJECTED, "reason": reason}
    return Order.of(intent, created_at=now, updated_at=now, **order)
