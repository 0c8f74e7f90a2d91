"""The real, unmodified ccxt client against the sandbox: every endpoint it needs, answers and refusals."""

from datetime import UTC, datetime

import ccxt.async_support as ccxt
import pytest
from sandbox_server import admin, advance, fault, running_sandbox, state

BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
START = datetime(2024, 3, 1, 10, 2, 30, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
MINUTES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}


@pytest.fixture
def url():
    with running_sandbox(start=START, stepped=True, symbols=(BTC, ETH, SPOT)) as running:
        yield running


def client(url: str, **keys: str) -> ccxt.bybit:
    exchange = ccxt.bybit({"apiKey": "sandbox", "secret": "sandbox", "enableRateLimit": False} | keys)
    exchange.urls["api"] = dict.fromkeys(exchange.urls["api"], url)
    return exchange


@pytest.fixture
async def bybit(url):
    exchange = client(url)
    await exchange.load_markets()
    yield exchange
    await exchange.close()


async def last(bybit, symbol=BTC) -> float:
    return (await bybit.fetch_ticker(symbol))["last"]


async def enter(bybit, name="qd-1", quantity=0.05, side="buy", stop=0.98, target=1.02, symbol=BTC):
    price = await last(bybit, symbol)
    protection = {"stopLoss": {"triggerPrice": price * stop}, "takeProfit": {"triggerPrice": price * target}}
    return await bybit.create_order(symbol, "market", side, quantity, params={"clientOrderId": name, **protection})


async def find(bybit, name, symbol=BTC):
    return await bybit.fetch_open_orders(symbol, params={"orderLinkId": name})


# --- market data --------------------------------------------------------------------------------------------------


async def test_markets_say_what_one_may_trade(bybit):
    assert sorted(bybit.markets) == sorted([BTC, ETH, SPOT])
    perp, spot = bybit.market(BTC), bybit.market(SPOT)
    assert (perp["type"], perp["linear"], perp["active"], perp["contractSize"]) == ("swap", True, True, 1)
    assert (perp["precision"], perp["limits"]["cost"]["min"]) == ({"amount": 0.001, "price": 0.1}, 5)
    assert perp["limits"]["leverage"]["max"] == 100
    assert (spot["type"], spot["precision"]["amount"], spot["limits"]["cost"]["min"]) == ("spot", 0.001, 5)


async def test_time_is_the_exchanges_own(bybit, url):
    assert await bybit.fetch_time() == START_MS
    advance(url, 90)
    assert await bybit.fetch_time() == START_MS + 90_000


@pytest.mark.parametrize("symbol", [BTC, SPOT])
@pytest.mark.parametrize("timeframe", list(MINUTES))
async def test_candles_of_every_timeframe_end_with_the_forming_one(bybit, symbol, timeframe):
    span = MINUTES[timeframe] * 60_000
    candles = await bybit.fetch_ohlcv(symbol, timeframe, limit=20)
    opens = [c[0] for c in candles]
    assert opens == [START_MS // span * span - k * span for k in range(19, -1, -1)]
    for _, o, h, low, c, volume in candles:
        assert low <= min(o, c) <= max(o, c) <= h
        assert volume >= 0
    price = await last(bybit, symbol)
    assert candles[-1][4] == price
    since = await bybit.fetch_ohlcv(symbol, timeframe, since=opens[3], limit=5)
    assert since == candles[3:8]


async def test_book_trades_and_tickers_agree_on_the_price(bybit):
    price = await last(bybit)
    book = await bybit.fetch_order_book(BTC, 25)
    assert (len(book["bids"]), len(book["asks"]), book["timestamp"]) == (25, 25, START_MS)
    assert book["bids"][0][0] < price < book["asks"][0][0]
    assert book["asks"][0][0] / book["bids"][0][0] < 1.001
    trades = await bybit.fetch_trades(BTC, limit=50)
    assert len({t["id"] for t in trades}) == 50
    assert all(abs(t["price"] / price - 1) < 0.01 and t["timestamp"] <= START_MS for t in trades)
    ticker = await bybit.fetch_ticker(BTC)
    assert (ticker["bid"], ticker["ask"], ticker["markPrice"]) == (book["bids"][0][0], book["asks"][0][0], price)
    assert ticker["low"] <= price <= ticker["high"]
    assert set(await bybit.fetch_tickers([BTC, ETH])) == {BTC, ETH}


async def test_funding_has_a_rate_now_and_a_history(bybit):
    rate = await bybit.fetch_funding_rate(BTC)
    assert (rate["fundingRate"], rate["interval"]) == (0.0001, "8h")
    assert rate["fundingDatetime"] == "2024-03-01T16:00:00.000Z"
    history = await bybit.fetch_funding_rate_history(BTC, limit=3)
    assert [h["datetime"] for h in history][-1] == "2024-03-01T08:00:00.000Z"
    assert len(history) == 3


async def test_an_unknown_symbol_is_a_bad_request(bybit):
    with pytest.raises(ccxt.BadRequest, match="10001"):
        await bybit.publicGetV5MarketKline({"category": "linear", "symbol": "NOPEUSDT", "interval": "1"})


# --- orders and positions -----------------------------------------------------------------------------------------


async def test_an_entry_with_protection_is_a_position_with_stop_and_target(bybit):
    order = await enter(bybit)
    assert order["clientOrderId"] == "qd-1"
    (position,) = await bybit.fetch_positions([BTC])
    assert (position["side"], position["contracts"]) == ("long", 0.05)
    assert position["stopLossPrice"] < position["entryPrice"] < position["takeProfitPrice"]
    (found,) = await find(bybit, "qd-1")
    assert (found["id"], found["status"], found["filled"]) == (order["id"], "closed", 0.05)
    assert found["average"] == pytest.approx(position["entryPrice"])
    legs = await bybit.fetch_open_orders(BTC)
    assert {o["info"]["stopOrderType"] for o in legs} == {"StopLoss", "TakeProfit"}
    assert await bybit.fetch_open_orders(BTC, params={"orderFilter": "Order"}) == []


async def test_the_balance_ties_up_margin_and_pays_the_fee(bybit):
    await enter(bybit)
    (trade,) = await bybit.fetch_my_trades(BTC)
    assert trade["fee"]["cost"] == pytest.approx(trade["cost"] * 0.00055)
    assert (trade["takerOrMaker"], trade["info"]["createType"]) == ("taker", "CreateByUser")
    usdt = (await bybit.fetch_balance())["USDT"]
    assert usdt["total"] == pytest.approx(10_000 - trade["fee"]["cost"])
    assert usdt["used"] == pytest.approx(trade["cost"] / 10)


async def test_a_limit_order_rests_and_is_cancelled(bybit):
    price = await last(bybit)
    await bybit.create_order(BTC, "limit", "buy", 0.01, price * 0.9, params={"clientOrderId": "lim"})
    (resting,) = await find(bybit, "lim")
    assert (resting["status"], resting["type"], resting["timeInForce"]) == ("open", "limit", "GTC")
    assert (resting["amount"], resting["price"]) == (0.01, pytest.approx(price * 0.9, abs=0.1))
    await bybit.cancel_order(None, BTC, params={"orderLinkId": "lim"})
    assert await bybit.fetch_open_orders(BTC) == []
    (closed,) = await bybit.fetch_canceled_orders(BTC)
    assert (closed["clientOrderId"], closed["status"]) == ("lim", "canceled")
    with pytest.raises(ccxt.OrderNotFound, match="110001"):
        await bybit.cancel_order(None, BTC, params={"orderLinkId": "lim"})


async def test_a_limit_order_fills_as_maker_once_traded_through(bybit, url):
    price = await last(bybit)
    await bybit.create_order(BTC, "limit", "buy", 0.01, price * 0.9995, params={"clientOrderId": "lim"})
    for _ in range(24):
        advance(url, 3600)
    (trade,) = await bybit.fetch_my_trades(BTC)
    assert (trade["price"], trade["takerOrMaker"]) == (pytest.approx(price * 0.9995, abs=0.1), "maker")


async def test_reduce_only_closes_and_never_flips(bybit):
    await enter(bybit)
    await bybit.create_order(BTC, "market", "sell", 9, params={"clientOrderId": "out", "reduceOnly": True})
    assert [p["contracts"] for p in await bybit.fetch_positions([BTC])] == [0]
    (out,) = await find(bybit, "out")
    assert (out["amount"], out["filled"], out["reduceOnly"]) == (0.05, 0.05, True)
    with pytest.raises(ccxt.InvalidOrder, match="110017"):
        await bybit.create_order(BTC, "market", "sell", 1, params={"reduceOnly": True})


async def test_a_short_is_opened_and_bought_back(bybit):
    await enter(bybit, side="sell", stop=1.02, target=0.98)
    (position,) = await bybit.fetch_positions([BTC])
    assert position["side"] == "short"
    await bybit.create_order(BTC, "market", "buy", 0.05, params={"reduceOnly": True})
    assert await bybit.fetch_positions() == []


async def test_the_trading_stop_is_moved_and_removed(bybit):
    await enter(bybit)
    price = await last(bybit)
    request = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0, "tpslMode": "Full"}
    stop = f"{price * 0.99:.1f}"
    await bybit.privatePostV5PositionTradingStop(request | {"stopLoss": stop})
    (position,) = await bybit.fetch_positions([BTC])
    assert position["stopLossPrice"] == float(stop)
    assert position["takeProfitPrice"]
    with pytest.raises(ccxt.ExchangeError, match="34040"):
        await bybit.privatePostV5PositionTradingStop(request | {"stopLoss": stop})
    await bybit.privatePostV5PositionTradingStop(request | {"takeProfit": "0"})
    (position,) = await bybit.fetch_positions([BTC])
    assert not position["takeProfitPrice"]
    with pytest.raises(ccxt.BadRequest, match="wrong side of base_price"):
        await bybit.privatePostV5PositionTradingStop(request | {"stopLoss": f"{price * 1.01:.1f}"})
    with pytest.raises(ccxt.BadRequest, match="zero position"):
        await bybit.privatePostV5PositionTradingStop(request | {"symbol": "ETHUSDT", "stopLoss": "1"})


@pytest.mark.parametrize(("stop", "target", "kind"), [(0.9999, 1.5, "StopLoss"), (0.5, 1.0001, "TakeProfit")])
async def test_an_exit_says_whether_stop_or_target_made_it(bybit, url, stop, target, kind):
    await enter(bybit, stop=stop, target=target)
    for _ in range(48):
        advance(url, 1800)
    exit_, entry = sorted(await bybit.fetch_my_trades(BTC), key=lambda t: -t["timestamp"])
    assert (exit_["info"]["stopOrderType"], exit_["info"]["createType"]) == (kind, f"CreateBy{kind}")
    assert entry["info"]["stopOrderType"] == "UNKNOWN"
    assert await bybit.fetch_open_orders(BTC) == []
    closed = await bybit.fetch_closed_orders(BTC)
    assert {o["info"]["stopOrderType"] for o in closed} == {kind, ""}


async def test_executions_reach_back_seven_days_from_the_start_asked_for(bybit, url):
    await enter(bybit)
    advance(url, 10 * 86_400)
    assert await bybit.fetch_my_trades(BTC) == []
    assert len(await bybit.fetch_my_trades(BTC, since=START_MS - 1000)) >= 1
    funding = await bybit.privateGetV5ExecutionList({"category": "linear", "execType": "Funding"})
    assert {f["execType"] for f in funding["result"]["list"]} <= {"Funding"}


@pytest.mark.parametrize("force", ["PostOnly", "IOC", "FOK"])
async def test_a_limit_order_that_would_not_rest_is_not_taken(bybit, force):
    with pytest.raises(ccxt.BadRequest, match="timeInForce"):
        await bybit.create_order(BTC, "limit", "buy", 0.01, await last(bybit), params={"timeInForce": force})
    assert await bybit.fetch_open_orders(BTC) == []


async def test_leverage_decides_the_margin(bybit):
    await bybit.set_leverage(3, BTC)
    with pytest.raises(ccxt.BadRequest, match="110043"):
        await bybit.set_leverage(3, BTC)
    with pytest.raises(ccxt.BadRequest, match="110013"):
        await bybit.set_leverage(1000, BTC)
    await enter(bybit)
    (position,) = await bybit.fetch_positions([BTC])
    assert position["initialMargin"] == pytest.approx(position["notional"] / 3)


# --- spot ---------------------------------------------------------------------------------------------------------


async def test_spot_is_bought_protected_by_an_order_of_its_own_and_sold(bybit):
    await bybit.create_order(SPOT, "market", "buy", 0.02, params={"clientOrderId": "s-in"})
    assert (await bybit.fetch_balance())["BTC"]["total"] == 0.02
    price = await last(bybit, SPOT)
    stop = {"stopLossPrice": price * 0.95, "clientOrderId": "s-stop"}
    await bybit.create_order(SPOT, "market", "sell", 0.02, params=stop)
    (resting,) = await bybit.fetch_open_orders(SPOT, params={"orderFilter": "tpslOrder"})
    assert (resting["clientOrderId"], resting["triggerPrice"]) == ("s-stop", pytest.approx(price * 0.95, abs=0.1))
    assert await bybit.fetch_open_orders(SPOT) == []
    await bybit.create_order(SPOT, "market", "sell", 0.02, params={"clientOrderId": "s-out"})
    assert "BTC" not in (await bybit.fetch_balance())["total"]
    (ended,) = await find(bybit, "s-stop", SPOT)
    assert ended["status"] == "canceled"
    with pytest.raises(ccxt.InsufficientFunds, match="170131"):
        await bybit.create_order(SPOT, "market", "sell", 0.02)


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_an_order_link_id_works_once(bybit):
    await enter(bybit)
    with pytest.raises(ccxt.InvalidOrder, match="110072"):
        await enter(bybit)
    (position,) = await bybit.fetch_positions([BTC])
    assert position["contracts"] == 0.05


async def test_orders_the_account_or_the_rules_do_not_allow_are_refused(bybit):
    price = await last(bybit)
    with pytest.raises(ccxt.InsufficientFunds, match="110007"):
        await bybit.create_order(BTC, "market", "buy", 50)
    with pytest.raises(ccxt.BadRequest, match="10001"):
        await enter(bybit, stop=1.01)
    with pytest.raises(ccxt.BadRequest, match="36 characters"):
        await enter(bybit, name="x" * 37)
    request = {"category": "linear", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.01"}
    with pytest.raises(ccxt.BadRequest, match="Price invalid"):
        await bybit.privatePostV5OrderCreate(request | {"price": f"{price * 0.9:.0f}.05"})
    with pytest.raises(ccxt.BadRequest, match="qty invalid"):
        await bybit.privatePostV5OrderCreate(request | {"qty": "ten", "price": "1"})
    assert await bybit.fetch_open_orders(BTC) == []


@pytest.mark.parametrize(("keys", "code"), [({"secret": "wrong"}, "10004"), ({"apiKey": "wrong"}, "10003")])
async def test_a_wrong_key_or_signature_is_refused(url, keys, code):
    exchange = client(url, **keys)
    with pytest.raises(ccxt.AuthenticationError, match=code):
        await exchange.fetch_balance()
    await exchange.close()


async def test_a_stale_timestamp_is_refused(url):
    exchange = client(url)
    exchange.options["timeDifference"] = 20_000
    with pytest.raises(ccxt.InvalidNonce, match="10002"):
        await exchange.fetch_balance()
    await exchange.close()


async def test_a_client_may_sign_with_the_exchanges_time(url):
    exchange = client(url)
    await exchange.load_time_difference()
    assert (await exchange.fetch_balance())["USDT"]["total"] == 10_000
    await exchange.close()


# --- faults -------------------------------------------------------------------------------------------------------


async def test_an_order_whose_answer_was_lost_is_there_when_looked_up(bybit, url):
    fault(url, "timeout_after_accept", "order/create")
    with pytest.raises(ccxt.NetworkError):
        await enter(bybit)
    (found,) = await find(bybit, "qd-1")
    assert found["filled"] == 0.05


async def test_a_silent_exchange_runs_into_the_clients_timeout(bybit, url):
    bybit.timeout = 300
    fault(url, "timeout_after_accept", "order/create", seconds=1.5)
    with pytest.raises(ccxt.RequestTimeout):
        await enter(bybit)
    assert len(await find(bybit, "qd-1")) == 1


async def test_a_dropped_order_never_arrived(bybit, url):
    fault(url, "drop", "order/create")
    with pytest.raises(ccxt.NetworkError):
        await enter(bybit)
    assert await find(bybit, "qd-1") == []
    assert state(url)["orders"] == []


@pytest.mark.parametrize(
    ("kind", "error"), [("http_500", ccxt.ExchangeNotAvailable), ("rate_limit", ccxt.RateLimitExceeded)]
)
async def test_errors_of_the_exchange_pass_and_it_works_again(bybit, url, kind, error):
    fault(url, kind, "order/create", times=2)
    for _ in range(2):
        with pytest.raises(error):
            await enter(bybit)
    await enter(bybit)
    assert admin(url, "faults") == {"faults": []}


async def test_a_page_of_html_instead_of_an_answer_leaves_ccxt_without_an_id(bybit, url):
    fault(url, "html", "order/create")
    assert (await enter(bybit))["id"] is None  # ccxt raises nothing: the caller has to notice
    assert await find(bybit, "qd-1") == []


async def test_latency_only_delays(bybit, url):
    fault(url, "latency", "market/time", seconds=0.2)
    began = bybit.milliseconds()
    await bybit.fetch_time()
    assert bybit.milliseconds() - began >= 200


async def test_a_rejected_stop_leaves_a_position_naked_and_that_is_counted(bybit, url):
    fault(url, "reject_stop", "order/create")
    await enter(bybit, target=1.5)
    advance(url, 45)
    seen = state(url)
    assert (seen["positions"][0]["stopLoss"], seen["unprotected_s"][BTC]) == (None, 45.0)
    assert seen["positions"][0]["unprotected_s"] == 45.0


async def test_a_partial_fill_leaves_the_rest_of_a_limit_order_working(bybit, url):
    price = await last(bybit)
    fault(url, "partial_fill", "order/create", times=2)
    await bybit.create_order(BTC, "limit", "buy", 0.03, price * 1.01, params={"clientOrderId": "half"})
    (order,) = await find(bybit, "half")
    assert (order["status"], order["filled"], order["remaining"]) == ("open", 0.015, 0.015)
    assert order["info"]["orderStatus"] == "PartiallyFilled"
    await bybit.create_order(BTC, "market", "buy", 0.03, params={"clientOrderId": "market"})
    (order,) = await find(bybit, "market")
    assert (order["status"], order["filled"]) == ("canceled", 0.015)
