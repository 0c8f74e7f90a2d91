"""Public endpoints of real venues, typed small: one market each, told in the venue's own units, words and order.

A world has a clock that a test moves, and a price that falls once and may rise again. Behind every venue is the same
market: 2 coins trade each minute, 3 coins are bid and 4 are asked for next to the price.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from venue_stub import Asked, Stub

TICK = 0.5
BID, ASK, TRADED = 3, 4, 2  # coins at the best prices, and a minute
BEFORE, AFTER = 60_000.0, 59_000.0
MINUTE_MS = 60_000
MINUTES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}
Answers = dict[str, Callable[[Asked], object]]
Row = tuple[int, float, float, float, float, int]  # open time ms, open, high, low, close, coins


@dataclass
class World:
    """Begins a day ago: no venue's client asks for the future."""

    now_ms: int = field(default_factory=lambda: (int(time.time()) // 86_400 - 1) * 86_400_000)
    falls_ms: int = 2**53
    rises_ms: int = 2**53
    kept: int = 10**9  # how many of the last bars the venue tells

    def advance(self, minutes: int) -> None:
        self.now_ms += minutes * MINUTE_MS

    def price(self, at_ms: int | None = None) -> float:
        return AFTER if self.falls_ms <= (self.now_ms if at_ms is None else at_ms) < self.rises_ms else BEFORE

    def bars(self, minutes: int, start_ms: float = 0, end_ms: float = 2**53) -> list[Row]:
        """Return bars opened from start to end, the one that is still open too, as far back as they are kept."""
        step = minutes * MINUTE_MS
        newest = self.now_ms // step * step
        oldest = max(newest - (self.kept - 1) * step, -(-int(start_ms) // step) * step, newest - 3000 * step)
        found: list[Row] = []
        for at in range(oldest, min(newest, int(min(end_ms, 2**53))) + 1, step):
            inside = (self.price(at), self.price(at + step - 1), self.price(max(at, min(at + step - 1, self.falls_ms))))
            found.append((at, inside[0], max(inside), min(inside), inside[1], TRADED * minutes))
        return found

    def levels(self, unit: float = 1) -> tuple[list[list[float]], list[list[float]]]:
        """Return bids and asks in the venue's sizes of `unit` coins."""
        price = self.price()
        return [[price - TICK, BID / unit], [price - 9, 9 / unit]], [[price + TICK, ASK / unit], [price + 9, 9 / unit]]


def text(rows: list[list[float]]) -> list[list[str]]:
    return [[f"{x:.10g}" for x in row] for row in rows]


def okx(world: World) -> Answers:
    """Contracts of 0.01; candles newest first, `before` and `after` left out themselves; volume also in coins."""

    def ok(*data: object) -> dict[str, object]:
        return {"code": "0", "msg": "", "data": list(data)}

    def instruments(asked: Asked) -> object:
        both = {
            "tickSz": "0.5",
            "state": "live",
            "instFamily": "",
            "maxLmtSz": "999999",
            "expTime": "",
            "listTime": "1",
        }
        if asked.query["instType"] == "SPOT":
            return ok(both | {
                "instType": "SPOT", "instId": "BTC-USDT", "baseCcy": "BTC", "quoteCcy": "USDT", "settleCcy": "",
                "uly": "", "ctVal": "", "ctValCcy": "", "lotSz": "0.00000001", "minSz": "0.00001", "lever": "10",
                "maxMktSz": "1000000",
            })  # fmt: skip
        inverse = {
            "instType": "SWAP", "instId": "BTC-USD-SWAP", "baseCcy": "", "quoteCcy": "", "settleCcy": "BTC",
            "uly": "BTC-USD", "ctVal": "100", "ctValCcy": "USD", "lotSz": "1", "minSz": "1", "lever": "100",
            "maxMktSz": "12000",
        }  # fmt: skip
        linear = {"instId": "BTC-USDT-SWAP", "settleCcy": "USDT", "uly": "BTC-USDT", "ctVal": "0.01", "ctValCcy": "BTC"}
        return ok(both | inverse, both | inverse | linear | {"lotSz": "0.01", "minSz": "0.01"})

    def candles(asked: Asked) -> object:
        unit = 1 if asked.query["instId"] == "BTC-USDT" else 0.01
        size = MINUTES[asked.query["bar"].lower().removesuffix("utc")]
        after, before = int(asked.query["after"]), int(asked.query["before"])
        rows = [row for row in world.bars(size, before + 1, after - 1) if before < row[0] < after]
        newest = rows[: -int(asked.query["limit"]) - 1 : -1]
        return ok(*([str(t), *map(str, ohlc), f"{v / unit:g}", f"{v:g}", "1", "1"] for t, *ohlc, v in newest))

    def book(asked: Asked) -> object:
        bids, asks = (text(side) for side in world.levels(1 if asked.query["instId"] == "BTC-USDT" else 0.01))
        rows = [[[*level, "0", "1"] for level in side] for side in (asks, bids)]
        return ok({"asks": rows[0], "bids": rows[1], "ts": str(world.now_ms), "seqId": 1})

    trade = {"instId": "BTC-USDT-SWAP", "tradeId": "1", "px": "60000", "sz": "150", "side": "buy", "source": "0"}
    return {
        "/api/v5/public/time": lambda _: ok({"ts": str(world.now_ms)}),
        "/api/v5/public/instruments": instruments,
        "/api/v5/market/candles": candles,
        "/api/v5/market/history-candles": candles,
        "/api/v5/market/books": book,
        "/api/v5/market/trades": lambda _: ok(trade | {"ts": str(world.now_ms)}),
        "/api/v5/public/funding-rate": lambda _: ok({
            "instId": "BTC-USDT-SWAP", "instType": "SWAP", "fundingRate": "0.0001", "nextFundingRate": "",
            "fundingTime": str(world.now_ms + 3_600_000), "nextFundingTime": str(world.now_ms + 32_400_000),
        }),
        "/api/v5/public/funding-rate-history": lambda _: ok(),
    }  # fmt: skip


def bitget(world: World) -> Answers:
    """Sizes in coins; candles oldest first, the newest `limit` up to `endTime`."""

    def ok(data: object) -> dict[str, object]:
        return {"code": "00000", "msg": "success", "requestTime": world.now_ms, "data": data}

    def contracts(asked: Asked) -> object:
        if asked.query["productType"] != "USDT-FUTURES":
            return ok([])
        return ok([{
            "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "supportMarginCoins": ["USDT"],
            "minTradeNum": "0.001", "priceEndStep": "5", "volumePlace": "4", "pricePlace": "1",
            "sizeMultiplier": "0.0001", "symbolType": "perpetual", "minTradeUSDT": "5", "symbolStatus": "normal",
            "maxMarketOrderQty": "220", "maxOrderQty": "1200", "minLever": "1", "maxLever": "125", "launchTime": "",
            "takerFeeRate": "0.0006", "makerFeeRate": "0.0002", "feeRateUpRatio": "0.005", "deliveryTime": "",
            "offTime": "-1", "limitOpenTime": "-1", "fundInterval": "8",
        }])  # fmt: skip

    def candles(asked: Asked) -> object:
        size = MINUTES[asked.query["granularity"].lower().removesuffix("utc")]
        rows = world.bars(size, float(asked.query["startTime"]), float(asked.query["endTime"]))
        return ok([[str(x) for x in (*row, row[5] * row[4])] for row in rows[-int(asked.query["limit"]) :]])

    def book(_: Asked) -> object:
        bids, asks = world.levels()
        return ok({"asks": asks, "bids": bids, "ts": str(world.now_ms), "scale": "0.5", "precision": "scale0"})

    fill = {
        "tradeId": "1",
        "symbol": "BTCUSDT",
        "price": "60000",
        "size": "1.5",
        "side": "Buy",
        "ts": str(world.now_ms),
    }
    rate = {"symbol": "BTCUSDT", "fundingRate": "0.0001", "fundingRateInterval": "8"}
    return {
        "/api/v2/public/time": lambda _: ok({"serverTime": str(world.now_ms)}),
        "/api/v2/spot/public/symbols": lambda _: ok([]),
        "/api/v2/margin/currencies": lambda _: ok([]),
        "/api/v2/mix/market/contracts": contracts,
        "/api/v2/mix/market/candles": candles,
        "/api/v2/mix/market/history-candles": candles,
        "/api/v2/mix/market/merge-depth": book,
        "/api/v2/mix/market/fills-history": lambda _: ok([fill]),
        "/api/v2/mix/market/current-fund-rate": lambda _: ok([rate | {"nextUpdate": str(world.now_ms + 3_600_000)}]),
        "/api/v2/mix/market/history-fund-rate": lambda _: ok([]),
    }


def gate(world: World) -> Answers:
    """Contracts of a ten-thousandth; candles count contracts too; times in seconds; a bare list is the answer."""
    unit = 0.0001

    def contracts(_: Asked) -> object:
        return [{
            "name": "BTC_USDT", "type": "direct", "quanto_multiplier": "0.0001", "order_price_deviate": "0.5",
            "mark_price": "60000", "last_price": "60000", "index_price": "60000", "order_price_round": "0.5",
            "order_size_min": 1, "order_size_max": 1000000, "market_order_size_max": "300000", "leverage_min": "1",
            "leverage_max": "100", "status": "trading", "funding_rate": "0.0001", "funding_interval": 28800,
            "funding_next_apply": world.now_ms // 1000 + 3600, "create_time": 1546905600, "in_delisting": False,
        }]  # fmt: skip

    def candles(asked: Asked) -> object:
        size = MINUTES[asked.query["interval"]]
        rows = world.bars(size, int(asked.query["from"]) * 1000, int(asked.query["to"]) * 1000)
        return [
            {
                "t": t // 1000,
                "o": str(o),
                "h": str(h),
                "l": str(low),
                "c": str(c),
                "v": round(v / unit),
                "sum": str(v * c),
            }
            for t, o, h, low, c, v in rows
        ]

    def book(_: Asked) -> object:
        bids, asks = ([{"p": str(p), "s": round(s)} for p, s in side] for side in world.levels(unit))
        return {"id": 1, "current": world.now_ms / 1000, "update": world.now_ms / 1000, "asks": asks, "bids": bids}

    trade = {"id": 1, "create_time": world.now_ms / 1000, "contract": "BTC_USDT", "size": 15000, "price": "60000"}
    return {
        "/api/v4/spot/time": lambda _: {"server_time": world.now_ms},
        "/api/v4/spot/currency_pairs": lambda _: [],
        "/api/v4/margin/currency_pairs": lambda _: [],
        "/api/v4/futures/usdt/contracts": contracts,
        "/api/v4/futures/usdt/contracts/BTC_USDT": lambda asked: contracts(asked)[0],
        "/api/v4/futures/btc/contracts": lambda _: [],
        "/api/v4/futures/usdt/candlesticks": candles,
        "/api/v4/futures/usdt/order_book": book,
        "/api/v4/futures/usdt/trades": lambda _: [trade],
        "/api/v4/futures/usdt/funding_rate": lambda _: [],
    }


def kucoin(world: World) -> Answers:
    """Contracts of a thousandth; books of 20 and 100 levels; candles in contracts, at most 200 of them."""
    unit = 0.001

    def ok(data: object) -> dict[str, object]:
        return {"code": "200000", "data": data}

    contract = {
        "symbol": "XBTUSDTM", "rootSymbol": "USDT", "type": "FFWCSX", "baseCurrency": "XBT", "quoteCurrency": "USDT",
        "settleCurrency": "USDT", "maxOrderQty": 1000000, "lotSize": 1, "tickSize": 0.5, "multiplier": 0.001,
        "isInverse": False, "status": "Open", "maxLeverage": 125, "takerFeeRate": 0.0006, "makerFeeRate": 0.0002,
        "nextFundingRateTime": 3600000, "expireDate": None, "maxPrice": 1000000, "firstOpenDate": 1585555200000,
        "fundingFeeRate": 0.0001, "markPrice": 60000.0,
    }  # fmt: skip

    def candles(asked: Asked) -> object:
        rows = world.bars(int(asked.query["granularity"]), float(asked.query["from"]), float(asked.query["to"]))
        return ok([[t, o, h, low, c, round(v / unit)] for t, o, h, low, c, v in rows[:200]])

    def book(_: Asked) -> object:
        bids, asks = ([[p, round(s)] for p, s in side] for side in world.levels(unit))
        return ok({"symbol": "XBTUSDTM", "sequence": 1, "bids": bids, "asks": asks, "ts": world.now_ms * 1_000_000})

    trade = {"sequence": 1, "tradeId": "1", "symbol": "XBTUSDTM", "price": "60000", "size": 1500, "side": "buy"}
    return {
        "/api/v1/timestamp": lambda _: ok(world.now_ms),
        "/api/v2/symbols": lambda _: ok([]),
        "/api/v1/market/allTickers": lambda _: ok({"time": world.now_ms, "ticker": []}),
        "/api/v1/contracts/active": lambda _: ok([contract]),
        "/api/v1/kline/query": candles,
        "/api/v1/level2/depth20": book,
        "/api/v1/level2/depth100": book,
        "/api/v1/trade/history": lambda _: ok([trade | {"ts": world.now_ms * 1_000_000}]),
        "/api/v1/funding-rate/XBTUSDTM/current": lambda _: ok({
            "symbol": ".XBTUSDTMFPI8H", "granularity": 28800000, "timePoint": world.now_ms - 3_600_000, "value": 0.0001,
            "fundingTime": world.now_ms + 3_600_000, "predictedValue": 0.0001,
        }),
        "/api/v1/contract/funding-rates": lambda _: ok([]),
    }  # fmt: skip


def htx(world: World) -> Answers:
    """Contracts of a thousandth; `vol` is contracts and `amount` coins; spot books of 5, 10, 20 or all levels."""
    unit = 0.001

    def ok(name: str, value: object) -> dict[str, object]:
        return {"status": "ok", "ts": world.now_ms, name: value}

    contract = {
        "symbol": "BTC", "contract_code": "BTC-USDT", "contract_size": 0.001, "price_tick": 0.5, "delivery_date": "",
        "delivery_time": "", "create_date": "20201021", "contract_status": 1, "settlement_date": "1606824000000",
        "support_margin_mode": "all", "business_type": "swap", "pair": "BTC-USDT", "contract_type": "swap",
        "trade_partition": "USDT",
    }  # fmt: skip

    spot = {
        "base-currency": "btc", "quote-currency": "usdt", "price-precision": 2, "amount-precision": 6,
        "symbol": "btcusdt", "value-precision": 8, "min-order-amt": 0.00001, "max-order-amt": 500,
        "min-order-value": 10, "api-trading": "enabled", "state": "online",
    }  # fmt: skip

    def candles(asked: Asked) -> object:
        size = {"1min": 1, "5min": 5, "15min": 15, "60min": 60}[asked.query["period"]]
        rows = world.bars(size, float(asked.query["from"]) * 1000, float(asked.query["to"]) * 1000)
        return ok("data", [
            {"id": t // 1000, "open": o, "close": c, "low": low, "high": h, "amount": v, "vol": v / unit, "count": 9}
            for t, o, h, low, c, v in rows
        ])  # fmt: skip

    def book(_: Asked) -> object:
        bids, asks = world.levels(unit)
        return ok("tick", {"bids": bids, "asks": asks, "ts": world.now_ms, "id": 1, "mrid": 1, "version": 1, "ch": "x"})

    def spot_book(asked: Asked) -> object:
        if asked.query.get("depth", "20") not in ("5", "10", "20"):
            return {"status": "error", "err-code": "invalid-parameter", "err-msg": "invalid depth", "data": None}
        bids, asks = world.levels()
        return ok("tick", {"bids": bids, "asks": asks, "ts": world.now_ms, "version": 1})

    trade = {"amount": 1500, "quantity": 1.5, "trade_turnover": 90000.0, "ts": world.now_ms, "id": 1, "price": 60000.0}
    return {
        "/v1/common/timestamp": lambda _: ok("data", world.now_ms),
        "/api/v1/timestamp": lambda _: ok("ts", world.now_ms),
        "/v1/common/symbols": lambda _: ok("data", [spot]),
        "/linear-swap-api/v1/swap_contract_info": lambda _: ok("data", [contract]),
        "/market/depth": spot_book,
        "/linear-swap-ex/market/history/kline": candles,
        "/linear-swap-ex/market/depth": book,
        "/linear-swap-ex/market/history/trade": lambda _: ok(
            "data", [{"id": 1, "ts": world.now_ms, "data": [trade | {"direction": "buy"}]}]
        ),
    }


def hyperliquid(world: World) -> Answers:
    """One address for all; coins; 5,000 bars of each timeframe at most; a pair of spot that is named by its number."""

    def info(asked: Asked) -> object:
        return {
            "exchangeStatus": lambda _: {"time": world.now_ms, "specialStatuses": None},
            "spotMetaAndAssetCtxs": lambda _: [{"universe": [], "tokens": []}, []],
            "metaAndAssetCtxs": lambda _: [
                {"universe": [{"szDecimals": 5, "name": "BTC", "maxLeverage": 40, "marginTableId": 56}]},
                [{"funding": "0.0000125", "openInterest": "1", "prevDayPx": "60000.0", "markPx": "60000.0",
                  "midPx": "60000.0", "oraclePx": "60000.0", "premium": "0.0", "dayNtlVlm": "1", "impactPxs": []}],
            ],
            "candleSnapshot": candles,
            "l2Book": book,
            "fundingHistory": lambda _: [],
        }[str(asked.body["type"])](asked)  # fmt: skip

    def candles(asked: Asked) -> object:
        req = asked.body["req"]
        size = MINUTES[req["interval"]]
        return [
            {"t": t, "T": t + size * MINUTE_MS - 1, "s": "BTC", "i": req["interval"], "n": 9, "o": str(o), "c": str(c),
             "h": str(h), "l": str(low), "v": str(v)}
            for t, o, h, low, c, v in world.bars(size, req["startTime"], req["endTime"])
        ]  # fmt: skip

    def book(_: Asked) -> object:
        bids, asks = ([{"px": str(p), "sz": str(s), "n": 1} for p, s in side] for side in world.levels())
        return {"coin": "BTC", "time": world.now_ms, "levels": [bids, asks]}

    return {"/info": info}


def binanceusdm(world: World) -> Answers:
    """Coins; numbers as text; nothing about leverage in public; the largest market order apart from the largest."""

    def candles(asked: Asked) -> object:
        size = MINUTES[asked.query["interval"]]
        rows = world.bars(size, float(asked.query["startTime"]), float(asked.query["endTime"]))
        return [
            [t, str(o), str(h), str(low), str(c), str(v), t + size * MINUTE_MS - 1, str(v * c), 9, "1", "1", "0"]
            for t, o, h, low, c, v in rows[: int(asked.query["limit"])]
        ]

    def book(_: Asked) -> object:
        bids, asks = (text(side) for side in world.levels())
        return {"lastUpdateId": 1, "E": world.now_ms, "T": world.now_ms, "bids": bids, "asks": asks}

    listed = {
        "symbol": "BTCUSDT", "pair": "BTCUSDT", "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
        "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT",
        "pricePrecision": 2, "quantityPrecision": 3, "baseAssetPrecision": 8, "quotePrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.50", "minPrice": "556.80", "maxPrice": "4529764"},
            {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "1000"},
            {"filterType": "MARKET_LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "120"},
            {"filterType": "MIN_NOTIONAL", "notional": "100"},
        ],
        "orderTypes": ["LIMIT", "MARKET"], "timeInForce": ["GTC"],
    }  # fmt: skip
    trade = {"a": 1, "p": "60000", "q": "1.5", "f": 1, "l": 1, "T": world.now_ms, "m": False}
    return {
        "/fapi/v1/time": lambda _: {"serverTime": world.now_ms},
        "/fapi/v1/exchangeInfo": lambda _: {"symbols": [listed], "assets": [], "timezone": "UTC"},
        "/fapi/v1/klines": candles,
        "/fapi/v1/depth": book,
        "/fapi/v1/aggTrades": lambda _: [trade],
        "/fapi/v1/premiumIndex": lambda _: {
            "symbol": "BTCUSDT", "markPrice": "60000", "indexPrice": "60000", "lastFundingRate": "0.0001",
            "nextFundingTime": world.now_ms + 3_600_000, "interestRate": "0.0001", "time": world.now_ms,
        },
        "/fapi/v1/fundingRate": lambda _: [],
    }  # fmt: skip


def kraken(world: World) -> Answers:
    """Spot; the last 720 bars whatever is asked; the one that is still open among them."""

    def ok(result: object) -> dict[str, object]:
        return {"error": [], "result": result}

    pair = {
        "altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "pair_decimals": 1,
        "lot_decimals": 8, "cost_decimals": 5, "lot": "unit", "lot_multiplier": 1, "leverage_buy": [2, 3],
        "fees": [[0, 0.4]], "fees_maker": [[0, 0.25]], "ordermin": "0.00005", "costmin": "0.5", "tick_size": "0.1",
        "status": "online", "fee_volume_currency": "ZUSD", "margin_call": 80, "margin_stop": 40,
    }  # fmt: skip

    def candles(asked: Asked) -> object:
        rows = world.bars(int(asked.query["interval"]), float(asked.query["since"]) * 1000 + 1)[-720:]
        return ok({
            "XXBTZUSD": [
                [t // 1000, str(o), str(h), str(low), str(c), str(c), str(v), 9] for t, o, h, low, c, v in rows
            ],
            "last": world.now_ms // 1000,
        })  # fmt: skip

    def book(_: Asked) -> object:
        bids, asks = ([[str(p), str(s), world.now_ms // 1000] for p, s in side] for side in world.levels())
        return ok({"XXBTZUSD": {"asks": asks, "bids": bids}})

    def asset(name: str, decimals: int) -> dict[str, object]:
        return {"aclass": "currency", "altname": name, "decimals": decimals, "display_decimals": 5, "status": "enabled"}

    trade = ["60000", "1.5", world.now_ms / 1000, "b", "m", "", 1]
    return {
        "/0/public/Time": lambda _: ok({"unixtime": world.now_ms // 1000, "rfc1123": ""}),
        "/0/public/Assets": lambda _: ok({"XXBT": asset("XBT", 6), "ZUSD": asset("USD", 4)}),
        "/0/public/AssetPairs": lambda _: ok({"XXBTZUSD": pair}),
        "/0/public/OHLC": candles,
        "/0/public/Depth": book,
        "/0/public/Trades": lambda _: ok({"XXBTZUSD": [trade], "last": "1"}),
    }


VENUES: dict[str, tuple[str, Callable[[World], Answers]]] = {
    "okx": ("BTC/USDT:USDT", okx),
    "bitget": ("BTC/USDT:USDT", bitget),
    "gate": ("BTC/USDT:USDT", gate),
    "kucoin": ("BTC/USDT:USDT", kucoin),
    "kucoinfutures": ("BTC/USDT:USDT", kucoin),
    "htx": ("BTC/USDT:USDT", htx),
    "hyperliquid": ("BTC/USDC:USDC", hyperliquid),
    "binanceusdm": ("BTC/USDT:USDT", binanceusdm),
    "kraken": ("BTC/USD", kraken),
}


def serve(stub: Stub, venue: str, world: World) -> str:
    """Let a stub answer as a venue does; return its market."""
    symbol, answers = VENUES[venue]
    stub.answers = dict(answers(world))
    return symbol
