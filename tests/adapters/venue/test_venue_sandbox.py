"""The ccxt venue on the sandbox exchange over HTTP: the venue contract, and what the fault bench does to an order."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sandbox_server import admin, advance, fault, running_sandbox, state
from venue_contract import CHECKS

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue
from tasks.adapters.venue.ccxt_venue import connect
from tasks.core.errors import DuplicateOrder, InputError, OrderRejected, VenueError, VenueUnavailable
from tasks.core.types.bars import duration, floor_time
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

BTC = "BTC/USDT:USDT"
START = datetime(2025, 6, 2, 12, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def url():
    with running_sandbox(symbols=(BTC, "BTC/USDT"), stepped=True, start=START) as running:
        yield running


@pytest.fixture
async def venue(url):
    await asyncio.to_thread(advance, url, 1)  # whatever earlier tests did is before `now`
    connected = connect(config.load(profile="sandbox", sandbox_url=url))
    yield connected
    await connected.close()
    admin(url, "faults", method="DELETE")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check, venue, url):
    async def let_pass(seconds: float) -> None:
        await asyncio.to_thread(advance, url, seconds)

    await check(venue, BTC, let_pass)


STRESS = {
    "late fills": {"kind": "late_fills", "seconds": 3},
    "late orders": {"kind": "late_orders", "seconds": 3},
    "stale positions": {"kind": "stale_positions", "seconds": 3},
    "mark off the last price": {"kind": "mark_offset", "bps": 150},
    "fees in another coin": {"kind": "told_fills", "row": {"feeCurrency": "MNT"}},
    "stops that fill in part": {"kind": "partial_stop"},
}


@pytest.mark.parametrize("named", STRESS)
async def test_the_contract_holds_under_stress(named, monkeypatch):
    monkeypatch.setattr(ccxt_venue, "LOOKS", (0.0,))  # a stepped clock stands still meanwhile
    with running_sandbox(symbols=(BTC,), stepped=True, start=START) as url:
        connected = connect(config.load(profile="sandbox", sandbox_url=url))
        fault(url, **STRESS[named], times=10**6)

        async def let_pass(seconds: float) -> None:
            await asyncio.to_thread(advance, url, seconds)

        for check in CHECKS:
            try:
                await check(connected, BTC, let_pass)
            except BaseException as e:
                e.add_note(f"in {check.__name__}")
                raise
            await let_pass(4)  # what came of it is told by then
        await connected.close()


def entry(client_order_id: str, **changes: object) -> OrderIntent:
    fields: dict[str, object] = {"symbol": BTC, "side": "buy", "type": OrderType.MARKET, "quantity": Decimal("0.010")}
    return OrderIntent(client_order_id=client_order_id, **fields | changes)


async def flatten(venue, client_order_id: str) -> None:
    for position in await venue.positions():
        side = "sell" if position.side == "long" else "buy"
        await venue.submit(entry(client_order_id, side=side, quantity=position.quantity, reduce_only=True))
    assert await venue.positions() == []


async def test_an_order_whose_answer_was_lost_is_found_and_not_sent_twice(venue, url):
    fault(url, "timeout_after_accept", "/v5/order/create")
    with pytest.raises(VenueUnavailable):
        await venue.submit(entry("lost-1"))
    found = await venue.find_order(BTC, "lost-1")
    assert found.status is OrderStatus.FILLED
    with pytest.raises(DuplicateOrder):
        await venue.submit(entry("lost-1"))
    assert [order["orderLinkId"] for order in state(url)["orders"]].count("lost-1") == 1
    await flatten(venue, "lost-2")


@pytest.mark.parametrize("kind", ["drop", "http_500", "rate_limit", "html"])
async def test_an_order_that_never_arrived_is_not_found_and_may_be_sent_again(venue, url, kind):
    fault(url, kind, "/v5/order/create")
    with pytest.raises(VenueUnavailable):
        await venue.submit(entry(f"unsent-{kind}"))
    assert await venue.find_order(BTC, f"unsent-{kind}") is None
    assert (await venue.submit(entry(f"unsent-{kind}"))).status is OrderStatus.FILLED
    await flatten(venue, f"unsent-{kind}-x")


@pytest.mark.parametrize("path", ["/v5/order/realtime", "/v5/order/history"])
@pytest.mark.parametrize("kind", ["drop", "http_500", "rate_limit", "html"])
async def test_a_look_up_that_fails_never_says_there_is_no_order(venue, url, kind, path):
    fault(url, kind, path, times=2)  # a GET whose connection drops is sent once more by aiohttp, a POST never
    with pytest.raises(VenueUnavailable):
        await venue.find_order(BTC, "nobody-sent-this")


@pytest.mark.parametrize("kind", ["drop", "http_500", "rate_limit", "html", "timeout_after_accept"])
async def test_bars_that_do_not_come_are_an_unavailable_venue(venue, url, kind):
    now = await venue.now()
    fault(url, kind, "/v5/market/kline", times=2)
    with pytest.raises(VenueUnavailable):
        await venue.fetch_bars(BTC, "5m", now.replace(hour=0), now)


async def test_a_slow_venue_runs_into_the_timeout(venue, url):
    await venue.instrument(BTC)
    venue.market.client.timeout = 100
    fault(url, "latency", "/v5/position/list", seconds=0.4)
    with pytest.raises(VenueUnavailable, match="RequestTimeout"):
        await venue.positions()


async def test_a_stop_the_venue_did_not_take_is_seen_to_be_missing(venue, url):
    price = (await venue.fetch_book(BTC)).bids[0][0] // 1
    fault(url, "reject_stop", "/v5/order/create")
    await venue.submit(entry("naked-1", stop=price - 500))
    (position,) = await venue.positions()
    assert position.stop is None
    fault(url, "reject_stop", "/v5/position/trading-stop")
    with pytest.raises(OrderRejected):
        await venue.set_protection(BTC, price - 500, None)
    await venue.set_protection(BTC, price - 500, None)
    assert (await venue.positions())[0].stop == price - 500
    await flatten(venue, "naked-2")


async def test_a_market_order_filled_in_part_says_how_much(venue, url):
    fault(url, "partial_fill", "/v5/order/create")
    order = await venue.submit(entry("part-1"))
    (position,) = await venue.positions()
    assert order.filled == position.quantity == Decimal("0.005")
    assert order.status is OrderStatus.CANCELLED
    await flatten(venue, "part-2")


async def test_a_stop_that_fires_is_a_fill_of_the_venues_with_its_reason(venue, url):
    started = await venue.now()
    stop = (await venue.fetch_book(BTC)).bids[-1][0]
    await venue.submit(entry("stopped-1", stop=stop))
    for _ in range(200):
        await asyncio.to_thread(advance, url, 300)
        if not await venue.positions():
            break
    fills = [f for f in await venue.fills(BTC, started) if f.reason != "funding"]
    assert [(f.client_order_id, f.reason, f.side) for f in fills] == [("stopped-1", "", "buy"), ("", "stop", "sell")]
    assert fills[1].price <= stop
    assert await venue.open_orders(BTC) == []


async def test_a_stop_beside_a_persons_part_closes_ours_and_leaves_theirs(venue, url):
    started = await venue.now()
    await venue.submit(entry("shared-1", stop=(await venue.fetch_book(BTC)).bids[0][0] // 2))
    await asyncio.to_thread(admin, url, "trades", {"symbol": BTC, "side": "buy", "qty": "0.004"})
    stop = (await venue.fetch_book(BTC)).bids[-1][0]
    await venue.set_protection(BTC, stop, None, Decimal("0.010"))
    (held,) = await venue.positions()
    assert (held.quantity, held.stop, held.stop_quantity) == (Decimal("0.014"), stop, Decimal("0.010"))
    for _ in range(200):
        await asyncio.to_thread(advance, url, 300)
        (held,) = await venue.positions()
        if held.stop is None:
            break
    assert held.quantity == Decimal("0.004")
    stopped = [(f.quantity, f.side) for f in await venue.fills(BTC, started) if f.reason == "stop"]
    assert stopped == [(Decimal("0.010"), "sell")]
    await flatten(venue, "shared-2")


async def test_funding_is_a_payment_and_moves_no_quantity(venue, url):
    started = await venue.now()
    await venue.submit(entry("funded-1"))
    await asyncio.to_thread(advance, url, 8 * 3600)
    (funding,) = [f for f in await venue.fills(BTC, started) if f.reason == "funding"]
    assert funding.quantity == 0
    assert funding.fee != 0
    assert (await venue.positions())[0].quantity == Decimal("0.010")
    await flatten(venue, "funded-2")


async def test_more_fills_than_a_page_holds_are_all_read_once(venue, url):
    started = await venue.now()
    before = (await venue.balance()).equity
    for n in range(60):
        await venue.submit(entry(f"many-{n}", quantity=Decimal("0.001")))
        await venue.submit(entry(f"many-{n}-x", quantity=Decimal("0.001"), side="sell", reduce_only=True))
    fills = await venue.fills(BTC, started)
    assert len({fill.fill_id for fill in fills}) == len(fills) == 120
    assert [fill.at for fill in fills] == sorted(fill.at for fill in fills)
    earned = sum(f.quantity * f.price * (1 if f.side == "sell" else -1) - f.fee for f in fills)
    assert (await venue.balance()).equity - before == earned


@pytest.mark.parametrize("timeframe", ["1m", "5m", "15m", "30m", "1h", "4h", "1d"])
async def test_every_timeframe_has_its_closed_bars(venue, timeframe):
    now = await venue.now()
    last = floor_time(now, timeframe) - duration(timeframe)
    bars = await venue.fetch_bars(BTC, timeframe, last - 149 * duration(timeframe), now)
    assert len(bars) == 150
    assert bars.index[-1] == last


async def test_a_wrong_key_names_the_variable(url, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_SANDBOX_KEY", "another")
    stranger = connect(config.load(profile="sandbox", sandbox_url=url))
    with pytest.raises(VenueError, match="check the key in QUARTERDECK_SANDBOX_KEY"):
        await stranger.balance()
    await stranger.close()


# --- spot ---------------------------------------------------------------------------------------------------------

SPOT = "BTC/USDT"


@pytest.fixture
async def spot(url):
    await asyncio.to_thread(advance, url, 1)
    connected = connect(config.load(profile="sandbox", sandbox_url=url, symbols=(SPOT,)))
    yield connected
    await connected.close()
    admin(url, "faults", method="DELETE")


def stops(url: str) -> list[tuple[Decimal, Decimal]]:
    """Return trigger and quantity of every stop that rests at the sandbox."""
    resting = [order for order in state(url)["orders"] if order["resting"] and order["type"] == "stop"]
    return [(Decimal(order["price"]), Decimal(order["qty"])) for order in resting]


async def test_spot_is_bought_its_stop_rests_as_an_order_and_goes_with_the_coins(spot, url):
    assert not spot.attaches_protection
    before = await spot.balance()
    order = await spot.submit(entry("spot-in", symbol=SPOT, stop=Decimal(1), target=Decimal(10**6)))
    assert (order.status, order.filled) == (OrderStatus.FILLED, Decimal("0.010"))
    (held,) = await spot.positions()
    assert (held.symbol, held.side, held.quantity) == (SPOT, "long", Decimal("0.010"))
    assert (held.avg_price, held.stop, held.target) == (order.avg_price, None, None)
    assert before.equity - (await spot.balance()).equity < 5  # the coins count
    price = (await spot.fetch_book(SPOT)).bids[0][0] // 1
    await spot.set_protection(SPOT, price - 500, None)
    await spot.set_protection(SPOT, price - 500, price * 2)  # again is no error; the target is not the venue's
    assert stops(url) == [(price - 500, Decimal("0.010"))]
    tighter = entry("spot-stop", symbol=SPOT, side="sell", type=OrderType.STOP, price=price - 400)
    await spot.submit(tighter)
    await spot.submit(tighter)
    assert (await spot.positions())[0].stop == price - 400
    assert [order.client_order_id for order in await spot.open_orders(SPOT)] == ["spot-stop"]
    await spot.submit(entry("spot-out", symbol=SPOT, side="sell", reduce_only=True))
    assert await spot.positions() == []
    assert await spot.open_orders(SPOT) == []
    fills = await spot.fills(SPOT, order.created_at)
    assert [(f.side, f.symbol) for f in fills] == [("buy", SPOT), ("sell", SPOT)]


async def test_a_spot_stop_is_as_large_as_what_is_held_after_every_trade(spot, url):
    await spot.submit(entry("fit-in", symbol=SPOT, quantity=Decimal("0.010")))
    price = (await spot.fetch_book(SPOT)).bids[0][0] // 1
    await spot.set_protection(SPOT, price - 500, None)
    await spot.submit(entry("fit-trim", symbol=SPOT, side="sell", quantity=Decimal("0.004")))
    assert [quantity for _, quantity in stops(url)] == [Decimal("0.006")]
    await spot.submit(entry("fit-add", symbol=SPOT, quantity=Decimal("0.002")))
    assert [quantity for _, quantity in stops(url)] == [Decimal("0.008")]
    await spot.set_protection(SPOT, Decimal(0), None)
    assert stops(url) == []
    assert (await spot.positions())[0].stop is None
    await spot.submit(entry("fit-out", symbol=SPOT, side="sell", quantity=Decimal("0.008")))
    assert await spot.positions() == []


async def test_a_spot_stop_that_fires_sells_the_coins(spot, url):
    started = await spot.now()
    await spot.submit(entry("fire-in", symbol=SPOT))
    await spot.set_protection(SPOT, (await spot.fetch_book(SPOT)).bids[5][0], None)
    for _ in range(200):
        await asyncio.to_thread(advance, url, 300)
        if not await spot.positions():
            break
    fills = await spot.fills(SPOT, started)
    assert [(f.side, f.reason) for f in fills] == [("buy", ""), ("sell", "stop")]


async def test_a_spot_stop_above_the_market_or_without_coins_is_refused(spot, url):
    price = (await spot.fetch_book(SPOT)).asks[0][0] // 1
    with pytest.raises(OrderRejected, match="nothing of it is held"):
        await spot.set_protection(SPOT, price - 500, None)
    await spot.submit(entry("above-in", symbol=SPOT))
    with pytest.raises(OrderRejected, match="must be below the best bid"):
        await spot.set_protection(SPOT, price + 500, None)
    await spot.submit(entry("above-out", symbol=SPOT, side="sell"))


async def test_spot_limits_rest_and_are_cancelled_and_nothing_is_sold_short(spot, url):
    price = (await spot.fetch_book(SPOT)).bids[0][0] * Decimal("0.9") // 1
    await spot.submit(entry("spot-limit", symbol=SPOT, type=OrderType.LIMIT, price=price))
    assert [o.client_order_id for o in await spot.open_orders(SPOT)] == ["spot-limit"]
    await spot.cancel(SPOT, "spot-limit")
    await spot.cancel(SPOT, "spot-limit")
    assert await spot.open_orders(SPOT) == []
    with pytest.raises(OrderRejected):
        await spot.submit(entry("spot-short", symbol=SPOT, side="sell"))


async def test_a_spot_stop_whose_answer_was_lost_is_seen_and_not_placed_twice(spot, url):
    await spot.submit(entry("lost-in", symbol=SPOT))
    price = (await spot.fetch_book(SPOT)).bids[0][0] // 1
    fault(url, "timeout_after_accept", "/v5/order/create")
    with pytest.raises(VenueUnavailable):
        await spot.set_protection(SPOT, price - 500, None)
    assert (await spot.positions())[0].stop == price - 500
    await spot.set_protection(SPOT, price - 500, None)
    assert len(stops(url)) == 1
    await spot.submit(entry("lost-out", symbol=SPOT, side="sell"))


# --- leverage -----------------------------------------------------------------------------------------------------


async def test_the_first_entry_sets_the_leverage_of_the_limits(venue, url):
    await venue.submit(entry("levered-1"))
    leverage = await venue.account.leverage(BTC, InputError)
    assert leverage == 3
    assert await venue.account.margin_mode() == "REGULAR_MARGIN"
    await flatten(venue, "levered-2")
