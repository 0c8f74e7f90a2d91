"""Every number of every answer, made insane one at a time: the read fails in one line or does not need it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import bybit_rows
import pytest
from insane import INSANE, each, spoiled
from venue_stub import FLAT, LINEAR, NOW_MS, ORDER, ok, stub_venue

from tasks import settings as config
from tasks.adapters.venue.ccxt_venue import connect
from tasks.core.errors import DataError, VenueError

BTC = "BTC/USDT:USDT"
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
SINCE = NOW - timedelta(hours=1)
BARS = [[str(NOW_MS - 300_000 * n), "87000", "87100", "86900", "87050.5", "12.5", "1088131.25"] for n in (1, 2)]
ANSWERS = {
    "/v5/market/time": ok(timeSecond=str(NOW_MS // 1000), timeNano=str(NOW_MS * 1_000_000)),
    "/v5/market/instruments-info": ok(category="linear", list=[LINEAR], nextPageCursor=""),
    "/v5/market/kline": ok(list=BARS),
    "/v5/market/orderbook": ok(s="BTCUSDT", b=[["87000.10", "0.5"]], a=[["87000.2", "1.25"]], ts=NOW_MS, u=1),
    "/v5/market/recent-trade": ok(
        list=[{"execId": "t", "symbol": "BTCUSDT", "price": "87000", "size": "0.1", "side": "Buy", "time": str(NOW_MS)}]
    ),
    "/v5/market/tickers": ok(
        category="linear",
        list=[
            {
                "symbol": "BTCUSDT", "lastPrice": "87000", "markPrice": "87000", "indexPrice": "87000",
                "fundingRate": "0.0001", "nextFundingTime": str(NOW_MS + 3_600_000), "openInterestValue": "1000",
                "bid1Price": "86999.9", "bid1Size": "1", "ask1Price": "87000", "ask1Size": "1", "volume24h": "10",
                "turnover24h": "870000", "highPrice24h": "88000", "lowPrice24h": "86000", "prevPrice24h": "87100",
                "price24hPcnt": "-0.001",
            }
        ],
    ),
    "/v5/market/funding/history": ok(
        category="linear",
        list=[{"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateTimestamp": str(NOW_MS - 3_600_000)}],
    ),
    "/v5/account/wallet-balance": ok(
        list=[
            {
                "totalEquity": "10000", "totalAvailableBalance": "9000.5",
                "coin": [
                    {
                        "coin": "USDT", "equity": "10042.5", "usdValue": "10042.5", "walletBalance": "10000",
                        "totalPositionIM": "100", "totalOrderIM": "1", "locked": "0",
                    }
                ],
            }
        ]
    ),
    "/v5/position/list": ok(
        list=[
            FLAT | {
                "side": "Buy", "size": "0.010", "avgPrice": "87012.30", "stopLoss": "86000.10", "takeProfit": "90000",
                "markPrice": "87000", "unrealisedPnl": "-1.23",
            }
        ],
        nextPageCursor="",
    ),
    "/v5/order/realtime": ok(
        list=[
            ORDER | {"orderType": "Limit", "orderStatus": "New", "takeProfit": "91000", "leavesQty": "0.01"},
            ORDER | {"orderId": "v-2", "orderStatus": "Untriggered", "stopOrderType": "StopLoss", "triggerPrice": "8"},
        ],
        nextPageCursor="",
    ),
    "/v5/execution/list": ok(
        list=[
            {
                "symbol": "BTCUSDT", "execId": "e-1", "orderId": "v-1", "orderLinkId": "qd-1", "side": "Buy",
                "execQty": "0.010", "execPrice": "87012.30", "execFee": "0.47856765", "feeRate": "0.00055",
                "execValue": "870.123", "execType": "Trade", "isMaker": False, "execTime": str(NOW_MS - 1000),
            }
        ],
        nextPageCursor="",
    ),
}  # fmt: skip
READS = {
    "/v5/market/time": lambda v: v.now(),
    "/v5/market/instruments-info": lambda v: v.instrument(BTC),
    "/v5/market/kline": lambda v: v.fetch_bars(BTC, "5m", SINCE, NOW),
    "/v5/market/orderbook": lambda v: v.fetch_book(BTC),
    "/v5/market/recent-trade": lambda v: v.market.fetch_trades(BTC, 10),
    "/v5/market/tickers": lambda v: v.market.fetch_funding(BTC, 2),
    "/v5/market/funding/history": lambda v: v.market.fetch_funding(BTC, 2),
    "/v5/account/wallet-balance": lambda v: v.balance(),
    "/v5/position/list": lambda v: v.positions(),
    "/v5/order/realtime": lambda v: v.open_orders(BTC),
    "/v5/execution/list": lambda v: v.fills(BTC, SINCE),
}
VALUES = ("1e999999999", "-1e400", float("inf"), "NaN", "-Infinity", "9" * 60, "1e29", "abc", "\x1b[31m", [1], {})


def listed(answer):
    """Answer with contracts where contracts that trade are asked for."""
    return lambda asked: (
        ok(list=[]) if "spot" in asked.query.values() or "PreLaunch" in asked.query.values() else answer
    )


async def anew(venue, settings):
    await venue.close()
    return connect(settings)


@pytest.mark.parametrize("path", ANSWERS)
async def test_every_number_of_an_answer_insane_is_an_error_of_ours_or_not_needed(path):
    read, failed, listing = READS[path], 0, path == "/v5/market/instruments-info"
    with stub_venue() as stub:
        stub.answers |= ANSWERS | {"/v5/market/instruments-info": listed(ANSWERS["/v5/market/instruments-info"])}
        settings = config.load(profile="sandbox", sandbox_url=stub.url)
        venue = connect(settings)
        sane = str(await read(venue))
        for _, name, value in each(
            {path: ANSWERS[path]}, VALUES[: 3 if listing else None]
        ):  # ccxt leaves out text there
            answer = spoiled(ANSWERS[path], name, value)
            stub.answers[path] = listed(answer) if listing else answer
            venue = await anew(venue, settings) if listing else venue  # what is listed is kept for an hour
            said = ""
            try:
                seen = str(await read(venue))
            except (VenueError, DataError) as e:
                said, failed = str(e), failed + 1
            assert said or seen == sane or "Empty DataFrame" in seen, (name, value)
            assert len(said) < 400, (name, value)
            if said and value in INSANE:
                assert name.rpartition(".")[2].partition("[")[0] in said, (name, said)
                assert value in said
            stub.answers[path] = listed(ANSWERS[path]) if listing else ANSWERS[path]
            venue = await anew(venue, settings) if listing else venue
            assert str(await read(venue)) == sane, (name, value)
        await venue.close()
    assert failed >= 2


@pytest.mark.parametrize(
    "value", ["1e999999999", "-1e400", "1e19", "NaN", "inf", "", "12a", None, "9" * 5000, "1e-101"]
)
def test_a_number_beyond_what_venues_list_is_refused_with_its_field_and_a_short_value(value):
    with pytest.raises(ValueError, match=r"^execPrice is .{0,42}, no number up to 1e\+18$"):
        bybit_rows.number({"execPrice": value}, "execPrice")


@pytest.mark.parametrize("value", ["0", "0.00", "1e18", "0.000000000000000000000000000001", "-12.5", 7, 1e-8])
def test_a_number_that_a_venue_may_send_keeps_its_digits(value):
    assert bybit_rows.number({"execFee": value}, "execFee") == Decimal(str(value))


@pytest.mark.parametrize("row", [{"execQty": "-1"}, {"execQty": "0"}, {"execPrice": "0"}, {"execPrice": "-87000"}])
def test_an_execution_of_nothing_is_none(row):
    market = {"symbol": BTC, "spot": False, "settle": "USDT", "quote": "USDT", "base": "BTC"}
    [sound] = ANSWERS["/v5/execution/list"]["result"]["list"]
    with pytest.raises(ValueError, match="both must be above 0"):
        bybit_rows.fill_of(sound | row, market)
