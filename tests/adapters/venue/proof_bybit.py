"""Bybit's bodies, read a second time by the names of its documentation."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from proof import Body, Facts, Proof, Row, ask_everything, query_and_body, some, time_of
from venue_stub import NOW_MS, Stub, ok

from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.types.orders import OrderStatus

ORDERS = ("/v5/order/realtime", "/v5/order/history")
FILLS, POSITIONS, WALLET = "/v5/execution/list", "/v5/position/list", "/v5/account/wallet-balance"
INSTRUMENTS, CREATE, KEY = "/v5/market/instruments-info", "/v5/order/create", "/v5/user/query-api"
KINDS = {
    **dict.fromkeys(ORDERS, "order"), FILLS: "fill", POSITIONS: "position", WALLET: "balance",
    INSTRUMENTS: "instrument", "/v5/market/orderbook": "book", "/v5/market/kline": "bars",
    "/v5/market/funding/history": "funding", KEY: "key",
}  # fmt: skip
NAMED = {
    "nt_get_user_query_api": "key", "hb_get_rest_snapshot_msg": "book",
    "hb_t_resolving_trading_pair_symbol_duplicates_on_trading_rules_update_first_is_good__results": "instrument",
    "hb_trading_rules_request_erroneous_mock_response": "instrument",
}  # fmt: skip
WORKING = ("Created", "New", "PartiallyFilled", "Untriggered", "Triggered", "Active", "PendingCancel")
ENDED = {"Filled": OrderStatus.FILLED, "Rejected": OrderStatus.REJECTED}
FILTERS = ("priceFilter", "lotSizeFilter")


def kind_of(body: Body) -> str:
    if body.name.startswith("err_"):
        return "error" if str(body.body.get("retCode", body.body.get("ret_code"))) != "0" else ""
    return NAMED.get(body.name) or KINDS.get(body.path, "")


def unasked(body: Body) -> bool:
    """Return whether we ask for nothing like it: other endpoints, batches, and placeholders of other people's tests."""
    return body.path not in KINDS or body.method == "POST"


def rows(kind: str, body: Any) -> list[Row]:
    listed = body if isinstance(body, list) else (body.get("result") or {})
    if isinstance(listed, dict):
        listed = listed.get("list", [])
    return (
        [row for row in listed if isinstance(row, dict)] if kind in ("order", "fill", "position", "instrument") else []
    )


def symbol(row: Row) -> str:
    """Name a market as ccxt does: as a listed row says, else as `listed` lists the ids of other rows."""
    if any(name in row for name in ("contractType", "baseCoin", *FILTERS)):
        quote, settle = row["quoteCoin"], row.get("settleCoin")
        if "optionsType" in row:
            return str(row["symbol"])
        return f"{row['baseCoin']}/{quote}" + (f":{settle or quote}" if "contractType" in row else "")
    base = str(row["symbol"]).removesuffix("USDT").removesuffix("PERP").removesuffix("USD")
    return f"{base}/USDT:USDT"


def listed(market_id: str) -> Row:
    """List an id as a contract, so that a row of it can be read."""
    return {
        "symbol": market_id, "contractType": "LinearPerpetual", "status": "Trading", "quoteCoin": "USDT",
        "settleCoin": "USDT", "baseCoin": symbol({"symbol": market_id}).partition("/")[0], "deliveryTime": "0",
        "launchTime": "1585526400000",
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": "0.10", "maxPrice": "1999999.80", "tickSize": "0.10"},
        "lotSizeFilter": {"maxOrderQty": "1190", "minOrderQty": "0.001", "qtyStep": "0.001", "minNotionalValue": "5"},
    }  # fmt: skip


def answers(kind: str, body: Body, rows: list[Row]) -> dict[str, Any]:
    """Answer the body where it belongs, after all that is in it has happened."""
    result = body.body.get("result") if isinstance(body.body, dict) else None
    ids = {str(row["symbol"]) for row in rows} | {"BTCUSDT"}
    for holder in (result or {}), *((result or {}).get("list") or []):
        ids |= {holder[name] for name in ("s", "symbol") if isinstance(holder, dict) and name in holder}
    markets = rows if kind == "instrument" else [listed(each) for each in sorted(ids)]
    spot = [row for row in markets if "contractType" not in row and "optionsType" not in row]
    linear = [row for row in markets if "contractType" in row and "Inverse" not in row["contractType"]]
    of = {"linear": linear, "spot": spot, "inverse": [r for r in markets if "Inverse" in r.get("contractType", "")]}
    of["option"] = [row for row in markets if "optionsType" in row]
    times = [int(row[name]) for row in rows for name in ("execTime", "updatedTime") if row.get(name)]
    now = max(times or [NOW_MS]) + 1000
    here = {} if kind == "instrument" else dict.fromkeys(_paths(kind), body.body)
    if kind == "order":
        here = dict.fromkeys(ORDERS, lambda asked: ok(list=[r for r in rows if r["symbol"] == asked.query["symbol"]]))
    ticker = {"symbol": "BTCUSDT", "fundingRate": "0.0001", "nextFundingTime": str(now), "markPrice": "1"}
    return {
        "/v5/market/time": ok(timeSecond=str(now // 1000)) | {"time": now},
        INSTRUMENTS: lambda asked: ok(
            category=asked.query["category"],
            list=[] if asked.query.get("status") == "PreLaunch" or asked.query.get("baseCoin", "BTC") != "BTC"
            else of[asked.query["category"]],
        ),
        "/v5/market/tickers": lambda asked: ok(
            category="linear", list=[ticker | {"symbol": asked.query.get("symbol", "BTCUSDT")}]
        ),
        POSITIONS: ok(list=[]), **dict.fromkeys(ORDERS, ok(list=[])),
        **here,
    }  # fmt: skip


def _paths(kind: str) -> tuple[str, ...]:
    return tuple(path for path, each in KINDS.items() if each == kind)


def one_order(row: Row, name: str) -> dict[str, Any]:
    return dict.fromkeys(ORDERS, ok(list=[{**row, "orderLinkId": name}], nextPageCursor=""))


def order(row: Row) -> Facts:
    word, filled, type_ = row["orderStatus"], Decimal(row["cumExecQty"] or 0), row["orderType"].lower()
    price = some(row["price"]) if type_ == "limit" else None
    for end, kind in (("TakeProfit", "target"), ("StopLoss", "stop"), ("TrailingStop", "stop")):
        if row["stopOrderType"] == end or row["stopOrderType"] == f"Partial{end}":
            type_, price = kind, some(row["triggerPrice"])
    status = OrderStatus.OPEN if word in WORKING else ENDED.get(word, OrderStatus.CANCELLED)
    return {
        "client_order_id": row["orderLinkId"], "venue_order_id": row["orderId"], "symbol": symbol(row), "type": type_,
        "side": row["side"].lower(), "quantity": Decimal(row["qty"]), "filled": filled, "price": price,
        "avg_price": some(row["avgPrice"]), "stop": some(row["stopLoss"]), "target": some(row["takeProfit"]),
        "status": OrderStatus.CANCELLED if status is OrderStatus.REJECTED and filled else status,
        "reduce_only": row["reduceOnly"], "created_at": time_of(row["createdTime"]),
        "updated_at": time_of(row["updatedTime"]),
    }  # fmt: skip


def fill(row: Row) -> Facts | None:
    return {
        "fill_id": row["execId"], "venue_order_id": row["orderId"], "client_order_id": row["orderLinkId"],
        "symbol": symbol(row), "side": row["side"].lower(), "price": Decimal(row["execPrice"]),
        "quantity": Decimal(0 if row["execType"] == "Funding" else row["execQty"]), "fee": Decimal(row["execFee"]),
        "fee_currency": row["feeCurrency"] or "USDT", "liquidity": "maker" if row["isMaker"] else "taker",
        "at": time_of(row["execTime"]),
    }  # fmt: skip


def position(row: Row) -> Facts | None:
    if not some(row["size"]):
        return None
    return {
        "symbol": symbol(row), "side": {"Buy": "long", "Sell": "short"}[row["side"]], "quantity": Decimal(row["size"]),
        "avg_price": Decimal(row["avgPrice"]), "stop": some(row["stopLoss"]), "target": some(row["takeProfit"]),
    }  # fmt: skip


def balance(body: Any) -> Facts:
    [account] = body["result"]["list"]
    coin = next((coin for coin in account["coin"] if coin["coin"] == "USDT"), {"equity": "0"})
    equity = Decimal(coin["equity"])
    tied = sum((some(coin.get(name)) or Decimal(0)) for name in ("totalPositionIM", "totalOrderIM", "locked"))
    free = some(account["totalAvailableBalance"])
    return {"equity": equity, "available": max(min(equity - tied, free or equity), Decimal(0)), "currency": "USDT"}


def instrument(row: Row) -> Facts | None:
    if "Inverse" in row.get("contractType", "") or "optionsType" in row or not all(name in row for name in FILTERS):
        return None
    lot, spot = row["lotSizeFilter"], "contractType" not in row
    return {
        "tick": Decimal(row["priceFilter"]["tickSize"]), "step": Decimal(lot["basePrecision" if spot else "qtyStep"]),
        "min_quantity": Decimal(lot["minOrderQty"]),
        "min_notional": Decimal(lot["minOrderAmt" if spot else "minNotionalValue"]),
        "max_leverage": Decimal(1) if spot else Decimal(row["leverageFilter"]["maxLeverage"]),
        "kind": "spot" if spot else "linear", "shorting": not spot,
    }  # fmt: skip


def book(body: Any) -> tuple[str, list[Any], list[Any]]:
    sides = [[(Decimal(price), Decimal(size)) for price, size in body["result"][side]] for side in ("b", "a")]
    return symbol({"symbol": body["result"]["s"]}), *sides


def bars(body: Any) -> tuple[str, list[list[str]]]:
    return symbol({"symbol": body["result"].get("symbol", "BTCUSDT")}), body["result"]["list"]


def funding(body: Any) -> tuple[str, list[Any]]:
    paid = body["result"]["list"]
    rates = [(time_of(row["fundingRateTimestamp"]), Decimal(row["fundingRate"])) for row in paid]
    return symbol(paid[0]), rates


def key(body: Any) -> Facts:
    said = body["result"]
    return {"account_id": str(said["userID"]), "read_only": bool(said["readOnly"])}


def fields_of(asked: Any) -> Mapping[str, Any]:
    return query_and_body(asked)


def serve(stub: Stub) -> None:
    row = {
        "orderId": "v-1", "side": "Sell", "orderType": "Limit", "price": "87000", "qty": "1", "cumExecQty": "0",
        "avgPrice": "", "orderStatus": "Untriggered", "stopOrderType": "tpslOrder", "triggerPrice": "80000",
        "stopLoss": "", "takeProfit": "", "rejectReason": "", "reduceOnly": False, "createdTime": str(NOW_MS),
        "updatedTime": str(NOW_MS), "symbol": "BTCUSDT",
    }  # fmt: skip
    wallet = {"totalAvailableBalance": "9", "coin": [{"coin": "USDT", "equity": "9"}, {"coin": "BTC", "equity": "2"}]}
    spot = {
        "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading",
        "lotSizeFilter": {"basePrecision": "0.01", "minOrderQty": "0.01", "minOrderAmt": "1", "maxOrderQty": "9"},
        "priceFilter": {"tickSize": "0.01"},
    }  # fmt: skip
    both = {"spot": [spot], "linear": [listed("BTCUSDT"), listed("LTCUSDT")]}
    done = ok(orderId="v-1", orderLinkId="x")
    stub.answers |= answers("", Body("", "", "", None, None), []) | {
        CREATE: done, "/v5/order/cancel": done, "/v5/position/set-leverage": ok(), "/v5/position/trading-stop": ok(),
        WALLET: ok(list=[wallet]), FILLS: ok(list=[], nextPageCursor=""), KEY: ok(userID=1, readOnly=0),
        "/v5/account/info": ok(marginMode="REGULAR_MARGIN"), "/v5/market/kline": ok(list=[]),
        "/v5/market/recent-trade": ok(list=[]), "/v5/market/funding/history": ok(list=[]),
        POSITIONS: ok(list=[{"symbol": "BTCUSDT", "positionIdx": 0, "size": "0", "side": "", "leverage": "5"}]),
        "/v5/market/orderbook": ok(s="BTCUSDT", b=[["87000", "1"]], a=[["87001", "1"]], ts=NOW_MS, u=1),
        INSTRUMENTS: lambda asked: ok(
            category=asked.query["category"],
            list=both.get(asked.query["category"], []) if "status" not in asked.query else [],
        ),
        **dict.fromkeys(ORDERS, lambda asked: ok(
            list=[row | {"orderLinkId": asked.query.get("orderLinkId", "x")}], nextPageCursor="",
        )),
    }  # fmt: skip


async def life(venue: CcxtVenue, stub: Stub) -> None:
    serve(stub)
    await ask_everything(venue, "BTC/USDT:USDT")
    await ask_everything(venue, "BTC/USDT")


PROOF = Proof(
    venue="bybit", folder="bybit", quote="USDT", kind_of=kind_of, unasked=unasked, rows=rows, symbol=symbol,
    answers=answers, one_order=one_order, order=order, fill=fill, position=position, balance=balance,
    instrument=instrument, book=book, bars=bars, funding=funding, key=key, refuses=(CREATE, WALLET),
    endpoint_of=lambda asked: f"{asked.method} {asked.path}", fields_of=fields_of,
    undocumented=frozenset({"GET /v5/user/query-api"}), serve=serve, life=life,
    left_out=frozenset({"orderLinkId", "positionIdx"}),
)  # fmt: skip
