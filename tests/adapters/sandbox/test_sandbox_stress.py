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
from tasks.core.errors import TradingError
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
