"""Our orders, fills and positions in Bybit's V5 words."""

from datetime import datetime
from decimal import Decimal

from infra.sandbox.exchange import Exchange
from infra.sandbox.market import Market
from tasks.core.simulation.account import derived_id
from tasks.core.types.orders import Fill, Order, OrderStatus, OrderType, VenuePosition

Json = dict[str, object]
OWN_ID = "~"  # client ids the sandbox gave to orders that came without one
CREATED_BY = {"stop": "CreateByStopLoss", "target": "CreateByTakeProfit", "liquidation": "CreateByLiq"}
STOP_TYPE = {"stop": "StopLoss", "target": "TakeProfit"}
SLIPPAGE_CAP = Decimal("0.05")


def text(value: Decimal | None) -> str:
    return "" if value is None else f"{value:f}"


def ms(at: datetime) -> str:
    return str(round(at.timestamp() * 1000))


def link_id(client_order_id: str) -> str:
    return "" if client_order_id.startswith(OWN_ID) else client_order_id


def status(order: Order, category: str) -> str:
    """Return Bybit's order status; on perpetuals a part-filled order that ends is just Cancelled."""
    conditional = order.type in STOP_TYPE
    if order.status is OrderStatus.FILLED:
        return "Filled"
    if order.status is OrderStatus.OPEN:
        return "Untriggered" if conditional else "PartiallyFilled" if order.filled else "New"
    if conditional:
        return "Deactivated"
    return "PartiallyFilledCanceled" if order.filled and category == "spot" else "Cancelled"


def order_view(ex: Exchange, order: Order) -> Json:
    """Return one entry of /v5/order/realtime and /v5/order/history."""
    market = ex.markets[order.symbol]
    conditional = order.type in STOP_TYPE
    fees = sum((f.fee for f in ex.account.fills if f.venue_order_id == order.venue_order_id), Decimal(0))
    spent = (order.avg_price or Decimal(0)) * order.filled
    left = order.quantity - order.filled if order.status is OrderStatus.OPEN else Decimal(0)
    return {
        "orderId": order.venue_order_id, "orderLinkId": link_id(order.client_order_id), "blockTradeId": "",
        "symbol": market.id, "price": _price(order, market), "qty": text(order.quantity),
        "side": order.side.capitalize(), "isLeverage": "", "positionIdx": 0,
        "orderStatus": status(order, market.category), "createType": CREATED_BY.get(order.type, "CreateByUser"),
        "cancelType": "CancelByUser" if order.status is OrderStatus.CANCELLED else "UNKNOWN",
        "rejectReason": _reject_reason(order), "avgPrice": text(order.avg_price) if order.avg_price else "",
        "leavesQty": text(left), "leavesValue": text(left * (order.price or Decimal(0))),
        "cumExecQty": text(order.filled), "cumExecValue": text(spent), "cumExecFee": text(fees),
        "cumFeeDetail": {"USDT": text(fees)} if fees else {},
        "timeInForce": ex.time_in_force.get(order.venue_order_id, "IOC" if conditional else "GTC"),
        "orderType": "Limit" if order.type == OrderType.LIMIT.value else "Market",
        "stopOrderType": STOP_TYPE.get(order.type, ""), "triggerPrice": text(order.price) if conditional else "",
        "triggerDirection": _direction(order) if conditional else 0, "triggerBy": "LastPrice" if conditional else "",
        "takeProfit": text(order.target), "stopLoss": text(order.stop),
        "tpTriggerBy": "LastPrice" if order.target else "", "slTriggerBy": "LastPrice" if order.stop else "",
        "tpLimitPrice": "", "slLimitPrice": "", "lastPriceOnCreated": "",
        "reduceOnly": market.category == "linear" and (order.reduce_only or conditional),
        "closeOnTrigger": conditional, "smpType": "None", "smpGroup": 0, "smpOrderId": "", "placeType": "",
        "marketUnit": "baseCoin" if market.category == "spot" else "", "createdTime": ms(order.created_at),
        "updatedTime": ms(order.updated_at),
    } | ({"tpslMode": "Full"} if market.category == "linear" else {})  # fmt: skip


def _price(order: Order, market: Market) -> str:
    """Return the limit; for a market order the cap Bybit shows there, which is not what was paid."""
    if order.type == OrderType.LIMIT.value:
        return text(order.price)
    if market.category == "spot" or order.type in STOP_TYPE or order.avg_price is None:
        return "0"
    sign = 1 if order.side == "buy" else -1
    return market.text(float(order.avg_price * (1 + sign * SLIPPAGE_CAP)))


def _reject_reason(order: Order) -> str:
    if order.status is not OrderStatus.CANCELLED:
        return "EC_NoError"
    return "EC_NoImmediateQtyToFill" if order.reason == "partial" else "EC_PerCancelRequest"


def _direction(order: Order) -> int:
    """Return 1 if the trigger is met by a rising price, 2 by a falling one."""
    rises = (order.side == "sell") == (order.type == "target")
    return 1 if rises else 2


def attached(ex: Exchange, position: VenuePosition) -> list[Order]:
    """Return the position's attached stop and target as the orders Bybit lists for them."""
    holding = ex.account.wallet.holdings[position.symbol]
    legs = (("stop", position.stop, holding.stop_order), ("target", position.target, holding.target_order))
    return [
        Order(
            client_order_id="",
            venue_order_id=derived_id("attached", kind, position.symbol, holding.opened_at, text(price)),
            symbol=position.symbol,
            side="sell" if position.side == "long" else "buy",
            type=kind,
            status=OrderStatus.OPEN,
            quantity=position.quantity,
            price=price,
            reduce_only=True,
            created_at=holding.entered_at,
            updated_at=holding.entered_at,
        )
        for kind, price, own in legs
        if price is not None and not own
    ]


def execution_view(ex: Exchange, fill: Fill) -> Json:
    """Return one entry of /v5/execution/list."""
    market = ex.markets[fill.symbol]
    order = ex.account.order_by_venue_id(fill.venue_order_id)
    exec_type = {"funding": "Funding", "liquidation": "BustTrade"}.get(fill.reason, "Trade")
    closing = fill.reason not in ("entry", "funding")
    return {
        "symbol": market.id, "orderId": fill.venue_order_id if order else "",
        "orderLinkId": link_id(fill.client_order_id), "side": fill.side.capitalize(),
        "orderPrice": _price(order, market) if order else "", "orderQty": text(order.quantity) if order else "",
        "leavesQty": "0", "createType": CREATED_BY.get(fill.reason, "CreateByUser") if order else "",
        "orderType": "Limit" if order and order.type == OrderType.LIMIT.value else "Market" if order else "UNKNOWN",
        "stopOrderType": STOP_TYPE.get(fill.reason, "UNKNOWN"), "execFee": text(fill.fee), "execId": fill.fill_id,
        "execPrice": text(fill.price), "execQty": text(fill.quantity), "execType": exec_type,
        "execValue": text(fill.price * fill.quantity), "execTime": ms(fill.at), "feeCurrency": fill.fee_currency,
        "isMaker": fill.liquidity == "maker", "feeRate": text(fill.fee / (fill.price * fill.quantity)), "tradeIv": "",
        "markIv": "", "markPrice": text(fill.price), "indexPrice": "", "underlyingPrice": "", "blockTradeId": "",
        "closedSize": text(fill.quantity) if closing else "0", "seq": 0,
    }  # fmt: skip


def position_view(ex: Exchange, symbol: str) -> Json:
    """Return one entry of /v5/position/list; a flat one has size 0 and no side."""
    position = ex.account.position(symbol)
    account, mark = ex.account.wallet, ex.price(symbol)
    empty: Json = {
        "positionIdx": 0, "riskId": 1, "riskLimitValue": "2000000", "symbol": ex.markets[symbol].id, "side": "",
        "size": "0", "avgPrice": "0", "positionValue": "", "tradeMode": 0, "positionStatus": "Normal",
        "autoAddMargin": 0, "adlRankIndicator": 0, "leverage": text(account.leverage(symbol)), "positionBalance": "0",
        "markPrice": text(mark), "liqPrice": "", "bustPrice": "", "positionMM": "0", "positionIM": "0",
        "tpslMode": "Full", "takeProfit": "", "stopLoss": "", "trailingStop": "0", "unrealisedPnl": "",
        "curRealisedPnl": "0", "cumRealisedPnl": text(ex.account.totals(symbol).realized), "seq": 0,
        "isReduceOnly": False, "createdTime": ms(ex.now), "updatedTime": ms(ex.now),
    }  # fmt: skip
    if position is None:
        return empty
    holding = account.holdings[symbol]
    liquidation = position.liquidation_price
    return empty | {
        "side": "Buy" if position.side == "long" else "Sell", "size": text(position.quantity),
        "avgPrice": text(position.avg_price), "positionValue": text(holding.cost),
        "positionIM": text(account.margin(holding)),
        "liqPrice": "" if liquidation is None else ex.markets[symbol].text(float(liquidation)),
        "takeProfit": text(position.target), "stopLoss": text(position.stop),
        "unrealisedPnl": text(holding.unrealized(mark)), "createdTime": ms(holding.opened_at),
        "updatedTime": ms(holding.entered_at),
    }  # fmt: skip
