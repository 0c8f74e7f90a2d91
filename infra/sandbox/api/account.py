"""Bybit's private endpoints that read: key, wallet, positions, orders, executions."""

from decimal import Decimal
from typing import Any

from infra.sandbox.api import rows
from infra.sandbox.api.answers import Json, bad_parameter, text
from infra.sandbox.api.query import Query, invalid
from tasks.core.types import ZERO, Order, OrderStatus, exact_sum


def api_key(q: Query) -> Json:
    """Describe the key: it may trade and read; it may not withdraw."""
    permissions = {"ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": []}
    return {"apiKey": q.ex.config.key, "readOnly": 0, "permissions": permissions, "unified": 0, "uta": 1, "userID": 1}


def account_info(_q: Query) -> Json:
    return {"marginMode": "REGULAR_MARGIN", "unifiedMarginStatus": 6}


def switches(q: Query) -> Json:
    """Tell whether fees are taken in another coin, on spot (smsef) and on contracts (fmsef)."""
    return {"lpaSpot": False, "lpaPerp": False, **dict.fromkeys(("smsef", "fmsef"), "fee_coin" in q.quirks)}


def currencies(q: Query) -> Json:
    names = sorted({name for m in q.ex.markets.values() for name in (m.base, m.quote)})
    return {"rows": [{"name": name, "coin": name, "chains": []} for name in names]}


def wallet(q: Query) -> Json:
    """Return the unified account: equity, margin in use, and each coin it holds."""
    if q["accountType"] != "UNIFIED":
        raise bad_parameter("accountType only support UNIFIED.")
    marks, wallet = q.ex.marks(), q.account.wallet
    linear = [h for h in wallet.holdings.values() if q.ex.markets[h.symbol].category == "linear"]
    spot = [h for h in wallet.holdings.values() if h not in linear]
    balance, quote = q.account.balance(marks), wallet.cash - sum(h.cost for h in spot)
    coins = [_coin("USDT", quote, quote + sum(h.unrealized(marks[h.symbol]) for h in linear))]
    coins[0] |= {
        "totalOrderIM": max(wallet.available(marks) - balance.available, ZERO),
        "totalPositionIM": exact_sum(wallet.margin(h) for h in linear),
    }
    coins += [_coin(h.symbol.partition("/")[0], h.quantity, h.quantity, marks[h.symbol]) for h in spot]
    entry = {
        "accountType": "UNIFIED",
        "totalEquity": balance.equity,
        "totalAvailableBalance": balance.available,
        "coin": [coin for coin in coins if q["coin"] in ("", coin["coin"])],
    }
    return {"list": [entry]}


def _coin(name: str, quantity: Decimal, equity: Decimal, price: Decimal = Decimal(1)) -> Json:
    nothing = dict.fromkeys(("locked", "totalOrderIM", "totalPositionIM"), "0")
    return {"coin": name, "equity": equity, "usdValue": equity * price, "walletBalance": quantity, **nothing}


def positions(q: Query) -> Json:
    """Asked for one symbol: its entry, flat or not; asked for a settle coin: the open ones."""
    _require_scope(q)
    linear = [market for market in q.markets if market.category == "linear"]
    if q["symbol"] and not linear:
        raise invalid("symbol", q["symbol"])
    held = q.ex.held(q.quirks.get("stale_positions", 0))
    listed = [rows.position_row(q.ex, m, held) for m in linear if q["symbol"] or m.symbol in held]
    return q.page(listed, 20, 200)


def _require_scope(q: Query) -> None:
    if q.category == "linear" and not (q["symbol"] or q["settleCoin"] or q["baseCoin"]):
        raise bad_parameter("Missing some parameters that must be filled in, symbol or settleCoin or baseCoin")


def open_orders(q: Query) -> Json:
    """Open orders with the stops and targets that wait; asked for one id, also one that has closed since."""
    waiting = rows.attached(q.ex)
    if q["orderId"] or q["orderLinkId"]:
        return _orders(q, [*q.account.orders, *waiting])
    _require_scope(q)
    kind = q["orderFilter"] or ("Order" if q.category == "spot" else "")
    return _orders(q, [*q.account.open_orders(), *waiting], kind)


def order_history(q: Query) -> Json:
    start, end = q.times()
    closed = [o for o in q.account.orders if o.status is not OrderStatus.OPEN]
    return _orders(q, [o for o in closed if start <= int(text(o.created_at)) <= end], q["orderFilter"])


def _orders(q: Query, orders: list[Order], kind: str = "") -> Json:
    if kind:
        orders = [o for o in orders if (o.type in rows.STOP_TYPE) == (kind != "Order")]
    return q.page([rows.order_row(q.ex, order) | q.ex.told_as(order) for order in _asked(q, orders)], 20, 50)


def executions(q: Query) -> Json:
    """Fills within the time window (7 days at most), newest first."""
    start, end = q.times()
    inside = _asked(q, [fill for fill in q.account.fills if start <= int(text(fill.at)) <= end])
    listed = [rows.execution_row(q.ex, fill) | q.ex.told_as(fill) for fill in inside]
    return q.page([row for row in listed if q["execType"] in ("", row["execType"])], 50, 100)


def _asked(q: Query, of: list[Any]) -> list[Any]:
    """Return those of the category that the request asks for and that are told by now, newest first."""
    here = [each for each in reversed(of) if q.ex.markets[each.symbol].category == q.category and q.ex.tells(each)]
    return [each for each in here if all(q[name] in ("", value) for name, value in rows.head(q.ex, each).items())]


ENDPOINTS = {
    "user/query-api": api_key,
    "asset/coin/query-info": currencies,
    "account/info": account_info,
    "account/user-setting-config": switches,
    "account/wallet-balance": wallet,
    "position/list": positions,
    "order/realtime": open_orders,
    "order/history": order_history,
    "execution/list": executions,
}
