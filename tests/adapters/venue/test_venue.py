"""The ccxt venue against a scripted server: what reaches the wire, what is read, and which error says what."""

import asyncio
import itertools
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import bybit_rows
import pytest
from venue_stub import FLAT, LINEAR, NONE, NOW_MS, ORDER, SPOT, Stub, ok, refused, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.adapters.venue import client, trials
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.errors import (
    DataError,
    DuplicateOrder,
    InputError,
    OrderRejected,
    VenueBusy,
    VenueError,
    VenueUnavailable,
)
from tasks.core.types.bars import COLUMNS
from tasks.core.types.limits import Limits, SymbolLimits
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

BTC = "BTC/USDT:USDT"
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
CREATE, REALTIME, HISTORY = "/v5/order/create", "/v5/order/realtime", "/v5/order/history"


@pytest.fixture
def stub():
    with stub_venue() as running:
        yield running


@pytest.fixture
async def venue(stub, monkeypatch):
    monkeypatch.setattr(venue_module, "LOOKS", (0.0, 0.0, 0.0))
    connected = connect(config.load(profile="sandbox", sandbox_url=stub.url))
    yield connected
    await connected.close()


def entry(**changes: object) -> OrderIntent:
    fields: dict[str, object] = {"client_order_id": "qd-1", "symbol": BTC, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal("0.010")} | changes)


def accepts(stub: Stub, **row: object) -> None:
    """Let the stub accept an order and then list it."""
    stub.answers[CREATE] = ok(orderId="v-1", orderLinkId="qd-1")
    stub.answers[REALTIME] = ok(list=[ORDER | row], nextPageCursor="")


# --- what reaches the wire ----------------------------------------------------------------------------------------


async def test_an_entry_is_one_request_with_its_protection_and_every_digit(venue, stub):
    accepts(stub)
    await venue.submit(entry(stop=Decimal("86000.10"), target=Decimal("91000.0")))
    (sent,) = stub.requests(CREATE)
    assert sent.body == {
        "category": "linear", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Market", "qty": "0.010",
        "orderLinkId": "qd-1", "positionIdx": 0, "tpslMode": "Full", "stopLoss": "86000.10", "takeProfit": "91000.0",
    }  # fmt: skip
    assert not stub.requests("/v5/position/trading-stop")


async def test_quantities_are_neither_rounded_nor_written_with_an_exponent(venue, stub):
    accepts(stub)
    price = Decimal("0.000000123456789012345678")
    await venue.submit(entry(type=OrderType.LIMIT, quantity=Decimal("1E-9"), price=price))
    body = stub.requests(CREATE)[0].body
    assert (body["qty"], body["price"]) == ("0.000000001", "0.000000123456789012345678")
    assert body["timeInForce"] == "GTC"


async def test_reduce_only_reaches_the_wire(venue, stub):
    accepts(stub, side="Sell", reduceOnly=True)
    order = await venue.submit(entry(side="sell", reduce_only=True))
    assert stub.requests(CREATE)[0].body["reduceOnly"] is True
    assert order.reduce_only
    assert order.side == "sell"


@pytest.mark.parametrize(
    ("type_", "price", "expected"),
    [
        (OrderType.STOP, Decimal("86500.0"), {"stopLoss": "86500.0"}),
        (OrderType.TARGET, Decimal("90500.5"), {"takeProfit": "90500.5"}),
        (OrderType.CANCEL_TARGET, None, {"takeProfit": "0"}),
    ],
)
async def test_stop_and_target_intents_change_the_positions_protection(venue, stub, type_, price, expected):
    stub.answers["/v5/position/trading-stop"] = ok()
    order = await venue.submit(entry(type=type_, price=price, side="sell"))
    (sent,) = stub.requests("/v5/position/trading-stop")
    common = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0, "tpslMode": "Full"}
    assert sent.body == common | expected
    assert (order.client_order_id, order.type, order.reduce_only) == ("qd-1", type_.value, True)
    assert not stub.requests(CREATE)


@pytest.mark.parametrize("code", [34040, 110043])
async def test_protection_that_is_already_so_is_fine(venue, stub, code):
    stub.answers["/v5/position/trading-stop"] = refused(code, "not modified")
    await venue.set_protection(BTC, Decimal(86000), None)


async def test_beside_a_persons_part_a_stop_is_for_ours_and_takes_the_place_of_one_for_all(venue, stub):
    whole = ORDER | {
        "orderId": "v-7", "orderLinkId": "", "side": "Sell", "orderStatus": "Untriggered", "stopOrderType": "StopLoss",
        "triggerPrice": "86000", "qty": "0.015", "cumExecQty": "0", "reduceOnly": True,
    }  # fmt: skip
    stub.answers |= {
        "/v5/position/list": ok(list=[POSITION | {"side": "Buy", "size": "0.015", "stopLoss": "86000"}]),
        REALTIME: ok(list=[whole]), "/v5/position/trading-stop": ok(), "/v5/order/cancel": ok(),
    }  # fmt: skip
    await venue.set_protection(BTC, Decimal(86000), Decimal(91000), Decimal("0.01"))
    common = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0, "tpslMode": "Partial"}
    assert [asked.body for asked in stub.requests("/v5/position/trading-stop")] == [
        common | {"stopLoss": "86000", "slSize": "0.01"}, common | {"takeProfit": "91000", "tpSize": "0.01"},
    ]  # fmt: skip
    (cancelled,) = stub.requests("/v5/order/cancel")
    assert cancelled.body == {"category": "linear", "symbol": "BTCUSDT", "orderId": "v-7"}
    ours = whole | {"qty": "0.01", "stopOrderType": "PartialStopLoss"}
    stub.answers |= {
        "/v5/position/list": ok(list=[POSITION | {"side": "Buy", "size": "0.015", "stopLoss": ""}]),
        REALTIME: ok(list=[ours]),
    }  # fmt: skip
    (held,) = await venue.positions()
    assert (held.quantity, held.stop, held.stop_quantity) == (Decimal("0.015"), 86000, Decimal("0.01"))
    await venue.set_protection(BTC, Decimal(86000), None, Decimal("0.01"))  # what rests already
    assert len(stub.requests("/v5/position/trading-stop")) == 2
    whole |= {"orderId": "v-8"}
    stub.answers[REALTIME] = ok(list=[ours, whole, ours | {"orderId": "v-9", "stopOrderType": "PartialTakeProfit"}])
    await venue.set_protection(BTC, Decimal(86500), None, Decimal("0.015"))  # all of it is ours by now
    assert stub.requests("/v5/position/trading-stop")[-1].body["tpslMode"] == "Full"
    assert [asked.body["orderId"] for asked in stub.requests("/v5/order/cancel")] == ["v-7", "v-7"]


async def test_protection_without_anything_to_set_asks_nothing(venue, stub):
    await venue.set_protection(BTC, None, None)
    assert not stub.requests("/v5/position/trading-stop")


async def test_orders_against_another_quote_are_refused_before_anything_is_sent(venue, stub):
    listed = ok(category="spot", list=[SPOT | {"symbol": "BTCEUR", "quoteCoin": "EUR"}], nextPageCursor="")
    stub.answers["/v5/market/instruments-info"] = lambda asked: listed if asked.query["category"] == "spot" else NONE
    with pytest.raises(OrderRejected, match="BTC/EUR is no USDT-settled linear contract nor spot against USDT"):
        await venue.submit(entry(symbol="BTC/EUR"))
    assert not stub.requests(CREATE)


# --- before the first entry ---------------------------------------------------------------------------------------

LEVERAGE = "/v5/position/set-leverage"


async def test_leverage_is_set_to_the_limits_once_and_before_the_first_entry(venue, stub):
    accepts(stub)
    stub.answers["/v5/position/list"] = ok(list=[FLAT | {"leverage": "10"}])
    stub.answers[LEVERAGE] = ok()
    await venue.submit(entry())
    await venue.submit(entry())
    (sent,) = stub.requests(LEVERAGE)
    assert sent.body == {"category": "linear", "symbol": "BTCUSDT", "buyLeverage": "3", "sellLeverage": "3"}
    paths = [asked.path for asked in stub.asked]
    assert paths.index(LEVERAGE) < paths.index(CREATE)


async def test_the_leverage_set_is_the_one_the_guard_reckons_with_for_this_symbol(stub):
    accepts(stub)
    stub.answers |= {"/v5/position/list": ok(list=[FLAT | {"leverage": "10"}]), LEVERAGE: ok()}
    limits = Limits(leverage=Decimal(10), per_symbol={BTC: SymbolLimits(leverage=Decimal(2))})
    venue = connect(config.load(profile="sandbox", sandbox_url=stub.url, limits=limits))
    await venue.submit(entry())
    await venue.close()
    assert stub.requests(LEVERAGE)[0].body["buyLeverage"] == "2"


async def test_leverage_that_is_right_is_left_alone(venue, stub):
    accepts(stub)
    await venue.submit(entry())
    assert not stub.requests(LEVERAGE)


@pytest.mark.parametrize("code", [34040, 110043])
async def test_leverage_that_somebody_else_has_just_set_is_fine(venue, stub, code):
    accepts(stub)
    stub.answers["/v5/position/list"] = ok(list=[FLAT | {"leverage": "10"}])
    stub.answers[LEVERAGE] = refused(code, "leverage not modified")
    await venue.submit(entry())
    assert stub.requests(CREATE)


async def test_no_entry_goes_out_when_leverage_is_refused_or_the_account_hedges(venue, stub):
    stub.answers["/v5/position/list"] = ok(list=[FLAT | {"leverage": "10"}])
    stub.answers[LEVERAGE] = refused(110013, "cannot set leverage due to risk limit")
    with pytest.raises(OrderRejected, match=r"set BTC/USDT:USDT leverage 3: .*110013"):
        await venue.submit(entry())
    stub.answers["/v5/position/list"] = ok(list=[FLAT | {"positionIdx": 1}, FLAT | {"positionIdx": 2}])
    with pytest.raises(OrderRejected, match=r"hedge mode.*one-way"):
        await venue.submit(entry())
    assert not stub.requests(CREATE)


async def test_an_exit_needs_no_preparation(venue, stub):
    accepts(stub)
    stub.answers["/v5/position/list"] = (500, "down")
    await venue.submit(entry(side="sell", reduce_only=True))
    assert stub.requests(CREATE)


# --- after an order was sent --------------------------------------------------------------------------------------


async def test_a_submitted_order_comes_back_as_the_venue_lists_it(venue, stub):
    accepts(stub)
    order = await venue.submit(entry())
    assert (order.status, order.venue_order_id, order.price) == (OrderStatus.FILLED, "v-1", None)
    assert (order.filled, order.avg_price, order.stop) == (Decimal("0.010"), Decimal("87012.30"), Decimal("86000.00"))
    assert str(order.avg_price) == "87012.30"
    assert stub.requests(REALTIME)[0].query["orderLinkId"] == "qd-1"
    assert "clientOrderId" not in stub.requests(REALTIME)[0].query


async def test_an_order_that_is_listed_late_is_looked_for_a_few_times(venue, stub):
    accepts(stub)
    stub.answers[REALTIME] = [ok(list=[]), (502, "<html>"), ok(list=[ORDER])]
    stub.answers[HISTORY] = ok(list=[])
    assert (await venue.submit(entry())).status is OrderStatus.FILLED


async def test_an_accepted_order_that_is_never_listed_is_open_and_not_an_error(venue, stub):
    accepts(stub)
    stub.answers[REALTIME] = stub.answers[HISTORY] = ok(list=[])
    order = await venue.submit(entry(stop=Decimal(86000)))
    assert (order.status, order.venue_order_id, order.stop) == (OrderStatus.OPEN, "v-1", Decimal(86000))
    assert len(stub.requests(REALTIME)) == 3


async def test_an_order_rejected_after_it_was_accepted_is_rejected(venue, stub):
    accepts(stub, orderStatus="Rejected", rejectReason="EC_PostOnlyWillTakeLiquidity", cumExecQty="0", avgPrice="")
    with pytest.raises(OrderRejected, match="EC_PostOnlyWillTakeLiquidity"):
        await venue.submit(entry())


async def test_a_part_that_was_filled_before_the_rejection_is_not_forgotten(venue, stub):
    accepts(stub, orderStatus="Rejected", rejectReason="EC_Others", cumExecQty="0.004")
    order = await venue.submit(entry())
    assert (order.status, order.filled, order.reason) == (OrderStatus.CANCELLED, Decimal("0.004"), "EC_Others")


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refused(110072, "OrderLinkedID is duplicate"), DuplicateOrder, "110072 OrderLinkedID is duplicate"),
        (refused(110007, "ab not enough for new order"), OrderRejected, "110007 ab not enough"),
        (refused(110017, "reduce-only rule not satisfied"), OrderRejected, "110017"),
        (refused(10001, "Qty invalid"), OrderRejected, "10001 Qty invalid"),
        (refused(987654, "a code nobody has seen"), VenueUnavailable, "987654 a code nobody has seen"),
        (refused(10003, "API key is invalid."), OrderRejected, "QUARTERDECK_SANDBOX_KEY"),
        (refused(10006, "Too many visits!"), VenueBusy, "10006"),
        (refused(10000, "Server Timeout"), VenueUnavailable, "10000"),
        (refused(10016, "Server error."), VenueUnavailable, "10016"),
        (refused(170146, "Order creation timeout"), VenueUnavailable, "170146"),
        ((500, "<html>oops</html>"), VenueUnavailable, "no usable answer"),
        ((429, "slow down"), VenueBusy, "RateLimitExceeded"),
        ((403, "<html>The request could not be satisfied</html>"), VenueBusy, "HTTP 403.*country"),
        ((200, "<html>maintenance</html>"), VenueUnavailable, "BadResponse"),
        ((200, '{"retCode": 0, "result": {"orderId":'), VenueUnavailable, "BadResponse"),
        ((200, '{"retCode": 0, "result": null}'), VenueUnavailable, "no result"),
        ((200, '{"something": "else"}'), VenueUnavailable, "no usable answer"),
        (ok(orderLinkId="qd-1"), VenueUnavailable, "malformed"),
        (lambda asked: "drop", VenueUnavailable, "no usable answer"),
    ],
)
async def test_what_the_venue_says_to_an_order_becomes_one_of_our_errors(venue, stub, answer, error, text):
    stub.answers[CREATE] = answer
    with pytest.raises(VenueError, match=text) as raised:
        await venue.submit(entry())
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert len(stub.requests(CREATE)) == 1  # an order is never sent twice by itself


async def test_a_timeout_leaves_the_outcome_unknown(venue, stub):
    venue.market.client.timeout, told = 50, threading.Event()
    stub.answers[CREATE] = lambda asked: told.wait(60) and "drop"
    with pytest.raises(VenueUnavailable, match="RequestTimeout"):
        await venue.submit(entry())
    told.set()


async def test_a_key_that_the_venue_quotes_is_never_repeated(stub, monkeypatch):
    import traceback

    monkeypatch.setenv("QUARTERDECK_SANDBOX_KEY", "K3Y-of-mine")
    monkeypatch.setenv("QUARTERDECK_SANDBOX_SECRET", "S3CRET-of-mine")
    venue = connect(config.load(profile="sandbox", sandbox_url=stub.url))
    stub.answers["/v5/position/list"] = refused(10004, "error sign! origin_string[1767225600K3Y-of-mine5000]")
    with pytest.raises(VenueError, match=r"origin_string.*\*\*\*") as raised:
        await venue.positions()
    printed = "".join(traceback.format_exception(raised.value, chain=raised.value.__cause__ is not None))
    assert "of-mine" not in str(raised.value)
    assert "of-mine" not in printed
    assert raised.value.__suppress_context__
    await venue.close()


async def test_a_server_that_is_not_there_is_unavailable():
    venue = connect(config.load(profile="sandbox", sandbox_url="http://127.0.0.1:9"))
    with pytest.raises(VenueUnavailable, match=r"the list of markets: .*http://127\.0\.0\.1:9"):
        await venue.instrument(BTC)
    await venue.close()


STATUSES = {
    OrderStatus.OPEN: ("Created", "New", "PartiallyFilled", "Untriggered", "Triggered", "Active", "PendingCancel"),
    OrderStatus.FILLED: ("Filled",),
    OrderStatus.CANCELLED: ("Cancelled", "PartiallyFilledCanceled", "Deactivated"),
    OrderStatus.REJECTED: ("Rejected",),
}


@pytest.mark.parametrize(("ours", "said"), [(ours, said) for ours, names in STATUSES.items() for said in names])
def test_each_status_of_the_venue_is_one_of_ours(ours, said):
    assert bybit_rows.order_of(ORDER | {"orderStatus": said, "cumExecQty": "0"}, BTC).status is ours


# --- looking orders up --------------------------------------------------------------------------------------------


async def test_an_order_is_found_in_the_history_when_it_is_no_longer_working(venue, stub):
    stub.answers[REALTIME] = ok(list=[])
    older = ORDER | {"orderStatus": "PartiallyFilled", "updatedTime": "1767225590000"}
    stub.answers[HISTORY] = ok(list=[older, ORDER])
    order = await venue.find_order(BTC, "qd-1")
    assert order.status is OrderStatus.FILLED
    assert stub.requests(HISTORY)[0].query["orderLinkId"] == "qd-1"


async def test_no_order_is_none_only_when_both_lists_say_so(venue, stub):
    stub.answers[REALTIME] = stub.answers[HISTORY] = ok(list=[])
    assert await venue.find_order(BTC, "qd-1") is None
    stub.answers[HISTORY] = (500, "oops")
    with pytest.raises(VenueUnavailable):
        await venue.find_order(BTC, "qd-1")


@pytest.mark.parametrize("row", [{"orderLinkId": "another"}, {"orderStatus": "Unheard"}, {"qty": "many"}])
async def test_a_look_up_that_cannot_be_understood_is_not_an_absent_order(venue, stub, row):
    stub.answers[REALTIME] = ok(list=[ORDER | row])
    with pytest.raises(VenueUnavailable, match="malformed"):
        await venue.find_order(BTC, "qd-1")


async def test_open_orders_name_resting_stops_and_follow_the_cursor(venue, stub):
    resting = {"orderId": "v-2", "orderLinkId": "", "orderStatus": "Untriggered", "side": "Sell", "cumExecQty": "0"}
    stop = ORDER | resting | {"stopOrderType": "StopLoss", "triggerPrice": "86000.00", "price": "0", "avgPrice": None}
    target = stop | {"orderId": "v-3", "stopOrderType": "PartialTakeProfit", "triggerPrice": "91000.00"}
    pages = {"": ok(list=[stop], nextPageCursor="v-2%3A1%2C"), "v-2%3A1%2C": ok(list=[target, ORDER])}
    # parse_qs undoes one encoding: what is left must be the cursor exactly as the venue gave it, once decoded
    decoded = {"": pages[""], "v-2:1,": pages["v-2%3A1%2C"]}
    stub.answers[REALTIME] = lambda asked: decoded[asked.query.get("cursor", "")]
    orders = await venue.open_orders(BTC)
    assert [(o.type, o.price) for o in orders] == [("stop", Decimal(86000)), ("target", Decimal(91000))]


@pytest.mark.parametrize("code", [110001, 110008, 110010, 170139, 170142, 170143, 170190, 170213])
async def test_cancelling_an_order_that_is_gone_is_fine(venue, stub, code):
    stub.answers["/v5/order/cancel"] = refused(code, "order not exists or too late to cancel")
    await venue.cancel(BTC, "qd-1")
    assert stub.requests("/v5/order/cancel")[0].body["orderLinkId"] == "qd-1"


async def test_a_cancel_that_is_refused_is_an_error(venue, stub):
    stub.answers["/v5/order/cancel"] = refused(10001, "params error")
    with pytest.raises(OrderRejected, match="10001"):
        await venue.cancel(BTC, "qd-1")


# --- the account --------------------------------------------------------------------------------------------------

POSITION = {
    "symbol": "BTCUSDT", "side": "Sell", "size": "0.010", "avgPrice": "87012.30", "stopLoss": "88000.10",
    "takeProfit": "0.00", "liqPrice": "", "unrealisedPnl": "-1.23000001", "positionIdx": 0,
}  # fmt: skip


async def test_positions_are_the_linear_ones_and_flat_rows_are_none(venue, stub):
    stub.answers["/v5/position/list"] = ok(list=[POSITION, POSITION | {"size": "0", "side": ""}], nextPageCursor="")
    (position,) = await venue.positions()
    assert (position.symbol, position.side, position.quantity) == (BTC, "short", Decimal("0.010"))
    assert (position.stop, position.target) == (Decimal("88000.10"), None)


@pytest.mark.parametrize("row", [{"symbol": "NEWPERP"}, {"size": "NaN"}, {"side": "None"}])
async def test_a_position_that_cannot_be_read_is_never_taken_for_flat(venue, stub, row):
    stub.answers["/v5/position/list"] = ok(list=[POSITION | row])
    with pytest.raises(VenueUnavailable, match="fetch the positions: malformed"):
        await venue.positions()


@pytest.mark.parametrize(
    ("total", "expected"), [("9000.5", "9000.5"), ("99999", "10042.5"), ("", "10042.5"), ("-3", "0")]
)
async def test_available_is_what_the_coin_and_the_account_both_have_free(venue, stub, total, expected):
    coin = {"coin": "USDT", "equity": "10050", "totalPositionIM": "5", "totalOrderIM": "2.5", "locked": ""}
    account = {"totalAvailableBalance": total, "coin": [{"coin": "BTC", "equity": "1"}, coin]}
    stub.answers["/v5/account/wallet-balance"] = ok(list=[account])
    balance = await venue.balance()
    assert (balance.equity, balance.available, balance.currency) == (Decimal(10050), Decimal(expected), "USDT")


FILL = {
    "symbol": "BTCUSDT", "execId": "e-1", "orderId": "v-1", "orderLinkId": "qd-1", "side": "Buy", "execQty": "0.010",
    "execPrice": "87012.30", "execFee": "0.47856765", "feeCurrency": "", "execType": "Trade", "stopOrderType": "",
    "createType": "CreateByUser", "isMaker": False, "execTime": str(NOW_MS - 1000),
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, ""),
        ({"stopOrderType": "UNKNOWN"}, ""),
        ({"stopOrderType": "StopLoss"}, "stop"),
        ({"createType": "CreateByPartialStopLoss"}, "stop"),
        ({"stopOrderType": "TakeProfit"}, "target"),
        ({"createType": "CreateByLiq"}, "liquidation"),
        ({"execType": "AdlTrade"}, "liquidation"),
        ({"execType": "Funding"}, "funding"),
        ({"execType": "MovePosition"}, "MovePosition"),
    ],
)
async def test_fills_say_why_as_far_as_the_venue_tells(venue, stub, row, reason):
    stub.answers["/v5/execution/list"] = ok(list=[FILL | row])
    (fill,) = await venue.fills(BTC, NOW - timedelta(hours=1))
    assert fill.reason == reason
    assert (fill.fee, fill.fee_currency, fill.liquidity) == (Decimal("0.47856765"), "USDT", "taker")
    assert fill.quantity == (0 if reason == "funding" else Decimal("0.010"))


async def test_what_is_no_trade_may_lack_what_a_trade_has_and_hides_no_other_row(venue, stub):
    settled = FILL | {"execId": "s", "execType": "Settle", "side": "", "execQty": "0", "execPrice": "", "execFee": ""}
    stub.answers["/v5/execution/list"] = ok(list=[settled, FILL])
    fills = await venue.fills(BTC, NOW - timedelta(hours=1))
    assert {fill.fill_id: fill.reason for fill in fills} == {"s": "Settle", FILL["execId"]: ""}


async def test_a_fee_in_a_coin_without_a_price_stays_as_the_venue_tells_it(venue, stub):
    stub.answers["/v5/execution/list"] = ok(list=[FILL | {"feeCurrency": "MNT"}])
    (fill,) = await venue.fills(BTC, NOW - timedelta(hours=1))
    assert (fill.fee, fill.fee_currency) == (Decimal("0.47856765"), "MNT")


async def test_a_spot_buy_whose_fee_is_in_base_is_booked_as_what_remains(venue, stub):
    row = {"execFee": "0.00001", "feeCurrency": "BTC", "execPrice": "87000"}
    stub.answers["/v5/execution/list"] = ok(list=[FILL | row])
    (fill,) = await venue.fills("BTC/USDT", NOW - timedelta(hours=1))
    assert (fill.quantity, fill.fee, fill.fee_currency) == (Decimal("0.00999"), Decimal("0.87"), "USDT")
    assert fill.quantity * fill.price + fill.fee == Decimal("0.010") * 87000  # what left the wallet


async def test_a_conditional_order_is_a_stop_on_spot_and_somebody_elses_on_contracts(venue, stub):
    stub.answers["/v5/execution/list"] = ok(list=[FILL | {"stopOrderType": "Stop", "side": "Sell"}])
    assert [f.reason for f in await venue.fills("BTC/USDT", NOW - timedelta(hours=1))] == ["stop"]
    assert [f.reason for f in await venue.fills(BTC, NOW - timedelta(hours=1))] == [""]


async def test_spot_orders_say_base_and_bring_no_protection(venue, stub):
    accepts(stub)
    stub.answers[REALTIME] = lambda asked: ok(list=[ORDER] if "orderLinkId" in asked.query else [])
    await venue.submit(entry(symbol="BTC/USDT", stop=Decimal(86000), target=Decimal(91000)))
    assert stub.requests(CREATE)[0].body == {
        "category": "spot", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Market", "qty": "0.010",
        "orderLinkId": "qd-1", "marketUnit": "baseCoin",
    }  # fmt: skip
    assert not stub.requests(LEVERAGE)


async def test_a_spot_stop_is_a_resting_order_that_does_not_tie_up_the_coins(venue, stub):
    wallet = {"totalAvailableBalance": "1", "coin": [{"coin": "BTC", "equity": "0.0099945"}]}
    book = ok(s="BTCUSDT", b=[["87000", "1"]], a=[["87001", "1"]], ts=NOW_MS)
    stub.answers |= {
        "/v5/account/wallet-balance": ok(list=[wallet]), REALTIME: ok(list=[]), "/v5/market/orderbook": book,
        "/v5/execution/list": ok(list=[FILL]), CREATE: ok(orderId="v-9", orderLinkId=""),
    }  # fmt: skip
    await venue.set_protection("BTC/USDT", Decimal("86000.5"), Decimal(91000))
    assert stub.requests(CREATE)[0].body == {
        "category": "spot", "symbol": "BTCUSDT", "side": "Sell", "orderType": "Market", "marketUnit": "baseCoin",
        "qty": "0.009994", "triggerPrice": "86000.5", "orderFilter": "StopOrder",
    }  # fmt: skip


@pytest.mark.parametrize("quantity", ["0.009994", "0.004", "0.012"])
async def test_a_spot_stop_is_told_with_what_it_covers(venue, stub, quantity):
    resting = ORDER | {"side": "Sell", "stopOrderType": "Stop", "orderStatus": "Untriggered", "triggerPrice": "86000",
                       "qty": quantity, "cumExecQty": "0"}  # fmt: skip
    stub.answers |= {
        "/v5/account/wallet-balance": ok(list=[{"coin": [{"coin": "BTC", "equity": "0.0099945"}]}]),
        REALTIME: lambda asked: ok(list=[resting] if "orderFilter" in asked.query else []),
        "/v5/execution/list": ok(list=[FILL]),
    }  # fmt: skip
    held = await venue.account.spot_position("BTC/USDT")
    assert (held.quantity, held.stop, held.stop_quantity) == (Decimal("0.0099945"), 86000, Decimal(quantity))


async def test_fills_are_read_window_by_window_page_by_page_once_each_oldest_first(venue, stub):
    newer = FILL | {"execId": "e-2", "execTime": str(NOW_MS - 10), "isMaker": True}

    def page(asked):
        return ok(list=[newer], nextPageCursor="next") if "cursor" not in asked.query else ok(list=[FILL, newer])

    stub.answers["/v5/execution/list"] = page
    fills = await venue.fills(BTC, NOW - timedelta(days=10))
    assert [(f.fill_id, f.liquidity) for f in fills] == [("e-1", "taker"), ("e-2", "maker")]
    windows = [(a.query["startTime"], a.query.get("endTime")) for a in stub.requests("/v5/execution/list")]
    starts = [NOW_MS - 10 * 86_400_000, NOW_MS - 3 * 86_400_000]
    assert windows == [(str(starts[0]), str(starts[1]))] * 2 + [(str(starts[1]), None)] * 2


# --- market data --------------------------------------------------------------------------------------------------


def kline(asked):
    """Serve like Bybit: newest first, at most `limit` from the end, the forming bar included."""
    step = 300_000
    start, end = int(asked.query["start"]), int(asked.query["end"])
    times = list(range(-(-start // step) * step, min(end, NOW_MS) + 1, step))[-int(asked.query["limit"]) :]
    rows = [[str(t), "100.5", "101", "99.25", "100", "12.5", "1250"] for t in reversed(times)]
    return ok(category="linear", symbol="BTCUSDT", list=rows)


async def test_bars_are_paged_closed_ascending_unique_and_typed(venue, stub):
    stub.answers["/v5/market/kline"] = kline
    since = NOW - timedelta(minutes=5 * 2500)
    bars = await venue.fetch_bars(BTC, "5m", since, NOW + timedelta(hours=1))
    assert len(bars) == 2500
    assert (bars.index[0], bars.index[-1]) == (since, NOW - timedelta(minutes=5))
    assert bars.index.is_monotonic_increasing
    assert bars.index.is_unique
    assert (bars.index.name, str(bars.index.tz), tuple(bars.columns)) == ("open_time", "UTC", COLUMNS)
    assert set(bars.dtypes.astype(str)) == {"float64"}
    assert len(stub.requests("/v5/market/kline")) == 3


async def test_the_bar_that_is_forming_is_left_out_even_if_asked_for(venue, stub):
    stub.answers["/v5/market/kline"] = kline
    assert (await venue.fetch_bars(BTC, "5m", NOW, NOW + timedelta(days=1))).empty


async def test_the_clock_is_not_asked_again_for_what_it_already_passed(venue, stub):
    stub.answers["/v5/market/kline"] = kline
    for _ in range(3):
        await venue.fetch_bars(BTC, "5m", NOW - timedelta(hours=1), NOW)
    assert len(stub.requests("/v5/market/time")) == 1


@pytest.mark.parametrize("bad", [["100", "abc"], ["100", "NaN"], ["100", ""], []])
async def test_a_garbled_bar_is_bad_data(venue, stub, bad):
    row = [str(NOW_MS - 300_000), *bad, *["1"] * (5 - len(bad) if bad else 0)]
    stub.answers["/v5/market/kline"] = ok(list=[row])
    with pytest.raises(DataError, match="BTC/USDT:USDT 5m bars: malformed"):
        await venue.fetch_bars(BTC, "5m", NOW - timedelta(hours=1), NOW)


@pytest.mark.parametrize("answer", [(200, "<html>proxy</html>"), (503, "down"), lambda asked: "drop"])
async def test_a_page_instead_of_bars_is_an_unavailable_venue_and_not_an_empty_market(venue, stub, answer):
    stub.answers["/v5/market/kline"] = answer
    with pytest.raises(VenueUnavailable):
        await venue.fetch_bars(BTC, "5m", NOW - timedelta(hours=1), NOW)


async def test_a_timeframe_the_venue_lacks_is_the_users_mistake(venue):
    with pytest.raises(InputError, match="'7m'"):
        await venue.fetch_bars(BTC, "7m", NOW - timedelta(hours=1), NOW)


async def test_the_book_is_exact(venue, stub):
    stub.answers["/v5/market/orderbook"] = ok(s="BTCUSDT", b=[["87000.10", "0.5"]], a=[["87000.2", "1.25"]], ts=NOW_MS)
    book = await venue.fetch_book(BTC)
    assert list(book.bids) == [(Decimal("87000.1"), Decimal("0.5"))]
    assert list(book.asks) == [(Decimal("87000.2"), Decimal("1.25"))]


async def test_bars_are_asked_for_in_pages_the_venue_can_fill(venue, stub):
    stub.answers["/v5/market/kline"] = kline
    venue.market.client.features["swap"]["linear"]["fetchOHLCV"]["limit"] = 300
    bars = await venue.fetch_bars(BTC, "5m", NOW - timedelta(minutes=5 * 650), NOW)
    assert len(bars) == 650
    assert [asked.query["limit"] for asked in stub.requests("/v5/market/kline")] == ["300"] * 3


@pytest.mark.parametrize(
    ("lacks", "ask"),
    [
        ("fetchOHLCV", lambda venue: venue.fetch_bars(BTC, "5m", NOW - timedelta(hours=1), NOW)),
        ("fetchOrderBook", lambda venue: venue.fetch_book(BTC)),
        ("fetchTrades", lambda venue: venue.market.fetch_trades(BTC, 5)),
        ("fetchFundingRateHistory", lambda venue: venue.market.fetch_funding(BTC, 5)),
    ],
)
async def test_what_a_venue_lacks_is_named(venue, lacks, ask):
    venue.market.client.has[lacks] = False
    with pytest.raises(InputError, match=f"bybit has no {lacks} in ccxt: choose another QUARTERDECK_VENUE"):
        await ask(venue)


async def test_a_venue_without_a_clock_is_on_ours(venue, stub):
    venue.market.client.has["fetchTime"] = False
    assert abs(await venue.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert stub.asked == []


@pytest.mark.parametrize("venue_id", ["kraken", "okx", "coinbase", "binance", "bitstamp", "kucoin"])
async def test_any_venue_opens_for_market_data(venue_id):
    market = connect(config.load(profile="paper", venue=venue_id))
    assert market.name == f"{venue_id}-paper"
    assert market.has_timeframe("5m")
    await market.close()


async def test_instruments_say_what_may_be_traded(venue):
    linear, spot = await venue.instrument(BTC), await venue.instrument("BTC/USDT")
    assert (linear.tick, linear.step, linear.min_quantity) == (Decimal("0.1"), Decimal("0.001"), Decimal("0.001"))
    assert (linear.min_notional, linear.max_leverage, linear.shorting, linear.kind) == (5, 100, True, "linear")
    assert (spot.tick, spot.step) == (Decimal("0.01"), Decimal("0.000001"))
    assert (spot.max_leverage, spot.shorting, spot.kind) == (1, False, "spot")


@pytest.mark.parametrize("symbol", ["BTCUSDT", "btc/usdt", "BTC/USD:USDT"])
async def test_an_unknown_symbol_is_named_with_what_is_near_it(venue, symbol):
    with pytest.raises(InputError, match=f"unknown symbol '{symbol}'.*BTC/USDT"):
        await venue.instrument(symbol)


async def test_the_markets_are_loaded_once_and_only_spot_and_linear(venue, stub):
    await asyncio.gather(venue.instrument(BTC), venue.instrument(BTC), venue.instrument("BTC/USDT"))
    asked = [(a.query["category"], a.query.get("status")) for a in stub.requests("/v5/market/instruments-info")]
    assert sorted(asked, key=str) == [("linear", "PreLaunch"), ("linear", None), ("spot", None)]


async def test_steps_are_read_again_after_an_hour(venue, stub, monkeypatch):
    await venue.instrument(BTC)
    changed = LINEAR | {"priceFilter": LINEAR["priceFilter"] | {"tickSize": "0.50"}}
    stub.answers["/v5/market/instruments-info"] = ok(category="linear", list=[changed])
    assert (await venue.instrument(BTC)).tick == Decimal("0.1")
    venue.market._markets_at -= 3601
    assert (await venue.instrument(BTC)).tick == Decimal("0.5")


# --- profiles -----------------------------------------------------------------------------------------------------

KEYS = {"QUARTERDECK_VENUE_KEY": "K3Y-of-mine", "QUARTERDECK_VENUE_SECRET": "S3CRET-of-mine"}


@pytest.fixture
def keys(monkeypatch, home):
    """Keys, and a trial that live wants to have passed."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    trials.keep(config.load(profile="testnet"), NOW, {})


@pytest.mark.parametrize("profile", ["testnet", "live"])
@pytest.mark.parametrize("missing", list(KEYS))
async def test_a_missing_key_is_named(monkeypatch, keys, profile, missing):
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match=f"{missing} is not set"):
        connect(config.load(profile=profile, live_account="24600000"))


async def test_live_says_how_to_arm_it(keys):
    with pytest.raises(InputError, match="QUARTERDECK_LIVE_ACCOUNT"):
        connect(config.load(profile="live"))


@pytest.mark.parametrize(("venue_id", "said"), [("kraken", "bitget only, not kraken"), ("bibyt", "ccxt")])
async def test_orders_go_only_where_their_dialect_is_known(keys, venue_id, said):
    with pytest.raises(InputError, match=said):
        connect(config.load(profile="testnet", venue=venue_id))


async def test_profiles_talk_to_their_own_servers(keys):
    def urls(profile):
        return set(connect(config.load(profile=profile, live_account="24600000")).market.client.urls["api"].values())

    assert urls("sandbox") == {"http://127.0.0.1:8891"}
    assert urls("testnet") == {"https://api-demo.{hostname}"}
    assert urls("paper") == urls("live") == {"https://api.{hostname}"}


async def test_testnet_is_the_venues_demo_or_its_testnet(keys):
    client = connect(config.load(profile="testnet", venue_demo=False)).market.client
    assert set(client.urls["api"].values()) == {"https://api-testnet.{hostname}"}


async def test_paper_has_no_keys_and_can_sign_nothing(keys, stub):
    venue = connect(config.load(profile="paper", venue_url=stub.url))
    assert not venue.market.client.apiKey
    with pytest.raises(InputError, match="paper has no account"):
        await venue.positions()
    with pytest.raises(Exception, match="apiKey"):
        await venue.market.client.private_post_v5_order_create({})
    assert stub.asked == []
    await venue.close()


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"profile": "live", "live_account": "1", "venue_url": "http://127.0.0.1:1"}, "VENUE_URL.*paper, not live"),
        ({"profile": "testnet", "venue_url": "http://127.0.0.1:1"}, "VENUE_URL.*paper, not testnet"),
        ({"profile": "paper", "venue_url": "https://api.bybit.com"}, "VENUE_URL.*is not http://127.0.0.1"),
        ({"profile": "paper", "venue_url": "http://10.0.0.1"}, "VENUE_URL.*is not http://127.0.0.1"),
        ({"profile": "sandbox", "sandbox_url": "https://api.bybit.com"}, "SANDBOX_URL.*is no sandbox"),
        ({"profile": "sandbox", "sandbox_url": "https://8.8.8.8"}, "SANDBOX_URL.*is no sandbox"),
        ({"profile": "sandbox", "sandbox_url": "nonsense"}, "SANDBOX_URL.*is no sandbox"),
    ],
)
async def test_no_profile_reaches_anothers_server(keys, chosen, said):
    with pytest.raises(InputError, match=said):
        connect(config.load(**chosen))


@pytest.mark.parametrize("url", ["http://sandbox:8891", "http://10.1.2.3:8891", "http://sandbox.trading.svc:80"])
async def test_a_sandbox_may_be_elsewhere_in_the_network(url):
    assert set(connect(config.load(profile="sandbox", sandbox_url=url)).market.client.urls["api"].values()) == {url}


def test_an_account_of_a_region_is_asked_at_its_own_host():
    opened = client.build(config.load(profile="paper", venue="bybit", venue_host="bybit.eu"))
    assert opened.implode_hostname(opened.urls["api"]["private"]) == "https://api.bybit.eu"
    with pytest.raises(InputError, match=r"'bybit.example' is no host of bybit: bybit.com, .*bybit.kz"):
        client.build(config.load(profile="paper", venue="bybit", venue_host="bybit.example"))


def live_venue(stub: Stub, **key: object) -> CcxtVenue:
    """Connect with profile live, then point it at the stub."""
    venue = connect(config.load(profile="live", live_account="24600000"))
    venue.market.client.urls["api"] = dict.fromkeys(venue.market.client.urls["api"], stub.url)
    permissions = {"Wallet": ["AccountTransfer"], "ContractTrade": ["Order", "Position"]}
    result = {"userID": 24600000, "readOnly": 0, "permissions": permissions} | key
    stub.answers["/v5/user/query-api"] = ok(**result)
    return venue


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ({"userID": 13}, "belongs to account 13"),
        ({"permissions": {"Wallet": ["AccountTransfer", "Withdraw"]}}, "may withdraw"),
        ({"permissions": {}}, "does not say whether it may withdraw"),
        ({"readOnly": 1}, "read-only"),
        ({"permissions": {"Wallet": [], "ContractTrade": ["Order"]}}, "lacks ContractTrade: Position"),
    ],
)
async def test_live_refuses_a_key_that_is_not_the_one_it_was_armed_for(keys, stub, key, said):
    venue = live_venue(stub, **key)
    for attempt in (lambda: venue.submit(entry()), venue.positions, lambda: venue.instrument(BTC)):
        with pytest.raises(InputError, match=said):
            await attempt()
    assert not stub.requests(CREATE)
    await venue.close()


async def test_live_asks_nothing_of_an_account_before_a_trial_from_this_home_passed(keys, home, stub):
    venue = live_venue(stub)
    kept = (home / "trials.json").read_text()
    for text, said in (("{}", "no trial on bybit from HOME .*doctor --trial"), ("{", "trials.json is damaged")):
        (home / "trials.json").write_text(text)
        with pytest.raises(InputError, match=said):
            await venue.positions()
    assert not stub.requests("/v5/user/query-api")
    (home / "trials.json").write_text(kept)
    stub.answers["/v5/position/list"] = ok(list=[])
    assert await venue.positions() == []
    await venue.close()


async def test_live_sends_with_the_right_key_after_one_check(keys, stub):
    venue = live_venue(stub)
    accepts(stub)
    await venue.submit(entry())
    await venue.submit(entry())
    assert len(stub.requests("/v5/user/query-api")) == 1
    assert (await venue.account.permissions()).account_id == "24600000"
    await venue.close()


async def test_one_client_per_settings_and_loop_until_it_is_closed(stub):
    settings = config.load(profile="sandbox", sandbox_url=stub.url)
    first = connect(settings)
    assert connect(config.load(profile="sandbox", sandbox_url=stub.url)) is first
    await first.instrument(BTC)
    await first.close()
    second = connect(settings)
    assert second is not first
    assert (await second.instrument(BTC)).symbol == BTC
    await second.close()


def test_each_event_loop_gets_its_own_client(stub):
    settings = config.load(profile="sandbox", sandbox_url=stub.url)
    seen = []

    async def use() -> None:
        venue = connect(settings)
        seen.append(venue)
        await venue.instrument(BTC)
        await venue.close()

    asyncio.run(use())
    asyncio.run(use())
    assert all(a is not b for a, b in itertools.pairwise(seen))
