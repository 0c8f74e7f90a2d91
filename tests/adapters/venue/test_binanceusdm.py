"""Binance USDⓈ-M's dialect against a scripted server: an order's life on the wire, and its traps."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl

import pytest
from proof import KEYS
from venue_stub import NOW_MS, Asked, Stub, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.errors import OrderRejected, VenueBusy, VenueUnavailable
from tasks.core.types.limits import Limits
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

ETH = "ETH/USDT:USDT"
BTC, ID, STOP_ID = "BTC/USDT:USDT", "dec00123456789abcdef0123456789ab", "dec0" + "7" * 28
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
ORDER, OPEN, ALGO, ALGOS, ALL_ALGOS, FILLS, LEVERAGE = (
    f"/fapi/v1/{name}"
    for name in ("order", "openOrders", "algoOrder", "openAlgoOrders", "allAlgoOrders", "userTrades", "leverage")
)
POSITIONS, ACCOUNT, DUAL = "/fapi/v3/positionRisk", "/fapi/v3/account", "/fapi/v1/positionSide/dual"
MARKET = {
    "symbol": "BTCUSDT", "pair": "BTCUSDT", "contractType": "PERPETUAL", "status": "TRADING", "baseAsset": "BTC",
    "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 2, "quantityPrecision": 3,
    "orderTypes": ["LIMIT", "MARKET", "STOP_MARKET", "TAKE_PROFIT_MARKET"],
    "filters": [
        {"filterType": "PRICE_FILTER", "minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.10"},
        {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "maxQty": "120", "stepSize": "0.001"},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
    ],
}  # fmt: skip
ROW = {
    "orderId": 71, "clientOrderId": ID, "symbol": "BTCUSDT", "side": "BUY", "positionSide": "BOTH", "type": "MARKET",
    "origType": "MARKET", "status": "FILLED", "origQty": "0.300", "executedQty": "0.300", "avgPrice": "87012.30",
    "price": "0", "stopPrice": "0", "reduceOnly": False, "closePosition": False, "timeInForce": "GTC",
    "cumQuote": "26103.69", "time": NOW_MS - 900, "updateTime": NOW_MS - 800,
}  # fmt: skip
RESTING = {
    "algoId": 2001, "clientAlgoId": STOP_ID, "algoType": "CONDITIONAL", "orderType": "STOP_MARKET", "price": "0.00",
    "symbol": "BTCUSDT", "side": "SELL", "positionSide": "BOTH", "timeInForce": "GTC", "quantity": "0.300",
    "algoStatus": "NEW", "triggerPrice": "86000.00", "workingType": "CONTRACT_PRICE", "reduceOnly": True,
    "closePosition": False, "actualOrderId": "", "createTime": NOW_MS - 700, "updateTime": NOW_MS - 700,
}  # fmt: skip
HELD = {
    "symbol": "BTCUSDT", "positionSide": "BOTH", "positionAmt": "0.300", "entryPrice": "87012.3", "notional": "26100",
    "markPrice": "87000", "unRealizedProfit": "-3", "liquidationPrice": "0", "isolatedMargin": "0",
}  # fmt: skip
FILL = {
    "id": 501, "orderId": 71, "symbol": "BTCUSDT", "side": "BUY", "qty": "0.300", "price": "87012.30", "maker": False,
    "commission": "10.44", "commissionAsset": "USDT", "realizedPnl": "0", "positionSide": "BOTH", "time": NOW_MS - 850,
}  # fmt: skip
USDT = {
    "asset": "USDT",
    "marginBalance": "1000.5",
    "availableBalance": "900.25",
    "initialMargin": "100",
    "updateTime": 1,
}


def rows(*listed: object):
    return lambda _: list(listed)


def error(code: int, said: str) -> tuple[int, str]:
    return 400, json.dumps({"code": code, "msg": said})


GONE = error(-2013, "Order does not exist.")


@pytest.fixture
def stub():
    with stub_venue() as running:
        running.answers = {
            "/fapi/v1/time": {"serverTime": NOW_MS}, "/fapi/v1/exchangeInfo": {"symbols": [MARKET]},
            "/fapi/v1/leverageBracket": rows({"symbol": "BTCUSDT", "brackets": [{"initialLeverage": 125}]}),
            "/fapi/v1/symbolConfig": rows({"symbol": "BTCUSDT", "leverage": 20, "marginType": "CROSSED"}),
            DUAL: {"dualSidePosition": False}, LEVERAGE: {"leverage": 3, "symbol": "BTCUSDT"},
            ACCOUNT: {"assets": [USDT]}, POSITIONS: rows(), OPEN: rows(), ALGOS: rows(), FILLS: rows(),
            ORDER: ROW, ALGO: RESTING, ALL_ALGOS: rows(),
        }  # fmt: skip
        yield running


async def opened(stub, monkeypatch, **changes) -> CcxtVenue:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(venue_module, "LOOKS", (0.0, 0.0))
    settings = config.load(
        **{"profile": "testnet", "venue": "binanceusdm", "symbols": [BTC], "limits": Limits(leverage=3)} | changes
    )
    real = client.build(settings)
    client._to_server(real, stub.url)
    real.enableRateLimit = False
    return CcxtVenue(real, settings)


@pytest.fixture
async def venue(stub, monkeypatch):
    connected = await opened(stub, monkeypatch)
    yield connected
    await connected.close()


def entry(**changes: object) -> OrderIntent:
    fields: dict[str, object] = {"client_order_id": ID, "symbol": BTC, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal("0.3")} | changes)


def sent(stub: Stub) -> list[tuple[str, str, dict[str, str]]]:
    """Return what was done, without what signs it."""
    done = [asked for asked in stub.asked if asked.method in ("POST", "DELETE")]
    return [(asked.method, asked.path, _fields(asked)) for asked in done]


def _fields(asked: Asked) -> dict[str, str]:
    signing = ("timestamp", "signature", "recvWindow")
    return {name: value for name, value in (asked.query | dict(parse_qsl(asked.raw))).items() if name not in signing}


# --- a life -------------------------------------------------------------------------------------------------------


async def test_a_life_from_the_entry_to_the_stop_out(venue, stub, monkeypatch):
    """Entry half filled, its stop set at once, read back, moved, hit; then a new process finds the entry."""
    stub.answers[ORDER] = ROW | {"status": "PARTIALLY_FILLED", "executedQty": "0.150"}
    got = await venue.submit(entry(stop=Decimal(86_000), target=Decimal(91_000)))
    assert (got.status, got.quantity, got.filled) == (OrderStatus.OPEN, Decimal("0.3"), Decimal("0.15"))
    leverage, placed = sent(stub)
    assert leverage == ("POST", LEVERAGE, {"symbol": "BTCUSDT", "leverage": "3"})
    assert placed == ("POST", ORDER, {
        "symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.3", "newClientOrderId": ID,
        "newOrderRespType": "RESULT",
    })  # fmt: skip
    assert not venue.attaches_protection  # so that `execute` refuses limits and sets the stop in the same task

    stub.answers |= {ORDER: ROW, POSITIONS: rows(HELD)}
    assert (await venue.positions())[0].stop is None
    await venue.set_protection(BTC, Decimal(86_000), Decimal(91_000), client_order_id=STOP_ID)
    assert sent(stub)[2:] == [("POST", ALGO, {
        "algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET", "quantity": "0.3",
        "triggerPrice": "86000", "reduceOnly": "true", "clientAlgoId": STOP_ID, "newOrderRespType": "RESULT",
    })]  # fmt: skip
    stub.answers[ALGOS] = rows(RESTING)
    (held,) = await venue.positions()
    assert (held.side, held.quantity, held.avg_price) == ("long", Decimal("0.3"), Decimal("87012.3"))
    assert (held.stop, held.target) == (Decimal(86_000), None)
    assert [order.type for order in await venue.open_orders(BTC)] == ["stop"]

    await venue.set_protection(BTC, Decimal(86_000), None)  # rests already
    assert len(sent(stub)) == 3
    await venue.set_protection(BTC, Decimal(86_500), None)
    rest, cancel = sent(stub)[3:]
    assert (rest[1], rest[2]["triggerPrice"]) == (ALGO, "86500")  # the new one first, then the old one goes
    assert cancel == ("DELETE", ALGO, {"symbol": "BTCUSDT", "algoId": "2001"})

    out = FILL | {"id": 502, "orderId": 72, "side": "SELL", "price": "85990", "realizedPnl": "-306", "time": NOW_MS}
    became = ROW | {"orderId": 72, "clientOrderId": "x-generated", "side": "SELL", "reduceOnly": True}
    fired = RESTING | {"algoStatus": "FINISHED", "actualOrderId": "72"}
    stub.answers |= {
        POSITIONS: rows(), ALGOS: rows(), FILLS: rows(FILL, out), ALL_ALGOS: rows(fired),
        ORDER: lambda asked: became if asked.query.get("orderId") == "72" else ROW,
    }  # fmt: skip
    await venue.close()
    again = await opened(stub, monkeypatch)
    found = await again.find_order(BTC, ID)
    assert (found.status, found.filled, found.avg_price) == (OrderStatus.FILLED, Decimal("0.3"), Decimal("87012.3"))
    bought, stopped = await again.fills(BTC, NOW - timedelta(minutes=5))
    assert (bought.client_order_id, bought.reason, bought.fee) == (ID, "", Decimal("10.44"))
    assert (stopped.client_order_id, stopped.reason, stopped.price) == (STOP_ID, "stop", Decimal(85_990))
    asked = len(stub.asked)
    await again.fills(BTC, NOW - timedelta(minutes=5))
    assert len(stub.asked) == asked + 2  # the clock and the fills: what an order was for is asked once
    assert await again.positions() == []
    await again.close()


async def test_a_limit_that_reduces_rests_is_cancelled_and_one_that_is_gone_is_fine(venue, stub):
    resting = ROW | {
        "type": "LIMIT", "origType": "LIMIT", "price": "88000.00", "side": "SELL", "status": "NEW", "executedQty": "0",
        "avgPrice": "0.00000", "cumQuote": "0", "reduceOnly": True,
    }  # fmt: skip
    stub.answers |= {ORDER: resting, OPEN: rows(resting)}
    got = await venue.submit(entry(side="sell", type=OrderType.LIMIT, price=Decimal(88_000), reduce_only=True))
    assert (got.type, got.price, got.status, got.reduce_only) == ("limit", Decimal(88_000), OrderStatus.OPEN, True)
    assert await venue.open_orders(BTC) == [got]
    await venue.cancel(BTC, ID)
    stub.answers[ORDER] = error(-2011, "Unknown order sent.")
    await venue.cancel(BTC, ID)
    assert sent(stub)[-1] == ("DELETE", ORDER, {"symbol": "BTCUSDT", "origClientOrderId": ID})


async def test_a_stop_of_ours_is_found_by_its_id_and_one_nobody_sent_is_none(venue, stub):
    stub.answers[ORDER] = GONE
    stop = await venue.find_order(BTC, STOP_ID)
    assert (stop.type, stop.price, stop.status, stop.venue_order_id) == (
        "stop", Decimal(86_000), OrderStatus.OPEN, "2001",
    )  # fmt: skip
    stub.answers[ALGO] = GONE
    assert await venue.find_order(BTC, ID) is None
    stub.answers[ALGO] = (503, "Service Unavailable")
    with pytest.raises(VenueUnavailable):
        await venue.find_order(BTC, ID)


# --- traps, some from reports about other systems ------------------------------------------------------------------


async def test_no_stop_goes_to_the_endpoint_of_plain_orders(venue, stub):
    """freqtrade/freqtrade#12610: -4120 since conditional orders have an endpoint of their own."""
    stub.answers |= {ORDER: error(-4120, "Please use the Algo Order API endpoints instead."), POSITIONS: rows(HELD)}
    await venue.set_protection(BTC, Decimal(86_000), None)
    assert [path for _, path, _ in sent(stub)] == [ALGO]


async def test_a_stop_the_venue_forgot_is_taken_away_again_while_it_is_listed(venue, stub):
    """freqtrade/freqtrade#12681: a cancel may answer -2011 for what still rests; the list is what counts."""
    old = RESTING | {"algoId": 1999, "triggerPrice": "85000.00"}
    taken = lambda asked: error(-2011, "Unknown order sent.") if asked.method == "DELETE" else RESTING  # noqa: E731
    stub.answers |= {POSITIONS: rows(HELD), ALGOS: rows(RESTING, old), ALGO: taken}
    await venue.set_protection(BTC, Decimal(86_000), None)
    await venue.set_protection(BTC, Decimal(86_000), None)
    assert [fields.get("algoId") for method, _, fields in sent(stub) if method == "DELETE"].count("1999") == 2


async def test_what_outlived_its_position_goes_before_the_next_entry(venue, stub):
    """Binance-docs/Binance_Futures_python#100: an exit stays when the position is gone."""
    orphan = RESTING | {"createTime": NOW_MS - 600_000, "updateTime": NOW_MS - 600_000}
    stub.answers[ALGOS] = rows(orphan)
    await venue.submit(entry())
    assert [(method, path) for method, path, _ in sent(stub)][1:3] == [("DELETE", ALGO), ("POST", ORDER)]


async def test_a_stop_that_would_fire_at_once_is_refused_and_a_busy_venue_is_no_refusal(venue, stub):
    stub.answers |= {POSITIONS: rows(HELD), ALGO: error(-2021, "Order would immediately trigger.")}
    with pytest.raises(OrderRejected):
        await venue.set_protection(BTC, Decimal(88_000), None)
    stub.answers[ALGO] = (429, json.dumps({"code": -1003, "msg": "Too many requests."}))
    with pytest.raises(VenueBusy):
        await venue.set_protection(BTC, Decimal(86_000), None)


@pytest.mark.parametrize("name", ["autoclose-1596107620040000020", "adl_autoclose"])
async def test_a_forced_close_is_told_by_its_client_id(venue, stub, name):
    stub.answers |= {FILLS: rows(FILL), ORDER: ROW | {"clientOrderId": name}}
    (forced,) = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (forced.reason, forced.client_order_id) == ("liquidation", "")


async def test_a_fill_whose_order_is_not_listed_yet_is_asked_about_again(venue, stub):
    stub.answers |= {FILLS: rows(FILL), ORDER: GONE}
    (unnamed,) = await venue.fills(BTC, NOW - timedelta(minutes=5))
    stub.answers[ORDER] = ROW
    (named,) = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (unnamed.client_order_id, named.client_order_id) == ("", ID)


async def test_an_order_of_another_symbol_may_have_its_number(venue, stub):
    """hummingbot/hummingbot#5056: the venue counts orders and trades of each symbol by themselves."""
    second = MARKET | {"symbol": "ETHUSDT", "pair": "ETHUSDT", "baseAsset": "ETH"}
    other = {"clientOrderId": STOP_ID, "symbol": "ETHUSDT"}
    stub.answers |= {
        "/fapi/v1/exchangeInfo": {"symbols": [MARKET, second]},
        FILLS: lambda asked: [FILL | {"symbol": asked.query["symbol"]}],
        ORDER: lambda asked: ROW | other if asked.query["symbol"] == "ETHUSDT" else ROW,
    }
    ids = [(await venue.fills(symbol, NOW - timedelta(minutes=5)))[0].client_order_id for symbol in (BTC, ETH)]
    assert ids == [ID, STOP_ID]


async def test_a_short_is_read_and_its_stop_buys(venue, stub):
    stub.answers[POSITIONS] = rows(HELD | {"positionAmt": "-0.300", "notional": "-26100"})
    assert (await venue.positions())[0].side == "short"
    await venue.set_protection(BTC, Decimal(88_000), None)
    assert sent(stub)[-1][2]["side"] == "BUY"


async def test_a_position_in_a_contract_that_is_not_listed_hides_no_other(venue, stub):
    stub.answers[POSITIONS] = rows(HELD | {"symbol": "GONEUSDT", "positionAmt": "-2"}, HELD)
    gone, ours = await venue.positions()
    assert (gone.symbol, gone.side, gone.quantity, ours.symbol) == ("GONE/USDT:USDT", "short", 2, BTC)


async def test_hedge_mode_takes_no_entry_and_the_largest_leverage_is_the_keys(venue, stub):
    assert (await venue.instrument(BTC)).max_leverage == 125
    stub.answers[DUAL] = {"dualSidePosition": True}
    with pytest.raises(OrderRejected, match="hedge mode"):
        await venue.submit(entry())
    assert not sent(stub)


async def test_multi_assets_mode_is_not_armed_and_fees_in_bnb_are_said(venue, stub):
    stub.answers |= {"/fapi/v1/multiAssetsMargin": {"multiAssetsMargin": False}, "/fapi/v1/feeBurn": {"feeBurn": True}}
    facts = await venue.account.arming()
    assert (facts.flaws, facts.margin_mode, facts.leverage) == ((), "single-asset", {BTC: Decimal(20)})
    assert "BNB" in facts.notes[0]
    stub.answers["/fapi/v1/multiAssetsMargin"] = {"multiAssetsMargin": True}
    assert "single-asset mode" in (await venue.account.arming()).flaws[0]


async def test_a_live_key_says_whose_it_is_and_what_it_lacks(stub, monkeypatch):
    stub.answers |= {
        "/api/v3/account": {"uid": 354, "balances": []},
        "/sapi/v1/account/apiRestrictions": {"enableFutures": False, "enableWithdrawals": False, "enableReading": True},
    }
    venue = await opened(stub, monkeypatch, profile="live", live_account="354")
    venue.market.check_key = None
    key = await venue.account.permissions()
    assert (key.account_id, key.withdraw, key.lacks) == ("354", False, ("Enable Futures",))
    await venue.close()
