"""Bybit's private endpoints that read: key, wallet, positions, orders, executions."""

from decimal import Decimal
from typing import Any

from infra.sandbox import rows
from infra.sandbox.answers import Json, bad_parameter, text
from infra.sandbox.query import Query, invalid
from tasks.core.types.orders import Order, OrderStatus

ZERO = Decimal(0)


def api_key(q: Query) -> Json:
    """Describe the key: it may trade and read; it may not withdraw."""
    permissions = {"ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": []}
    return {
        "id": "1",
        "apiKey": q.ex.config.key,
        "readOnly": 0,
        "permissions": permissions,
        "unified": 0,
        "uta": 1,
        "userID": 1,
        "isMaster": True,
    }


def account_info(q: Query) -> Json:
    return {"marginMode": "REGULAR_MARGIN", "updatedTime": str(q.ex.now_ms), "unifiedMarginStatus": 6}


def coins(q: Query) -> Json:
    names = sorted({name for m in q.ex.markets.values() for name in (m.base, m.quote)})
    return {"rows": [{"name": name, "coin": name, "chains": []} for name in names]}


def fee_rates(q: Query) -> Json:
    costs = q.ex.config.costs
    rates = {"takerFeeRate": costs.taker_bps / 10_000, "makerFeeRate": costs.maker_bps / 10_000}
    return {"list": [{"symbol": market.id, **rates} for market in q.markets]}


def wallet(q: Query) -> Json:
    """Return the unified account: equity, margin in use, and each coin it holds."""
    if q["accountType"] != "UNIFIED":
        raise bad_parameter("accountType only support UNIFIED.")
    marks, account, markets = q.ex.marks(), q.ex.account.wallet, q.ex.markets
    balance = q.ex.account.balance(marks)
    linear = [h for h in account.holdings.values() if markets[h.symbol].category == "linear"]
    spot = [h for h in account.holdings.values() if markets[h.symbol].category == "spot"]
    unrealized = sum((h.unrealized(marks[h.symbol]) for h in linear), ZERO)
    margin = sum((account.margin(h) for h in linear), ZERO)
    quote = account.cash - sum((h.cost for h in spot), ZERO)
    ordered = max(quote + unrealized - margin - balance.available, ZERO)
    tied = {"totalOrderIM": ordered, "totalPositionIM": margin, "unrealisedPnl": unrealized}
    listed = [_coin("USDT", quote, quote + unrealized) | tied]
    listed += [_coin(markets[h.symbol].base, h.quantity, h.quantity, marks[h.symbol]) for h in spot]
    entry = {
        "accountType": "UNIFIED",
        "totalEquity": balance.equity,
        "totalWalletBalance": balance.equity - unrealized,
        "totalMarginBalance": balance.equity,
        "totalAvailableBalance": balance.available,
        "totalPerpUPL": unrealized,
        "totalInitialMargin": margin,
        "coin": [coin for coin in listed if q["coin"] in ("", coin["coin"])],
    }
    return {"list": [entry]}


def _coin(name: str, quantity: Decimal, equity: Decimal, price: Decimal = Decimal(1)) -> Json:
    amounts = {"equity": equity, "usdValue": equity * price, "walletBalance": quantity}
    return {
        "coin": name,
        **amounts,
        **dict.fromkeys(("locked", "totalOrderIM", "totalPositionIM", "unrealisedPnl"), "0"),
    }


def positions(q: Query) -> Json:
    """Asked for one symbol: its entry, flat or not; asked for a settle coin: the open ones."""
    _require_scope(q)
    linear = [m.symbol for m in q.markets if m.category == "linear"]
    if q["symbol"] and not linear:
        raise invalid("symbol", q["symbol"])
    chosen = [symbol for symbol in linear if q["symbol"] or q.ex.account.position(symbol)]
    return {"category": q.category, "list": [rows.position_row(q.ex, s) for s in chosen], "nextPageCursor": ""}


def _require_scope(q: Query) -> None:
    if q.category == "linear" and not (q["symbol"] or q["settleCoin"] or q["baseCoin"]):
        raise bad_parameter("Missing some parameters that must be filled in, symbol or settleCoin or baseCoin")


def open_orders(q: Query) -> Json:
    """Open orders with the stops and targets that wait; asked for one id, also one that has closed since."""
    waiting = [leg for position in q.ex.account.positions() for leg in rows.attached(q.ex, position)]
    if q["orderId"] or q["orderLinkId"]:
        return _orders(q, [*q.ex.account.orders, *waiting])
    _require_scope(q)
    kind = q["orderFilter"] or ("Order" if q.category == "spot" else "")
    return _orders(q, [*q.ex.account.open_orders(), *waiting], kind)


def order_history(q: Query) -> Json:
    start, end = q.times()
    closed = [o for o in q.ex.account.orders if o.status is not OrderStatus.OPEN]
    return _orders(q, [o for o in closed if start <= int(text(o.created_at)) <= end], q["orderFilter"])


def _orders(q: Query, orders: list[Order], kind: str = "") -> Json:
    if kind:
        orders = [o for o in orders if (o.type in rows.STOP_TYPE) == (kind != "Order")]
    return q.page([rows.order_row(q.ex, order) for order in _asked(q, orders)], 20, 50)


def executions(q: Query) -> Json:
    """Fills within the time window (7 days at most), newest first."""
    start, end = q.times()
    inside = _asked(q, [fill for fill in q.ex.account.fills if start <= int(text(fill.at)) <= end])
    listed = [rows.execution_row(q.ex, fill) for fill in inside]
    return q.page([row for row in listed if q["execType"] in ("", row["execType"])], 50, 100)


def _asked(q: Query, of: list[Any]) -> list[Any]:
    """Return those of the category that the request asks for, newest first."""
    here = [each for each in reversed(of) if q.ex.markets[each.symbol].category == q.category]
    return [each for each in here if all(q[name] in ("", value) for name, value in rows.head(q.ex, each).items())]


ENDPOINTS = {
    "user/query-api": api_key,
    "asset/coin/query-info": coins,
    "account/info": account_info,
    "account/fee-rate": fee_rates,
    "account/wallet-balance": wallet,
    "position/list": positions,
    "order/realtime": open_orders,
    "order/history": order_history,
    "execution/list": executions,
}
