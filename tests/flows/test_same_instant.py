"""A position that begins at the very instant its predecessor is liquidated: each fill belongs to one of them."""

from decimal import Decimal

import pytest
from sandbox_cycles import OPEN, START, SYMBOL, protect_once, recorded, run
from sandbox_server import advance, fault, state

from tasks.connections import store, venue
from tasks.core.types.record import CycleStatus

pytestmark = pytest.mark.slow


async def test_an_add_that_comes_after_a_liquidation_opens_a_position_of_its_own(home, exchange):
    assert (await run(recorded(home, (START, OPEN)))).status is CycleStatus.EXECUTED
    advance(exchange, 1)
    [first] = store().open_positions("default")
    entry = store().intents(first.cycle_id)[0]
    fault(exchange, "liquidation", "order/create")
    adding = entry.model_copy(update={"client_order_id": "qd" + "a" * 32 + "e0", "quantity": entry.quantity * 2})
    store().save_intents(first.cycle_id, (adding,), START)
    await venue().submit(adding)
    for _ in range(3):
        await protect_once()
        advance(exchange, 1)
    held = {p["symbol"]: Decimal(str(p["size"])) for p in state(exchange)["positions"]}
    assert held == {p.symbol: p.quantity for p in store().open_positions("default")} == {SYMBOL: adding.quantity}
    assert store().active_halt() is None
    assert [p.position_id for p in store().closed_positions("default")] == [first.position_id]
