"""OKX's bodies, read a second time by the names of its documentation. All sizes of contracts are hundredths here."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from proof import ID, Body, Facts, Proof, Row, ask_everything, entry, query_and_body, some, time_of
from venue_stub import NOW_MS, Asked, Stub

from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.types.orders import OrderStatus

ORDER, PENDING, ALGO, ALGOS = (
    f"/api/v5/trade/{name}" for name in ("order", "orders-pending", "order-algo", "orders-algo-pending")
)
FILLS, FIRED = "/api/v5/trade/fills-history", "/api/v5/trade/orders-algo-history"
POSITIONS, BALANCE, CONFIG = (f"/api/v5/account/{name}" for name in ("positions", "balance", "config"))
INSTRUMENTS, BOOK, BARS = "/api/v5/public/instruments", "/api/v5/market/books", "/api/v5/market/candles"
FUNDING, COMING = "/api/v5/public/funding-rate-history", "/api/v5/public/funding-rate"
KINDS = {
    **dict.fromkeys((ORDER, PENDING, ALGO, ALGOS, FIRED), "order"), FILLS: "fill", POSITIONS: "position",
    "/api/v5/trade/orders-history": "order", "/api/v5/trade/orders-history-archive": "order", BALANCE: "balance",
    "/api/v5/trade/fills": "fill", INSTRUMENTS: "instrument", BOOK: "book", BARS: "bars",
    "/api/v5/market/history-candles": "bars", FUNDING: "funding", CONFIG: "key",
}  # fmt: skip
STATES = {
    "live": OrderStatus.OPEN, "partially_filled": OrderStatus.OPEN, "filled": OrderStatus.FILLED,
    "effective": OrderStatus.FILLED, "partially_effective": OrderStatus.OPEN,
}  # fmt: skip
UNIT = Decimal("0.01")
KINDS_OF = {"SWAP": "SWAP", "": "SPOT"}
WRONG = ("hb__order_fills_request_partial_fill", "jk_GetKlineHistory")  # a side "limit"; two bars of one time


def kind_of(body: Body) -> str:
    if body.name.startswith("err_"):
        return "error"
    if body.method == "POST" or body.name.startswith(WRONG):
        return ""
    named = "instrument" if "trading_rules" in body.name else KINDS.get(body.path, "")
    return named if named in ("balance", "key", "book", "bars", "funding") or rows(named, body.body) else ""


def unasked(body: Body) -> bool:
    """Return whether we ask for nothing like it: other endpoints, spot, and what another bot's test made up."""
    return (
        body.path not in KINDS or body.method == "POST" or body.name.startswith(WRONG) or not rows("order", body.body)
    )


def rows(kind: str, body: Any) -> list[Row]:
    listed = body.get("data") if isinstance(body, dict) else None
    spot = kind in ("", "fill")
    mine = [row for row in listed or () if isinstance(row, dict) and (spot or row.get("instType") != "SPOT")]
    return mine if kind in ("", "order", "fill", "position", "instrument") else []


def symbol(row: Row) -> str:
    base, quote, *more = str(row["instId"]).split("-")
    if not more:
        return f"{base}/{quote}"
    settle = base if quote == "USD" else quote
    date = f"-{more[0]}" if more and more[0] != "SWAP" else ""
    return f"{base}/{quote}:{settle}{date}"


def listed(market_id: str) -> Row:
    base, quote, *more = market_id.split("-")
    inverse = quote == "USD"
    return {
        "instId": market_id, "instType": KINDS_OF.get("".join(more), "FUTURES"), "uly": f"{base}-{quote}",
        "settleCcy": base if inverse else quote, "ctType": "inverse" if inverse else "linear", "ctVal": str(UNIT),
        "ctMult": "1", "ctValCcy": base, "lotSz": "0.01", "minSz": "0.01", "tickSz": "0.1", "lever": "100",
        "state": "live", "baseCcy": "" if more else base, "quoteCcy": "" if more else quote,
        "expTime": "" if more == ["SWAP"] else str(NOW_MS),
    }  # fmt: skip


def ok(*data: object) -> dict[str, Any]:
    return {"code": "0", "msg": "", "data": list(data)}


def answers(kind: str, body: Body, rows: list[Row]) -> dict[str, Any]:
    data = body.body["data"] if isinstance(body.body, dict) else []
    ids = {str(row["instId"]) for row in rows} | {"BTC-USDT-SWAP"}
    ids |= {str(each["instId"]) for each in data if isinstance(each, dict) and each.get("instId")}
    markets = rows if kind == "instrument" else [listed(each) for each in sorted(ids) if "-" in each]
    times = [int(row.get("ts") or row.get("uTime") or 0) for row in rows]
    if kind == "bars":
        times = [int(row[0]) + 10_000_000 for row in data]
    now = max([*times, 0]) + 1000 if any(times) else NOW_MS
    coming = {"instId": "BTC-USDT-SWAP", "fundingRate": "0.0001", "fundingTime": str(now), "nextFundingRate": ""}
    open_now = [row for row in rows if kind == "order" and STATES.get(row["state"]) is OrderStatus.OPEN]
    return {
        "/api/v5/public/time": ok({"ts": str(now)}),
        INSTRUMENTS: lambda asked: ok(*[row for row in markets if row["instType"] == asked.query["instType"]]),
        POSITIONS: ok(*(data if kind == "position" else [])), FILLS: ok(*(rows if kind == "fill" else [])),
        CONFIG: ok({"uid": "1", "acctLv": "2", "posMode": "net_mode"}), FIRED: ok(),
        "/api/v5/account/leverage-info": ok({"instId": "BTC-USDT-SWAP", "lever": "3"}),
        COMING: lambda asked: ok(coming | {"instId": asked.query["instId"]}),
        PENDING: lambda asked: ok(*_of(asked, [row for row in open_now if "actualSz" not in row])),
        ALGOS: lambda asked: ok(*_of(asked, [
            row for row in open_now if "actualSz" in row and row["ordType"] in asked.query["ordType"].split(",")
        ])),
        **({_path(kind): body.body} if kind in ("balance", "book", "bars", "funding", "key") else {}),
        **({"/api/v5/market/history-candles": body.body} if kind == "bars" else {}),
    }  # fmt: skip


def _of(asked: Asked, found: list[Row]) -> list[Row]:
    return [row for row in found if row["instId"] == asked.query["instId"]]


def _path(kind: str) -> str:
    return {"balance": BALANCE, "book": BOOK, "bars": BARS, "funding": FUNDING, "key": CONFIG}[kind]


def one_order(row: Row, name: str) -> dict[str, Any]:
    unknown = {"code": "51603", "msg": "Order does not exist", "data": []}
    if "actualSz" in row:
        return {ORDER: unknown, ALGO: ok({**row, "algoClOrdId": name})}
    return {ORDER: ok({**row, "clOrdId": name}), ALGO: unknown}


def order(row: Row) -> Facts:
    algo = "actualSz" in row
    filled, status = some(row["actualSz" if algo else "accFillSz"]), STATES.get(row["state"], OrderStatus.CANCELLED)
    type_, price = ("market", None) if row["ordType"] == "market" else ("limit", some(row.get("px")))
    for name, kind in (("tpTriggerPx", "target"), ("slTriggerPx", "stop")):
        if algo and some(row.get(name)):
            type_, price = kind, some(row[name])
    facts = {
        "client_order_id": row["algoClOrdId" if algo else "clOrdId"],
        "venue_order_id": row["algoId" if algo else "ordId"],
        "symbol": symbol(row), "side": row["side"], "quantity": (some(row["sz"]) or Decimal(0)) * UNIT,
        "filled": (filled or Decimal(0)) * UNIT, "avg_price": some(row["actualPx" if algo else "avgPx"]),
        "reduce_only": row.get("reduceOnly") == "true", "created_at": time_of(row["cTime"]),
        "updated_at": time_of(row["uTime"]), "status": status, "type": type_,
    }  # fmt: skip
    attached = [row, *(row.get("attachAlgoOrds") or ())]
    facts |= {
        name: next((some(each[px]) for each in attached if some(each.get(px))), None)
        for name, px in (("stop", "slTriggerPx"), ("target", "tpTriggerPx"))
    }
    if algo and (type_ == "limit" or (facts["stop"] and facts["target"])):  # two prices, or two orders in a row
        del facts["type"]
        return facts
    return facts | {"price": price}


def fill(row: Row) -> Facts | None:
    return {
        "fill_id": row["billId"], "venue_order_id": row["ordId"], "client_order_id": row["clOrdId"],
        "symbol": symbol(row), "side": row["side"],
        "quantity": Decimal(row["fillSz"]) * (1 if row["instType"] == "SPOT" else UNIT),
        "price": Decimal(row["fillPx"]), "fee": -Decimal(row["fee"]), "fee_currency": row["feeCcy"],
        "liquidity": "maker" if row["execType"] == "M" else "taker", "at": time_of(row["ts"]),
    }  # fmt: skip


def position(row: Row) -> Facts | None:
    size = Decimal(row["pos"])
    if not size or not symbol(row).endswith(":USDT"):
        return None
    short = row["posSide"] == "short" or (row["posSide"] == "net" and size < 0)
    return {
        "symbol": symbol(row), "side": "short" if short else "long", "quantity": abs(size) * UNIT,
        "avg_price": Decimal(row["avgPx"]), "stop": None, "target": None,
    }  # fmt: skip


def balance(body: Any) -> Facts:
    [account] = body["data"]
    coin = next((row for row in account["details"] if row["ccy"] == "USDT"), {})
    equity, free = (some(coin.get(name)) or Decimal(0) for name in ("eq", "availEq"))
    return {"equity": equity, "available": min(equity, free), "currency": "USDT"}


def instrument(row: Row) -> Facts | None:
    if row.get("ctType") != "linear" or "ctVal" not in row:
        return None
    unit = Decimal(row["ctVal"])
    return {
        "tick": Decimal(row["tickSz"]), "step": Decimal(row["lotSz"]) * unit, "kind": "linear", "contract_size": unit,
        "min_quantity": Decimal(row["minSz"]) * unit, "shorting": True,
    }  # fmt: skip


def book(body: Any) -> tuple[str, list[Any], list[Any]]:
    [levels] = body["data"]
    return "BTC/USDT:USDT", *(
        [(Decimal(price), Decimal(size) * UNIT) for price, size, *_ in levels[side]] for side in ("bids", "asks")
    )


def bars(body: Any) -> tuple[str, list[list[str]]]:
    return "BTC/USDT:USDT", [[*row[:5], row[6]] for row in body["data"]]


def funding(body: Any) -> tuple[str, list[tuple[datetime, Decimal]]]:
    return symbol(body["data"][0]), [(time_of(r["fundingTime"]), Decimal(r["realizedRate"])) for r in body["data"]]


def key(body: Any) -> Facts:
    [said] = body["data"]
    return {"account_id": said["uid"]} | ({"withdraw": "withdraw" in said["perm"]} if "perm" in said else {})


def fields_of(asked: Asked) -> Mapping[str, Any]:
    """Return the fields of a request; of a bare list, those of its rows."""
    if asked.raw.startswith("["):
        return {"orders_data": asked.body}
    return query_and_body(asked)


async def life(venue: CcxtVenue, stub: Stub) -> None:
    row = {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "ordId": "7", "clOrdId": ID, "algoId": "", "side": "buy",
        "ordType": "limit", "sz": "100", "accFillSz": "0", "avgPx": "", "px": "86000", "state": "live",
        "reduceOnly": "false", "cTime": str(NOW_MS), "uTime": str(NOW_MS), "attachAlgoOrds": [],
    }  # fmt: skip
    oco = {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "algoId": "9", "ordType": "oco", "state": "live", "side": "sell",
        "sz": "100", "reduceOnly": "true", "slTriggerPx": "80000", "tpTriggerPx": "95000", "actualSz": "0",
        "actualPx": "", "cTime": "1", "uTime": "1", "ordId": "", "clOrdId": "", "algoClOrdId": "",
    }  # fmt: skip
    part = oco | {"algoId": "10", "sz": "1", "ordType": "conditional", "tpTriggerPx": ""}
    held = {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "posSide": "net", "pos": "100", "avgPx": "87000", "lever": "3",
        "mgnMode": "cross", "upl": "0", "imr": "1", "mmr": "1", "markPx": "1", "notionalUsd": "1", "cTime": "1",
    }  # fmt: skip
    sold = {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "billId": "1", "tradeId": "1", "ordId": "8", "clOrdId": "",
        "side": "sell", "fillSz": "1", "fillPx": "1", "fee": "0", "feeCcy": "USDT", "execType": "T", "ts": str(NOW_MS),
    }  # fmt: skip
    taken = ok({"ordId": "7", "clOrdId": ID, "algoId": "9", "sCode": "0", "sMsg": ""})
    level = [["87000", "1", "0", "1"]]
    stub.answers |= answers("", Body("", "", "", None, ok()), []) | {
        CONFIG: ok({"uid": "1", "acctLv": "2", "posMode": "net_mode", "perm": "trade"}), BALANCE: ok({"details": []}),
        "/api/v5/account/leverage-info": ok({"instId": "BTC-USDT-SWAP", "lever": "10", "mgnMode": "cross"}),
        "/api/v5/account/set-leverage": ok({"lever": "3"}), FILLS: ok(sold), PENDING: ok(row),
        BOOK: ok({"bids": level, "asks": level}), POSITIONS: ok(held),
        ORDER: lambda asked: taken if asked.method == "POST" else ok(row), ALGO: taken, BARS: ok(), FUNDING: ok(),
        "/api/v5/market/history-candles": ok(), "/api/v5/market/trades": ok(), "/api/v5/trade/cancel-order": taken,
        "/api/v5/trade/cancel-algos": taken, "/api/v5/trade/amend-algos": taken,
        ALGOS: lambda asked: ok(*[oco] * ("oco" in asked.query["ordType"])),
    }  # fmt: skip
    await ask_everything(venue, "BTC/USDT:USDT")
    stub.answers[ALGOS] = lambda asked: ok(*[part] * ("oco" in asked.query["ordType"]))
    await venue.set_protection("BTC/USDT:USDT", Decimal(80_000), Decimal(95_000), client_order_id=ID)
    stub.answers[POSITIONS] = ok()
    await venue.submit(entry("BTC/USDT:USDT"))  # what is left of an earlier position goes


PROOF = Proof(
    venue="okx", folder="okx", quote="USDT", kind_of=kind_of, unasked=unasked, rows=rows, symbol=symbol,
    answers=answers, one_order=one_order, order=order, fill=fill, position=position, balance=balance,
    instrument=instrument, book=book, bars=bars, funding=funding, key=key, refuses=(ORDER, BALANCE),
    endpoint_of=lambda asked: f"{asked.method} {asked.path}", fields_of=fields_of, life=life,
)  # fmt: skip
