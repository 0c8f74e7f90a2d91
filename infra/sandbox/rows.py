"""Our orders, fills and positions as rows of Bybit's lists: what ccxt and our adapter read of them."""

from decimal import Decimal

from infra.sandbox.answers import Json, text
from infra.sandbox.exchange import Exchange
from infra.sandbox.listing import Listing
from tasks.core.simulation.account import derived_id
from tasks.core.types.orders import Fill, Order, OrderStatus, OrderType, VenuePosition

OWN_ID = "~"  # client ids the sandbox gave to orders that came without one
CREATED_BY = {"stop": "CreateByStopLoss", "target": "CreateByTakeProfit", "liquidation": "CreateByLiq"}
STOP_TYPE = {"stop": "StopLoss", "target": "TakeProfit"}
EXEC_TYPE = {"funding": "Funding", "liquidation": "BustTrade"}
SLIPPAGE_CAP = Decimal("0.05")


def ids(of: Order | Fill) -> Json:
    own = of.client_order_id.startswith(OWN_ID)
    return {"orderId": of.venue_order_id, "orderLinkId": "" if own else of.client_order_id}


def head(ex: Exchange, of: Order | Fill) -> Json:
    """Return what every row of an order or a fill begins with, and can be asked for by."""
    return ids(of) | {"symbol": ex.markets[of.symbol].id, "side": of.side.capitalize()}


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


def order_row(ex: Exchange, order: Order) -> Json:
    """Return one entry of /v5/order/realtime and /v5/order/history."""
    market = ex.markets[order.symbol]
    linear, conditional = market.category == "linear", order.type in STOP_TYPE
    fees = sum((f.fee for f in ex.account.fills if f.venue_order_id == order.venue_order_id), Decimal(0))
    left = order.quantity - order.filled if order.status is OrderStatus.OPEN else Decimal(0)
    return head(ex, order) | {
        "price": _price(order, market),
        "qty": order.quantity,
        "positionIdx": 0,
        "orderStatus": status(order, market.category),
        "createType": CREATED_BY.get(order.type, "CreateByUser"),
        "rejectReason": _reject_reason(order),
        "avgPrice": text(order.avg_price or None),
        "leavesQty": left,
        "cumExecQty": order.filled,
        "cumExecValue": (order.avg_price or Decimal(0)) * order.filled,
        "cumExecFee": fees,
        "cumFeeDetail": {"USDT": fees} if fees else {},
        "timeInForce": ex.time_in_force.get(order.venue_order_id, "IOC" if conditional else "GTC"),
        "orderType": _order_type(order),
        "stopOrderType": STOP_TYPE.get(order.type, ""),
        "triggerPrice": text(order.price) if conditional else "",
        "triggerDirection": _direction(order) if conditional else 0,
        "takeProfit": text(order.target),
        "stopLoss": text(order.stop),
        "reduceOnly": linear and (order.reduce_only or conditional),
        "closeOnTrigger": conditional,
        "tpslMode": "Full" if linear else "",
        "marketUnit": "" if linear else "baseCoin",
        "createdTime": order.created_at,
        "updatedTime": order.updated_at,
    }


def _order_type(order: Order) -> str:
    return "Limit" if order.type == OrderType.LIMIT else "Market"


def _price(order: Order, market: Listing) -> str:
    """Return the limit; for a market order the cap Bybit shows there, which is not what was paid."""
    if order.type == OrderType.LIMIT:
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
    return 1 if (order.side == "sell") == (order.type == "target") else 2


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


def execution_row(ex: Exchange, fill: Fill) -> Json:
    """Return one entry of /v5/execution/list; a funding payment is of no order."""
    order, market = ex.account.order_by_venue_id(fill.venue_order_id), ex.markets[fill.symbol]
    of_order: Json = {"orderId": "", "orderPrice": "", "orderQty": "", "createType": "", "orderType": "UNKNOWN"}
    if order:
        of_order = {
            "orderPrice": _price(order, market),
            "orderQty": order.quantity,
            "createType": CREATED_BY.get(fill.reason, "CreateByUser"),
            "orderType": _order_type(order),
        }
    value = fill.price * fill.quantity
    return (
        head(ex, fill)
        | of_order
        | {
            "stopOrderType": STOP_TYPE.get(fill.reason, "UNKNOWN"),
            "execFee": fill.fee,
            "execId": fill.fill_id,
            "execPrice": fill.price,
            "execQty": fill.quantity,
            "execType": EXEC_TYPE.get(fill.reason, "Trade"),
            "execValue": value,
            "execTime": fill.at,
            "feeCurrency": fill.fee_currency,
            "isMaker": fill.liquidity == "maker",
            "feeRate": fill.fee / value,
            "closedSize": Decimal(0) if fill.reason in ("entry", "funding") else fill.quantity,
        }
    )


def position_row(ex: Exchange, symbol: str) -> Json:
    """Return one entry of /v5/position/list; a flat one has size 0 and no side."""
    account, mark, market = ex.account.wallet, ex.price(symbol), ex.markets[symbol]
    about: Json = {
        "positionIdx": 0,
        "symbol": market.id,
        "leverage": account.leverage(symbol),
        "markPrice": mark,
        "cumRealisedPnl": ex.account.totals(symbol).realized,
        "tpslMode": "Full",
    }
    position = ex.account.position(symbol)
    if position is None:
        names = ("side", "positionValue", "liqPrice", "takeProfit", "stopLoss", "unrealisedPnl")
        flat = dict.fromkeys(names, "") | dict.fromkeys(("size", "avgPrice", "positionIM"), "0")
        return about | flat | dict.fromkeys(("createdTime", "updatedTime"), ex.now)
    holding, liquidation = account.holdings[symbol], position.liquidation_price
    return about | {
        "side": "Buy" if position.side == "long" else "Sell",
        "size": position.quantity,
        "avgPrice": position.avg_price,
        "positionValue": holding.cost,
        "positionIM": account.margin(holding),
        "liqPrice": "" if liquidation is None else market.text(float(liquidation)),
        "takeProfit": text(position.target),
        "stopLoss": text(position.stop),
        "unrealisedPnl": holding.unrealized(mark),
        "createdTime": holding.opened_at,
        "updatedTime": holding.entered_at,
    }
