"""Bitget's bodies of classic futures, read a second time by the names of its documentation."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from proof import ID, Body, Facts, Proof, Row, ask_everything, entry, query_and_body, some, time_of
from venue_stub import NOW_MS, Asked, Stub

from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.types.orders import OrderStatus

PLACE, DETAIL, PENDING, PLANS, FILLS = (
    f"/api/v2/mix/order/{name}" for name in ("place-order", "detail", "orders-pending", "orders-plan-pending", "fills")
)
POSITIONS, ACCOUNT = "/api/v2/mix/position/all-position", "/api/v2/mix/account/account"
BALANCE, KEY = "/api/v2/mix/account/accounts", "/api/v2/spot/account/info"
CONTRACTS, BOOK, RATES, COMING = (
    f"/api/v2/mix/market/{name}" for name in ("contracts", "merge-depth", "history-fund-rate", "current-fund-rate")
)
KINDS = {
    **dict.fromkeys((DETAIL, PENDING, PLANS, "/api/v2/mix/order/orders-history"), "order"), BALANCE: "balance",
    FILLS: "fill", "/api/v2/mix/order/fill-history": "fill", "/api/v2/mix/position/single-position": "position",
    POSITIONS: "position", CONTRACTS: "instrument", BOOK: "book", RATES: "funding", KEY: "key",
}  # fmt: skip
NAMED = {
    "hb__order_status": "order", "hb__order_fills": "fill", "hb_balance": "balance", "hb__all_usd": "instrument",
    "hb_trading_rules": "instrument", "hb_ws_order_book": "book",
}  # fmt: skip
STATES = {
    **dict.fromkeys(("live", "partially_filled", "not_trigger", "new", "init"), OrderStatus.OPEN),
    "filled": OrderStatus.FILLED, "executed": OrderStatus.FILLED,
}  # fmt: skip


def kind_of(body: Body) -> str:
    if body.name.startswith("err_"):
        return "error"
    if body.method == "POST":
        return ""
    return next((kind for name, kind in NAMED.items() if body.name.startswith(name)), KINDS.get(body.path, ""))


def unasked(body: Body) -> bool:
    """Return whether we ask for nothing like it: other endpoints, spot, unified accounts, streams."""
    return body.path not in KINDS or body.method == "POST"


def rows(kind: str, body: Any) -> list[Row]:
    data = body.get("data") if isinstance(body, dict) else None
    if isinstance(data, dict):
        data = data.get("entrustedList", data.get("fillList", [data]))
    return list(data or ()) if kind in ("order", "fill", "position", "instrument") else []


def symbol(row: Row) -> str:
    quote = row.get("quoteCoin", "USDT")
    return f"{str(row['symbol']).upper().removesuffix(quote)}/{quote}:USDT"


def listed(market_id: str) -> Row:
    return {
        "symbol": market_id, "baseCoin": symbol({"symbol": market_id}).partition("/")[0], "quoteCoin": "USDT",
        "supportMarginCoins": ["USDT"], "minTradeNum": "0.001", "priceEndStep": "1", "volumePlace": "3",
        "pricePlace": "1", "sizeMultiplier": "0.001", "symbolType": "perpetual", "minTradeUSDT": "5",
        "symbolStatus": "normal", "minLever": "1", "maxLever": "125", "deliveryTime": "", "makerFeeRate": "0.0002",
        "takerFeeRate": "0.0006", "launchTime": "", "fundInterval": "8",
    }  # fmt: skip


def ok(data: object) -> dict[str, Any]:
    return {"code": "00000", "msg": "success", "requestTime": NOW_MS, "data": data}


def answers(kind: str, body: Body, rows: list[Row]) -> dict[str, Any]:
    data = body.body["data"] if isinstance(body.body, dict) else []
    ids = {str(row["symbol"]).upper() for row in rows} | {"BTCUSDT"}
    markets = rows if kind == "instrument" else [listed(each) for each in sorted(ids)]
    times = [int(row.get("uTime") or row.get("cTime") or 0) for row in rows]
    now = max([*times, 0]) + 1000 if any(times) else NOW_MS
    open_now = [row for row in rows if kind == "order" and STATES.get(_state(row)) is OrderStatus.OPEN]
    coming = {"symbol": "BTCUSDT", "fundingRate": "0.0001", "nextUpdate": str(now), "fundingRateInterval": "8"}

    def working(asked: Asked) -> object:
        kinds = {"normal_plan": ("normal_plan",), "profit_loss": ("pos_", "loss_plan", "profit_plan")}
        wanted = kinds.get(asked.query.get("planType", ""), ("",))
        found = [
            row for row in open_now
            if str(row.get("planType", "")).startswith(wanted) and ("planType" in row) is (asked.path == PLANS)
            and row["symbol"].upper() == asked.query["symbol"]
        ]  # fmt: skip
        return ok({"entrustedList": found or None, "endId": None})

    return {
        "/api/v2/public/time": ok({"serverTime": str(now)}), "/api/v2/spot/public/symbols": ok([]),
        "/api/v2/margin/currencies": ok([]), POSITIONS: ok(rows if kind == "position" else []),
        CONTRACTS: lambda asked: ok([
            row for row in markets
            if (row.get("quoteCoin") == "USDT") is (asked.query["productType"] == "USDT-FUTURES")
        ]),
        FILLS: ok({"fillList": rows if kind == "fill" else None}), DETAIL: {"code": "40109", "msg": "no such order"},
        PENDING: working, PLANS: working, COMING: ok([coming]),
        BALANCE: body.body if kind == "balance" else ok([]), RATES: body.body if kind == "funding" else ok([]),
        BOOK: ok(data[0] if isinstance(data, list) else data) if kind == "book" else ok({"asks": [], "bids": []}),
        ACCOUNT: ok({"posMode": "one_way_mode", "marginMode": "crossed", "crossedMarginLeverage": "3"}),
        **({KEY: body.body} if kind == "key" else {}),
    }  # fmt: skip


def one_order(row: Row, name: str) -> dict[str, Any]:
    return {DETAIL: ok({**row, "clientOid": name})}


def _state(row: Row) -> str:
    return str(row.get("state") or row.get("status") or row.get("planStatus"))


def order(row: Row) -> Facts:
    plan = str(row.get("planType") or "")
    facts: Facts = {
        "client_order_id": row["clientOid"], "venue_order_id": row["orderId"], "symbol": symbol(row),
        "side": row["side"], "quantity": some(row["size"]) or Decimal(0), "avg_price": some(row.get("priceAvg")),
        "filled": some(row.get("baseVolume")) or Decimal(0), "created_at": time_of(row["cTime"]),
        "updated_at": time_of(row["uTime"] or row["cTime"]), "status": STATES.get(_state(row), OrderStatus.CANCELLED),
        "reduce_only": row.get("reduceOnly", "").lower() == "yes",
    }  # fmt: skip
    if plan:
        return facts
    market = row["orderType"] == "market"
    return facts | {
        "type": "market" if market else "limit", "price": None if market else some(row["price"]),
        "stop": some(row["presetStopLossPrice"]), "target": some(row["presetStopSurplusPrice"]),
    }  # fmt: skip


def fill(row: Row) -> Facts | None:
    [fee] = row["feeDetail"]
    return {
        "fill_id": row["tradeId"], "venue_order_id": row["orderId"], "symbol": symbol(row), "side": row["side"],
        "quantity": Decimal(row["baseVolume"]), "price": Decimal(row["price"]), "fee": -Decimal(fee["totalFee"]),
        "fee_currency": fee["feeCoin"], "liquidity": row["tradeScope"], "at": time_of(row["cTime"]),
    }  # fmt: skip


def position(row: Row) -> Facts | None:
    return {
        "symbol": symbol(row), "side": row["holdSide"], "quantity": Decimal(row["total"]),
        "avg_price": Decimal(row["openPriceAvg"]), "stop": None, "target": None,
    }  # fmt: skip


def balance(body: Any) -> Facts:
    account = next((row for row in body["data"] if row["marginCoin"] == "USDT"), {})
    equity, free = (some(account.get(name)) or Decimal(0) for name in ("accountEquity", "crossedMaxAvailable"))
    return {"equity": equity, "available": min(equity, free), "currency": "USDT"}


def instrument(row: Row) -> Facts | None:
    if row.get("quoteCoin") != "USDT" or "sizeMultiplier" not in row:
        return None
    return {
        "tick": Decimal(row["priceEndStep"]).scaleb(-int(row["pricePlace"])), "step": Decimal(row["sizeMultiplier"]),
        "min_quantity": Decimal(row["minTradeNum"]), "min_notional": Decimal(row["minTradeUSDT"]), "kind": "linear",
        "max_leverage": Decimal(row["maxLever"]), "shorting": True,
    }  # fmt: skip


def book(body: Any) -> tuple[str, list[Any], list[Any]]:
    [levels] = body["data"]
    return "BTC/USDT:USDT", *([(Decimal(p), Decimal(q)) for p, q in levels[side]] for side in ("bids", "asks"))


def bars(body: Any) -> tuple[str, list[list[str]]]:
    return "BTC/USDT:USDT", [row[:6] for row in body["data"]]


def funding(body: Any) -> tuple[str, list[tuple[datetime, Decimal]]]:
    return symbol(body["data"][0]), [(time_of(r["fundingTime"]), Decimal(r["fundingRate"])) for r in body["data"]]


def key(body: Any) -> Facts:
    return {"account_id": body["data"]["userId"], "withdraw": "wwow" in body["data"]["authorities"]}


def fields_of(asked: Asked) -> Row:
    """Return the fields of a request; reduceOnly is a word here, whatever the client library makes of it."""
    fields = dict(query_and_body(asked))
    return fields | ({"reduceOnly": True} if fields.get("reduceOnly") == "YES" else {})


async def life(venue: CcxtVenue, stub: Stub) -> None:
    row = {
        "symbol": "BTCUSDT", "size": "1", "orderId": "7", "clientOid": ID, "baseVolume": "0", "price": "86000",
        "priceAvg": "", "state": "live", "status": "live", "side": "buy", "orderType": "limit", "reduceOnly": "NO",
        "presetStopLossPrice": "", "presetStopSurplusPrice": "", "cTime": str(NOW_MS), "uTime": str(NOW_MS),
    }  # fmt: skip
    stop = row | {
        "planType": "loss_plan",
        "orderId": "9",
        "triggerPrice": "80000",
        "planStatus": "live",
        "side": "sell",
    }
    for name in ("state", "status"):
        del stop[name]
    gain = stop | {"planType": "profit_plan", "orderId": "10", "triggerPrice": "95000"}
    held = {
        "symbol": "BTCUSDT", "marginCoin": "USDT", "holdSide": "long", "total": "1", "openPriceAvg": "87000",
        "leverage": "3", "marginMode": "crossed", "posMode": "one_way_mode", "unrealizedPL": "0", "marginSize": "1",
        "keepMarginRate": "0.004", "markPrice": "87000", "liquidationPrice": "", "cTime": str(NOW_MS),
    }  # fmt: skip
    taken, plans = ok({"orderId": "7", "clientOid": ID}), [stop, gain]
    sold = {
        "tradeId": "1", "symbol": "BTCUSDT", "orderId": "7", "price": "1", "baseVolume": "1", "side": "sell",
        "feeDetail": [], "tradeScope": "taker", "tradeSide": "sell_single", "posMode": "one_way_mode",
        "cTime": str(NOW_MS),
    }  # fmt: skip
    stub.answers |= answers("", Body("", "", "", None, ok([])), []) | {
        BALANCE: ok([{"marginCoin": "USDT", "accountEquity": "9", "crossedMaxAvailable": "9"}]),
        KEY: ok({"userId": "1", "authorities": ["coow"]}), FILLS: ok({"fillList": [sold]}), DETAIL: ok(row),
        ACCOUNT: ok({"posMode": "one_way_mode", "marginMode": "crossed", "crossedMarginLeverage": "10"}),
        "/api/v2/mix/account/set-leverage": ok({}), PENDING: ok({"entrustedList": [row]}), POSITIONS: ok([held]),
        BOOK: ok({"bids": [["87000", "1"]], "asks": [["87001", "1"]]}), PLACE: taken,
        PLANS: lambda asked: ok({"entrustedList": plans if asked.query["planType"] == "profit_loss" else None}),
        "/api/v2/mix/order/cancel-order": taken, "/api/v2/mix/order/modify-tpsl-order": taken,
        "/api/v2/mix/order/place-tpsl-order": taken,
        "/api/v2/mix/order/cancel-plan-order": ok({"successList": [{"orderId": "9"}], "failureList": []}),
        **dict.fromkeys((f"/api/v2/mix/market/{name}" for name in (
            "candles", "history-candles", "fills", "fills-history",
        )), ok([])),
    }  # fmt: skip
    await ask_everything(venue, "BTC/USDT:USDT")
    plans[:] = [stop | {"size": "0.1"}, gain | {"size": "0.1"}]
    await venue.set_protection("BTC/USDT:USDT", Decimal(80_000), Decimal(95_000), client_order_id=ID)
    stub.answers[POSITIONS] = ok([])
    plans[:] = [stop | {"cTime": "1"}]
    await venue.submit(entry("BTC/USDT:USDT"))  # what is left of an earlier position goes


PROOF = Proof(
    venue="bitget", folder="bitget", quote="USDT", kind_of=kind_of, unasked=unasked, rows=rows, symbol=symbol,
    answers=answers, one_order=one_order, order=order, fill=fill, position=position, balance=balance,
    instrument=instrument, book=book, bars=bars, funding=funding, key=key, refuses=(PLACE, BALANCE),
    endpoint_of=lambda asked: f"{asked.method} {asked.path}", fields_of=fields_of, life=life,
    undocumented=frozenset({"GET /api/v2/margin/currencies"}),  # ccxt's, with the list of markets
)  # fmt: skip
