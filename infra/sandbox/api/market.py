"""Bybit's public endpoints: instruments, klines, book, trades, tickers, funding."""

from decimal import Decimal

import numpy as np

from infra.sandbox.api.answers import Json, bad_parameter
from infra.sandbox.api.query import Query
from infra.sandbox.clock import DAY_MS
from infra.sandbox.exchange import FUNDING_MS
from infra.sandbox.market import order_book
from infra.sandbox.market.listing import Listing
from tasks.core.types import ZERO, OrderType

MINUTE_MS = 60_000
BAND = Decimal("0.05")  # how far above the mark one may buy, and below it sell
INTERVALS = {str(n): n * MINUTE_MS for n in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)} | {"D": DAY_MS}


def server_time(q: Query) -> Json:
    return {"timeSecond": str(q.now_ms // 1000), "timeNano": str(q.now_ms * 1_000_000)}


def instruments(q: Query) -> Json:
    gone = "delisting" in q.quirks or q["status"] not in ("", "Trading")
    return q.page([] if gone else [_instrument(market) for market in q.markets], 500, 1000)


def _instrument(market: Listing) -> Json:
    rules, spot = market.instrument, market.category == "spot"
    size = {"minOrderQty": rules.min_quantity, "basePrecision" if spot else "qtyStep": rules.step}
    size |= {"maxMarketOrderQty" if spot else "maxMktOrderQty": rules.max_quantity}
    size |= {"maxLimitOrderQty" if spot else "maxOrderQty": most_of(market, OrderType.LIMIT)}
    return {
        "symbol": market.id,
        "status": "Trading",
        "contractType": "LinearPerpetual",
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "settleCoin": market.quote,
        "riskParameters": dict.fromkeys(("priceLimitRatioX", "priceLimitRatioY"), BAND),
        "leverageFilter": {"maxLeverage": rules.max_leverage},
        "priceFilter": {"tickSize": rules.tick},
        "lotSizeFilter": size | {"minOrderAmt" if spot else "minNotionalValue": rules.min_notional},
        "fundingInterval": FUNDING_MS // MINUTE_MS,
    }


def most_of(market: Listing, kind: OrderType) -> Decimal:
    """Return the most, in base, that one order may be of."""
    return (market.instrument.max_quantity or ZERO) * (2 if kind is OrderType.LIMIT else 1)


def klines(q: Query) -> Json:
    """Newest first, the forming bar included. With start alone: the `limit` bars from it; else the last in range."""
    market, now_ms = q.market, q.ex.now_ms
    timeframe = INTERVALS.get(q["interval"])
    if timeframe is None:
        raise bad_parameter("Invalid period!")
    span = (q.number("limit", 200, 1000) - 1) * timeframe
    if q["start"] and not q["end"]:
        start = -(-q.number("start", 0) // timeframe) * timeframe
        end = start + span
    else:
        end = min(q.number("end", now_ms), now_ms) // timeframe * timeframe
        start = max(q.number("start", 0), end - span)
    rows = market.klines(timeframe, start, end, now_ms)[::-1]
    return {"category": market.category, "symbol": market.id, "list": [_row(market, row) for row in rows.tolist()]}


def _row(market: Listing, row: list[float]) -> list[str]:
    opened, *prices, volume = row
    middle = (prices[0] + prices[3]) / 2
    return [str(int(opened)), *map(market.text, prices), f"{volume:.4f}", f"{volume * middle:.4f}"]


def book(q: Query) -> Json:
    bids, asks = order_book.book(q.market, q.ex.now_ms, q.number("limit", 25 if q.category == "linear" else 1, 200))
    return {"s": q.market.id, "b": bids, "a": asks, "ts": q.ex.now_ms, "u": q.ex.now_ms}


def recent_trades(q: Query) -> Json:
    market, most, default = q.market, *((1000, 500) if q.category == "linear" else (60, 60))
    listed = [
        {
            "execId": f"{market.id}-{at}",
            "symbol": market.id,
            "price": market.text(price),
            "size": f"{size:.8f}".rstrip("0").rstrip("."),
            "side": side,
            "time": str(at),
        }
        for at, price, size, side in order_book.trades(market, q.ex.now_ms, q.number("limit", default, most))
    ]
    return {"category": market.category, "list": listed}


def tickers(q: Query) -> Json:
    markets = [q.market] if q["symbol"] else q.markets
    return {"category": q.category, "list": [_ticker(q, market) for market in markets]}


def _ticker(q: Query, market: Listing) -> Json:
    now_ms = q.ex.now_ms
    last = market.price_at(now_ms)
    day = market.klines(market.candles.base_ms, now_ms - DAY_MS, now_ms, now_ms)
    if not len(day):
        day = np.array([[now_ms, last, last, last, last, 0.0]])
    first, turnover = float(day[0, 1]), f"{(day[:, 4] * day[:, 5]).sum():.4f}"
    prices = {"lastPrice": last, "prevPrice24h": first, "highPrice24h": day[:, 2].max(), "lowPrice24h": day[:, 3].min()}
    contract = {}
    if market.category == "linear":
        prices |= {"indexPrice": last, "markPrice": float(q.ex.mark(market.symbol))}
        contract = {  # ccxt takes what has no open interest for spot
            "openInterestValue": turnover,
            "fundingRate": q.ex.config.funding_rate,
            "nextFundingTime": str((now_ms // FUNDING_MS + 1) * FUNDING_MS),
        }
    ((bid, bid_size),), ((ask, ask_size),) = order_book.book(market, now_ms, 1)
    return {name: market.text(price) for name, price in prices.items()} | {
        "symbol": market.id,
        "bid1Price": bid,
        "bid1Size": bid_size,
        "ask1Price": ask,
        "ask1Size": ask_size,
        "price24hPcnt": f"{last / first - 1:.6f}",
        "volume24h": f"{day[:, 5].sum():.4f}",
        "turnover24h": turnover,
        **contract,
    }


def funding_history(q: Query) -> Json:
    market, now_ms = q.market, q.ex.now_ms
    if market.category != "linear":
        raise bad_parameter("params error: Category is invalid")
    last = min(q.number("endTime", now_ms), now_ms) // FUNDING_MS * FUNDING_MS
    first = max(q.number("startTime", 0), int(market.candles.ts[0]))
    times = range(last, first - 1, -FUNDING_MS)[: q.number("limit", 200, 200)]
    row = {"symbol": market.id, "fundingRate": q.ex.config.funding_rate}
    return {"category": market.category, "list": [row | {"fundingRateTimestamp": str(at)} for at in times]}


ENDPOINTS = {
    "market/time": server_time,
    "market/instruments-info": instruments,
    "market/kline": klines,
    "market/orderbook": book,
    "market/recent-trade": recent_trades,
    "market/tickers": tickers,
    "market/funding/history": funding_history,
}
