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
    [first] = store().positions.open("default")
    entry = store().intents.of_cycle(first.cycle_id)[0]
    fault(exchange, "liquidation", "order/create")
    adding = entry.model_copy(update={"client_order_id": "qd" + "a" * 32 + "e0", "quantity": entry.quantity * 2})
    store().intents.save(first.cycle_id, (adding,), START)
    await venue().submit(adding)
    for _ in range(3):
        await protect_once()
        advance(exchange, 1)
    held = {p["symbol"]: Decimal(str(p["size"])) for p in state(exchange)["positions"]}
    assert held == {p.symbol: p.quantity for p in store().positions.open("default")} == {SYMBOL: adding.quantity}
    assert store().halts.newest() is None
    assert [p.position_id for p in store().positions.closed("default")] == [first.position_id]
