"""Spot's own ways to lose money: dust of fees taken in the coin, a stop that waits for fills nobody has told yet."""

import json
from collections.abc import Iterator
from decimal import Decimal as D
from pathlib import Path

import pytest
from sandbox_cycles import OPEN, START
from sandbox_server import running_sandbox, state
from store_samples import a_cycle, a_position
from venue_stub import NOW_MS, ORDER, Asked, Stub, ok, stub_venue

from flows import protect
from flows.trade import Request, run_cycles
from tasks import ledger
from tasks import protect as stage
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.connections import store, venue
from tasks.core.errors import VenueUnavailable
from tasks.core.types.orders import VenuePosition
from tasks.core.types.reconcile import LookAgain
from tasks.settings import settings

SPOT, CREATE = "BTC/USDT", "/v5/order/create"
HELD = D("0.000122877")  # 0.000123 bought, its fee taken in the coin


@pytest.fixture
def stub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A venue with a step of 0.000001 and a least order of 0.000011."""
    monkeypatch.setattr(venue_module, "LOOKS", (0.0,))
    with stub_venue() as running:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", running.url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SPOT)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        settings.cache_clear()
        store().cycles.begin(a_cycle("c1"), START)
        store().positions.save(a_position(symbol=SPOT, quantity=HELD))
        yield running


@pytest.mark.parametrize(("less", "asked_again"), [("0.0000109", []), ("0.000011", [SPOT])])
async def test_dust_is_no_difference_between_venue_and_ledger_and_what_can_be_sold_is(
    stub, monkeypatch, less, asked_again
):
    async def at_venue() -> list[VenuePosition]:
        return [VenuePosition(symbol=SPOT, side="long", quantity=HELD - D(less), avg_price=D(65000), stop=D(64000))]

    monkeypatch.setattr(stage.venue_positions, "fn", at_venue)
    actions = await protect._look((), frozenset({SPOT}), START, protect.NEVER)
    await venue().close()
    assert [action.symbol for action in actions if isinstance(action, LookAgain)] == asked_again


async def test_a_position_with_dust_is_flattened_in_whole_steps(stub):
    sold = ORDER | {"side": "Sell", "qty": "0.000122", "cumExecQty": "0.000122"}

    def listed(asked: Asked) -> dict[str, object]:
        sent = "orderLinkId" in asked.query and stub.requests(CREATE)
        return ok(list=[sold | {"orderLinkId": asked.query["orderLinkId"]}] if sent else [])

    stub.answers |= {
        "/v5/order/realtime": listed,
        "/v5/order/history": ok(list=[]),
        CREATE: ok(orderId="v-1", orderLinkId="x"),
        "/v5/account/wallet-balance": ok(list=[{"coin": [], "totalAvailableBalance": "1"}]),
        "/v5/market/orderbook": ok(s="BTCUSDT", b=[["87000", "1"]], a=[["87001", "1"]], ts=NOW_MS),
    }  # fmt: skip
    [position] = store().positions.open("default")
    await stage.flatten(position, position.quantity)
    await venue().close()
    assert stub.requests(CREATE)[0].body["qty"] == "0.000122"


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True])
async def test_a_spot_entry_gets_its_stop_at_once_though_its_fills_are_not_told_yet(home, monkeypatch, silent):
    reply = json.dumps({**OPEN, "symbol": SPOT})
    replies = home / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": START.isoformat(), "symbol": SPOT, "reply": reply}))

    async def untold(_: str) -> list[object]:
        if silent:
            raise VenueUnavailable("the list of fills does not answer")
        return []

    with running_sandbox(symbols=(SPOT,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SPOT)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setattr(ledger.book_fills, "fn", untold)
        settings.cache_clear()
        request = Request(symbols=(SPOT,), decider=f"recorded:{replies}", reason="a test asks", as_of=START)
        if silent:
            with pytest.raises(VenueUnavailable):
                await run_cycles(request)
        else:
            await run_cycles(request)
        await venue().close()
        seen = state(url)
    stops = [D(str(order["qty"])) for order in seen["orders"] if order["resting"] and order["type"] == "stop"]
    assert stops == [D(str(fill["qty"])) for fill in seen["fills"]]
