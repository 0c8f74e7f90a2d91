"""Bybit's private endpoints that read: key, wallet, positions, orders, executions."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from infra.sandbox import views
from infra.sandbox.clock import DAY_MS
from infra.sandbox.errors import bad_parameter
from infra.sandbox.exchange import Exchange
from infra.sandbox.market_api import Params, category_of, number
from infra.sandbox.views import Json, text
from tasks.core.types.orders import Fill, Order, OrderStatus

WINDOW_MS = 7 * DAY_MS


def api_key(ex: Exchange, _params: Params) -> Json:
    """Describe the key: it may trade and read; it may not withdraw."""
    return {
        "id": "1",
        "note": "sandbox",
        "apiKey": ex.config.key,
        "readOnly": 0,
        "secret": "",
        "permissions": {
            "ContractTrade": ["Order", "Position"],
            "Spot": ["SpotTrade"],
            "Wallet": [],
            "Options": [],
            "Derivatives": [],
            "CopyTrading": [],
            "BlockTrade": [],
            "Exchange": [],
            "NFT": [],
            "Affiliate": [],
            "Earn": [],
        },
        "ips": ["*"],
        "type": 1,
        "unified": 0,
        "uta": 1,
        "userID": 1,
        "vipLevel": "No VIP",
        "isMaster": True,
        "parentUid": "0",
    }


def account_info(ex: Exchange, _params: Params) -> Json:
    return {
        "marginMode": "REGULAR_MARGIN", "updatedTime": str(ex.now_ms), "unifiedMarginStatus": 6, "dcpStatus": "OFF",
        "timeWindow": 0, "smpGroup": 0, "isMasterTrader": False, "spotHedgingStatus": "OFF",
    }  # fmt: skip


def coins(ex: Exchange, _params: Params) -> Json:
    names = sorted({name for m in ex.markets.values() for name in (m.base, m.quote)})
    return {"rows": [{"name": name, "coin": name, "remainAmount": "0", "chains": []} for name in names]}


def fee_rates(ex: Exchange, params: Params) -> Json:
    taker, maker = ex.config.costs.taker_bps / 10_000, ex.config.costs.maker_bps / 10_000
    chosen = [m for m in ex.markets.values() if m.category == category_of(params)]
    listed = [{"symbol": m.id, "takerFeeRate": text(taker), "makerFeeRate": text(maker)} for m in chosen]
    return {"list": listed}


def wallet(ex: Exchange, params: Params) -> Json:
    """Return the unified account: equity, margin in use, and each coin it holds."""
    if params.get("accountType") != "UNIFIED":
        raise bad_parameter("accountType only support UNIFIED.")
    marks, account = ex.marks(), ex.account.wallet
    balance = ex.account.balance(marks)
    linear = [h for h in account.holdings.values() if ex.markets[h.symbol].category == "linear"]
    spot = [h for h in account.holdings.values() if ex.markets[h.symbol].category == "spot"]
    unrealized = sum((h.unrealized(marks[h.symbol]) for h in linear), Decimal(0))
    margin = sum((account.margin(h) for h in linear), Decimal(0))
    quote = account.cash - sum((h.cost for h in spot), Decimal(0))
    ordered = quote + unrealized - margin - balance.available
    listed = [_coin("USDT", quote, quote + unrealized, Decimal(1), unrealized, margin, max(ordered, Decimal(0)))]
    for h in spot:
        listed.append(_coin(ex.markets[h.symbol].base, h.quantity, h.quantity, marks[h.symbol]))
    entry = {
        "accountType": "UNIFIED", "totalEquity": text(balance.equity),
        "totalWalletBalance": text(balance.equity - unrealized), "totalMarginBalance": text(balance.equity),
        "totalAvailableBalance": text(balance.available), "totalPerpUPL": text(unrealized),
        "totalInitialMargin": text(margin), "totalMaintenanceMargin": "0", "accountIMRate": "0", "accountMMRate": "0",
        "accountLTV": "0", "coin": [c for c in listed if params.get("coin") in (None, "", c["coin"])],
    }  # fmt: skip
    return {"list": [entry]}


def _coin(
    name: str,
    held: Decimal,
    equity: Decimal,
    price: Decimal,
    unrealized: Decimal = Decimal(0),
    position_margin: Decimal = Decimal(0),
    order_margin: Decimal = Decimal(0),
) -> Json:
    return {
        "coin": name, "equity": text(equity), "usdValue": text(equity * price), "walletBalance": text(held),
        "free": "", "locked": "0", "borrowAmount": "0", "accruedInterest": "0", "availableToWithdraw": "",
        "availableToBorrow": "", "totalOrderIM": text(order_margin), "totalPositionIM": text(position_margin),
        "totalPositionMM": "0", "unrealisedPnl": text(unrealized), "cumRealisedPnl": "0", "bonus": "0",
        "collateralSwitch": True, "marginCollateral": True, "spotBorrow": "0",
    }  # fmt: skip


def positions(ex: Exchange, params: Params) -> Json:
    """Asked for one symbol: its entry, flat or not; asked for a settle coin: the open ones."""
    category = _contract_scope(params)
    linear = [s for s, m in ex.markets.items() if m.category == category == "linear"]
    if params.get("symbol"):
        chosen = [s for s in linear if ex.markets[s].id == params["symbol"]]
        if not chosen:
            raise bad_parameter(f"params error: symbol invalid {params['symbol']}")
    else:
        chosen = [s for s in linear if ex.account.position(s)]
    return {"category": category, "list": [views.position_view(ex, s) for s in chosen], "nextPageCursor": ""}


def _contract_scope(params: Params) -> str:
    category = category_of(params)
    scoped = params.get("symbol") or params.get("settleCoin") or params.get("baseCoin")
    if category == "linear" and not scoped:
        raise bad_parameter("Missing some parameters that must be filled in, symbol or settleCoin or baseCoin")
    return category


def open_orders(ex: Exchange, params: Params) -> Json:
    """Open orders with the stops and targets that wait; asked for one id, also one that has closed since."""
    category = _contract_scope(params) if not (params.get("orderId") or params.get("orderLinkId")) else ""
    waiting = [leg for position in ex.account.positions() for leg in views.attached(ex, position)]
    if params.get("orderId") or params.get("orderLinkId"):
        return _orders(ex, params, [*ex.account.orders, *waiting])
    found = [*ex.account.open_orders(), *waiting]
    wanted = params.get("orderFilter") or ("Order" if category == "spot" else "")
    if wanted:
        found = [o for o in found if (o.type in views.STOP_TYPE) == (wanted != "Order")]
    return _orders(ex, params, found)


def order_history(ex: Exchange, params: Params) -> Json:
    closed = [o for o in ex.account.orders if o.status is not OrderStatus.OPEN]
    start, end = time_window(ex, params)
    inside = [o for o in closed if start <= int(views.ms(o.created_at)) <= end]
    wanted = params.get("orderFilter")
    if wanted:
        inside = [o for o in inside if (o.type in views.STOP_TYPE) == (wanted != "Order")]
    return _orders(ex, params, inside)


def _orders(ex: Exchange, params: Params, found: Sequence[Order]) -> Json:
    """Filter as asked, newest first."""
    category = category_of(params)
    told: dict[str, Callable[[Order], str]] = {
        "symbol": lambda o: ex.markets[o.symbol].id, "orderId": lambda o: o.venue_order_id,
        "orderLinkId": lambda o: views.link_id(o.client_order_id), "side": lambda o: o.side.capitalize(),
    }  # fmt: skip
    asked = {name: params[name] for name in told if params.get(name)}
    here = [o for o in reversed(found) if ex.markets[o.symbol].category == category]
    fitting = [o for o in here if all(told[name](o) == value for name, value in asked.items())]
    return page(category, [views.order_view(ex, o) for o in fitting], params, 20, 50)


def executions(ex: Exchange, params: Params) -> Json:
    """Fills within the time window (7 days at most), newest first."""
    start, end = time_window(ex, params)
    inside = [f for f in reversed(ex.account.fills) if start <= int(views.ms(f.at)) <= end]
    return page(category_of(params), _matching(ex, params, inside), params, 50, 100)


def _matching(ex: Exchange, params: Params, fills: Sequence[Fill]) -> list[Json]:
    category = category_of(params)
    names = ("symbol", "orderId", "orderLinkId", "execType")
    asked = {name: params[name] for name in names if params.get(name)}
    listed = [views.execution_view(ex, f) for f in fills if ex.markets[f.symbol].category == category]
    return [view for view in listed if all(view[name] == value for name, value in asked.items())]


def time_window(ex: Exchange, params: Params) -> tuple[int, int]:
    """Return [start, end] in ms as Bybit reads it: at most 7 days; one side given, the other is 7 days away."""
    start, end = number(params, "startTime", 0), number(params, "endTime", 0)
    if start and end and end - start > WINDOW_MS:
        raise bad_parameter("The time range between startTime and endTime cannot exceed 7 days")
    if start:
        return start, end or start + WINDOW_MS
    end = end or ex.now_ms
    return end - WINDOW_MS, end


def page(category: str, listed: list[Json], params: Params, default: int, most: int) -> Json:
    """Return one page; the cursor is where the next one begins."""
    begin, size = number(params, "cursor", 0), number(params, "limit", default, most)
    cursor = str(begin + size) if begin + size < len(listed) else ""
    return {"category": category, "list": listed[begin : begin + size], "nextPageCursor": cursor}


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
