"""Bybit's V5 rows to our DTOs and back, exact: the venue's own strings become Decimal, never through float.

Choices: one-way position mode (positionIdx 0); stop and target cover the whole position (tpslMode Full) and fire at
market on the last price, the venue's defaults. A row that lacks a field raises KeyError or ValueError; the caller
says what that means.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

from tasks.adapters.venue.account import Permissions
from tasks.adapters.venue.wire import Row, at, number, number_or_zero, price_or_none, told, wire
from tasks.core.errors import OrderRejected
from tasks.core.types import (
    ZERO,
    Balance,
    Fill,
    JsonObject,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    VenuePosition,
    exact_sum,
)

STATUS = {
    **dict.fromkeys(("Created", "New", "PartiallyFilled", "Untriggered", "Triggered", "Active"), OrderStatus.OPEN),
    "PendingCancel": OrderStatus.OPEN,
    "Filled": OrderStatus.FILLED,
    **dict.fromkeys(("Cancelled", "PartiallyFilledCanceled", "Deactivated"), OrderStatus.CANCELLED),
    "Rejected": OrderStatus.REJECTED,
}
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}
NO_REASON = ("", "EC_NoError")
TRADES = ("Trade", "Funding", "BustTrade", "AdlTrade")  # execTypes; Settle, Delivery, MovePosition... are none
SPOT_STOPS = ("Stop", "tpslOrder")  # stopOrderType of resting spot orders: we place no others than stops


def category_of(market: Row) -> JsonObject:
    """Name a market as every private request does."""
    return {"category": "spot" if market["spot"] else "linear", "symbol": market["id"]}


def order_kinds(market: Row) -> tuple[JsonObject, ...]:
    """Return the filters of all orders there may be: on spot, stops are listed apart."""
    return ({}, {"orderFilter": "StopOrder"}) if market["spot"] else ({},)


def order_request(intent: OrderIntent, market: Row) -> JsonObject:
    """Write the body of /v5/order/create for a market or limit intent: a contract's entry brings its protection.

    On spot the quantity is base also for a market buy, and neither protection nor reduce-only exist.
    """
    body = category_of(market) | {
        "side": "Buy" if intent.side == "buy" else "Sell",
        "orderType": "Limit" if intent.type is OrderType.LIMIT else "Market",
        "qty": wire(intent.quantity),
        "orderLinkId": intent.client_order_id,
    }
    if intent.type is OrderType.LIMIT:
        if intent.price is None:
            raise OrderRejected(f"send order {intent.client_order_id}: a limit order needs a price")
        body |= {"price": wire(intent.price), "timeInForce": "GTC"}
    if market["spot"]:
        return body if intent.type is OrderType.LIMIT else body | {"marketUnit": "baseCoin"}
    if intent.reduce_only:
        body["reduceOnly"] = True
    return body | {"positionIdx": 0} | protection(intent.stop, intent.target)


def spot_stop_request(market: Row, quantity: Decimal, trigger: Decimal, client_order_id: str) -> JsonObject:
    """Write the body of /v5/order/create for a resting spot stop, the kind that does not tie up the coins."""
    body = category_of(market) | {
        "side": "Sell", "orderType": "Market", "marketUnit": "baseCoin",
        "qty": wire(quantity), "triggerPrice": wire(trigger), "orderFilter": "StopOrder",
    }  # fmt: skip
    return body | ({"orderLinkId": client_order_id} if client_order_id else {})


def protection(stop: Decimal | None, target: Decimal | None) -> JsonObject:
    """Write stop and target; None says nothing about it, 0 removes it (the venue's rule too)."""
    given = {name: wire(price) for name, price in (("stopLoss", stop), ("takeProfit", target)) if price is not None}
    return {"tpslMode": "Full", **given} if given else {}


def order_of(row: Row, symbol: str) -> Order:
    """Read a row of /v5/order/realtime or /v5/order/history.

    One rejected after a part of it was filled counts as cancelled: whoever sees "rejected" may forget the order.
    """
    kind = str(row.get("stopOrderType") or "")
    type_, price = row["orderType"].lower(), price_or_none(row, "price")
    if exit_ := exit_reason(kind, spot=":" not in symbol):
        type_, price = exit_, price_or_none(row, "triggerPrice")
    reason = str(row.get("rejectReason") or "")
    status, filled = STATUS[row["orderStatus"]], number_or_zero(row, "cumExecQty")
    return Order(
        client_order_id=row["orderLinkId"],
        venue_order_id=row["orderId"],
        symbol=symbol,
        side=SIDES[row["side"]],
        type=type_,
        status=OrderStatus.CANCELLED if status is OrderStatus.REJECTED and filled else status,
        quantity=number(row, "qty"),
        filled=filled,
        price=None if type_ == "market" else price,  # a market order's is the venue's slippage bound
        avg_price=told(row, "avgPrice"),
        stop=told(row, "stopLoss"),
        target=told(row, "takeProfit"),
        reduce_only=row.get("reduceOnly") is True,
        reason="" if reason in NO_REASON else reason,
        created_at=at(row["createdTime"], "createdTime"),
        updated_at=at(row["updatedTime"], "updatedTime"),
    )


def fill_of(row: Row, market: Row) -> Fill:
    """Read a row of /v5/execution/list. A funding payment has a fee and moves no quantity.

    A spot buy whose fee is taken in base is told as what remains: less quantity, and the fee in quote. What is no trade
    has its type as reason, and may lack side, quantity and price.
    """
    reason, settle = fill_reason(row, market["spot"]), market["settle"] or market["quote"]
    quantity, price, fee = (number_or_zero(row, name) for name in ("execQty", "execPrice", "execFee"))
    trades = not row.get("execType") or row["execType"] in TRADES
    if trades and min(quantity, price) <= 0:
        raise ValueError(f"execution {row['execId']} is of {quantity} at {price}, both must be above 0")
    currency = row.get("feeCurrency") or settle
    if market["spot"] and currency == market["base"] and row["side"] == "Buy":
        quantity, fee, currency = quantity - fee, fee * price, settle
    return Fill(
        fill_id=row["execId"],
        venue_order_id=row["orderId"],
        client_order_id=row.get("orderLinkId") or "",
        symbol=market["symbol"],
        side=SIDES[row["side"]] if trades else SIDES.get(row["side"], "buy"),
        quantity=Decimal(0) if reason == "funding" else quantity,
        price=price,
        fee=fee,
        fee_currency=currency,
        liquidity="maker" if row.get("isMaker") in (True, "true") else "taker",
        reason=reason,
        at=at(row["execTime"], "execTime"),
    )


def fill_reason(row: Row, spot: bool) -> str:
    """Return why a fill happened, as far as the venue reports it; plain orders are named by our ledger, not here."""
    if row.get("execType") == "Funding":
        return "funding"
    if row.get("execType") and row["execType"] not in TRADES:
        return str(row["execType"])
    created = str(row.get("createType") or "")
    if row.get("execType") in ("BustTrade", "AdlTrade") or "Liq" in created or "Adl" in created:
        return "liquidation"
    return exit_reason(str(row.get("stopOrderType") or ""), spot) or exit_reason(created, spot)


def exit_reason(kind: str, spot: bool) -> Literal["", "stop", "target"]:
    if "TakeProfit" in kind:
        return "target"
    return "stop" if (spot and kind in SPOT_STOPS) or "StopLoss" in kind or "TrailingStop" in kind else ""


def position_of(row: Row, symbol: str) -> VenuePosition | None:
    """Read a row of /v5/position/list; None for a flat one, which the venue may list too."""
    quantity = number_or_zero(row, "size")
    if not quantity:
        return None
    return VenuePosition(
        symbol=symbol,
        side="long" if SIDES[row["side"]] == "buy" else "short",
        quantity=quantity,
        avg_price=number(row, "avgPrice"),
        stop=price_or_none(row, "stopLoss"),
        target=price_or_none(row, "takeProfit"),
    )


def coin_of(account: Row, currency: str) -> Row:
    """Return the wallet's row of one coin; an empty one where it holds none."""
    return next((coin for coin in account["coin"] if coin["coin"] == currency), {"equity": "0"})


def balance_of(account: Row, bases: Sequence[str] = ()) -> Balance:
    """Read a row of /v5/account/wallet-balance: the equity in quote, and what of it is free for new margin.

    bases: coins traded on spot, which count at the venue's value. Never more is available than the account has:
    other coins may be lent out or pledged against it.
    """
    coin = coin_of(account, "USDT")
    equity = number(coin, "equity")
    used = [told(coin, name) or ZERO for name in ("totalPositionIM", "totalOrderIM", "locked")]
    available = equity - exact_sum(used)
    if account.get("totalAvailableBalance") not in (None, ""):
        available = min(available, number(account, "totalAvailableBalance"))
    equity += exact_sum(told(coin_of(account, base), "usdValue") or ZERO for base in bases)
    held = {str(row["coin"]): str(row.get("equity", "")) for row in account["coin"]}
    other = {name: text for name, text in held.items() if text.strip("0.") and name not in ("USDT", *bases)}
    return Balance(equity=equity, available=max(available, Decimal(0)), currency="USDT", other=other)


def permissions_of(result: Row, wanted: Mapping[str, Sequence[str]]) -> Permissions:
    """Read the result of /v5/user/query-api; wanted: the rights that trading takes, by group."""
    groups = result.get("permissions")
    given = groups if isinstance(groups, dict) else {}
    lacks = [
        f"{group}: {name}" for group, names in wanted.items() for name in names if name not in given.get(group, ())
    ]
    withdraw = None
    if isinstance(groups, dict) and "Wallet" in groups:
        withdraw = any("withdraw" in str(p).lower() for group in groups.values() for p in group or ())
    read_only = result.get("readOnly")
    return Permissions(
        account_id=str(result["userID"]),
        withdraw=withdraw,
        read_only=None if read_only is None else str(read_only) == "1",
        lacks=tuple(lacks),
    )
