"""Bybit's answers: HTTP 200 with a retCode, also when it refuses."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

from starlette.responses import JSONResponse

Json = dict[str, Any]


class BybitError(Exception):
    """The request is refused with this code and message."""


OK = BybitError(0, "OK")


class BybitAnswer(JSONResponse):
    """The envelope; numbers and times in a result become text, as on the wire."""

    def __init__(self, outcome: BybitError, now_ms: int, result: object = None, status: int = 200) -> None:
        code, message = outcome.args
        body = {"retCode": code, "retMsg": message, "result": result or {}, "retExtInfo": {}, "time": now_ms}
        super().__init__(body, status)

    def render(self, content: object) -> bytes:
        return json.dumps(content, default=text, separators=(",", ":")).encode()


def text(value: Decimal | datetime | None) -> str:
    """Return a number without exponent, a time in ms, nothing as ""."""
    if isinstance(value, datetime):
        return str(round(value.timestamp() * 1000))
    return "" if value is None else f"{value:f}"


def bad_parameter(message: str) -> BybitError:
    return BybitError(10001, message)


# what the fill engine says -> what Bybit says, on perpetuals and on spot
LINEAR = {
    "unknown": (110001, "order not exists or too late to cancel"),
    "duplicate_id": (110072, "OrderLinkedID is duplicate"),
    "insufficient_balance": (110007, "ab not enough for new order"),
    "below_min_notional": (110094, "Order does not meet minimum order value 5USDT"),
    "below_min_quantity": (10001, "The number of contracts exceeds minimum limit allowed"),
    "above_max_quantity": (10001, "The number of contracts exceeds maximum limit allowed: too large"),
    "price_too_high": (30208, "The order price is higher than the maximum buying price"),
    "price_too_low": (30209, "The order price is lower than the minimum selling price"),
    "step": (10001, "Qty invalid"),
    "tick": (10001, "Price invalid"),
    "no_position": (110017, "current position is zero, cannot fix reduce-only order qty"),
    "would_increase": (110017, "orders will not be reduce-only, reduce-only rule not satisfied"),
    "delisted": (110042, "Delivery in progress, order can only reduce positions"),
    "stop_wrong_side": (10001, "StopLoss set for position is on the wrong side of base_price"),
    "target_wrong_side": (10001, "TakeProfit set for position is on the wrong side of base_price"),
}
SPOT = LINEAR | {
    "unknown": (170213, "Order does not exist."),
    "duplicate_id": (170141, "Duplicate clientOrderId."),
    "insufficient_balance": (170131, "Insufficient balance."),
    "shorting": (170131, "Insufficient balance."),
    "below_min_notional": (170140, "Order value exceeded lower limit."),
    "below_min_quantity": (170136, "Order quantity exceeded lower limit."),
    "above_max_quantity": (170135, "Order quantity exceeded upper limit."),
    "price_too_high": (170193, "Buy order price is higher than the limit."),
    "price_too_low": (170194, "Sell order price is lower than the limit."),
    "step": (170137, "Order quantity has too many decimals."),
    "tick": (170134, "Order price has too many decimals."),
    "no_position": (170131, "Insufficient balance."),
    "delisted": (170121, "Invalid symbol."),
}


def refusal(reason: str, category: str) -> BybitError:
    return BybitError(*(SPOT if category == "spot" else LINEAR)[reason])
