"""Bitget's dialect against a scripted server: an order's life on the wire, and its traps."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from venue_stub import NOW_MS, Asked, Stub, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.errors import DuplicateOrder, OrderRejected, VenueUnavailable
from tasks.core.types.limits import Limits
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

BTC, ID = "BTC/USDT:USDT", "dec00123456789abcdef0123456789ab"
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
PLACE, DETAIL, PENDING, PLANS, FILLS, CANCEL, TPSL, MODIFY, CANCEL_PLAN = (
    f"/api/v2/mix/order/{name}"
    for name in (
        "place-order", "detail", "orders-pending", "orders-plan-pending", "fills", "cancel-order", "place-tpsl-order",
        "modify-tpsl-order", "cancel-plan-order",
    )
)  # fmt: skip
POSITIONS, ACCOUNT, BALANCE = (
    "/api/v2/mix/position/all-position",
    "/api/v2/mix/account/account",
    "/api/v2/mix/account/accounts",
)
CONTRACT = {
    "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "supportMarginCoins": ["USDT"], "minTradeNum": "0.001",
    "priceEndStep": "1", "volumePlace": "3", "pricePlace": "1", "sizeMultiplier": "0.001", "symbolType": "perpetual",
    "minTradeUSDT": "5", "symbolStatus": "normal", "minLever": "1", "maxLever": "125", "deliveryTime": "",
    "makerFeeRate": "0.0002", "takerFeeRate": "0.0006", "launchTime": "", "fundInterval": "8",
}  # fmt: skip
ROW = {
    "symbol": "BTCUSDT", "size": "0.03", "orderId": "7001", "clientOid": ID, "baseVolume": "0.03", "fee": "-0.9",
    "price": "", "priceAvg": "87012.3", "state": "filled", "side": "buy", "force": "gtc", "posSide": "net",
    "presetStopSurplusPrice": "91000", "presetStopLossPrice": "86000", "orderType": "market", "reduceOnly": "NO",
    "tradeSide": "buy_single", "posMode": "one_way_mode", "orderSource": "market",
    "cTime": str(NOW_MS - 900), "uTime": str(NOW_MS - 800),
}  # fmt: skip
PLAN = {
    "planType": "loss_plan", "symbol": "BTCUSDT", "size": "0.03", "orderId": "9001", "clientOid": "1", "price": "0",
    "executePrice": "0", "triggerPrice": "86000", "triggerType": "fill_price", "planStatus": "live", "side": "sell",
    "posSide": "net", "tradeSide": "sell_single", "posMode": "one_way_mode", "orderType": "market",
    "cTime": str(NOW_MS), "uTime": str(NOW_MS),
}  # fmt: skip
GAIN = PLAN | {"planType": "profit_plan", "orderId": "9002", "triggerPrice": "91000"}
WHOLE = PLAN | {"planType": "pos_loss", "orderId": "9100", "size": ""}
LONG = {
    "symbol": "BTCUSDT", "marginCoin": "USDT", "holdSide": "long", "total": "0.03", "available": "0.03",
    "leverage": "3", "openPriceAvg": "87012.3", "marginMode": "crossed", "posMode": "one_way_mode", "unrealizedPL": "0",
    "marginSize": "870", "markPrice": "87000", "liquidationPrice": "", "keepMarginRate": "0.004",
    "cTime": str(NOW_MS), "uTime": str(NOW_MS),
}  # fmt: skip
FILL = {
    "tradeId": "61", "symbol": "BTCUSDT", "orderId": "7001", "price": "87012.3", "baseVolume": "0.03", "side": "buy",
    "feeDetail": [{"deduction": "no", "feeCoin": "USDT", "totalDeductionFee": "0", "totalFee": "-0.9"}],
    "quoteVolume": "2610", "profit": "0", "tradeSide": "buy_single", "posMode": "one_way_mode", "tradeScope": "taker",
    "cTime": str(NOW_MS - 850),
}  # fmt: skip
SET = {"productType": "USDT-FUTURES", "marginCoin": "USDT", "symbol": "BTCUSDT", "triggerType": "fill_price"}


def ok(data: object) -> dict[str, object]:
    return {"code": "00000", "msg": "success", "requestTime": NOW_MS, "data": data}


def refused(code: str, words: str) -> dict[str, object]:
    return {"code": code, "msg": words, "requestTime": NOW_MS, "data": None}


TAKEN = ok({"orderId": "7001", "clientOid": ID})
CANCELLED = ok({"successList": [{"orderId": "9001", "clientOid": "1"}], "failureList": []})


def _plans(*rows: dict[str, str]):
    return lambda asked: ok({"entrustedList": list(rows) if asked.query["planType"] == "profit_loss" else None})


@pytest.fixture
def stub():
    with stub_venue() as running:
        running.answers = {
            "/api/v2/public/time": ok({"serverTime": str(NOW_MS)}),
            "/api/v2/mix/market/contracts": lambda asked: ok(
                [CONTRACT] if asked.query["productType"] == "USDT-FUTURES" else []
            ),
            "/api/v2/spot/public/symbols": ok([]), "/api/v2/margin/currencies": ok([]),
            ACCOUNT: ok({"posMode": "one_way_mode", "marginMode": "crossed", "crossedMarginLeverage": "10"}),
            "/api/v2/mix/account/set-leverage": ok({"symbol": "BTCUSDT"}),
            POSITIONS: ok([]), PENDING: ok({"entrustedList": None}), PLANS: _plans(), FILLS: ok({"fillList": None}),
            PLACE: TAKEN, DETAIL: ok(ROW), TPSL: TAKEN, MODIFY: TAKEN, CANCEL_PLAN: CANCELLED,
        }  # fmt: skip
        yield running


@pytest.fixture
async def venue(stub, monkeypatch):
    for name in (client.KEY, client.SECRET, client.PASSWORD):
        monkeypatch.setenv(name, "word")
    monkeypatch.setattr(venue_module, "LOOKS", (0.0, 0.0))
    settings = config.load(profile="testnet", venue="bitget", symbols=[BTC], limits=Limits(leverage=3))
    real = client.build(settings)
    client._to_server(real, stub.url)
    real.enableRateLimit = False
    opened = CcxtVenue(real, settings)
    yield opened
    await opened.close()


def entry(**changes: object) -> OrderIntent:
    fields: dict[str, object] = {"client_order_id": ID, "symbol": BTC, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal("0.03")} | changes)


def listed(stub: Stub, *plans: dict[str, str]) -> None:
    stub.answers |= {POSITIONS: ok([LONG]), PLANS: _plans(*plans)}


def posts(stub: Stub) -> list[Asked]:
    return [asked for asked in stub.asked if asked.method == "POST"]


# --- a life -------------------------------------------------------------------------------------------------------


async def test_a_life_from_the_entry_to_the_stop_out(venue, stub):
    """Entry with stop and target, half filled, read back, moved, stopped out; then a new process finds the entry."""
    stub.answers[DETAIL] = ok(ROW | {"state": "partially_filled", "baseVolume": "0.015"})
    sent = await venue.submit(entry(stop=Decimal(86_000), target=Decimal(91_000)))
    assert (sent.status, sent.quantity, sent.filled) == (OrderStatus.OPEN, Decimal("0.03"), Decimal("0.015"))
    leverage, placed = posts(stub)
    assert leverage.body == {
        "symbol": "BTCUSDT", "leverage": "3", "marginCoin": "USDT", "productType": "USDT-FUTURES",
    }  # fmt: skip
    assert placed.body == {
        "symbol": "BTCUSDT", "productType": "USDT-FUTURES", "marginCoin": "USDT", "marginMode": "crossed",
        "side": "buy", "orderType": "market", "size": "0.03", "force": "GTC", "clientOid": ID,
        "presetStopLossPrice": "86000", "presetStopSurplusPrice": "91000",
    }  # fmt: skip

    stub.answers[DETAIL] = ok(ROW)
    listed(stub, PLAN, GAIN)
    (held,) = await venue.positions()
    assert (held.side, held.quantity, held.avg_price) == ("long", Decimal("0.03"), Decimal("87012.3"))
    assert (held.stop, held.target) == (Decimal(86_000), Decimal(91_000))

    before = len(posts(stub))
    await venue.set_protection(BTC, Decimal(87_100), None, client_order_id="ab" * 16)
    await venue.set_protection(BTC, Decimal(86_000), Decimal(91_000), client_order_id="ab" * 16)  # what rests already
    (moved,) = posts(stub)[before:]
    assert (moved.path, moved.body) == (MODIFY, SET | {"orderId": "9001", "triggerPrice": "87100", "size": "0.03"})

    exit_ = FILL | {"tradeId": "62", "orderId": "7002", "side": "sell", "price": "86000", "cTime": str(NOW_MS)}
    fired = ROW | {"orderId": "7002", "clientOid": "1100", "side": "sell", "orderSource": "loss_market"}
    stub.answers |= {
        POSITIONS: ok([]), PLANS: _plans(), FILLS: ok({"fillList": [exit_, FILL], "endId": "61"}),
        DETAIL: lambda asked: ok(fired if asked.query.get("orderId") == "7002" else ROW),
    }  # fmt: skip
    bought, stopped = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (bought.client_order_id, bought.reason, bought.fee) == (ID, "", Decimal("0.9"))
    assert (stopped.client_order_id, stopped.reason, stopped.price) == ("", "stop", Decimal(86_000))
    looked = len(stub.requests(DETAIL))
    await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert len(stub.requests(DETAIL)) == looked

    found = await venue.find_order(BTC, ID)
    assert found is not None
    assert (found.status, found.filled, found.avg_price) == (OrderStatus.FILLED, Decimal("0.03"), Decimal("87012.3"))
    assert (found.stop, found.target) == (Decimal(86_000), Decimal(91_000))


async def test_a_limit_rests_is_cancelled_and_one_that_is_gone_is_fine(venue, stub):
    resting = ROW | {"orderType": "limit", "price": "86500", "state": "live", "baseVolume": "0", "priceAvg": ""}
    stub.answers |= {
        DETAIL: ok(resting), PENDING: ok({"entrustedList": [resting | {"status": "live"}], "endId": "7001"}),
        CANCEL: [TAKEN, refused("40768", "Order does not exist")],
    }  # fmt: skip
    sent = await venue.submit(entry(type=OrderType.LIMIT, price=Decimal(86_500), stop=Decimal(86_000)))
    assert (sent.type, sent.price, sent.status) == ("limit", Decimal(86_500), OrderStatus.OPEN)
    assert await venue.open_orders(BTC) == [sent]
    await venue.cancel(BTC, ID)
    await venue.cancel(BTC, ID)
    assert posts(stub)[-1].body == {"symbol": "BTCUSDT", "clientOid": ID, "productType": "USDT-FUTURES"}


async def test_an_exit_says_yes_and_a_lower_case_no_is_no(venue, stub):
    listed(stub, WHOLE)
    stub.answers[DETAIL] = ok(ROW | {"side": "sell", "reduceOnly": "yes"})
    assert (await venue.submit(entry(side="sell", reduce_only=True))).reduce_only
    assert stub.requests(PLACE)[0].body["reduceOnly"] == "YES"
    stub.answers[DETAIL] = ok(ROW | {"reduceOnly": "no"})
    assert not (await venue.find_order(BTC, ID)).reduce_only


# --- protection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "side"), [({}, "buy"), ({"holdSide": "short"}, "sell")])
async def test_a_missing_stop_is_placed_for_the_whole_position(venue, stub, held, side):
    listed(stub)
    stub.answers[POSITIONS] = ok([LONG | held])
    await venue.set_protection(BTC, Decimal(86_000), None, client_order_id=ID)
    (placed,) = posts(stub)
    expected = SET | {"planType": "pos_loss", "holdSide": side, "triggerPrice": "86000", "clientOid": ID}
    assert (placed.path, placed.body) == (TPSL, expected)


async def test_beside_a_persons_part_a_stop_is_for_ours(venue, stub):
    listed(stub)
    await venue.set_protection(BTC, Decimal(86_000), None, quantity=Decimal("0.02"))
    (placed,) = posts(stub)
    assert (placed.body["planType"], placed.body["size"]) == ("loss_plan", "0.02")


async def test_a_stop_of_a_part_gives_way_to_one_of_the_whole(venue, stub):
    listed(stub, PLAN | {"size": "0.01"})
    (held,) = await venue.positions()
    assert (held.stop, held.stop_quantity) == (Decimal(86_000), Decimal("0.01"))
    await venue.set_protection(BTC, Decimal(86_000), None)
    placed, cancelled = posts(stub)
    assert placed.body["planType"] == "pos_loss"
    assert (cancelled.path, cancelled.body) == (
        CANCEL_PLAN,
        {
            "symbol": "BTCUSDT",
            "productType": "USDT-FUTURES",
            "planType": "loss_plan",
            "orderIdList": [{"orderId": "9001"}],
        },
    )


async def test_a_stop_of_the_whole_is_moved_without_a_size_and_goes_by_its_kind(venue, stub):
    listed(stub, WHOLE)
    (held,) = await venue.positions()
    assert (held.stop, held.target) == (Decimal(86_000), None)
    await venue.set_protection(BTC, Decimal(86_500), None)
    await venue.set_protection(BTC, Decimal(0), None)
    moved, cancelled = posts(stub)
    assert moved.body == SET | {"orderId": "9100", "triggerPrice": "86500", "size": ""}
    assert cancelled.body["planType"] == "pos_loss"


async def test_a_failure_inside_an_answer_of_00000_is_one_and_a_stop_that_is_gone_is_fine(venue, stub):
    listed(stub, WHOLE)
    failure = {"orderId": "9100", "clientOid": "1", "errorMsg": "Order does not exist", "errorCode": "40768"}
    stub.answers[CANCEL_PLAN] = ok({"successList": [], "failureList": [failure]})
    await venue.set_protection(BTC, Decimal(0), None)
    refusal = failure | {"errorMsg": "The order size is less than the minimum", "errorCode": "45111"}
    stub.answers[CANCEL_PLAN] = ok({"successList": [], "failureList": [refusal]})
    with pytest.raises(OrderRejected, match="45111"):
        await venue.set_protection(BTC, Decimal(0), None)
    stub.answers[CANCEL_PLAN] = ok(
        {"successList": [], "failureList": [{"orderId": "9100", "errorMsg": "it did not go"}]}
    )
    with pytest.raises(VenueUnavailable, match="it did not go"):
        await venue.set_protection(BTC, Decimal(0), None)


# --- what is read -------------------------------------------------------------------------------------------------


async def test_fills_are_paged_by_time_until_none_is_left(venue, stub):
    rows = [FILL | {"tradeId": str(1000 - n), "cTime": str(NOW_MS - n // 2)} for n in range(250)]

    def page(asked: Asked) -> object:
        end = int(asked.query.get("endTime", NOW_MS))
        return ok({"fillList": [row for row in rows if int(row["cTime"]) <= end][:100]})

    stub.answers[FILLS] = page
    fills = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert sorted(int(fill.fill_id) for fill in fills) == list(range(751, 1001))
    stub.answers[FILLS] = ok({"fillList": [FILL | {"tradeId": str(n)} for n in range(100)]})
    with pytest.raises(VenueUnavailable, match="millisecond"):
        await venue.fills(BTC, NOW - timedelta(minutes=5))


@pytest.mark.parametrize(
    ("changes", "reason", "fee", "coin"),
    [
        ({"tradeSide": "burst_sell_single"}, "liquidation", "0.9", "USDT"),
        ({"tradeSide": "reduce_sell_single"}, "liquidation", "0.9", "USDT"),
        ({"feeDetail": [{"deduction": "yes", "feeCoin": "BGB", "totalFee": "-0.017"}]}, "", "0.017", "BGB"),
        ({"feeDetail": [{"deduction": "no", "feeCoin": "USDT", "totalFee": "0.002"}]}, "", "-0.002", "USDT"),
        ({"feeDetail": []}, "", "0", "USDT"),
    ],
)
async def test_a_fill_says_why_and_what_it_cost(venue, stub, changes, reason, fee, coin):
    stub.answers[FILLS] = ok({"fillList": [FILL | changes]})
    (fill,) = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (fill.reason, fill.fee, fill.fee_currency) == (reason, Decimal(fee), coin)


async def test_a_position_in_a_contract_that_is_listed_no_longer_hides_no_other(venue, stub):
    listed(stub, PLAN)
    stub.answers[POSITIONS] = ok([LONG | {"symbol": "OLDUSDT", "holdSide": "short", "total": "700"}, LONG])
    old, ours = await venue.positions()
    assert (old.symbol, old.side, old.quantity) == ("OLD/USDT:USDT", "short", 700)
    assert (ours.symbol, ours.stop) == (BTC, Decimal(86_000))


async def test_what_is_free_is_for_margin_not_for_withdrawal(venue, stub):
    account = {"marginCoin": "USDT", "accountEquity": "2000.000000000000000001", "available": "1900"}
    stub.answers[BALANCE] = ok([account | {"maxTransferOut": "10572", "crossedMaxAvailable": "1800.5", "locked": "0"}])
    balance = await venue.balance()
    assert (balance.equity, balance.available) == (Decimal("2000.000000000000000001"), Decimal("1800.5"))
    stub.answers[BALANCE] = ok([account | {"marginCoin": "USDC"}])
    assert (await venue.balance()).equity == 0
    stub.answers[BALANCE] = ok({"successList": []})
    with pytest.raises(VenueUnavailable):
        await venue.balance()


async def test_hedge_mode_is_refused_and_the_account_is_asked_only_what_it_needs(venue, stub):
    stub.answers[ACCOUNT] = ok({"posMode": "hedge_mode", "marginMode": "crossed", "crossedMarginLeverage": "3"})
    with pytest.raises(OrderRejected, match="hedge mode"):
        await venue.submit(entry(stop=Decimal(86_000)))
    assert not posts(stub)
    assert not any(asked.path.startswith("/api/v3") for asked in stub.asked)


async def test_an_id_is_taken_once_and_one_nobody_sent_is_none(venue, stub):
    stub.answers[PLACE] = refused("40786", "Duplicate clientOid")
    with pytest.raises(DuplicateOrder):
        await venue.submit(entry(stop=Decimal(86_000)))
    stub.answers[DETAIL] = refused("40109", "The data of the order cannot be found")
    assert await venue.find_order(BTC, ID) is None


async def test_the_key_is_told_as_it_is_and_a_demo_is_asked_with_its_header(venue, stub):
    stub.answers["/api/v2/spot/account/info"] = ok({"userId": "44", "authorities": ["coow", "cpow", "stor"]})
    key = await venue.account.permissions()
    assert (key.account_id, key.withdraw, key.read_only) == ("44", False, False)
    stub.answers["/api/v2/spot/account/info"] = ok({"userId": "44", "authorities": ["coor", "wwow"]})
    key = await venue.account.permissions()
    assert (key.withdraw, key.read_only) == (True, True)
    stub.answers[BALANCE] = ok([{"marginCoin": "USDT", "accountEquity": "9", "crossedMaxAvailable": "9"}])
    facts = await venue.account.arming()
    assert (facts.margin_mode, facts.flaws, facts.leverage) == ("crossed", (), {BTC: 10})
    stub.answers[ACCOUNT] = ok({"posMode": "one_way_mode", "marginMode": "isolated", "crossedMarginLeverage": "10"})
    [flaw] = (await venue.account.arming()).flaws
    assert flaw.startswith("isolated margin: switch")
    assert (
        venue.market.client.sign("v2/mix/order/detail", ["private", "mix"], "GET", {})["headers"]["PAPTRADING"] == "1"
    )
