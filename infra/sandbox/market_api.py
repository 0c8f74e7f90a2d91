"""Bybit's public endpoints: instruments, klines, book, trades, tickers, funding."""

import numpy as np

from infra.sandbox import quotes
from infra.sandbox.errors import BybitError, bad_parameter
from infra.sandbox.exchange import FUNDING_MS, Exchange
from infra.sandbox.market import Market
from infra.sandbox.views import Json, text

Params = dict[str, str]
MINUTE_MS = 60_000
INTERVALS = {str(n): n * MINUTE_MS for n in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)} | {"D": 1440 * MINUTE_MS}
CATEGORIES = ("spot", "linear", "inverse", "option")


def category_of(params: Params) -> str:
    category = params.get("category", "")
    if category not in CATEGORIES:
        raise bad_parameter(f"Illegal category {category!r}")
    return category


def find_market(ex: Exchange, params: Params) -> Market:
    """Return the market that category and symbol name."""
    category = category_of(params)
    for market in ex.markets.values():
        if market.id == params.get("symbol") and market.category == category:
            return market
    raise bad_parameter(f"params error: symbol invalid {params.get('symbol', '')}")


def number(params: Params, name: str, default: int, most: int | None = None) -> int:
    """Return a whole number from the request, clipped at `most` as Bybit clips limits."""
    raw = params.get(name) or str(default)
    if not raw.isdigit():
        raise bad_parameter(f"params error: {name} invalid {raw}")
    return int(raw) if most is None else max(1, min(int(raw), most))


def server_time(ex: Exchange, _params: Params) -> Json:
    now_ms = ex.now_ms + ex.skew_ms
    return {"timeSecond": str(now_ms // 1000), "timeNano": str(now_ms * 1_000_000)}


def instruments(ex: Exchange, params: Params) -> Json:
    category = category_of(params)
    gone = "delisting" in ex.quirks or params.get("status") not in (None, "", "Trading")
    listed = [] if gone else list(ex.markets.values())
    chosen = [m for m in listed if m.category == category and params.get("symbol") in (None, "", m.id)]
    view = _spot if category == "spot" else _linear
    return {"category": category, "list": [view(ex, market) for market in chosen], "nextPageCursor": ""}


def _linear(ex: Exchange, market: Market) -> Json:
    rules = ex.instruments[market.symbol]
    return {
        "symbol": market.id,
        "contractType": "LinearPerpetual",
        "status": "Trading",
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "settleCoin": market.quote,
        "launchTime": str(int(market.candles.ts[0])),
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": str(market.decimals),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": f"{rules.max_leverage:.2f}", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": text(rules.tick), "maxPrice": "19999998", "tickSize": text(rules.tick)},
        "lotSizeFilter": {
            "maxOrderQty": text(rules.step * 1_000_000),
            "minOrderQty": text(rules.min_quantity),
            "qtyStep": text(rules.step),
            "postOnlyMaxOrderQty": text(rules.step * 1_000_000),
            "maxMktOrderQty": text(rules.step * 200_000),
            "minNotionalValue": text(rules.min_notional),
        },
        "unifiedMarginTrade": True,
        "fundingInterval": FUNDING_MS // MINUTE_MS,
        "copyTrading": "none",
        "isPreListing": False,
    }


def _spot(ex: Exchange, market: Market) -> Json:
    rules = ex.instruments[market.symbol]
    return {
        "symbol": market.id,
        "baseCoin": market.base,
        "quoteCoin": market.quote,
        "innovation": "0",
        "status": "Trading",
        "marginTrading": "none",
        "lotSizeFilter": {
            "basePrecision": text(rules.step),
            "quotePrecision": "0.0000001",
            "minOrderQty": text(rules.min_quantity),
            "maxOrderQty": text(rules.step * 1_000_000),
            "minOrderAmt": text(rules.min_notional),
            "maxOrderAmt": "4000000",
        },
        "priceFilter": {"tickSize": text(rules.tick)},
    }


def klines(ex: Exchange, params: Params) -> Json:
    """Newest first, the forming bar included. With start alone: the `limit` bars from it; else the last in range."""
    market = find_market(ex, params)
    timeframe = INTERVALS.get(params.get("interval", ""))
    if timeframe is None:
        raise bad_parameter("Invalid period!")
    span = (number(params, "limit", 200, 1000) - 1) * timeframe
    if params.get("start") and not params.get("end"):
        start = -(-number(params, "start", 0) // timeframe) * timeframe
        end = start + span
    else:
        end = min(number(params, "end", ex.now_ms), ex.now_ms) // timeframe * timeframe
        start = max(number(params, "start", 0), end - span)
    rows = market.klines(timeframe, start, end, ex.now_ms)[::-1]
    return {"category": market.category, "symbol": market.id, "list": [_row(market, row) for row in rows.tolist()]}


def _row(market: Market, row: list[float]) -> list[str]:
    opened, o, h, low, c, volume = row
    prices = [market.text(p) for p in (o, h, low, c)]
    return [str(int(opened)), *prices, f"{volume:.4f}", f"{volume * (o + c) / 2:.4f}"]


def order_book(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    levels = number(params, "limit", 25 if market.category == "linear" else 1, 200)
    bids, asks = quotes.book(market, ex.now_ms, levels, float(ex.instruments[market.symbol].step))
    return {"s": market.id, "b": bids, "a": asks, "ts": ex.now_ms, "u": ex.now_ms, "seq": ex.now_ms, "cts": ex.now_ms}


def recent_trades(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    linear = market.category == "linear"
    count = number(params, "limit", 500 if linear else 60, 1000 if linear else 60)
    step = float(ex.instruments[market.symbol].step)
    listed = [
        {
            "execId": f"{market.id}-{at}",
            "symbol": market.id,
            "price": market.text(price),
            "size": f"{size:.8f}".rstrip("0").rstrip("."),
            "side": side,
            "time": str(at),
            "isBlockTrade": False,
        }
        for at, price, size, side in quotes.trades(market, ex.now_ms, count, step)
    ]
    return {"category": market.category, "list": listed}


def tickers(ex: Exchange, params: Params) -> Json:
    if params.get("symbol"):
        chosen = [find_market(ex, params)]
    else:
        chosen = [m for m in ex.markets.values() if m.category == category_of(params)]
    return {"category": category_of(params), "list": [_ticker(ex, market) for market in chosen]}


def _ticker(ex: Exchange, market: Market) -> Json:
    day = quotes.last_day(market, ex.now_ms)
    last = market.price_at(ex.now_ms)
    bids, asks = quotes.book(market, ex.now_ms, 1, float(ex.instruments[market.symbol].step))
    ticker: Json = {
        "symbol": market.id, "bid1Price": bids[0][0], "bid1Size": bids[0][1], "ask1Price": asks[0][0],
        "ask1Size": asks[0][1], "lastPrice": market.text(last), "prevPrice24h": market.text(day.open),
        "price24hPcnt": f"{last / day.open - 1:.6f}", "highPrice24h": market.text(day.high),
        "lowPrice24h": market.text(day.low), "turnover24h": f"{day.turnover:.4f}", "volume24h": f"{day.volume:.4f}",
    }  # fmt: skip
    if market.category == "spot":
        return ticker | {"usdIndexPrice": market.text(last)}
    return ticker | {
        "indexPrice": market.text(last), "markPrice": market.text(last), "openInterest": f"{day.volume:.4f}",
        "openInterestValue": f"{day.turnover:.4f}", "fundingRate": text(ex.config.funding_rate),
        "nextFundingTime": str((ex.now_ms // FUNDING_MS + 1) * FUNDING_MS), "basisRate": "", "deliveryFeeRate": "",
        "deliveryTime": "0",
    }  # fmt: skip


def funding_history(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    if market.category != "linear":
        raise BybitError(10001, "params error: Category is invalid")
    last = min(number(params, "endTime", ex.now_ms), ex.now_ms) // FUNDING_MS * FUNDING_MS
    first = max(number(params, "startTime", 0), int(market.candles.ts[0]))
    times = np.arange(last, first - 1, -FUNDING_MS)[: number(params, "limit", 200, 200)]
    rate = text(ex.config.funding_rate)
    listed = [{"symbol": market.id, "fundingRate": rate, "fundingRateTimestamp": str(t)} for t in times.tolist()]
    return {"category": market.category, "list": listed}


ENDPOINTS = {
    "market/time": server_time,
    "market/instruments-info": instruments,
    "market/kline": klines,
    "market/orderbook": order_book,
    "market/recent-trade": recent_trades,
    "market/tickers": tickers,
    "market/funding/history": funding_history,
}
