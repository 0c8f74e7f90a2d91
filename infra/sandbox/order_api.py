"""Bybit's private endpoints that change something: orders, leverage, trading stops."""

from decimal import Decimal, InvalidOperation

from infra.sandbox import views
from infra.sandbox.errors import BybitError, bad_parameter, refusal, unknown_order
from infra.sandbox.exchange import Exchange
from infra.sandbox.market import Market
from infra.sandbox.market_api import Params, find_market
from infra.sandbox.views import OWN_ID, Json
from tasks.core.trading.money import floor_to_step
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType

MAX_LINK_ID = 36
TIMES_IN_FORCE = ("GTC", "IOC", "FOK", "PostOnly")


def amount(params: Params, name: str) -> Decimal | None:
    """Return a decimal of the request; None if it is absent, empty or 0 as Bybit reads it for prices."""
    raw = params.get(name) or "0"
    try:
        value = Decimal(raw)
    except InvalidOperation:
        raise bad_parameter(f"params error: {name} invalid {raw}") from None
    if not value.is_finite() or value < 0:
        raise bad_parameter(f"params error: {name} invalid {raw}")
    return value or None


def create(ex: Exchange, params: Params) -> Json:
    """Place an order; stop and target given with it become the position's when it first fills."""
    market = find_market(ex, params)
    intent = _intent(ex, market, params)
    if "delisting" in ex.quirks and not intent.reduce_only:
        raise refusal("delisted", market.category)
    force = params.get("timeInForce") or ("IOC" if intent.type is OrderType.MARKET else "GTC")
    if force not in TIMES_IN_FORCE:
        raise bad_parameter(f"params error: timeInForce invalid {force}")
    order = ex.submit(intent, post_only=force == "PostOnly")
    if order.status is OrderStatus.REJECTED:
        raise refusal(order.reason, market.category)
    ex.time_in_force[order.venue_order_id] = force
    _enforce(ex, order, force)
    return _ids(order)


def _enforce(ex: Exchange, order: Order, force: str) -> None:
    """Cancel what an IOC or FOK order left over, and a PostOnly one that would have taken."""
    if order.status is not OrderStatus.OPEN or order.type != OrderType.LIMIT.value:
        return
    leaves = force in ("IOC", "FOK") or "partial_fill_cancel" in ex.quirks
    if leaves or (force == "PostOnly" and _would_take(ex, order)):
        ex.account.cancel(order.client_order_id, ex.now)


def _intent(ex: Exchange, market: Market, params: Params) -> OrderIntent:
    side = params.get("side", "").lower()
    if side not in ("buy", "sell"):
        raise bad_parameter(f"params error: side invalid {params.get('side', '')}")
    stop, target = amount(params, "stopLoss"), amount(params, "takeProfit")
    if "reject_stop" in ex.quirks:
        stop = None
    kind = _kind(ex, market, params)
    if market.category == "spot" and kind is not OrderType.LIMIT and (stop or target):
        raise bad_parameter("tpsl order is not supported for spot market orders")
    trigger = amount(params, "triggerPrice")
    return OrderIntent(
        client_order_id=_link_id(ex, params),
        symbol=market.symbol,
        side="buy" if side == "buy" else "sell",
        type=kind,
        quantity=_quantity(ex, market, params, kind),
        price=amount(params, "price") if kind is OrderType.LIMIT else trigger,
        stop=stop,
        target=target,
        reduce_only=params.get("reduceOnly", "").lower() == "true",
    )


def _would_take(ex: Exchange, order: Order) -> bool:
    price = ex.price(order.symbol)
    return order.price is not None and (order.price >= price if order.side == "buy" else order.price <= price)


def _kind(ex: Exchange, market: Market, params: Params) -> OrderType:
    """Return what is asked for; a conditional order can only be a stop or target of the open position."""
    if not amount(params, "triggerPrice"):
        found = {"Market": OrderType.MARKET, "Limit": OrderType.LIMIT}.get(params.get("orderType", ""))
        if found is None:
            raise bad_parameter(f"params error: orderType invalid {params.get('orderType', '')}")
        return found
    position = ex.account.position(market.symbol)
    closing = "sell" if position and position.side == "long" else "buy"
    if position is None or params.get("side", "").lower() != closing:
        raise bad_parameter("conditional orders that open a position are not offered by the sandbox")
    trigger = amount(params, "triggerPrice") or Decimal(0)
    falls = trigger < ex.price(market.symbol)
    return OrderType.STOP if falls == (position.side == "long") else OrderType.TARGET


def _link_id(ex: Exchange, params: Params) -> str:
    given = params.get("orderLinkId", "")
    if len(given) > MAX_LINK_ID:
        raise bad_parameter(f"params error: OrderLinkedID longer than {MAX_LINK_ID} characters")
    return given or f"{OWN_ID}{len(ex.account.orders)}-{ex.now_ms}"


def _quantity(ex: Exchange, market: Market, params: Params, kind: OrderType) -> Decimal:
    """Return base units; a spot market buy counts in quote unless marketUnit says baseCoin, as on Bybit."""
    quantity = amount(params, "qty")
    if quantity is None:
        raise bad_parameter("params error: qty invalid")
    spot_market = market.category == "spot" and kind is OrderType.MARKET
    unit = params.get("marketUnit") or ("quoteCoin" if params.get("side") == "Buy" else "baseCoin")
    if spot_market and unit == "quoteCoin":
        return floor_to_step(quantity / ex.price(market.symbol), ex.instruments[market.symbol].step)
    return quantity


def _find(ex: Exchange, market: Market, params: Params) -> Order:
    """Return the working order that orderId or orderLinkId names."""
    if not params.get("orderId") and not params.get("orderLinkId"):
        raise bad_parameter("params error: orderId or orderLinkId is required")
    by_id = ex.account.order_by_venue_id(params.get("orderId", ""))
    order = by_id or ex.account.order(params.get("orderLinkId", ""))
    if order is None or order.symbol != market.symbol or order.status is not OrderStatus.OPEN:
        raise unknown_order(market.category)
    return order


def amend(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    order = _find(ex, market, params)
    changed = ex.account.amend(order.client_order_id, amount(params, "qty"), amount(params, "price"), ex.now)
    if changed is None:
        raise unknown_order(market.category)
    if changed.reason:
        raise refusal(changed.reason, market.category)
    return _ids(order)


def cancel(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    if _cancel_attached(ex, market, params.get("orderId", "")):
        return {"orderId": params["orderId"], "orderLinkId": ""}
    order = _find(ex, market, params)
    ex.account.cancel(order.client_order_id, ex.now)
    return _ids(order)


def _cancel_attached(ex: Exchange, market: Market, venue_order_id: str) -> bool:
    """Remove an attached stop or target that is cancelled by its order id."""
    position = ex.account.position(market.symbol)
    for leg in views.attached(ex, position) if position else []:
        if leg.venue_order_id == venue_order_id:
            stop, target = (Decimal(0), None) if leg.type == "stop" else (None, Decimal(0))
            ex.account.set_protection(market.symbol, stop, target, ex.now)
            return True
    return False


def cancel_all(ex: Exchange, params: Params) -> Json:
    """Cancel working limit orders of a symbol or of the category."""
    category = params.get("category")
    cancelled = []
    for order in ex.account.open_orders():
        market = ex.markets[order.symbol]
        if market.category == category and params.get("symbol") in (None, "", market.id):
            ex.account.cancel(order.client_order_id, ex.now)
            cancelled.append(_ids(order))
    return {"list": cancelled, "success": "1"}


def set_leverage(ex: Exchange, params: Params) -> Json:
    market = find_market(ex, params)
    leverage = amount(params, "buyLeverage")
    if leverage is None or leverage < 1 or leverage > ex.instruments[market.symbol].max_leverage:
        raise BybitError(110013, "cannot set leverage due to risk limit")
    if leverage == ex.account.wallet.leverage(market.symbol):
        raise BybitError(110043, "leverage not modified")
    ex.account.wallet.leverages[market.symbol] = leverage
    return {}


def trading_stop(ex: Exchange, params: Params) -> Json:
    """Set or, with "0", remove the position's stop and target; what is not given stays."""
    market = find_market(ex, params)
    position = ex.account.position(market.symbol)
    if position is None or market.category != "linear":
        raise bad_parameter("can not set tp/sl/ts for zero position")
    if "reject_stop" in ex.quirks:
        raise bad_parameter("StopLoss can not be set now")
    stop, target = (_level(params, name) for name in ("stopLoss", "takeProfit"))
    _check_levels(ex, market, position.side == "long", stop, target)
    same = stop in (None, position.stop or Decimal(0)) and target in (None, position.target or Decimal(0))
    if same:
        raise BybitError(34040, "not modified")
    ex.account.set_protection(market.symbol, stop, target, ex.now)
    return {}


def _level(params: Params, name: str) -> Decimal | None:
    return (amount(params, name) or Decimal(0)) if params.get(name) else None


def _check_levels(ex: Exchange, market: Market, long: bool, stop: Decimal | None, target: Decimal | None) -> None:
    price, side = ex.price(market.symbol), "Buy" if long else "Sell"
    if stop and (stop >= price) == long:
        word = "lower" if long else "higher"
        raise bad_parameter(f"StopLoss:{stop} set for {side} position should {word} than base_price:{price}??LastPrice")
    if target and (target <= price) == long:
        word = "higher" if long else "lower"
        raise bad_parameter(f"TakeProfit:{target} set for {side} position should be {word} than base_price:{price}")


def _ids(order: Order) -> Json:
    return {"orderId": order.venue_order_id, "orderLinkId": views.link_id(order.client_order_id)}


ENDPOINTS = {
    "order/create": create,
    "order/amend": amend,
    "order/cancel": cancel,
    "order/cancel-all": cancel_all,
    "position/set-leverage": set_leverage,
    "position/trading-stop": trading_stop,
}
