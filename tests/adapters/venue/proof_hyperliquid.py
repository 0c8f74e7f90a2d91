"""Hyperliquid's bodies, read a second time by the names of its documentation. All questions go to one path."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from proof import ID, KEYS, Body, Facts, Proof, Row, ask_everything, some, time_of
from venue_stub import NOW_MS, Asked, Stub

from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.types.orders import OrderStatus

INFO, EXCHANGE = "/info", "/exchange"
WALLET = KEYS[client.KEY]
OPEN = ("open", "triggered", "waitingForFill", "waitingForTrigger")
KINDS = {
    "frontendOpenOrders": "order", "openOrders": "order", "historicalOrders": "order", "userFills": "fill",
    "clearinghouseState": "position", "l2Book": "book", "candleSnapshot": "bars", "fundingHistory": "funding",
    "spotClearinghouseState": "balance",
}  # fmt: skip
NAMED = {
    "jk_GetAccountInfo": "clearinghouseState", "hb_balance_request": "clearinghouseState",
    "nt_clearinghouse_state": "clearinghouseState", "jk_spot_GetBalances": "spotClearinghouseState",
    "hb_spot_balance": "spotClearinghouseState", "nt_spot_clearinghouse": "spotClearinghouseState",
    "nt_l2_book": "l2Book", "jk_spot_GetOpenOrders": "frontendOpenOrders", "jk_spot_GetUserTrades": "userFills",
    "nt_user_fills": "userFills", "hb__order_fills_request_canceled": "userFills", "hb__order_": "historicalOrders",
    "jk_GetFundingRate": "fundingHistory",
}  # fmt: skip
LISTED = (
    "jk_GetExchangeInfoAndTickers", "hb_funding_info_mock_response", "hb_get_funding_info_rest_msg",
    "hb_t_update_trading_rules_with_perpmeta_assetctxs_mismatch__base_response",
)  # fmt: skip


def question(body: Body) -> str:
    """Return the type of question that a body answers."""
    if body.request:
        return str(body.request["type"])
    return next((type_ for name, type_ in NAMED.items() if body.name.startswith(name)), "")


def kind_of(body: Body) -> str:
    if body.name.startswith("err_"):
        return "error"
    if "cancelation" in body.name:
        return ""
    return "instrument" if body.name in LISTED else KINDS.get(question(body), "")


def unasked(body: Body) -> bool:
    """Return whether we ask nothing like it: prices of all coins, transfers, spot, markets of other builders."""
    return not body.name.startswith(("sdk_get_user_fills", "sdk_get_user_state", "sdk_get_l2"))


def rows(kind: str, body: Any) -> list[Row]:
    if kind == "instrument":
        metas, contexts = body
        return [{**meta, **(contexts[n] if n < len(contexts) else {})} for n, meta in enumerate(metas["universe"])]
    if kind == "position":
        return [row["position"] for row in body["assetPositions"]]
    if kind == "order":
        return [body["order"]] if isinstance(body, dict) else list(body)
    return list(body) if kind == "fill" else []


def _raw(row: Row) -> Row:
    return row.get("order", row)


def symbol(row: Row) -> str:
    coin = str(_raw(row).get("coin") or row.get("name"))
    return coin if coin.startswith("@") else f"{coin.upper()}/USDC:USDC"


def listing(rows: list[Row]) -> list[Any]:
    """List coins, so that rows of them can be read."""
    coins = ["BTC", *sorted({str(_raw(row).get("coin")) for row in rows} - {"BTC", "None"})]
    universe = [{"name": coin, "szDecimals": 2, "maxLeverage": 50} for coin in coins if not coin.startswith("@")]
    ctx = {"markPx": "100.5", "funding": "0.0000125", "oraclePx": "100", "midPx": "100", "openInterest": "1"}
    return [{"universe": universe}, [ctx for _ in universe]]


def answers(kind: str, body: Body, rows: list[Row]) -> dict[str, Any]:
    coins = [{"coin": body.body.get("coin")}] if kind == "book" else rows
    coins = [{"coin": row.get("coin") or row.get("s")} for row in body.body] if kind in ("bars", "funding") else coins
    times = [int(row.get("time") or row.get("timestamp") or row.get("T") or 0) for row in (body.body or ()) if kind in
             ("fill", "bars", "funding")]  # fmt: skip
    answer: dict[str, Any] = {
        "exchangeStatus": {"time": max([*times, 0]) + 10_000_000 or NOW_MS, "specialStatuses": None},
        "metaAndAssetCtxs": body.body if kind == "instrument" else listing(coins),
        "spotMetaAndAssetCtxs": [{"universe": [], "tokens": [{"name": "USDC", "index": 0, "szDecimals": 8}]}, []],
        "frontendOpenOrders": [], "userFillsByTime": [], "fundingHistory": [],
        "userAbstraction": "unifiedAccount" if question(body) == "spotClearinghouseState" else "default",
        "orderStatus": {"status": "unknownOid"}, "l2Book": {"coin": "BTC", "levels": [[], []], "time": NOW_MS},
        "clearinghouseState": {"assetPositions": [], "marginSummary": {"accountValue": "1", "totalMarginUsed": "0"}},
    }  # fmt: skip
    if kind == "order":
        answer["frontendOpenOrders"] = [_raw(row) for row in rows if row.get("status", "open") in OPEN]
    elif kind == "fill":
        answer["userFillsByTime"] = body.body
    elif kind in ("position", "balance", "book", "bars", "funding"):
        answer[question(body)] = body.body
    return {INFO: info(answer)}


def info(answer: dict[str, Any]) -> Callable[[Asked], Any]:
    """Answer by the type of the question."""

    def answered(asked: Asked) -> Any:
        found = answer.get(str(asked.body["type"]), (422, "Failed to deserialize the JSON body"))
        return found(asked) if callable(found) else found

    return answered


def one_order(row: Row, name: str) -> dict[str, Any]:
    named = {**_raw(row), "cloid": name if name == _raw(row).get("cloid") else f"0x{name}"}
    found = {"order": named, "status": row.get("status", "open"), "statusTimestamp": NOW_MS}
    return {INFO: info({"orderStatus": {"status": "order", "order": found}, "exchangeStatus": {"time": NOW_MS}})}


def order(row: Row) -> Facts:
    raw, word = _raw(row), row.get("status", "open")
    quantity = Decimal(str(raw.get("origSz", raw["sz"])))
    status = OrderStatus.OPEN if word in OPEN else OrderStatus.CANCELLED
    status = OrderStatus.FILLED if word == "filled" else status
    rejected = OrderStatus.REJECTED if word.endswith("ejected") else status
    filled = quantity if word == "filled" else quantity - Decimal(str(raw["sz"]))
    taken = raw.get("tif") in ("Ioc", "FrontendMarket")
    return {
        "client_order_id": (raw.get("cloid") or "").removeprefix("0x"), "venue_order_id": str(raw["oid"]),
        "symbol": symbol(row), "side": {"A": "sell", "B": "buy"}[raw["side"]], "quantity": quantity, "filled": filled,
        "price": None if taken else some(raw["limitPx"]), "type": "market" if taken else "limit", "status": rejected,
        "reduce_only": raw.get("reduceOnly", False), "created_at": time_of(raw["timestamp"]),
    }  # fmt: skip


def fill(row: Row) -> Facts | None:
    if symbol(row).startswith("@"):
        return None  # spot
    fee = Decimal(str(row["fee"])) + Decimal(str(row.get("builderFee", 0)))
    return {
        "fill_id": str(row.get("tid") or f"{row['hash']}-{row['startPosition']}"), "venue_order_id": str(row["oid"]),
        "client_order_id": row.get("cloid", ""), "symbol": symbol(row), "fee": fee,
        "side": {"A": "sell", "B": "buy"}[row["side"]], "quantity": Decimal(row["sz"]), "price": Decimal(row["px"]),
        "fee_currency": row.get("feeToken", "USDC"), "liquidity": "taker" if row["crossed"] else "maker",
        "at": time_of(row["time"]),
    }  # fmt: skip


def position(row: Row) -> Facts | None:
    size = Decimal(row["szi"])
    return {
        "symbol": symbol(row), "side": "long" if size > 0 else "short", "quantity": abs(size),
        "avg_price": Decimal(row["entryPx"]), "stop": None, "target": None,
    }  # fmt: skip


def balance(body: Any) -> Facts:
    if "balances" in body:
        usdc = next(row for row in body["balances"] if row["coin"] == "USDC")
        equity = Decimal(usdc["total"])
        return {"equity": equity, "available": equity - Decimal(usdc["hold"]), "currency": "USDC"}
    summary = body.get("marginSummary") or body["crossMarginSummary"]
    equity = Decimal(summary["accountValue"])
    return {"equity": equity, "available": equity - Decimal(summary["totalMarginUsed"]), "currency": "USDC"}


def instrument(row: Row) -> Facts | None:
    if "szDecimals" not in row:
        return None
    return {
        "step": Decimal(1).scaleb(-row["szDecimals"]), "min_notional": Decimal(10), "kind": "linear",
        "max_leverage": Decimal(row["maxLeverage"]), "shorting": True,
    }  # fmt: skip


def book(body: Any) -> tuple[str, list[Any], list[Any]]:
    sides = [[(Decimal(each["px"]), Decimal(each["sz"])) for each in side] for side in body["levels"]]
    return symbol(body), *sides


def bars(body: Any) -> tuple[str, list[list[str]]]:
    return symbol({"coin": body[0]["s"]}), [[row[name] for name in "tohlcv"] for row in body]


def funding(body: Any) -> tuple[str, list[tuple[datetime, Decimal]]]:
    return symbol(body[0]), [(time_of(row["time"]), Decimal(row["fundingRate"])) for row in body]


def key(body: Any) -> Facts:
    raise NotImplementedError("no body tells about a key")


def endpoint_of(asked: Asked) -> str:
    if asked.path == INFO:
        return f"POST /info (type {asked.body['type']})"
    return f"POST /exchange (action {asked.body['action']['type']})"


def fields_of(asked: Asked) -> Mapping[str, Any]:
    """Return fields as params.json names them: of the rows of an action, those that any row has."""
    if asked.path == INFO:
        req = asked.body.get("req", {})
        return {name: value for name, value in asked.body.items() if name not in ("type", "req")} | {
            f"req.{name}": value for name, value in req.items()
        }
    action, given = asked.body["action"], {n: v for n, v in asked.body.items() if n != "action"}
    for name, value in action.items():
        for row in value if isinstance(value, list) else ():
            given |= {f"action.{name}[].{each}": of for each, of in row.items()}
        if not isinstance(value, list) and (name != "type" or action["type"] == "order"):
            given[f"action.{name}"] = value
    return given


def serve(stub: Stub) -> None:
    stop = {
        "coin": "BTC", "oid": 7, "side": "A", "sz": "1.0", "origSz": "1.0", "limitPx": "76000", "timestamp": NOW_MS,
        "orderType": "Stop Market", "isTrigger": True, "triggerPx": "80000.0", "reduceOnly": True, "tif": None,
        "cloid": None, "children": [],
    }  # fmt: skip
    entry = stop | {
        "orderType": "Limit", "isTrigger": False, "triggerPx": "0.0", "cloid": f"0x{ID}", "side": "B", "tif": "Gtc",
        "oid": 8, "reduceOnly": False,
    }  # fmt: skip
    held = {"coin": "BTC", "szi": "1.0", "entryPx": "87000", "marginUsed": "1", "unrealizedPnl": "0"}
    coins = [{"coin": name} for name in ("COIN1", "COIN2", "COIN3", "COIN4", "SOL")]
    prices = {"BTC": "87000", "SOL": "100"}
    answer = {
        "exchangeStatus": {"time": NOW_MS}, "metaAndAssetCtxs": listing(coins), "userAbstraction": "default",
        "spotMetaAndAssetCtxs": [{"universe": [], "tokens": []}, []], "frontendOpenOrders": [stop],
        "fundingHistory": [], "candleSnapshot": [], "recentTrades": [], "userRole": {"role": "missing"},
        "l2Book": lambda asked: {
            "coin": asked.body["coin"], "levels": [[{"px": prices[asked.body["coin"]], "sz": "1"}]] * 2, "time": NOW_MS,
        },
        "clearinghouseState": {
            "assetPositions": [{"position": held}], "marginSummary": {"accountValue": "9", "totalMarginUsed": "1"},
        },
        "userFillsByTime": [{
            "coin": "BTC", "px": "1", "sz": "1", "side": "A", "time": NOW_MS, "dir": "Close Long", "oid": 7, "tid": 1,
            "fee": "0", "hash": "0x", "crossed": True, "startPosition": "1",
        }],
        "orderStatus": {"status": "order", "order": {"order": entry, "status": "open", "statusTimestamp": NOW_MS}},
    }  # fmt: skip
    resting = {"status": "ok", "response": {"type": "order", "data": {"statuses": [{"resting": {"oid": 8}}]}}}
    stub.answers |= {INFO: info(answer), EXCHANGE: resting}


async def life(venue: CcxtVenue, stub: Stub) -> None:
    serve(stub)
    await ask_everything(venue, "BTC/USDC:USDC")


PROOF = Proof(
    venue="hyperliquid", folder="hyperliquid", quote="USDC", kind_of=kind_of, unasked=unasked, rows=rows,
    symbol=symbol, answers=answers, one_order=one_order, order=order, fill=fill, position=position, balance=balance,
    instrument=instrument, book=book, bars=bars, funding=funding, key=key, refuses=(INFO, EXCHANGE), serve=serve,
    life=life,
    left_out=frozenset({"c"}),
    endpoint_of=endpoint_of, fields_of=fields_of,
    undocumented=frozenset(
        f"POST /info (type {name})"
        for name in ("exchangeStatus", "spotMetaAndAssetCtxs", "userAbstraction", "userRole", "recentTrades")
    ),
    extra={  # every action is signed; only one of them is documented with it
        f"POST /exchange (action {name})": frozenset({"nonce", "signature"})
        for name in ("cancel", "cancelByCloid", "updateLeverage")
    },
)  # fmt: skip
