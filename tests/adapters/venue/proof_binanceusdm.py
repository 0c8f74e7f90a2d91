"""Binance USDⓈ-M's bodies, read a second time by the names of its documentation."""

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from proof import ID, Body, Facts, Proof, Row, ask_everything, query_and_body, some, time_of
from venue_stub import NOW_MS, Asked, Stub

from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.types.orders import OrderStatus

ORDER, OPEN, ALGO, ALGOS = (f"/fapi/v1/{name}" for name in ("order", "openOrders", "algoOrder", "openAlgoOrders"))
FILLS, POSITIONS, ACCOUNT = "/fapi/v1/userTrades", "/fapi/v3/positionRisk", "/fapi/v3/account"
INFO, BRACKETS, DEPTH = "/fapi/v1/exchangeInfo", "/fapi/v1/leverageBracket", "/fapi/v1/depth"
KINDS = {
    ORDER: "order", OPEN: "order", ALGO: "order", ALGOS: "order", "/fapi/v1/openOrder": "order", FILLS: "fill",
    "/fapi/v1/forceOrders": "order", POSITIONS: "position", "/fapi/v2/positionRisk": "position", ACCOUNT: "balance",
    "/fapi/v2/account": "balance", INFO: "instrument", DEPTH: "book", "/fapi/v1/fundingRate": "funding",
}  # fmt: skip
NAMED = {
    "hb__get_position_risk": "position", "hb_t_account_position_updated": "position",
    "hb_t_format_trading_rules": "instrument", "hb_t_update_balances": "balance", "hb_t_update_order_fills": "fill",
    "hb_t_update_order_status": "order", "hb__get_wrong_symbol": "position",
}  # fmt: skip
STATUS = {
    "NEW": OrderStatus.OPEN, "PARTIALLY_FILLED": OrderStatus.OPEN, "FILLED": OrderStatus.FILLED,
    "CANCELED": OrderStatus.CANCELLED, "EXPIRED": OrderStatus.CANCELLED,
}  # fmt: skip
NOTHING = {"code": -2013, "msg": "Order does not exist."}


def kind_of(body: Body) -> str:
    if body.name.startswith("err_"):
        return "" if "mixed" in body.name else "error"
    if body.path and "usdm" in body.name:
        return KINDS.get(body.path, "")
    return next((kind for name, kind in NAMED.items() if body.name.startswith(name)), "")


def unasked(body: Body) -> bool:
    """Return whether we ask nothing like it: spot, batches, other endpoints."""
    return body.path not in KINDS


def rows(kind: str, body: Any) -> list[Row]:
    if kind == "instrument":
        return list(body["symbols"])
    listed = body if isinstance(body, list) else [body]
    return listed if kind in ("order", "fill", "position") else []


def symbol(row: Row) -> str:
    if "baseAsset" in row:
        return f"{row['baseAsset']}/{row['quoteAsset']}:{row['marginAsset']}"
    return f"{str(row['symbol']).removesuffix('USDT')}/USDT:USDT"


def listed(market_id: str) -> Row:
    """List an id as a perpetual, so that a row of it can be read."""
    return {
        "symbol": market_id, "pair": market_id, "contractType": "PERPETUAL", "status": "TRADING",
        "baseAsset": market_id.removesuffix("USDT"), "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 2,
        "quantityPrecision": 3, "orderTypes": ["LIMIT", "MARKET", "STOP_MARKET", "TAKE_PROFIT_MARKET"],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.1", "maxPrice": "1000000", "tickSize": "0.10"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
    }  # fmt: skip


def answers(kind: str, body: Body, rows: list[Row]) -> dict[str, Any]:
    ids = {str(row["symbol"]) for row in rows} | {"BTCUSDT"}
    times = [int(row.get("time") or row.get("updateTime") or 0) + 1 for row in rows]
    found: dict[str, Any] = {
        "/fapi/v1/time": {"serverTime": max(times or [NOW_MS])},
        INFO: body.body if kind == "instrument" else {"symbols": [listed(each) for each in sorted(ids)]},
        BRACKETS: [{"symbol": each, "brackets": [{"initialLeverage": 75}, {"initialLeverage": 20}]} for each in ids],
        OPEN: [], ALGOS: [], FILLS: [], POSITIONS: [],
        **dict.fromkeys((ORDER, ALGO), (400, json.dumps(NOTHING))),
        "/fapi/v1/premiumIndex": lambda asked: {
            "symbol": asked.query["symbol"], "lastFundingRate": "0.0001", "nextFundingTime": NOW_MS, "time": NOW_MS,
            "markPrice": "1", "indexPrice": "1",
        },
    }  # fmt: skip
    if kind == "order":
        algos = [row for row in rows if "algoId" in row and row["algoStatus"] in STATUS]
        found |= {OPEN: _of_symbol([row for row in rows if row not in algos and _open(row)]), ALGOS: _of_symbol(algos)}
    elif kind in ("fill", "position", "balance", "book", "funding"):
        found[next(path for path, each in reversed(KINDS.items()) if each == kind)] = body.body
        found |= {POSITIONS: body.body} if kind == "position" else {ACCOUNT: body.body} if kind == "balance" else {}
    return always(found)


def always(answers: dict[str, Any]) -> dict[str, Any]:
    """Let lists be answers whole; the server would use them up one by one."""
    return {path: (lambda _, rows=each: rows) if isinstance(each, list) else each for path, each in answers.items()}


def _open(row: Row) -> bool:
    return STATUS[row.get("status") or row["algoStatus"]] is OrderStatus.OPEN


def _of_symbol(rows: list[Row]) -> Callable[[Asked], list[Row]]:
    return lambda asked: [row for row in rows if row["symbol"] == asked.query["symbol"] and _open(row)]


def one_order(row: Row, name: str) -> dict[str, Any]:
    if "algoId" in row:
        return {ORDER: (400, json.dumps(NOTHING)), ALGO: {**row, "clientAlgoId": name}}
    return {ORDER: {**row, "clientOrderId": name}}


def order(row: Row) -> Facts:
    word = row.get("orderType") or row.get("origType") or row["type"]
    closing = row["reduceOnly"] or row.get("closePosition", False)
    trigger = some(row.get("triggerPrice")) or some(row.get("stopPrice"))
    kind = {"STOP": "stop", "TAKE": "target"}.get(word[:4], "") if closing and trigger else ""
    quantity, filled = Decimal(row.get("quantity") or row["origQty"]), Decimal(row.get("executedQty", 0))
    facts: Facts = {
        "client_order_id": row.get("clientAlgoId") or row["clientOrderId"], "symbol": symbol(row),
        "venue_order_id": str(row.get("algoId") or row["orderId"]), "side": row["side"].lower(), "quantity": quantity,
        "filled": filled, "status": STATUS[row.get("status") or row["algoStatus"]], "reduce_only": closing,
    }  # fmt: skip
    if kind:
        facts |= {"type": kind, "price": trigger}
    elif word in ("LIMIT", "MARKET"):
        facts |= {"type": word.lower(), "price": some(row["price"]) if word == "LIMIT" else None}
    return facts | ({"avg_price": some(row["avgPrice"])} if some(row.get("avgPrice")) else {})


def fill(row: Row) -> Facts | None:
    return {
        "fill_id": str(row["id"]), "venue_order_id": str(row["orderId"]), "symbol": symbol(row),
        "side": row["side"].lower(), "quantity": Decimal(row["qty"]), "price": Decimal(row["price"]),
        "fee": Decimal(row["commission"]), "fee_currency": row["commissionAsset"],
        "liquidity": "maker" if row["maker"] else "taker", "at": time_of(row["time"]),
    }  # fmt: skip


def position(row: Row) -> Facts | None:
    size = Decimal(row["positionAmt"])
    if not size:
        return None
    return {
        "symbol": symbol(row), "side": "long" if size > 0 else "short", "quantity": abs(size),
        "avg_price": Decimal(row["entryPrice"]), "stop": None, "target": None,
    }  # fmt: skip


def balance(body: Any) -> Facts:
    usdt = next(row for row in body["assets"] if row["asset"] == "USDT")
    return {
        "equity": Decimal(usdt["marginBalance"]), "available": Decimal(usdt["availableBalance"]), "currency": "USDT",
    }  # fmt: skip


def instrument(row: Row) -> Facts | None:
    filters = {each["filterType"]: each for each in row["filters"]}
    return {
        "tick": Decimal(filters["PRICE_FILTER"]["tickSize"]), "step": Decimal(filters["LOT_SIZE"]["stepSize"]),
        "min_quantity": max(Decimal(filters["LOT_SIZE"][name]) for name in ("minQty", "stepSize")),
        "kind": "linear", "shorting": True,
        "min_notional": Decimal(filters["MIN_NOTIONAL"]["notional"]), "max_leverage": Decimal(75),
    }  # fmt: skip


def book(body: Any) -> tuple[str, list[Any], list[Any]]:
    sides = [[(Decimal(price), Decimal(size)) for price, size, *_ in body[side]] for side in ("bids", "asks")]
    return "BTC/USDT:USDT", *sides


def bars(body: Any) -> tuple[str, list[list[str]]]:
    return "BTC/USDT:USDT", [row[:6] for row in body]


def funding(body: Any) -> tuple[str, list[tuple[datetime, Decimal]]]:
    return symbol(body[0]), [(time_of(row["fundingTime"]), Decimal(row["fundingRate"])) for row in body]


def key(body: Any) -> Facts:
    raise NotImplementedError("no body tells about a key")


def fields_of(asked: Asked) -> dict[str, Any]:
    """Return the fields of a request without those that sign any of them."""
    return {name: value for name, value in query_and_body(asked).items() if name not in ("signature", "timestamp")}


def serve(stub: Stub) -> None:
    plain = {
        "orderId": 7, "clientOrderId": ID, "symbol": "BTCUSDT", "side": "BUY", "positionSide": "BOTH", "type": "MARKET",
        "origType": "MARKET", "status": "FILLED", "origQty": "1", "executedQty": "1", "avgPrice": "87000", "price": "0",
        "reduceOnly": True, "closePosition": False, "stopPrice": "0", "time": NOW_MS, "updateTime": NOW_MS,
        "timeInForce": "GTC", "cumQuote": "87000",
    }  # fmt: skip
    stop = {
        "algoId": 9, "clientAlgoId": "s", "algoType": "CONDITIONAL", "orderType": "STOP_MARKET", "symbol": "BTCUSDT",
        "side": "SELL", "positionSide": "BOTH", "quantity": "1", "algoStatus": "NEW", "triggerPrice": "80000",
        "price": "0", "reduceOnly": True, "closePosition": False, "createTime": NOW_MS, "updateTime": NOW_MS,
        "actualOrderId": "",
    }  # fmt: skip
    held = {
        "symbol": "BTCUSDT", "positionAmt": "1", "entryPrice": "87000", "notional": "87000", "positionSide": "BOTH",
        "isolatedMargin": "0", "unRealizedProfit": "0", "liquidationPrice": "0", "markPrice": "87000",
    }  # fmt: skip
    trade = {
        "id": 1, "orderId": 7, "symbol": "BTCUSDT", "side": "BUY", "qty": "1", "price": "87000", "commission": "1",
        "commissionAsset": "USDT", "maker": False, "time": NOW_MS - 1, "realizedPnl": "0", "positionSide": "BOTH",
    }  # fmt: skip
    usdt = {"asset": "USDT", "marginBalance": "9", "availableBalance": "8", "initialMargin": "1", "updateTime": NOW_MS}
    stub.answers |= answers("", Body("", "", "", None, None), []) | always({
        ORDER: plain, ALGO: stop, ALGOS: [stop], "/fapi/v1/allAlgoOrders": [stop | {"actualOrderId": "7"}],
        FILLS: [trade], POSITIONS: [held],
        INFO: {"symbols": [listed("BTCUSDT"), listed("LTCUSDT")]}, ACCOUNT: {"assets": [usdt]},
        "/fapi/v1/aggTrades": [], "/fapi/v1/klines": [],
        DEPTH: {"bids": [["87000", "1"]], "asks": [["87001", "1"]], "E": NOW_MS, "T": NOW_MS, "lastUpdateId": 1},
        "/fapi/v1/fundingRate": [], "/fapi/v1/positionSide/dual": {"dualSidePosition": False},
        "/fapi/v1/symbolConfig": [
            {"symbol": name, "leverage": 20, "marginType": "CROSSED"} for name in ("BTCUSDT", "LTCUSDT")
        ],
        "/fapi/v1/leverage": {"leverage": 3, "symbol": "BTCUSDT"},
        "/fapi/v1/multiAssetsMargin": {"multiAssetsMargin": False},
    })  # fmt: skip


async def life(venue: CcxtVenue, stub: Stub) -> None:
    serve(stub)
    await ask_everything(venue, "BTC/USDT:USDT")


PROOF = Proof(
    venue="binanceusdm", folder="binance", quote="USDT", kind_of=kind_of, unasked=unasked, rows=rows, symbol=symbol,
    answers=answers, one_order=one_order, order=order, fill=fill, position=position, balance=balance,
    instrument=instrument, book=book, bars=bars, funding=funding, key=key, refuses=(ORDER, ACCOUNT), serve=serve,
    life=life,
    left_out=frozenset({"newClientOrderId", "recvWindow"}),
    endpoint_of=lambda asked: f"{asked.method} {asked.path}", fields_of=fields_of,
    undocumented=frozenset({
        "GET /fapi/v1/time", "GET /fapi/v1/exchangeInfo", "GET /fapi/v1/allAlgoOrders", "GET /fapi/v1/openAlgoOrders",
        "GET /fapi/v1/aggTrades",
    }),
    extra={
        "POST /fapi/v1/algoOrder": frozenset({"symbol", "algoType", "newOrderRespType"}),
        "DELETE /fapi/v1/algoOrder": frozenset({"symbol"}),
    },
    optional={"GET /fapi/v3/positionRisk": frozenset({"symbol"})},  # the documentation of v2 says so
)  # fmt: skip
