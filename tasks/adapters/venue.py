"""The exchange through ccxt: market data of any venue, orders in Bybit's V5 dialect (sandbox, testnet, live).

Orders, fills, positions and balances use ccxt's signed calls and the venue's own rows, so that quantities and prices
keep their exact digits both ways; ccxt's unified ones go through float and round to the venue's steps silently.
Left out on purpose: spot orders (Bybit attaches no stop to a spot market order, so an entry would be naked),
hedge mode, streaming.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tasks.adapters import venue_client, venue_translate
from tasks.adapters.venue_client import translated, understood
from tasks.adapters.venue_market import MarketData
from tasks.adapters.venue_translate import Permissions, at, ms
from tasks.core.errors import InputError, OrderRejected, VenueError, VenueUnavailable
from tasks.core.types.orders import Balance, Fill, Order, OrderIntent, OrderStatus, OrderType, VenuePosition
from tasks.settings import Settings

MAX_PAGES = 100
FILL_WINDOW = timedelta(days=7)  # the longest span one /v5/execution/list answers
FILLS_KEPT = timedelta(days=730)
LOOKS = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds before each look for a new order; Bybit creates them asynchronously
_open: dict[tuple[object, ...], "CcxtVenue"] = {}


def connect(settings: Settings) -> "CcxtVenue":
    """Return this process's client for `settings` in the running event loop; closed by `close`.

    Raises InputError when keys are missing or live is not armed. Opens no connection.
    """
    for key in [k for k in _open if isinstance(k[0], asyncio.AbstractEventLoop) and k[0].is_closed()]:
        del _open[key]
    client = venue_client.build(settings)
    key = (asyncio.get_running_loop(), settings.profile, client.id, settings.sandbox_url, settings.live_account)
    key += (client.apiKey,)
    if key not in _open:
        _open[key] = CcxtVenue(client, settings)
    return _open[key]


class CcxtVenue(MarketData):
    """`ports.Venue` over a ccxt client; see that Protocol for what each method promises."""

    def __init__(self, client: Any, settings: Settings) -> None:
        super().__init__(client, name=f"{client.id}-{settings.profile}")
        self._settings = settings
        self._account_checked = settings.profile != "live"

    # --- the account -------------------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        doing = "fetch the balance"
        rows = await self._rows(doing, "private_get_v5_account_wallet_balance", {"accountType": "UNIFIED"})
        with understood(doing, VenueUnavailable):
            return venue_translate.balance_of(rows[0])

    async def positions(self) -> list[VenuePosition]:
        """Return the open USDT-settled linear positions."""
        doing = "fetch the positions"
        asked = {"category": "linear", "settleCoin": "USDT", "limit": 200}
        rows = await self._rows(doing, "private_get_v5_position_list", asked)
        with understood(doing, VenueUnavailable):
            found = [venue_translate.position_of(row, self._symbol(row["symbol"])) for row in rows]
        return [position for position in found if position]

    async def permissions(self) -> Permissions:
        """Return whose key this is and what it may do; demo accounts do not tell."""
        if self._settings.profile == "testnet":
            return Permissions(account_id="")
        doing = "ask what the key may do"
        answer = await self._call(doing, "private_get_v5_user_query_api", {}, ready=False)
        with understood(doing, VenueUnavailable):
            return venue_translate.permissions_of(answer["result"])

    async def account_id(self) -> str:
        return (await self.permissions()).account_id

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first; funding payments among them (quantity 0)."""
        market, doing = await self._market(symbol), f"fetch {symbol} fills"
        now, found = await self.now(), dict[str, Fill]()
        since = max(since, now - FILLS_KEPT)
        while since <= now:
            asked = self._category(market) | {"startTime": ms(since), "limit": 100}
            if since + FILL_WINDOW < now:
                asked["endTime"] = ms(since + FILL_WINDOW)
            for row in await self._rows(doing, "private_get_v5_execution_list", asked):
                with understood(doing, VenueUnavailable):
                    fill = venue_translate.fill_of(row, symbol, market["settle"] or market["quote"])
                    found[fill.fill_id] = fill
            since += FILL_WINDOW
        return sorted(found.values(), key=lambda fill: fill.at)

    # --- orders ------------------------------------------------------------------------------------------------

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        """Ask what is working, then the history (7 days back). None only if both say there is no such order."""
        doing = f"look up order {client_order_id}"
        asked = self._category(await self._market(symbol)) | {"orderLinkId": client_order_id}
        for method in ("private_get_v5_order_realtime", "private_get_v5_order_history"):
            result = (await self._call(doing, method, asked))["result"]
            with understood(doing, VenueUnavailable):
                rows = list(result["list"])
                if not rows:
                    continue
                newest = max(rows, key=lambda row: int(row["updatedTime"]))
                if any(row["orderLinkId"] != client_order_id for row in rows):
                    raise ValueError(f"answered with order {newest['orderLinkId']!r}")
                return venue_translate.order_of(newest, symbol)
        return None

    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working orders, resting stops and targets among them (types stop and target)."""
        doing = f"fetch open {symbol} orders"
        asked = self._category(await self._market(symbol)) | {"openOnly": 0, "limit": 50}
        rows = await self._rows(doing, "private_get_v5_order_realtime", asked)
        with understood(doing, VenueUnavailable):
            orders = [venue_translate.order_of(row, symbol) for row in rows]
        return [order for order in orders if order.status is OrderStatus.OPEN]

    async def submit(self, intent: OrderIntent) -> Order:
        """Send once, then look until the venue lists it. An order it rejects afterwards raises OrderRejected too."""
        doing = f"send order {intent.client_order_id}"
        market = await self._tradable(intent.symbol, doing)
        if intent.type in venue_translate.PROTECTION:
            return await self._protect(intent)
        if intent.type is OrderType.LIMIT and intent.price is None:
            raise OrderRejected(f"{doing}: a limit order needs a price")
        body = venue_translate.order_request(intent, market["id"])
        answer = await self._call(doing, "private_post_v5_order_create", body, order=True)
        with understood(doing, VenueUnavailable):
            sent = venue_translate.accepted(intent, answer["result"]["orderId"], at(answer["time"]), OrderStatus.OPEN)
        order = await self._settled(sent)
        if order.status is OrderStatus.REJECTED:
            raise OrderRejected(f"{doing}: {self.name} rejected {order.venue_order_id}: {order.reason or 'no reason'}")
        return order

    async def _settled(self, sent: Order) -> Order:
        """Look for a new order until it is listed and, if a market order, no longer open; else return what we know."""
        seen = sent
        for wait in LOOKS:
            await asyncio.sleep(wait)
            try:
                seen = await self.find_order(sent.symbol, sent.client_order_id) or seen
            except VenueUnavailable:
                continue  # it was accepted: that is known, whatever this look-up says
            if seen is not sent and (sent.type != "market" or seen.status is not OrderStatus.OPEN):
                break
        return seen

    async def _protect(self, intent: OrderIntent) -> Order:
        """Change the position's stop or target: the venue keeps no client id for it, and doing it twice is harmless."""
        cancels = intent.type is OrderType.CANCEL_TARGET
        if intent.price is None and not cancels:
            raise OrderRejected(f"send order {intent.client_order_id}: a {intent.type} needs a trigger price")
        stop = intent.price if intent.type is OrderType.STOP else None
        target = intent.price if intent.type is OrderType.TARGET else Decimal(0) if cancels else None
        await self.set_protection(intent.symbol, stop, target)
        status = OrderStatus.CANCELLED if cancels else OrderStatus.OPEN
        return venue_translate.accepted(intent, "", await self.now(), status)

    async def set_protection(self, symbol: str, stop: Decimal | None, target: Decimal | None) -> None:
        doing = f"set {symbol} stop={stop} target={target}"
        market = await self._tradable(symbol, doing)
        prices = venue_translate.protection(stop, target)
        if prices:
            body = {"category": "linear", "symbol": market["id"], "positionIdx": 0, **prices}
            method, same = "private_post_v5_position_trading_stop", venue_client.NOT_MODIFIED
            await self._call(doing, method, body, fine=same, order=True)

    async def cancel(self, symbol: str, client_order_id: str) -> None:
        """Cancel a working order; one that is already gone is fine."""
        body = self._category(await self._market(symbol)) | {"orderLinkId": client_order_id}
        doing = f"cancel order {client_order_id}"
        await self._call(doing, "private_post_v5_order_cancel", body, fine=venue_client.GONE, order=True)

    async def close(self) -> None:
        """Close the connections; `connect` makes a new client."""
        for key in [k for k, venue in _open.items() if venue is self]:
            del _open[key]
        await self._client.close()

    # --- underneath --------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        """Load the markets; on live, also check once whose key this is."""
        await super()._ready()
        if not self._account_checked:
            self._check_account(await self.permissions())
            self._account_checked = True

    def _check_account(self, key: Permissions) -> None:
        armed = self._settings.live_account
        if key.account_id != armed:
            raise InputError(f"QUARTERDECK_LIVE_ACCOUNT={armed!r}, but the key belongs to account {key.account_id}")
        if key.withdraw is not False:
            said = "may withdraw" if key.withdraw else "does not say whether it may withdraw"
            raise InputError(f"the key in {venue_client.KEY} {said}: make one without withdrawal permission")
        if key.read_only:
            raise InputError(f"the key in {venue_client.KEY} is read-only: make one that may trade contracts")

    async def _tradable(self, symbol: str, doing: str) -> Mapping[str, Any]:
        market = await self._market(symbol)
        if not market["linear"] or market["settle"] != "USDT":
            raise OrderRejected(f"{doing}: {symbol} is not a USDT-settled linear contract; orders go to those only")
        return market

    @staticmethod
    def _category(market: Mapping[str, Any]) -> dict[str, object]:
        return {"category": "spot" if market["spot"] else "linear", "symbol": market["id"]}

    def _symbol(self, market_id: str) -> str:
        """Return the unified symbol of a linear contract's id (spot uses the same ids)."""
        for market in self._client.markets_by_id[market_id]:
            if market["linear"]:
                return str(market["symbol"])
        raise KeyError(market_id)

    async def _call(
        self,
        doing: str,
        method: str,
        params: Mapping[str, object],
        *,
        fine: frozenset[str] = frozenset(),
        order: bool = False,
        ready: bool = True,
    ) -> dict[str, Any]:
        """Make one signed call. fine: the venue's error codes that mean there was nothing left to do."""
        from ccxt.base.errors import BaseError

        if self._settings.profile == "paper":
            raise InputError(f"{doing}: profile paper has no account at {self._client.id}")
        if ready:
            await self._ready()
        with translated(self._client, doing, order=order):
            try:
                answer: object = await getattr(self._client, method)(dict(params))
            except BaseError as e:
                if venue_client.code_of(e) in fine:
                    return {}
                raise
        if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
            raise VenueUnavailable(f"{doing}: the answer has no result")
        return answer

    async def _rows(self, doing: str, method: str, params: Mapping[str, object]) -> list[dict[str, Any]]:
        """Read all pages of a list."""
        rows: list[dict[str, Any]] = []
        cursor: dict[str, object] = {}
        for _ in range(MAX_PAGES):
            result = (await self._call(doing, method, {**params, **cursor}))["result"]
            with understood(doing, VenueUnavailable):
                page = list(result["list"])
            rows += page
            following = result.get("nextPageCursor")
            if not page or not following or following == cursor.get("cursor"):
                return rows
            cursor = {"cursor": following}
        raise VenueError(f"{doing}: more than {MAX_PAGES} pages")
