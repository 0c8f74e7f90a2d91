"""The fault bench through the real client: what each kind does, and that an order survives it as itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from typing import Any

import httpx
import pytest
from sandbox_server import admin, advance, fault, running_sandbox, state

from infra.sandbox.config import SandboxConfig
from infra.sandbox.exchange import Exchange
from infra.sandbox.market import order_book
from infra.sandbox.market.crash import Crash
from infra.sandbox.server import parse
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.errors import DuplicateOrder, InputError, OrderRejected, VenueUnavailable
from tasks.core.types.orders import OrderIntent, OrderStatus
from tasks.settings import load

BTC = "BTC/USDT:USDT"
OK = '200 {"retCode":0'
START = datetime(2025, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def url() -> Iterator[str]:
    with running_sandbox(symbols=(BTC,), start=START, stepped=True, seed=3) as running:
        yield running


@pytest.fixture
async def venue(url: str) -> AsyncIterator[CcxtVenue]:
    connected = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))
    await connected.now()
    yield connected
    await connected.close()


def entry(name: str = "qd-1", **more: Any) -> OrderIntent:
    fields = {"side": "buy", "type": "market", "quantity": D("0.02"), "stop": D(1000)} | more
    return OrderIntent(client_order_id=name, symbol=BTC, **fields)


def sent(url: str) -> list[str]:
    return [order["orderLinkId"] for order in state(url)["orders"] if order["orderLinkId"]]


async def test_a_request_delivered_twice_orders_once_and_is_answered_as_a_duplicate(venue, url):
    fault(url, "duplicate", "order/create")
    with pytest.raises(DuplicateOrder):
        await venue.submit(entry())
    assert sent(url) == ["qd-1"]
    assert (await venue.find_order(BTC, "qd-1")).status is OrderStatus.FILLED


async def test_a_late_order_arrives_after_a_look_up_that_did_not_find_it(venue, url):
    fault(url, "late", "order/create", seconds=0.3)
    with pytest.raises(VenueUnavailable):
        await venue.submit(entry())
    assert await venue.find_order(BTC, "qd-1") is None
    for _ in range(100):
        if sent(url):
            break
        await asyncio.sleep(0.1)
    with pytest.raises(DuplicateOrder):
        await venue.submit(entry())
    assert sent(url) == ["qd-1"]


async def test_an_answer_comes_after_that_of_a_later_request(venue, url):
    fault(url, "reorder", "position/list", seconds=60)
    order: list[str] = []

    async def ask(what: str, asking: Any) -> None:
        await asking
        order.append(what)

    first = asyncio.create_task(ask("positions", venue.positions()))
    while admin(url, "faults")["faults"]:
        await asyncio.sleep(0.01)
    await asyncio.gather(first, ask("balance", venue.balance()))
    assert order == ["balance", "positions"]


async def test_a_clock_that_is_ahead_refuses_our_signature_and_says_its_time(venue, url):
    fault(url, "clock_skew", "market/time", seconds=90)
    assert await venue.now() == START + timedelta(seconds=90)
    fault(url, "clock_skew", "order/create")
    with pytest.raises(VenueUnavailable, match="10002"):
        await venue.submit(entry())
    assert sent(url) == []
    assert (await venue.submit(entry())).status is OrderStatus.FILLED


async def test_a_ban_answers_403_to_everything_until_it_is_over(venue, url):
    fault(url, "ban", "order/create", seconds=3600)
    with pytest.raises(VenueUnavailable, match="10006"):
        await venue.submit(entry())
    assert httpx.get(f"{url}/v5/market/time").status_code == 403
    admin(url, "faults", method="DELETE")
    assert (await venue.submit(entry())).status is OrderStatus.FILLED


async def test_a_delisted_symbol_can_be_closed_and_not_opened(venue, url):
    await venue.submit(entry())
    fault(url, "delisting", "order/create", times=2)
    with pytest.raises(OrderRejected, match="110042"):
        await venue.submit(entry("qd-2"))
    await venue.submit(entry("qd-3", side="sell", reduce_only=True, stop=None))
    assert state(url)["positions"] == []
    fault(url, "delisting", "instruments-info")
    listed = httpx.get(f"{url}/v5/market/instruments-info?category=linear").json()
    assert listed["result"]["list"] == []


async def test_a_position_in_a_symbol_that_is_listed_no_more_is_still_seen(venue, url):
    await venue.submit(entry())
    await venue.close()
    fault(url, "delisting", "instruments-info", times=5)
    after_a_restart = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))
    [position] = await after_a_restart.positions()
    await after_a_restart.close()
    assert (position.symbol, position.stop) == (BTC, D(1000))


async def test_a_rejected_stop_can_be_set_once_the_venue_takes_it(venue, url):
    fault(url, "reject_stop", "order/create")
    await venue.submit(entry())
    fault(url, "reject_stop", "trading-stop")
    with pytest.raises(OrderRejected):
        await venue.set_protection(BTC, D(1000), None)
    await venue.set_protection(BTC, D(1000), None)
    assert state(url)["positions"][0]["stopLoss"] == "1000"


@pytest.mark.parametrize("kind", ["market", "limit"])
async def test_half_of_an_order_fills_and_the_venue_cancels_the_rest(venue, url, kind):
    price = D(state(url)["prices"][BTC]).quantize(D(1)) * D("1.01")
    fault(url, "partial_fill_cancel", "order/create")
    order = await venue.submit(entry(type=kind, price=price.quantize(D(1)) if kind == "limit" else None))
    assert (order.status, order.filled) == (OrderStatus.CANCELLED, D("0.01"))
    assert state(url)["positions"][0]["stopLoss"] == "1000"


async def test_insufficient_margin_is_a_refusal_that_leaves_nothing(venue, url):
    fault(url, "insufficient_margin", "order/create")
    with pytest.raises(OrderRejected, match="110007"):
        await venue.submit(entry())
    assert sent(url) == []


async def test_a_liquidation_closes_the_position_and_its_fill_says_so(venue, url):
    await venue.submit(entry())
    fault(url, "liquidation", "position/list")
    assert await venue.positions() == []
    fills = {fill.client_order_id: (fill.side, fill.reason) for fill in await venue.fills(BTC, START)}
    assert fills == {"qd-1": ("buy", ""), "": ("sell", "liquidation")}


async def test_thirty_percent_of_requests_fail_the_same_way_for_the_same_seed(url):
    def outcomes(seed: int) -> list[str]:
        fault(url, "somehow", "market/time", times=1000, share=0.3, seed=seed)
        found = []
        with httpx.Client(base_url=url) as client:
            found += [_outcome(client) for _ in range(60)]
        admin(url, "faults", method="DELETE")
        return found

    first = outcomes(1)
    assert first == outcomes(1) != outcomes(2)
    assert 5 < sum(what != OK for what in first) < 40


def test_a_share_that_is_none_is_refused(url):
    refused = httpx.post(f"{url}/__admin/faults", json={"kind": "somehow", "share": 0})
    assert (refused.status_code, "share is 0" in refused.text) == (400, True)


# --- the crash ----------------------------------------------------------------------------------------------------


def test_a_crash_takes_forty_percent_in_an_hour_and_gives_most_of_it_back():
    config = SandboxConfig(symbols=(BTC,), start=START, stepped=True, crash=Crash(START + timedelta(hours=1)))
    ex = Exchange(config)
    before = float(ex.price(BTC))
    spread = _spread(ex)
    ex.clock.step(3_600_000 + 1000)
    ex.catch_up()
    assert float(ex.price(BTC)) < 0.9 * before
    assert _spread(ex) > 10 * spread
    ex.clock.step(3_600_000)
    ex.catch_up()
    assert 0.55 * before < float(ex.price(BTC)) < 0.65 * before
    assert not ex.markets[BTC].candles.crashing(ex.now_ms)
    ex.clock.step(6 * 3_600_000)
    ex.catch_up()
    assert float(ex.price(BTC)) > 0.85 * before


def _spread(ex: Exchange) -> float:
    return order_book.conditions(ex.markets[BTC], ex.now_ms).half_spread_bps


async def test_in_a_crash_requests_fail_and_a_stop_pays_the_gap_and_the_spread():
    with running_sandbox(symbols=(BTC,), start=START, stepped=True, crash=Crash(START + timedelta(minutes=5))) as url:
        venue = connect(load(profile="sandbox", sandbox_url=url, symbols=(BTC,)))
        price = D(state(url)["prices"][BTC])
        stop = (price * D("0.995")).quantize(D("0.1"))
        await venue.submit(entry(stop=stop))
        await venue.close()
        advance(url, 301)
        [closing] = [fill for fill in state(url)["fills"] if fill["reason"] == "stop"]
        assert D(closing["price"]) < price * D("0.9")
        with httpx.Client(base_url=url) as client:
            outcomes = [_outcome(client) for _ in range(100)]
        assert 10 < sum(what != OK for what in outcomes) < 60


def _outcome(client: httpx.Client) -> str:
    try:
        answer = client.get("/v5/market/time")
    except httpx.TransportError as e:
        return type(e).__name__
    return f"{answer.status_code} {answer.text[:12]}"


def test_a_crash_begins_an_hour_after_the_start():
    config = parse(["--scenario", "crash", "--start", START.isoformat(), "--stepped"])
    assert config.crash == Crash(START + timedelta(hours=1))


@pytest.mark.parametrize("more", [["--state", "s.json"], ["--candles", "BTC/USDT:USDT=x.csv"]])
def test_a_crash_that_would_make_no_sense_is_refused(more):
    with pytest.raises(InputError, match="--scenario"):
        parse(["--scenario", "crash", *more]).traded()
