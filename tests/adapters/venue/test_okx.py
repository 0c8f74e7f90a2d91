"""OKX's dialect against a scripted server: an order's life on the wire, contracts turned into base, and its traps."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from venue_stub import NOW_MS, Asked, Stub, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.errors import InputError, OrderRejected, VenueUnavailable
from tasks.core.types.limits import Limits
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

BTC, ID = "BTC/USDT:USDT", "dec00123456789abcdef0123456789ab"
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
ORDER, ALGO, AMEND, CANCEL_ALGOS = (
    f"/api/v5/trade/{name}" for name in ("order", "order-algo", "amend-algos", "cancel-algos")
)
PENDING, ALGOS, FILLS, FIRED = (
    f"/api/v5/trade/{name}"
    for name in ("orders-pending", "orders-algo-pending", "fills-history", "orders-algo-history")
)
POSITIONS, BALANCE, CONFIG = (f"/api/v5/account/{name}" for name in ("positions", "balance", "config"))
SWAP = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "uly": "BTC-USDT", "settleCcy": "USDT", "ctType": "linear",
    "ctVal": "0.01", "ctMult": "1", "ctValCcy": "BTC", "lotSz": "0.1", "minSz": "0.1", "tickSz": "0.1",
    "lever": "100", "state": "live", "maxMktSz": "5000", "baseCcy": "", "quoteCcy": "",
}  # fmt: skip
ROW = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "ordId": "7001", "clOrdId": ID, "algoId": "", "algoClOrdId": "",
    "side": "buy", "posSide": "net", "ordType": "market", "sz": "3", "accFillSz": "3", "avgPx": "87012.3", "px": "",
    "state": "filled", "reduceOnly": "false", "category": "normal", "fee": "-0.6", "feeCcy": "USDT",
    "attachAlgoOrds": [{"attachAlgoId": "9001", "slTriggerPx": "86000", "tpTriggerPx": ""},
                       {"attachAlgoId": "9002", "slTriggerPx": "", "tpTriggerPx": "91000.5"}],
    "cTime": str(NOW_MS - 900), "uTime": str(NOW_MS - 800),
}  # fmt: skip
OCO = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "algoId": "9001", "algoClOrdId": "", "clOrdId": "", "ordId": "",
    "ordType": "oco", "state": "live", "side": "sell", "posSide": "net", "sz": "3", "reduceOnly": "true",
    "slTriggerPx": "86000", "slOrdPx": "-1", "tpTriggerPx": "91000.5", "tpOrdPx": "-1", "actualSz": "0",
    "actualPx": "", "actualSide": "", "closeFraction": "", "cTime": str(NOW_MS), "uTime": str(NOW_MS),
}  # fmt: skip
WHOLE = OCO | {"algoId": "9100", "ordType": "conditional", "sz": "", "closeFraction": "1", "tpTriggerPx": ""}
LONG = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "posSide": "net", "pos": "3", "avgPx": "87012.3", "mgnMode": "cross",
    "ccy": "USDT", "lever": "3", "upl": "0", "imr": "87", "mmr": "1", "markPx": "87000", "notionalUsd": "2610",
    "uTime": str(NOW_MS), "cTime": str(NOW_MS),
}  # fmt: skip
FILL = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "billId": "501", "tradeId": "61", "ordId": "7001", "clOrdId": ID,
    "side": "buy", "posSide": "net", "fillSz": "3", "fillPx": "87012.3", "fee": "-0.5", "feeCcy": "USDT",
    "execType": "T", "subType": "1", "ts": str(NOW_MS - 850),
}  # fmt: skip


def ok(*rows: object) -> dict[str, object]:
    return {"code": "0", "msg": "", "data": list(rows)}


def taken(**row: str) -> dict[str, object]:
    return ok({"sCode": "0", "sMsg": ""} | row)


def _algos(*rows: dict[str, str]):
    """List algo orders as the venue does: by type."""
    return lambda asked: ok(*(row for row in rows if row["ordType"] in asked.query["ordType"].split(",")))


@pytest.fixture
def stub():
    with stub_venue() as running:
        running.answers = {
            "/api/v5/public/time": ok({"ts": str(NOW_MS)}),
            "/api/v5/public/instruments": lambda asked: ok(*[SWAP] * (asked.query["instType"] == "SWAP")),
            CONFIG: ok({"uid": "44", "acctLv": "2", "posMode": "net_mode", "perm": "read_only,trade"}),
            "/api/v5/account/leverage-info": ok({"instId": "BTC-USDT-SWAP", "lever": "10", "mgnMode": "cross"}),
            "/api/v5/account/set-leverage": ok({"lever": "3"}),
            POSITIONS: ok(), PENDING: ok(), ALGOS: _algos(), FILLS: ok(), FIRED: ok(),
            ALGO: taken(algoId="9100"), AMEND: taken(algoId="9001"), CANCEL_ALGOS: taken(algoId="9001"),
        }  # fmt: skip
        yield running


@pytest.fixture
async def venue(stub, monkeypatch):
    for name in (client.KEY, client.SECRET, client.PASSWORD):
        monkeypatch.setenv(name, "word")
    monkeypatch.setattr(venue_module, "LOOKS", (0.0, 0.0))
    settings = config.load(profile="testnet", venue="okx", symbols=[BTC], limits=Limits(leverage=3))
    real = client.build(settings)
    client._to_server(real, stub.url)
    real.enableRateLimit = False
    opened = CcxtVenue(real, settings)
    yield opened
    await opened.close()


def entry(**changes: object) -> OrderIntent:
    fields: dict[str, object] = {"client_order_id": ID, "symbol": BTC, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal("0.03")} | changes)


def listed(stub: Stub, *algos: dict[str, str]) -> None:
    """Let the position be open, with these algo orders."""
    stub.answers |= {POSITIONS: ok(LONG), ALGOS: _algos(*algos)}


def posts(stub: Stub) -> list[Asked]:
    return [asked for asked in stub.asked if asked.method == "POST"]


def headers_of(venue: CcxtVenue) -> dict[str, str]:
    return venue.market.client.headers


# --- a life -------------------------------------------------------------------------------------------------------


async def test_a_life_from_the_entry_to_the_stop_out(venue, stub):
    """Entry with stop and target, half filled, read back, moved, stopped out; then a new process finds the entry."""
    stub.answers |= {
        ORDER: lambda asked: taken(ordId="7001", clOrdId=ID) if asked.method == "POST"
        else ok(ROW | {"state": "partially_filled", "accFillSz": "1.5"}),
    }  # fmt: skip
    sent = await venue.submit(entry(stop=Decimal(86_000), target=Decimal("91000.5")))
    assert (sent.status, sent.quantity, sent.filled) == (OrderStatus.OPEN, Decimal("0.03"), Decimal("0.015"))
    leverage, placed = posts(stub)
    assert leverage.body == {"instId": "BTC-USDT-SWAP", "lever": "3", "mgnMode": "cross"}
    assert placed.body == {
        "instId": "BTC-USDT-SWAP", "tdMode": "cross", "side": "buy", "ordType": "market", "sz": "3", "clOrdId": ID,
        "attachAlgoOrds": [{"slTriggerPx": "86000", "slOrdPx": "-1", "slTriggerPxType": "last",
                            "tpTriggerPx": "91000.5", "tpOrdPx": "-1", "tpTriggerPxType": "last"}],
    }  # fmt: skip

    stub.answers[ORDER] = ok(ROW)
    listed(stub, OCO)
    (held,) = await venue.positions()
    assert (held.side, held.quantity, held.avg_price) == ("long", Decimal("0.03"), Decimal("87012.3"))
    assert (held.stop, held.target) == (Decimal(86_000), Decimal("91000.5"))

    await venue.set_protection(BTC, Decimal(87_100), None, client_order_id="ab" * 16)
    assert posts(stub)[-1].body == {
        "instId": "BTC-USDT-SWAP", "algoId": "9001", "newSlTriggerPx": "87100", "newSlOrdPx": "-1",
        "newSlTriggerPxType": "last",
    }  # fmt: skip
    before = len(posts(stub))
    await venue.set_protection(
        BTC, Decimal(86_000), Decimal("91000.5"), client_order_id="ab" * 16
    )  # what rests already
    assert len(posts(stub)) == before

    exit_ = FILL | {"billId": "502", "ordId": "7002", "clOrdId": "", "side": "sell", "fillPx": "86000", "fee": "-0.49"}
    fired = OCO | {"state": "effective", "actualSide": "sl", "actualSz": "3", "ordId": "7002"}
    stub.answers |= {
        POSITIONS: ok(), ALGOS: _algos(), FILLS: ok(exit_ | {"ts": str(NOW_MS)}, FILL),
        FIRED: lambda asked: ok(*[fired] * (asked.query["ordType"] == "oco")),
    }  # fmt: skip
    bought, stopped = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (bought.client_order_id, bought.quantity, bought.fee) == (ID, Decimal("0.03"), Decimal("0.5"))
    assert (stopped.reason, stopped.client_order_id, stopped.price) == ("stop", "", Decimal(86_000))
    assert await venue.positions() == []

    found = await venue.find_order(BTC, ID)
    assert found is not None
    assert (found.status, found.venue_order_id, found.filled) == (OrderStatus.FILLED, "7001", Decimal("0.03"))
    assert (found.stop, found.target, found.avg_price) == (Decimal(86_000), Decimal("91000.5"), Decimal("87012.3"))


async def test_a_limit_rests_is_cancelled_and_one_that_is_gone_is_fine(venue, stub):
    resting = ROW | {"ordType": "limit", "px": "86500", "state": "live", "accFillSz": "0", "avgPx": ""}
    stub.answers |= {
        ORDER: lambda asked: taken(ordId="7001") if asked.method == "POST" else ok(resting), PENDING: ok(resting),
        "/api/v5/trade/cancel-order": [
            taken(ordId="7001"),
            {"code": "1", "msg": "", "data": [{"sCode": "51400", "sMsg": "Cancellation failed: does not exist"}]},
        ],
    }  # fmt: skip
    sent = await venue.submit(entry(type=OrderType.LIMIT, price=Decimal(86_500), stop=Decimal(86_000)))
    assert (sent.type, sent.price, sent.status) == ("limit", Decimal(86_500), OrderStatus.OPEN)
    assert await venue.open_orders(BTC) == [sent]
    await venue.cancel(BTC, ID)
    await venue.cancel(BTC, ID)
    assert posts(stub)[-1].body == {"instId": "BTC-USDT-SWAP", "clOrdId": ID}


async def test_an_order_nobody_sent_is_none_only_if_the_venue_says_so(venue, stub):
    unknown = {"code": "51603", "msg": "Order does not exist", "data": []}
    stub.answers |= {ORDER: unknown, ALGO: unknown}
    assert await venue.find_order(BTC, ID) is None
    stub.answers[ALGO] = {"code": "50001", "msg": "Service temporarily unavailable", "data": []}
    with pytest.raises(VenueUnavailable):
        await venue.find_order(BTC, ID)


# --- protection ---------------------------------------------------------------------------------------------------


async def test_a_missing_stop_is_placed_for_the_whole_position(venue, stub):
    listed(stub)
    await venue.set_protection(BTC, Decimal(86_000), None, client_order_id=ID)
    (placed,) = posts(stub)
    assert (placed.path, placed.body) == (
        ALGO,
        {
            "instId": "BTC-USDT-SWAP", "tdMode": "cross", "side": "sell", "ordType": "conditional",
            "reduceOnly": "true", "closeFraction": "1", "algoClOrdId": ID, "slTriggerPx": "86000", "slOrdPx": "-1",
            "slTriggerPxType": "last",
        },
    )  # fmt: skip


async def test_a_stop_of_a_part_is_none_and_gives_way_to_one_of_the_whole(venue, stub):
    listed(stub, OCO | {"sz": "1", "tpTriggerPx": "", "ordType": "conditional"})
    (held,) = await venue.positions()
    assert (held.stop, held.stop_quantity, held.target) == (Decimal(86_000), Decimal("0.01"), None)
    await venue.set_protection(BTC, Decimal(86_000), None)
    placed, cancelled = posts(stub)
    assert (placed.path, placed.body["closeFraction"]) == (ALGO, "1")
    assert (cancelled.path, cancelled.body) == (CANCEL_ALGOS, [{"algoId": "9001", "instId": "BTC-USDT-SWAP"}])


async def test_beside_a_persons_part_a_stop_is_for_ours(venue, stub):
    listed(stub)
    await venue.set_protection(BTC, Decimal(86_000), None, quantity=Decimal("0.02"))
    (placed,) = posts(stub)
    assert (placed.body["sz"], placed.body.get("closeFraction")) == ("2", None)


async def test_two_parts_that_cover_all_count_at_the_worse_stop_and_both_move(venue, stub):
    listed(stub, OCO | {"sz": "1"}, OCO | {"sz": "2", "algoId": "9002", "slTriggerPx": "85000"})
    (held,) = await venue.positions()
    assert (held.stop, held.target) == (Decimal(85_000), Decimal("91000.5"))
    await venue.set_protection(BTC, Decimal(86_000), None)
    assert [(asked.path, asked.body["algoId"]) for asked in posts(stub)] == [(AMEND, "9002")]


async def test_a_target_goes_alone_where_it_shares_an_order_with_the_stop(venue, stub):
    listed(stub, OCO)
    await venue.set_protection(BTC, None, Decimal(0))
    (amended,) = posts(stub)
    assert amended.body == {
        "instId": "BTC-USDT-SWAP", "algoId": "9001", "newTpTriggerPx": "0", "newTpOrdPx": "0",
        "newTpTriggerPxType": "last",
    }  # fmt: skip


async def test_both_go_by_cancelling_the_one_order_they_share(venue, stub):
    stub.answers[ALGOS] = _algos(OCO)
    await venue.set_protection(BTC, Decimal(0), Decimal(0))
    (cancelled,) = posts(stub)
    assert (cancelled.path, cancelled.body) == (CANCEL_ALGOS, [{"algoId": "9001", "instId": "BTC-USDT-SWAP"}])


async def test_a_stop_without_a_position_is_refused_and_one_for_the_whole_counts(venue, stub):
    with pytest.raises(OrderRejected, match="no position"):
        await venue.set_protection(BTC, Decimal(86_000), None)
    listed(stub, WHOLE)
    (held,) = await venue.positions()
    assert (held.stop, held.target) == (Decimal(86_000), None)


async def test_what_outlived_its_position_goes_before_the_next_entry_and_nothing_young_does(venue, stub):
    """Attached stops stay after an offsetting close: one of them would close a part of the next position."""
    old = str(NOW_MS - 600_000)
    theirs = OCO | {"algoId": "9003", "cTime": old, "reduceOnly": "false"}
    stub.answers |= {
        ALGOS: _algos(OCO | {"cTime": old}, OCO | {"algoId": "9002"}, theirs),
        ORDER: lambda asked: taken(ordId="7001") if asked.method == "POST" else ok(ROW),
    }  # fmt: skip
    await venue.submit(entry(stop=Decimal(86_000)))
    gone = [row["algoId"] for asked in stub.requests(CANCEL_ALGOS) for row in asked.body]
    assert set(gone) == {"9001"}


async def test_what_outlived_its_position_goes_with_our_exit_and_stays_if_one_look_misses_the_position(venue, stub):
    done = ROW | {"side": "sell", "reduceOnly": "true", "attachAlgoOrds": [], "cTime": str(NOW_MS + 1)}
    stub.answers |= {
        ORDER: lambda asked: taken(ordId="7001") if asked.method == "POST" else ok(done), ALGOS: _algos(OCO),
        POSITIONS: [ok(), ok(LONG), ok()],
    }  # fmt: skip
    await venue.submit(entry(side="sell", reduce_only=True))
    assert not stub.requests(CANCEL_ALGOS)
    stub.answers[CANCEL_ALGOS] = ok({"algoId": "9001", "sCode": "50013", "sMsg": "Systems are busy"})
    order = await venue.submit(entry(side="sell", reduce_only=True))
    assert order.status is OrderStatus.FILLED  # whatever became of what it left behind
    assert stub.requests(CANCEL_ALGOS)[0].body == [{"algoId": "9001", "instId": "BTC-USDT-SWAP"}]


# --- what is read -------------------------------------------------------------------------------------------------


async def test_fills_are_paged_by_bill_until_none_is_left(venue, stub):
    rows = [FILL | {"billId": str(1000 - n), "ts": str(NOW_MS - n)} for n in range(250)]

    def page(asked: Asked) -> object:
        before = int(asked.query.get("after", "1001"))
        return ok(*[row for row in rows if int(row["billId"]) < before][:100])

    stub.answers[FILLS] = page
    fills = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert [fill.fill_id for fill in fills] == [str(n) for n in range(751, 1001)]
    assert len(await venue.fills(BTC, NOW - timedelta(milliseconds=50))) == 51


@pytest.mark.parametrize(
    ("changes", "reason", "fee", "liquidity"),
    [
        ({"subType": "104", "clOrdId": "", "side": "sell"}, "liquidation", "0.5", "taker"),
        ({"subType": "125", "clOrdId": "", "side": "sell"}, "liquidation", "0.5", "taker"),
        ({"fee": "0.02", "execType": "M"}, "", "-0.02", "maker"),
    ],
)
async def test_a_fill_says_why_and_what_it_cost(venue, stub, changes, reason, fee, liquidity):
    stub.answers[FILLS] = ok(FILL | changes)
    (fill,) = await venue.fills(BTC, NOW - timedelta(minutes=5))
    assert (fill.reason, fill.fee, fill.liquidity) == (reason, Decimal(fee), liquidity)


async def test_an_order_sent_by_an_algo_order_keeps_its_own_id(venue, stub):
    stub.answers[PENDING] = ok(ROW | {"state": "live", "algoId": "9001", "accFillSz": "0"})
    (order,) = await venue.open_orders(BTC)
    assert order.venue_order_id == "7001"


@pytest.mark.parametrize(
    ("state", "filled", "status"),
    [
        ("canceled", "0", OrderStatus.CANCELLED), ("canceled", "1", OrderStatus.CANCELLED),
        ("order_failed", "1", OrderStatus.CANCELLED), ("mmp_canceled", "0", OrderStatus.CANCELLED),
        ("filled", "3", OrderStatus.FILLED), ("partially_filled", "1", OrderStatus.OPEN),
    ],
)  # fmt: skip
async def test_an_orders_state_is_known(venue, stub, state, filled, status):
    stub.answers[ORDER] = ok(ROW | {"state": state, "accFillSz": filled})
    order = await venue.find_order(BTC, ID)
    assert (order.status, order.filled) == (status, Decimal(filled) / 100)


async def test_a_state_or_an_order_of_another_name_is_no_answer(venue, stub):
    for wrong in ({"state": "sleeping"}, {"clOrdId": "another"}, {"sz": "three"}, {"side": "long"}):
        stub.answers[ORDER] = ok(ROW | wrong)
        with pytest.raises(VenueUnavailable):
            await venue.find_order(BTC, ID)


async def test_the_balance_is_bound_by_what_the_account_has_free(venue, stub):
    coin = {"ccy": "USDT", "eq": "1000.123456789012345678", "availEq": "900.5", "availBal": "800", "frozenBal": "1"}
    stub.answers[BALANCE] = ok({"details": [coin], "availEq": "", "uTime": str(NOW_MS)})
    balance = await venue.balance()
    assert (balance.equity, balance.available) == (Decimal("1000.123456789012345678"), Decimal("900.5"))
    stub.answers[BALANCE] = ok({"details": [coin], "availEq": "70", "uTime": str(NOW_MS)})
    assert (await venue.balance()).available == 70
    stub.answers[BALANCE] = ok({"details": [], "uTime": str(NOW_MS)})
    assert (await venue.balance()).equity == 0


async def test_a_short_and_a_position_of_a_coin_not_ours(venue, stub):
    inverse = LONG | {"instId": "BTC-USD-SWAP", "ccy": "BTC"}
    stub.answers[POSITIONS] = ok(LONG | {"pos": "-2.5"}, inverse, LONG | {"pos": "0"})
    (held,) = await venue.positions()
    assert (held.side, held.quantity) == ("short", Decimal("0.025"))


async def test_a_position_in_a_contract_that_is_listed_no_longer_hides_no_other(venue, stub):
    """Of contracts of 100 coins; the quotient is off by what a dollar is off a tether."""
    gone = LONG | {"instId": "OLD-USDT-SWAP", "pos": "-7", "markPx": "0.5", "notionalUsd": "349.1", "avgPx": "0.6"}
    stub.answers[POSITIONS] = ok(gone, LONG, gone | {"pos": "0", "notionalUsd": ""})
    old, ours = await venue.positions()
    assert (old.symbol, old.side, old.quantity, old.avg_price) == ("OLD/USDT:USDT", "short", 700, Decimal("0.6"))
    assert (ours.symbol, ours.quantity) == (BTC, Decimal("0.03"))
    stub.answers[POSITIONS] = ok(gone | {"markPx": ""}, LONG)
    with pytest.raises(VenueUnavailable):
        await venue.positions()


async def test_an_execution_that_cannot_be_read_hides_no_other_unless_none_can_be(venue, stub, caplog):
    garbled = FILL | {"billId": "502", "fillPx": "many"}
    stub.answers[FILLS] = ok(garbled, FILL)
    assert [fill.fill_id for fill in await venue.fills(BTC, NOW - timedelta(minutes=5))] == ["501"]
    assert "set aside" in caplog.text
    assert "'billId': '502'" in caplog.text
    stub.answers[FILLS] = ok(garbled)
    with pytest.raises(VenueUnavailable, match="malformed"):
        await venue.fills(BTC, NOW - timedelta(minutes=5))


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_row_refused_inside_an_answer_of_code_0_is_a_refusal(venue, stub):
    row = {"ordId": "", "clOrdId": ID, "sCode": "51008", "sMsg": "Order failed. Insufficient USDT balance in account"}
    stub.answers[ORDER] = ok(row)
    with pytest.raises(OrderRejected, match="51008"):
        await venue.submit(entry(stop=Decimal(86_000)))
    listed(stub, OCO)
    stub.answers[AMEND] = ok({"algoId": "9001", "sCode": "51278", "sMsg": "SL trigger price cannot be higher"})
    with pytest.raises(OrderRejected, match="51278"):
        await venue.set_protection(BTC, Decimal(99_000), None)


async def test_a_quantity_off_the_step_is_refused_before_it_is_cut(venue, stub):
    for wrong in ({"quantity": Decimal("0.0005")}, {"quantity": Decimal(0)}, {"type": OrderType.LIMIT}):
        with pytest.raises(OrderRejected):
            await venue.submit(entry(**wrong))
    assert not stub.requests(ORDER)


async def test_hedge_mode_is_refused_before_an_entry(venue, stub):
    stub.answers[CONFIG] = ok({"uid": "44", "acctLv": "2", "posMode": "long_short_mode", "perm": "trade"})
    with pytest.raises(OrderRejected, match="hedge mode"):
        await venue.submit(entry(stop=Decimal(86_000)))
    assert not posts(stub)


async def test_the_key_and_the_account_are_told_as_they_are(venue, stub):
    key = await venue.account.permissions()
    assert (key.account_id, key.withdraw, key.read_only) == ("44", False, False)
    stub.answers[BALANCE] = ok({"details": [{"ccy": "USDT", "eq": "9", "availEq": "9"}]})
    facts = await venue.account.arming()
    assert (facts.margin_mode, facts.flaws, facts.leverage) == ("futures mode", (), {BTC: 10})
    stub.answers[CONFIG] = ok({"uid": "44", "acctLv": "1", "posMode": "net_mode", "perm": "read_only,withdraw"})
    key = await venue.account.permissions()
    assert (key.withdraw, key.read_only) == (True, True)
    [flaw] = (await venue.account.arming()).flaws
    assert flaw.startswith("spot mode: switch")


async def test_a_demo_account_is_asked_with_its_header(venue):
    assert headers_of(venue)["x-simulated-trading"] == "1"


async def test_an_exit_is_reduce_only(venue, stub):
    listed(stub, OCO)
    done = ROW | {"side": "sell", "reduceOnly": "true", "attachAlgoOrds": []}
    stub.answers[ORDER] = lambda asked: taken(ordId="7001") if asked.method == "POST" else ok(done)
    order = await venue.submit(entry(side="sell", reduce_only=True))
    assert stub.requests(ORDER)[0].body == {
        "instId": "BTC-USDT-SWAP", "tdMode": "cross", "side": "sell", "ordType": "market", "sz": "3", "clOrdId": ID,
        "reduceOnly": "true",
    }  # fmt: skip
    assert order.reduce_only


def test_no_other_exchange_takes_orders():
    with pytest.raises(InputError, match=r"bybit, okx, .* only, not kraken; .*paper"):
        client.build(config.load(profile="testnet", venue="kraken"))
