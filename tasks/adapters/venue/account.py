"""The reading half of our account at the venue: balance, positions, fills, orders, and what the key may do.

ccxt's signed calls and the venue's own rows, so that quantities and prices keep their exact digits; its unified ones
go through float and round silently.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tasks.adapters.venue import bybit, client
from tasks.adapters.venue.bybit import Permissions, ms
from tasks.adapters.venue.client import name_of, translated, understood
from tasks.adapters.venue.market import MarketData
from tasks.core.errors import InputError, VenueError, VenueUnavailable
from tasks.core.trading.money import floor_to_step
from tasks.core.types.orders import Balance, Fill, Order, OrderStatus, VenuePosition
from tasks.settings import Settings

MAX_PAGES = 100
FILL_WINDOW = timedelta(days=7)  # the longest span one /v5/execution/list answers
FILLS_KEPT = timedelta(days=730)


class VenueAccount(MarketData):
    """What `ports.Venue` tells of an account; on live every signed call first sees whose key it is."""

    def __init__(self, client: Any, settings: Settings) -> None:
        super().__init__(client, name=name_of(settings))
        self._settings = settings
        self._key_checked = settings.profile != "live"
        self.spot = tuple(symbol for symbol in settings.symbols if ":" not in symbol)

    async def balance(self) -> Balance:
        wallet = await self._wallet()
        with understood("fetch the balance", VenueUnavailable):
            return bybit.balance_of(wallet, [symbol.partition("/")[0] for symbol in self.spot])

    async def _wallet(self) -> Mapping[str, Any]:
        doing = "fetch the balance"
        rows = await self._rows(doing, "private_get_v5_account_wallet_balance", {"accountType": "UNIFIED"})
        with understood(doing, VenueUnavailable):
            return rows[0]

    async def positions(self) -> list[VenuePosition]:
        """Return the open USDT-settled linear positions, and what we hold of the coins we trade on spot."""
        doing = "fetch the positions"
        asked = {"category": "linear", "settleCoin": "USDT", "limit": 200}
        rows = await self._rows(doing, "private_get_v5_position_list", asked)
        with understood(doing, VenueUnavailable):
            found = [bybit.position_of(row, self._symbol(row["symbol"])) for row in rows]
        found += [await self._spot_position(symbol) for symbol in self.spot]
        return [position for position in found if position]

    async def _spot_position(self, symbol: str) -> VenuePosition | None:
        """Read a coin as a position: the venue has none on spot. Less than can be sold is flat."""
        instrument, wallet = await self.instrument(symbol), await self._wallet()
        with understood("fetch the positions", VenueUnavailable):
            held = bybit.exact(bybit.coin_of(wallet, symbol.partition("/")[0])["equity"])
        if held < max(instrument.step, instrument.min_quantity):
            return None
        covered = floor_to_step(held, instrument.step)  # a larger stop is refused when it fires, for want of coins
        resting = [order for order in await self.open_orders(symbol) if order.type == "stop"]
        stops = [order.price for order in resting if order.price and order.quantity - order.filled == covered]
        bought = [fill for fill in await self.fills(symbol, await self.now() - FILL_WINDOW) if fill.side == "buy"]
        paid = bought[-1].price if bought else (await self.fetch_book(symbol)).bids[0][0]
        return VenuePosition(symbol=symbol, side="long", quantity=held, avg_price=paid, stop=max(stops, default=None))

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
                    fill = bybit.fill_of(row, market)
                    found[fill.fill_id] = fill
            since += FILL_WINDOW
        newest_last = list(reversed(found.values()))  # of one instant, the venue lists the last first
        return sorted(newest_last, key=lambda fill: fill.at)

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
                return bybit.order_of(newest, symbol)
        return None

    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working orders, resting stops and targets among them (types stop and target)."""
        doing, market = f"fetch open {symbol} orders", await self._market(symbol)
        asked = self._category(market) | {"openOnly": 0, "limit": 50}
        found: dict[str, Order] = {}
        for kind in ({}, {"orderFilter": "StopOrder"}) if market["spot"] else ({},):
            rows = await self._rows(doing, "private_get_v5_order_realtime", asked | kind)
            with understood(doing, VenueUnavailable):
                orders = [bybit.order_of(row, symbol) for row in rows]
            found |= {order.venue_order_id: order for order in orders if order.status is OrderStatus.OPEN}
        return list(found.values())

    # --- whose it is -------------------------------------------------------------------------------------------

    async def permissions(self) -> Permissions:
        """Return whose key this is and what it may do; demo accounts do not tell."""
        if self._settings.profile == "testnet" and self._settings.venue_demo:
            return Permissions(account_id="")
        doing = "ask what the key may do"
        answer = await self._call(doing, "private_get_v5_user_query_api", {}, ready=False)
        with understood(doing, VenueUnavailable):
            return bybit.permissions_of(answer["result"])

    async def margin_mode(self) -> str:
        """Return how the account's margin is reckoned, in the venue's word."""
        answer = await self._call("ask the margin mode", "private_get_v5_account_info", {})
        with understood("the account's margin mode", VenueUnavailable):
            return str(answer["result"]["marginMode"])

    async def position_terms(self, symbol: str) -> tuple[bool, Decimal | None]:
        """Return whether a contract is traded one-way, and the leverage set for it; None where it is not told."""
        doing, market = f"ask the position mode of {symbol}", await self._market(symbol)
        rows = await self._rows(doing, "private_get_v5_position_list", self._category(market))
        with understood(doing, VenueUnavailable):
            one_way = not any(int(row["positionIdx"]) for row in rows)
            return one_way, bybit.price_or_none(rows[0].get("leverage")) if rows else None

    # --- underneath --------------------------------------------------------------------------------------------

    async def _ready(self) -> None:
        """Load the markets; on live, also check once whose key this is."""
        await super()._ready()
        if not self._key_checked:
            client.check_key(await self.permissions(), self._settings)
            self._key_checked = True

    @staticmethod
    def _category(market: Mapping[str, Any]) -> dict[str, object]:
        return {"category": "spot" if market["spot"] else "linear", "symbol": market["id"]}

    def _symbol(self, market_id: str) -> str:
        """Return the unified symbol of a linear contract's id (spot uses the same ids).

        One that is listed no longer can still be held: its name is read from the id, so that the watchdog sees it.
        """
        for market in self._client.markets_by_id.get(market_id, ()):
            if market["linear"]:
                return str(market["symbol"])
        base = market_id.removesuffix("USDT")
        if not base or base == market_id:
            raise KeyError(market_id)
        return f"{base}/USDT:USDT"

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
                if client.code_of(e) in fine:
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
