"""Public bodies at hand through ccxt's own class and our reading: a wrong number, a crash or a missing row fails."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from public_worlds import VENUES, Answers, World
from shared_data import shared
from venue_stub import stub_venue

from tasks import settings as config
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.errors import DataError, InputError

PERP = "BTC/USDT:USDT"
Open = Callable[..., Awaitable[CcxtVenue]]


@pytest.fixture
async def open_with() -> AsyncIterator[Open]:
    """Open a venue whose one path answers with a body, all others as a small world."""
    opened: list[CcxtVenue] = []
    with stub_venue() as stub:

        async def open_one(venue: str, path: str, body: object, more: Answers | None = None) -> CcxtVenue:
            _, answers = VENUES.get(venue, ("", lambda _: {}))
            stub.answers = dict(answers(World())) | {path: lambda _: body} | (more or {})
            if path.startswith("/info "):  # one address, told apart by what is asked
                others, kind = stub.answers["/info"], path.partition(" ")[2]
                stub.answers["/info"] = lambda asked: body if asked.body["type"] == kind else others(asked)
            opened.append(connect(config.load(profile="paper", venue=venue, venue_url=stub.url)))
            return opened[-1]

        yield open_one
        for venue in opened:
            await venue.close()


def body_of(name: str) -> Any:
    return json.loads(shared(f"venues/{name}.json").read_text())["body"]


def of_pairs(levels: list[Any], unit: str = "1") -> list[tuple[D, D]]:
    rows = [(row["p"], row["s"]) if isinstance(row, dict) else row[:2] for row in levels]
    return [(D(str(price)), D(str(size)) * D(unit)) for price, size in rows]


BOOKS: dict[str, tuple[str, str, str, Callable[[Any], Any], str]] = {
    "okx/rest/jk_GetOrderBook": ("okx", "BTC/USDT", "/api/v5/market/books", lambda b: b["data"][0], "1"),
    "binance/rest/jk_usdm_GetOrderBook": ("binanceusdm", PERP, "/fapi/v1/depth", lambda b: b, "1"),
    "binance/rest/nt_spot_depth_response": ("binanceusdm", PERP, "/fapi/v1/depth", lambda b: b, "1"),
    "gate/rest/jk_futures_GetOrderBook": ("gate", PERP, "/api/v4/futures/usdt/order_book", lambda b: b, "0.0001"),
    "kraken/rest/jk_spot_GetOrderBook": (
        "kraken", "BTC/USD", "/0/public/Depth", lambda b: next(iter(b["result"].values())), "1",
    ),
    "kraken/rest/nt_order_book": (
        "kraken", "BTC/USD", "/0/public/Depth", lambda b: next(iter(b["result"].values())), "1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOOKS)
async def test_a_book_is_told_whole_and_in_coins(open_with, name):
    venue, symbol, path, told, unit = BOOKS[name]
    body = body_of(name)
    raw = told(body)
    if venue == "kraken":
        body = body | {"result": {"XXBTZUSD": raw}}
    book = await (await open_with(venue, path, body)).fetch_book(symbol)
    assert book.bids == of_pairs(raw["bids"], unit)
    assert book.asks == of_pairs(raw["asks"], unit)


def okx_rows(body: Any) -> list[list[object]]:
    return [row[:6] for row in body["data"]]


def gate_rows(body: Any) -> list[list[object]]:
    return [[row["t"] * 1000, *(row[x] for x in "ohlc"), D(row["v"]) * D("0.0001")] for row in body]


def hyperliquid_rows(body: Any) -> list[list[object]]:
    return [[row[x] for x in "tohlcv"] for row in body]


def plain_rows(body: Any) -> list[list[object]]:
    return [row[:6] for row in body]


BARS: dict[str, tuple[str, str, str, str, Callable[[Any], Any]]] = {
    "okx/rest/nt_get_candlesticks": ("okx", "BTC/USDT", "1m", "/api/v5/market/history-candles", okx_rows),
    "binance/rest/nt_spot_klines_response": ("binanceusdm", PERP, "1d", "/fapi/v1/klines", plain_rows),
    "binance/rest/jk_usdm_GetContinuousContractKlines": ("binanceusdm", PERP, "1m", "/fapi/v1/klines", plain_rows),
    "gate/rest/jk_futures_GetKlines": ("gate", PERP, "1m", "/api/v4/futures/usdt/candlesticks", gate_rows),
    "hyperliquid/rest/sdk_get_candles_snapshot_1": (
        "hyperliquid", "BTC/USDC:USDC", "1h", "/info candleSnapshot", hyperliquid_rows,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BARS)
async def test_every_bar_is_told_and_its_volume_in_coins(open_with, name):
    venue, symbol, timeframe, path, told = BARS[name]
    body = body_of(name)
    raw = {int(str(row[0])): [float(str(x)) for x in row[1:]] for row in told(body)}
    since, last = (datetime.fromtimestamp(each(raw) / 1000, tz=UTC) for each in (min, max))
    opened = await open_with(venue, path, body)
    bars = await opened.fetch_bars(symbol, timeframe, since, last + timedelta(days=1))
    assert [int(at.timestamp() * 1000) for at in bars.index] == sorted(raw)
    assert [list(row) for row in bars.itertuples(index=False)] == [pytest.approx(raw[at]) for at in sorted(raw)]


TRADES: dict[str, tuple[str, str, str, Callable[[Any], Any]]] = {
    "okx/rest/jk_GetRecentTrades": (
        "okx", "BTC/USDT", "/api/v5/market/trades", lambda b: [(t["px"], t["sz"]) for t in b["data"]],
    ),
    "okx/rest/nt_get_trades": (
        "okx", "BTC/USDT", "/api/v5/market/trades", lambda b: [(t["px"], t["sz"]) for t in b["data"]],
    ),
    "binance/rest/jk_usdm_GetAggregatedTradeHistory": (
        "binanceusdm", PERP, "/fapi/v1/aggTrades", lambda b: [(t["p"], t["q"]) for t in b],
    ),
    "bitget/rest/jk_mix_GetRecentTrades": (
        "bitget", PERP, "/api/v2/mix/market/fills-history", lambda b: [(t["price"], t["size"]) for t in b["data"]],
    ),
    "kraken/rest/jk_spot_GetTradeHistory": (
        "kraken", "BTC/USD", "/0/public/Trades", lambda b: [t[:2] for t in b["result"]["XXBTZUSD"]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRADES)
async def test_every_trade_is_told(open_with, name):
    venue, symbol, path, told = TRADES[name]
    body = body_of(name)
    opened = await open_with(venue, path, body)
    trades = await opened.market.fetch_trades(symbol, 1000)
    raw = [(float(price), float(size)) for price, size in told(body)]
    assert sorted((price, size) for _, _, price, size in trades) == sorted(raw)
    assert {side for _, side, _, _ in trades} <= {"buy", "sell"}


# tick, step, least quantity, largest market order; or how it is refused
INSTRUMENTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "okx/rest/nt_get_instruments_futures": (
        "okx", "/api/v5/public/instruments", {"BTC/USD:BTC-241220": InputError, "BTC/USD:BTC-250627": InputError},
    ),
    "binance/rest/jk_usdm_GetExchangeInfo": (
        "binanceusdm", "/fapi/v1/exchangeInfo", {"BLZ/USDT:USDT": ("0.0001", "1", "1", 590119)},
    ),
    "binance/rest/jk_spot_GetExchangeInfo": ("binanceus", "/api/v3/exchangeInfo", {"ETH/BTC": DataError}),  # no filters
    "bitget/rest/jk_mix_GetContracts": (
        "bitget", "/api/v2/mix/market/contracts", {"BTC/USDT:USDT": ("0.1", "0.01", "0.01", None)},
    ),
    "gate/rest/jk_futures_GetContract": (
        "gate", "/api/v4/futures/usdt/contracts", {"BTC/USDT:USDT": ("0.1", "0.0001", "0.0001", 100)},
    ),
    "kraken/rest/jk_futures_GetSymbols": (
        "krakenfutures", "/derivatives/api/v3/instruments",
        {"BTC/USD:BTC": InputError, "BTC/USD:BTC-220930": InputError, "BTC/USD:USD": ("1", "0.0001", "0", None)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INSTRUMENTS)
async def test_every_instrument_is_told_in_coins_or_refused_in_a_line(open_with, name):
    venue, path, expected = INSTRUMENTS[name]
    body = body_of(name)
    opened = await open_with(venue, path, [body] if venue == "gate" else body)
    for symbol, terms in expected.items():
        if isinstance(terms, tuple):
            told = await opened.instrument(symbol)
            assert (told.tick, told.step, told.min_quantity, told.max_quantity) == (*map(D, terms[:3]), terms[3])
        else:
            with pytest.raises(terms, match=symbol):
                await opened.instrument(symbol)


@pytest.mark.parametrize("name", ["kraken/rest/jk_futures_GetOrderBook", "kraken/rest/nt_futures_orderbook"])
async def test_a_book_of_kraken_futures_is_told_whole(open_with, name):
    body = body_of(name)
    listed = {"/derivatives/api/v3/instruments": lambda _: body_of("kraken/rest/jk_futures_GetSymbols")}
    book = await (await open_with("krakenfutures", "/derivatives/api/v3/orderbook", body, listed)).fetch_book(
        "BTC/USD:USD"
    )
    assert book.bids == of_pairs(body["orderBook"]["bids"])
    assert book.asks == of_pairs(body["orderBook"]["asks"])
