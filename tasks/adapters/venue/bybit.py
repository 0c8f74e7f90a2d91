"""Bybit's V5 rows to our DTOs and back, exact: the venue's own strings become Decimal, never through float.

Choices: one-way position mode (positionIdx 0); stop and target cover the whole position (tpslMode Full) and fire at
market on the last price, the venue's defaults. A row that lacks a field raises KeyError or ValueError; the caller
says what that means.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from tasks.core.errors import OrderRejected
from tasks.core.types.base import ZERO, Dto, JsonObject, bounded, exact_sum
from tasks.core.types.orders import (
    VASTEST,
    Balance,
    Fill,
    Instrument,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    VenuePosition,
)

Row = Mapping[str, Any]
PROTECTION = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)
STATUS = {
    **dict.fromkeys(("Created", "New", "PartiallyFilled", "Untriggered", "Triggered", "Active"), OrderStatus.OPEN),
    "PendingCancel": OrderStatus.OPEN,
    "Filled": OrderStatus.FILLED,
    **dict.fromkeys(("Cancelled", "PartiallyFilledCanceled", "Deactivated"), OrderStatus.CANCELLED),
    "Rejected": OrderStatus.REJECTED,
}
SIDES: dict[str, Side] = {"Buy": "buy", "Sell": "sell"}
SHOWN = 40  # characters of what should have been a number
NO_REASON = ("", "EC_NoError")
SPOT_STOPS = ("Stop", "tpslOrder")  # stopOrderType of resting spot orders: we place no others than stops


class Permissions(Dto):
    """What the venue says about our key; None where it does not say."""

    account_id: str
    withdraw: bool | None = None
    read_only: bool | None = None


def at(ms: object, name: str = "time") -> datetime:
    """Return a venue's milliseconds as aware UTC."""
    try:
        return datetime.fromtimestamp(int(str(ms)) / 1000, tz=UTC)
    except (ArithmeticError, OSError, ValueError) as e:
        raise ValueError(f"{name} is {str(ms)[:SHOWN]!r}, no time in ms") from e


def ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def exact(value: object, name: str = "number") -> Decimal:
    """Read a number the venue sent, here alone; ccxt's floats cross by their shortest text.

    Raises ValueError with the field's `name` and what it held, for what is none or beyond what a venue lists.
    """
    with suppress(ArithmeticError, ValueError):
        number = bounded(Decimal(str(value)))
        if abs(number) <= VASTEST:
            return number
    raise ValueError(f"{name} is {str(value)[:SHOWN]!r}, no number up to {VASTEST:.0e}")


def number(row: Row, name: str) -> Decimal:
    return exact(row[name], name)


def figure(row: Row, name: str) -> float:
    return float(number(row, name))


def number_or_zero(row: Row, name: str) -> Decimal:
    return ZERO if row[name] in (None, "") else number(row, name)


def price_or_none(row: Row, name: str) -> Decimal | None:
    """Read a price; the venue writes "no price" as "", "0" or "0.00"."""
    return number_or_zero(row, name) or None


def told(row: Row, name: str) -> Decimal | None:
    """Read a number that a venue may leave out."""
    return price_or_none(row, name) if name in row else None


def wire(value: Decimal) -> str:
    """Write a number with all its digits and no exponent."""
    return format(value, "f")


def instrument_of(market: Row, tick_sizes: bool) -> Instrument:
    """Read a ccxt market. tick_sizes: whether the venue gives precision as a step (else as a number of decimals)."""
    precisions = [number(market["precision"], name) for name in ("price", "amount")]
    tick, step = (each if tick_sizes else Decimal(1).scaleb(-int(each)) for each in precisions)
    limits, spot = market["limits"], market["spot"]
    return Instrument(
        symbol=market["symbol"],
        tick=tick,
        step=step,
        min_quantity=exact(limits["amount"]["min"] or 0, "least quantity"),
        min_notional=exact(limits["cost"]["min"] or 0, "least notional"),
        max_leverage=Decimal(1) if spot else exact(limits["leverage"]["max"] or 1, "most leverage"),
        shorting=not spot,
        kind="spot" if spot else "linear",
    )


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


def protection_of(intent: OrderIntent) -> tuple[Decimal | None, Decimal | None]:
    """Return (stop, target) as `set_protection` takes them for an intent that only changes these."""
    if intent.type is OrderType.CANCEL_TARGET:
        return None, Decimal(0)
    if intent.price is None:
        raise OrderRejected(f"send order {intent.client_order_id}: a {intent.type} needs a trigger price")
    return (intent.price, None) if intent.type is OrderType.STOP else (None, intent.price)


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


def accepted(intent: OrderIntent, venue_order_id: str, when: datetime) -> Order:
    """Describe what the venue acknowledged but does not list: not yet, or as protection never."""
    fields = {"client_order_id", "symbol", "side", "quantity", "price", "stop", "target"}
    return Order(
        **intent.model_dump(include=fields),
        venue_order_id=venue_order_id,
        type=intent.type.value,
        status=OrderStatus.CANCELLED if intent.type is OrderType.CANCEL_TARGET else OrderStatus.OPEN,
        reduce_only=intent.reduce_only or intent.type in PROTECTION,
        created_at=when,
        updated_at=when,
    )


def fill_of(row: Row, market: Row) -> Fill:
    """Read a row of /v5/execution/list. A funding payment has a fee and moves no quantity.

    A spot buy whose fee is taken in base is told as what remains: less quantity, and the fee in quote.
    """
    reason, settle = fill_reason(row, market["spot"]), market["settle"] or market["quote"]
    quantity, price, fee = number(row, "execQty"), number(row, "execPrice"), number_or_zero(row, "execFee")
    if min(quantity, price) <= 0:
        raise ValueError(f"execution {row['execId']} is of {quantity} at {price}, both must be above 0")
    currency = row.get("feeCurrency") or settle
    if market["spot"] and currency == market["base"] and row["side"] == "Buy":
        quantity, fee, currency = quantity - fee, fee * price, settle
    return Fill(
        fill_id=row["execId"],
        venue_order_id=row["orderId"],
        client_order_id=row.get("orderLinkId") or "",
        symbol=market["symbol"],
        side=SIDES[row["side"]],
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
    return Balance(equity=equity, available=max(available, Decimal(0)), currency="USDT")


def permissions_of(result: Row) -> Permissions:
    """Read the result of /v5/user/query-api."""
    groups = result.get("permissions")
    withdraw = None
    if isinstance(groups, dict) and "Wallet" in groups:
        withdraw = any("withdraw" in str(p).lower() for group in groups.values() for p in group or ())
    read_only = result.get("readOnly")
    return Permissions(
        account_id=str(result["userID"]),
        withdraw=withdraw,
        read_only=None if read_only is None else str(read_only) == "1",
    )
