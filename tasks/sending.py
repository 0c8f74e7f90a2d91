"""One intent, exactly once: look up before sending, and look up again when the answer leaves it open."""

import asyncio

from tasks.connections import log
from tasks.core.errors import DuplicateOrder, VenueUnavailable
from tasks.core.ports import Venue
from tasks.core.types.orders import Order, OrderIntent, OrderType

PROTECTION = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between looks while the venue does not answer


async def send(client: Venue, intent: OrderIntent) -> Order:
    """Make sure the venue has `intent` exactly once, and return its order.

    An answer that leaves the outcome unknown is followed by a look-up, never by a second id. Raises
    OrderRejected when refused, VenueUnavailable when the venue stays silent: a later retry looks up first.
    """
    for pause in (*PAUSES, None):
        try:
            return await _once(client, intent)
        except VenueUnavailable as e:
            if pause is None:
                raise
            log().warning("execute client_order_id=%s unknown outcome, looking it up: %s", intent.client_order_id, e)
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")


async def _once(client: Venue, intent: OrderIntent) -> Order:
    if intent.type in PROTECTION:
        return await client.submit(intent)  # setting the same stop twice changes nothing
    found = await client.find_order(intent.symbol, intent.client_order_id)
    if found is not None:
        return found
    try:
        return await client.submit(intent)
    except DuplicateOrder as e:
        found = await client.find_order(intent.symbol, intent.client_order_id)
        if found is None:
            raise VenueUnavailable(f"{intent.client_order_id} is a duplicate, yet the venue does not show it") from e
        return found
