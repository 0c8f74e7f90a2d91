"""One intent, exactly once: look up before sending, and look up again when the answer leaves it open."""

import asyncio
from collections.abc import Callable

from tasks.connections import log, store
from tasks.core.errors import DuplicateOrder, LeaseLost, VenueUnavailable
from tasks.core.ports import Venue
from tasks.core.types.orders import Order, OrderIntent, OrderType
from tasks.core.types.record import Lease
from tasks.crash_points import reached

PROTECTION = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between looks while the venue does not answer


def prove(intent: OrderIntent, lease: Lease) -> None:
    """Note that `intent` is now sent under `lease`; raises LeaseLost where another run may be sending by now."""
    if not store().intents.begin_sending(intent.client_order_id, lease):
        raise LeaseLost(f"{intent.client_order_id} was not sent: {lease.name} is held by another run")
    reached("lease_proven")


async def send(client: Venue, intent: OrderIntent, proof: Callable[[], None] | None = None) -> Order:
    """Make sure the venue has `intent` exactly once, and return its order.

    proof: called right before each attempt to send; what it raises keeps the attempt from being made. An answer that
    leaves the outcome unknown is followed by a look-up, never by a second id. Raises OrderRejected when refused,
    VenueUnavailable when the venue stays silent: a later retry looks up first.
    """
    for pause in (*PAUSES, None):
        try:
            return await _once(client, intent, proof)
        except VenueUnavailable as e:
            if pause is None:
                raise
            log().warning("execute client_order_id=%s unknown outcome, looking it up: %s", intent.client_order_id, e)
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def _once(client: Venue, intent: OrderIntent, proof: Callable[[], None] | None) -> Order:
    if intent.type not in PROTECTION:  # setting the same stop twice changes nothing
        reached("before_look_up")
        found = await client.find_order(intent.symbol, intent.client_order_id)
        if found is not None:
            return found
    if proof is not None:
        proof()
    reached("before_send")
    try:
        order = await client.submit(intent)
    except DuplicateOrder as e:
        found = await client.find_order(intent.symbol, intent.client_order_id)
        if found is None:
            raise VenueUnavailable(f"{intent.client_order_id} is a duplicate, yet the venue does not show it") from e
        order = found
    reached("sent")
    return order
