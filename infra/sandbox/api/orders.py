"""Bybit's private endpoints that change something: orders, leverage, trading stops."""

from decimal import Decimal

from infra.sandbox.api import rows
from infra.sandbox.api.answers import BybitError, Json, bad_parameter, refusal
from infra.sandbox.api.market import BAND, most_of
from infra.sandbox.api.query import Query, invalid
from infra.sandbox.api.rows import ids
from tasks.core.simulation.rejections import protection_refusal
from tasks.core.types import ZERO, Order, OrderIntent, OrderStatus, OrderType, direction, floor_to_step

MAX_LINK_ID = 36
PLAIN = {"Market": OrderType.MARKET, "Limit": OrderType.LIMIT}


def create(q: Query) -> Json:
    """Place an order; stop and target given with it become the position's when it first fills."""
    ex, intent = q.ex, _intent(q)
    if "delisting" in q.quirks and not intent.reduce_only:
        raise refusal("delisted", q.category)
    if intent.type is OrderType.LIMIT and q["timeInForce"] not in ("", "GTC"):
        raise invalid("timeInForce", q["timeInForce"])
    _check_limits(q, intent)
    depth = None
    if q.quirks.keys() & {"partial_fill", "partial_fill_cancel"}:
        depth = floor_to_step(intent.quantity / 2, q.market.instrument.step)
    order = ex.submit(intent, depth)
    if order.status is OrderStatus.REJECTED:
        raise refusal(order.reason, q.category)
    if order.status is OrderStatus.OPEN and order.type == OrderType.LIMIT and "partial_fill_cancel" in q.quirks:
        q.account.cancel(order.client_order_id, ex.now)
    return ids(order)


def _check_limits(q: Query, intent: OrderIntent) -> None:
    """Refuse an order that is too large, too far from the mark, or opens more than its leverage allows."""
    ex, market, sign = q.ex, q.market, direction(intent.side)
    if intent.quantity > most_of(market, intent.type):
        raise refusal("above_max_quantity", q.category)
    if intent.type in PLAIN.values():
        mark = ex.mark(intent.symbol)
        if sign * ((intent.price or ex.price(intent.symbol)) - mark) > mark * BAND:
            raise refusal("price_too_high" if sign > 0 else "price_too_low", q.category)
    if q.category == "linear" and not intent.reduce_only:
        position = q.account.position(intent.symbol)
        held = direction(position.side) * position.quantity if position else ZERO
        leverage = q.account.wallet.leverage(intent.symbol)
        most = ex.config.risk_limit * market.instrument.max_leverage / leverage
        if abs(held + sign * intent.quantity) * ex.mark(intent.symbol) > most:
            raise BybitError(110090, f"position may exceed the max limit {most} at leverage {leverage}, please adjust")


def _intent(q: Query) -> OrderIntent:
    market = q.market
    side = q["side"].lower()
    if side not in ("buy", "sell"):
        raise invalid("side", q["side"])
    stop, target = q.amount("stopLoss"), q.amount("takeProfit")
    if "reject_stop" in q.quirks:
        stop = ZERO
    kind = _kind(q)
    if market.category == "spot" and kind is not OrderType.LIMIT and (stop or target):
        raise bad_parameter("tpsl order is not supported for spot market orders")
    if len(q["orderLinkId"]) > MAX_LINK_ID:
        raise bad_parameter(f"params error: OrderLinkedID longer than {MAX_LINK_ID} characters")
    return OrderIntent(
        client_order_id=q["orderLinkId"] or rows.own_id(q.ex),
        symbol=market.symbol,
        side=side,
        type=kind,
        quantity=_quantity(q, kind),
        price=q.amount("price" if kind is OrderType.LIMIT else "triggerPrice") or None,
        stop=stop or None,
        target=target or None,
        reduce_only=q["reduceOnly"].lower() == "true",
    )


def _kind(q: Query) -> OrderType:
    """Return what is asked for; a conditional order can only be a stop or target of the open position."""
    trigger = q.amount("triggerPrice")
    if not trigger:
        if q["orderType"] not in PLAIN:
            raise invalid("orderType", q["orderType"])
        return PLAIN[q["orderType"]]
    position = q.account.position(q.market.symbol)
    if position is None or (q["side"].lower() == "sell") != (position.side == "long"):
        raise bad_parameter("conditional orders that open a position are not offered by the sandbox")
    falls = trigger < q.ex.price(q.market.symbol)
    return OrderType.STOP if falls == (position.side == "long") else OrderType.TARGET


def _quantity(q: Query, kind: OrderType) -> Decimal:
    """Return base units; a spot market buy counts in quote unless marketUnit says baseCoin, as on Bybit."""
    quantity, market = q.amount("qty"), q.market
    if not quantity:
        raise bad_parameter("params error: qty invalid")
    unit = q["marketUnit"] or ("quoteCoin" if q["side"] == "Buy" else "baseCoin")
    if market.category == "spot" and kind is OrderType.MARKET and unit == "quoteCoin":
        return floor_to_step(quantity / q.ex.price(market.symbol), market.instrument.step)
    return quantity


def _find(q: Query) -> Order:
    """Return the working order that orderId or orderLinkId names."""
    if not q["orderId"] and not q["orderLinkId"]:
        raise bad_parameter("params error: orderId or orderLinkId is required")
    order = q.account.order_by_venue_id(q["orderId"]) or q.account.order(q["orderLinkId"])
    if order is None or order.symbol != q.market.symbol or order.status is not OrderStatus.OPEN:
        raise refusal("unknown", q.category)
    return order


def cancel(q: Query) -> Json:
    """Cancel a working order; or remove the attached stop or target that has this order id."""
    for leg in rows.attached(q.ex):
        if leg.venue_order_id == q["orderId"]:
            stop, target = (ZERO if leg.type == kind else None for kind in ("stop", "target"))
            part = q.account.wallet.holdings[leg.symbol].stop_quantity
            q.account.set_protection(leg.symbol, stop, target, q.ex.now, part)
            return ids(leg)
    order = _find(q)
    q.account.cancel(order.client_order_id, q.ex.now)
    return ids(order)


def set_leverage(q: Query) -> Json:
    market, leverage = q.market, q.amount("buyLeverage")
    if not 1 <= leverage <= market.instrument.max_leverage:
        raise BybitError(110013, "cannot set leverage due to risk limit")
    if leverage == q.account.wallet.leverage(market.symbol):
        raise BybitError(110043, "leverage not modified")
    q.account.wallet.leverages[market.symbol] = leverage
    return {}


def trading_stop(q: Query) -> Json:
    """Set or, with "0", remove the position's stop and target; what is not given stays.

    Partial ones are as large as slSize or tpSize; unlike Bybit the sandbox keeps one of each kind, the last.
    """
    position = q.account.position(q.market.symbol)
    if position is None or q.category != "linear":
        raise bad_parameter("can not set tp/sl/ts for zero position")
    if "reject_stop" in q.quirks:
        raise bad_parameter("StopLoss can not be set now")
    stop, target = (q.amount(name) if q[name] else None for name in ("stopLoss", "takeProfit"))
    wrong = protection_refusal(direction(position.side), q.ex.price(position.symbol), stop, target)
    if wrong:
        raise refusal(wrong, q.category)
    part = (q.amount("slSize") or q.amount("tpSize")) if q["tpslMode"] == "Partial" else None
    same = stop in (None, position.stop or 0) and target in (None, position.target or 0)
    if same and part == position.stop_quantity:
        raise BybitError(34040, "not modified")
    q.account.set_protection(position.symbol, stop, target, q.ex.now, part)
    return {}


ENDPOINTS = {
    "order/create": create,
    "order/cancel": cancel,
    "position/set-leverage": set_leverage,
    "position/trading-stop": trading_stop,
}
