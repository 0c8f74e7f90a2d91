"""Our orders, fills and positions as rows of Bybit's lists: what ccxt and our adapter read of them."""

from collections.abc import Mapping
from decimal import Decimal

from infra.sandbox.api.answers import Json, text
from infra.sandbox.exchange import Exchange
from infra.sandbox.market.listing import Listing
from tasks.core.simulation.account import derived_id
from tasks.core.simulation.wallet import Holding
from tasks.core.types import ZERO, Fill, Order, OrderStatus, OrderType, direction, exact_sum

OWN_ID = "~"  # client ids the sandbox gave to orders that came without one
CREATED_BY = {"stop": "CreateByStopLoss", "target": "CreateByTakeProfit", "liquidation": "CreateByLiq", "funding": ""}
STOP_TYPE = {"stop": "StopLoss", "target": "TakeProfit"}
EXEC_TYPE = {"funding": "Funding", "liquidation": "BustTrade"}
SLIPPAGE_CAP = Decimal("0.05")


def own_id(ex: Exchange) -> str:
    """Return a client id for an order that comes without one."""
    return f"{OWN_ID}{len(ex.account.orders)}-{ex.now_ms}"


def ids(of: Order | Fill) -> Json:
    own = of.client_order_id.startswith(OWN_ID)
    return {"orderId": of.venue_order_id, "orderLinkId": "" if own else of.client_order_id}


def head(ex: Exchange, of: Order | Fill) -> Json:
    """Return what every row of an order or a fill begins with, and can be asked for by."""
    return ids(of) | {"symbol": ex.markets[of.symbol].id, "side": of.side.capitalize()}


def order_row(ex: Exchange, order: Order) -> Json:
    """Return one entry of /v5/order/realtime and /v5/order/history."""
    market = ex.markets[order.symbol]
    linear, conditional = market.category == "linear", order.type in STOP_TYPE
    working, ended = ("PartiallyFilled", "PartiallyFilledCanceled") if order.filled else ("New", "Cancelled")
    status = {
        OrderStatus.FILLED: "Filled",
        OrderStatus.OPEN: "Untriggered" if conditional else working,
        # on perpetuals a part-filled order that ends is just Cancelled
        OrderStatus.CANCELLED: "Deactivated" if conditional else "Cancelled" if linear else ended,
    }
    reason = "EC_NoImmediateQtyToFill" if order.reason == "partial" else "EC_PerCancelRequest"
    rises = (order.side == "sell") == (order.type == "target")
    fees = exact_sum(f.fee for f in ex.account.fills if f.venue_order_id == order.venue_order_id)
    left = order.quantity - order.filled if order.status is OrderStatus.OPEN else ZERO
    return head(ex, order) | {
        "price": _price(order, market),
        "qty": order.quantity,
        "orderStatus": status[order.status],
        "rejectReason": reason if order.status is OrderStatus.CANCELLED else "EC_NoError",
        "avgPrice": text(order.avg_price or None),
        "leavesQty": left,
        "cumExecQty": order.filled,
        "cumExecValue": (order.avg_price or 0) * order.filled,
        "cumFeeDetail": {"USDT": fees} if fees else {},
        "timeInForce": "GTC" if order.type == OrderType.LIMIT else "IOC",
        "orderType": _order_type(order),
        "stopOrderType": STOP_TYPE.get(order.type, ""),
        "triggerPrice": text(order.price) if conditional else "",
        "triggerDirection": (1 if rises else 2) if conditional else 0,
        "takeProfit": text(order.target),
        "stopLoss": text(order.stop),
        "reduceOnly": linear and (order.reduce_only or conditional),
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
    return market.text(float(order.avg_price * (1 + direction(order.side) * SLIPPAGE_CAP)))


def attached(ex: Exchange) -> list[Order]:
    """Return the positions' attached stops and targets as the orders Bybit lists for them."""
    return [
        Order(
            client_order_id="",
            venue_order_id=derived_id(
                "attached", kind, symbol, holding.opened_at, text(price), text(holding.stop_quantity)
            ),
            symbol=symbol,
            side="sell" if holding.sign > 0 else "buy",
            type=kind,
            status=OrderStatus.OPEN,
            quantity=min(holding.stop_quantity or holding.quantity, holding.quantity),
            price=price,
            reduce_only=True,
            created_at=holding.entered_at,
            updated_at=holding.entered_at,
        )
        for symbol, holding in sorted(ex.account.wallet.holdings.items())
        for kind, price, own in (
            ("stop", holding.stop, holding.stop_order),
            ("target", holding.target, holding.target_order),
        )
        if price is not None and not own
    ]


def execution_row(ex: Exchange, fill: Fill) -> Json:
    """Return one entry of /v5/execution/list; a funding payment is of no order."""
    order, value = ex.account.order_by_venue_id(fill.venue_order_id), fill.price * fill.quantity
    return head(ex, fill) | {
        "orderId": fill.venue_order_id if order else "",
        "orderPrice": _price(order, ex.markets[fill.symbol]) if order else "",
        "orderQty": order.quantity if order else "",
        "orderType": _order_type(order) if order else "UNKNOWN",
        "createType": CREATED_BY.get(fill.reason, "CreateByUser"),
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
    }


def position_row(ex: Exchange, market: Listing, held: Mapping[str, Holding]) -> Json:
    """Return one entry of /v5/position/list; a flat one has size 0 and no side."""
    symbol, wallet, mark = market.symbol, ex.account.wallet, ex.mark(market.symbol)
    about = {"symbol": market.id, "positionIdx": 0, "leverage": wallet.leverage(symbol), "markPrice": mark}
    if (holding := held.get(symbol)) is None:
        return about | {"side": "", "size": "0", "createdTime": ex.now, "updatedTime": ex.now}
    liquidation = wallet.liquidation_price(symbol) if symbol in wallet.holdings else None
    return about | {
        "side": "Buy" if holding.sign > 0 else "Sell",
        "size": holding.quantity,
        "avgPrice": holding.avg_price,
        "positionValue": holding.cost,
        "positionIM": wallet.margin(holding),
        "liqPrice": "" if liquidation is None else market.text(float(liquidation * wallet.basis)),
        "takeProfit": text(None if holding.stop_quantity else holding.target),
        "stopLoss": text(None if holding.stop_quantity else holding.stop),
        "unrealisedPnl": holding.unrealized(mark),
        "createdTime": holding.opened_at,
        "updatedTime": holding.entered_at,
    }
