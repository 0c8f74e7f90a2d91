"""The kinds of a venue under stress: any refusal, what is told late, and a person who trades on the same account."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal as D
from typing import Any

import httpx
import pytest
from sandbox_server import admin, advance, fault, running_sandbox, state

from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.errors import OrderRejected, TradingError
from tasks.core.types.orders import OrderIntent, OrderStatus
from tasks.settings import load

BTC = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    with running_sandbox(symbols=(BTC,), start=START, stepped=True, seed=3) as running:
        yield running


@pytest.fixture
async def url(shared: str) -> AsyncIterator[str]:
    """One market for all; each test begins flat, a minute after the one before, and without a fault."""
    await asyncio.to_thread(advance, shared, 60)
    yield shared
    admin(shared, "faults", method="DELETE")
    for position in state(shared)["positions"]:
        person(shared, "sell" if position["side"] == "long" else "buy", position["size"], reduce_only=True)


@pytest.fixture
async def venue(url: str) -> AsyncIterator[CcxtVenue]:
    connected = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))
    await connected.now()
    yield connected
    await connected.close()


def entry(name: str, **more: Any) -> OrderIntent:
    fields = {"side": "buy", "type": "market", "quantity": D("0.02"), "stop": D(1000)} | more
    return OrderIntent(client_order_id=name, symbol=BTC, **fields)


def person(url: str, side: str, qty: str, **more: Any) -> dict[str, Any]:
    return admin(url, "trades", {"symbol": BTC, "side": side, "qty": qty, **more})


@pytest.mark.parametrize("code", ["429", "-1", "10016", "40004"])
async def test_any_code_is_answered_in_bybits_envelope_and_nothing_is_done(venue, url, code):
    fault(url, "refuse", "order/create", code=code)
    with pytest.raises(TradingError, match=f"answered {code} "):
        await venue.submit(entry(f"refused{code}"))
    assert state(url)["positions"] == []
    assert (await venue.submit(entry(f"refused{code}"))).status is OrderStatus.FILLED


async def test_the_next_executions_are_listed_late_by_the_venues_clock(venue, url):
    begun = await venue.now()
    await venue.submit(entry("early"))
    fault(url, "late_fills", seconds=5, times=2)
    for name in ("late-1", "late-2", "punctual"):
        await venue.submit(entry(name))
    assert [fill.client_order_id for fill in await venue.fills(BTC, begun)] == ["early", "punctual"]
    assert (await venue.find_order(BTC, "late-1")).filled == D("0.02")
    assert (await venue.positions())[0].quantity == D("0.08")
    await asyncio.to_thread(advance, url, 4)
    assert len(await venue.fills(BTC, begun)) == 2
    await asyncio.to_thread(advance, url, 1)
    assert len(await venue.fills(BTC, begun)) == 4
    assert admin(url, "faults")["faults"] == []


async def test_the_fill_of_a_stop_is_late_too_and_told_once_the_faults_are_cleared(venue, url):
    begun, price = await venue.now(), D(state(url)["prices"][BTC])
    await venue.submit(entry("to-be-stopped", stop=(price * D("0.9995")).quantize(D("0.1"))))
    fault(url, "late_fills", seconds=10**6)
    while await venue.positions():
        await asyncio.to_thread(advance, url, 300)
    assert [fill.reason for fill in await venue.fills(BTC, begun)] == [""]
    admin(url, "faults", method="DELETE")
    assert [fill.reason for fill in await venue.fills(BTC, begun)] == ["", "stop"]


async def test_an_order_is_found_late_while_its_execution_is_told(venue, url):
    begun = await venue.now()
    fault(url, "late_orders", seconds=60)
    await venue.submit(entry("late-order"))
    assert await venue.find_order(BTC, "late-order") is None
    assert [fill.client_order_id for fill in await venue.fills(BTC, begun)] == ["late-order"]
    await asyncio.to_thread(advance, url, 60)
    assert (await venue.find_order(BTC, "late-order")).status is OrderStatus.FILLED


async def test_positions_are_listed_as_they_were(venue, url):
    await venue.submit(entry("stale-1"))
    await asyncio.to_thread(advance, url, 10)
    await venue.submit(entry("stale-2", stop=D(2000)))
    fault(url, "stale_positions", seconds=5, times=2)
    assert [(p.quantity, p.stop) for p in await venue.positions()] == [(D("0.02"), D(1000))]
    await asyncio.to_thread(advance, url, 5)
    assert [(p.quantity, p.stop) for p in await venue.positions()] == [(D("0.04"), D(2000))]
    assert admin(url, "faults")["faults"] == []


async def test_a_position_that_closed_just_now_is_still_listed_where_the_list_is_stale(venue, url):
    await venue.submit(entry("gone-1"))
    await asyncio.to_thread(advance, url, 60)
    await venue.submit(entry("gone-2", side="sell", stop=None, reduce_only=True))
    fault(url, "stale_positions", seconds=5)
    assert [p.quantity for p in await venue.positions()] == [D("0.02")]
    assert await venue.positions() == []


async def test_a_person_opens_adds_and_reduces_without_an_id_of_ours(venue, url):
    begun = await venue.now()
    person(url, "buy", "0.01", stop="1000")
    await venue.submit(entry("ours"))
    assert person(url, "sell", "0.005", reduce_only=True)["orderLinkId"] == ""
    assert [(p.quantity, p.stop) for p in await venue.positions()] == [(D("0.025"), D(1000))]
    fills = await venue.fills(BTC, begun)
    assert [(f.client_order_id, f.side, f.reason) for f in fills] == [
        ("", "buy", ""), ("ours", "buy", ""), ("", "sell", ""),
    ]  # fmt: skip


def test_a_persons_limit_rests_and_what_the_venue_refuses_is_said(url):
    assert person(url, "buy", "0.01", price="10000")["resting"]
    refused = httpx.post(f"{url}/__admin/trades", json={"symbol": BTC, "side": "sell", "qty": "1", "reduce_only": True})
    assert (refused.status_code, refused.json()["error"]) == (400, "trade refused: no_position")


# --- the venue's own rules -----------------------------------------------------------------------------------------


def ticker(url: str) -> dict[str, str]:
    answer = httpx.get(f"{url}/v5/market/tickers", params={"category": "linear", "symbol": "BTCUSDT"})
    return answer.json()["result"]["list"][0]


async def test_stops_fire_by_the_last_price_and_the_mark_alone_moves_pnl(venue, url):
    price = D(state(url)["prices"][BTC])
    await venue.submit(entry("marked", stop=(price * D("0.99")).quantize(D("0.1"))))
    before = D(state(url)["equity"])
    fault(url, "mark_offset", bps="-200")
    told, now = ticker(url), state(url)
    assert D(told["markPrice"]) == (D(told["lastPrice"]) * D("0.98")).quantize(D("0.1"))
    assert D(now["equity"]) - before == pytest.approx(D("-0.02") * price * D("0.02"), abs=D("0.01"))
    assert D(now["prices"][BTC]) == D(told["lastPrice"])
    await asyncio.to_thread(advance, url, 1)
    assert len(await venue.positions()) == 1
    admin(url, "faults", method="DELETE")
    assert ticker(url)["markPrice"] == ticker(url)["lastPrice"]


async def test_a_position_is_liquidated_by_the_mark_alone():
    with running_sandbox(symbols=(BTC,), start=START, stepped=True, seed=3) as url:
        person(url, "buy", "1")
        price = D(state(url)["prices"][BTC])
        fault(url, "mark_offset", bps="-1500")
        await asyncio.to_thread(advance, url, 60)
        assert state(url)["positions"] == []
        closing = state(url)["fills"][-1]
        assert closing["reason"] == "liquidation"
        assert D(closing["price"]) == pytest.approx(price, rel=D("0.02"))


@pytest.mark.parametrize(
    ("side", "factor", "offset", "code"),
    [("buy", "1.06", "0", "30208"), ("sell", "0.94", "0", "30209"), ("buy", "", "-600", "30208")],
    ids=["a buy above", "a sell below", "at market, where the mark is far below"],
)
async def test_an_order_priced_too_far_from_the_mark_is_refused(venue, url, side, factor, offset, code):
    fault(url, "mark_offset", bps=offset)
    price = (D(ticker(url)["lastPrice"]) * D(factor)).quantize(D("0.1")) if factor else None
    with pytest.raises(OrderRejected, match=code):
        await venue.submit(entry("far", side=side, stop=None, type="limit" if factor else "market", price=price))
    assert "far" not in [order["orderLinkId"] for order in state(url)["orders"]]


async def test_the_largest_order_is_told_and_nothing_larger_is_taken(venue, url):
    most = (await venue.instrument(BTC)).max_quantity
    assert most == 500
    with pytest.raises(OrderRejected, match=r"10001 .*exceeds maximum limit"):
        await venue.submit(entry("large", quantity=most + D("0.001")))


async def test_a_position_beyond_what_its_leverage_allows_is_refused():
    config = {"symbols": (BTC,), "start": START, "stepped": True, "seed": 3, "risk_limit": D(100)}
    with running_sandbox(**config) as url:
        connected = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))  # at leverage 3: 3,333
        await connected.submit(entry("within"))
        with pytest.raises(OrderRejected, match="110090"):
            await connected.submit(entry("beyond", quantity=D("0.04")))
        await connected.submit(entry("less", side="sell", stop=None, reduce_only=True))
        await connected.close()


async def test_an_unfilled_cancelled_order_is_forgotten_after_a_day_and_a_filled_one_is_not(venue, url):
    price = (D(ticker(url)["lastPrice"]) * D("0.9")).quantize(D("0.1"))
    await venue.submit(entry("unfilled", type="limit", price=price))
    await venue.cancel(BTC, "unfilled")
    await venue.submit(entry("filled"))
    await asyncio.to_thread(advance, url, 24 * 3600)
    assert (await venue.find_order(BTC, "unfilled")).status is OrderStatus.CANCELLED
    await asyncio.to_thread(advance, url, 1)
    assert await venue.find_order(BTC, "unfilled") is None
    assert (await venue.find_order(BTC, "filled")).status is OrderStatus.FILLED


async def test_a_stop_that_finds_room_for_half_goes_on_until_all_is_closed(venue, url):
    begun, price = await venue.now(), D(state(url)["prices"][BTC])
    await venue.submit(entry("halved", stop=(price * D("0.9995")).quantize(D("0.1"))))
    fault(url, "partial_stop")
    sizes = [D("0.02")]
    while sizes[-1]:
        await asyncio.to_thread(advance, url, 5)
        held = D(next((p["size"] for p in state(url)["positions"]), "0"))
        sizes += [held] if held != sizes[-1] else []
    assert sizes == [D("0.02"), D("0.01"), 0]
    assert [(f.reason, f.quantity) for f in await venue.fills(BTC, begun)][1:] == [("stop", D("0.01"))] * 2


async def test_a_rejected_order_that_filled_in_part_is_an_order_with_a_fill(venue, url):
    fault(url, "partial_fill", "order/create")
    fault(url, "told_orders", row={"orderStatus": "Rejected", "rejectReason": "EC_NoEnoughQtyToFill"})
    order = await venue.submit(entry("rejected"))
    assert (order.status, order.filled) == (OrderStatus.CANCELLED, D("0.01"))
    assert len(await venue.positions()) == 1


@pytest.mark.parametrize("kind", ["Delivery", "Settle", "CorporateAction", "MovePosition"])
async def test_rows_that_are_no_trade_come_on_demand(venue, url, kind):
    begun = await venue.now()
    fault(url, "told_fills", row={"execType": kind})
    person(url, "buy", "0.01")
    assert [fill.reason for fill in await venue.fills(BTC, begun)] == [kind]


async def test_fees_in_another_coin_are_valued_where_the_venue_lists_it():
    with running_sandbox(symbols=(BTC, "MNT/USDT"), start=START, stepped=True, seed=3) as url:
        connected = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))
        begun = await connected.now()
        fault(url, "told_fills", times=2, row={"feeCurrency": "MNT", "execFee": "0.5"})
        await connected.submit(entry("in-mnt"))
        price = httpx.get(f"{url}/v5/market/kline?category=spot&symbol=MNTUSDT&interval=1&limit=1").json()
        (fill,) = await connected.fills(BTC, begun)
        assert (fill.fee, fill.fee_currency) == (D("0.5") * D(price["result"]["list"][0][1]), "USDT")
        await asyncio.to_thread(advance, url, 300)
        assert await connected.fills(BTC, begun) == [fill]
        await connected.close()


async def test_the_account_says_that_its_fees_are_taken_in_another_coin(venue, url):
    ask = venue.market.client.private_get_v5_account_user_setting_config
    fault(url, "fee_coin")
    assert [(await ask({}))["result"]["fmsef"] for _ in range(2)] == [True, False]
