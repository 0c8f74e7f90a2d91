"""Our account at the venue: signed calls, and what they tell of balance, positions, fills, orders and the key.

ccxt's signed calls and the venue's own rows, so that quantities and prices keep their exact digits; its unified ones
go through float and round silently.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from tasks.adapters.venue import bybit, client
from tasks.adapters.venue.bybit import Permissions, Row, category_of, ms
from tasks.adapters.venue.client import translated, understood
from tasks.adapters.venue.market import MarketData
from tasks.core.errors import InputError, TradingError, VenueError, VenueUnavailable
from tasks.core.trading.money import floor_to_step
from tasks.core.types.orders import Balance, Fill, Order, OrderStatus, VenuePosition
from tasks.settings import Settings

MAX_PAGES = 100
FILL_WINDOW = timedelta(days=7)  # the longest span one /v5/execution/list answers
FILLS_KEPT = timedelta(days=730)
T = TypeVar("T")


class VenueAccount:
    """What `ports.Venue` tells of an account; on live whose key it is is checked before anything else."""

    def __init__(self, market: MarketData, settings: Settings) -> None:
        self.market, self.settings = market, settings
        self.spot = tuple(symbol for symbol in settings.symbols if ":" not in symbol)
        if settings.profile == "live":
            market.check_key = self._check_key

    async def balance(self) -> Balance:
        bases = [symbol.partition("/")[0] for symbol in self.spot]
        return await self._wallet(lambda account: bybit.balance_of(account, bases))

    async def _wallet(self, read: Callable[[Row], T]) -> T:
        doing, asked = "fetch the balance", {"accountType": "UNIFIED"}
        rows = await self.rows(doing, "private_get_v5_account_wallet_balance", asked, read)
        with understood(doing, VenueUnavailable):
            return rows[0]

    async def positions(self) -> list[VenuePosition]:
        """Return the open USDT-settled linear positions, and what we hold of the coins we trade on spot."""
        asked = {"category": "linear", "settleCoin": "USDT", "limit": 200}
        found = await self.rows(
            "fetch the positions", "private_get_v5_position_list", asked,
            lambda row: bybit.position_of(row, self._symbol(row["symbol"])),
        )  # fmt: skip
        found += [await self.spot_position(symbol) for symbol in self.spot]
        return [position for position in found if position]

    async def spot_position(self, symbol: str) -> VenuePosition | None:
        """Read a coin as a position: the venue has none on spot. Less than can be sold is flat."""
        instrument, base = await self.market.instrument(symbol), symbol.partition("/")[0]
        coins = await self._wallet(lambda account: bybit.number(bybit.coin_of(account, base), "equity"))
        if coins < max(instrument.step, instrument.min_quantity):
            return None
        covered = floor_to_step(coins, instrument.step)  # a larger stop is refused when it fires, for want of coins
        resting = [order for order in await self.open_orders(symbol) if order.type == "stop"]
        stops = [order.price for order in resting if order.price and order.quantity - order.filled == covered]
        recent = await self.fills(symbol, await self.market.now() - FILL_WINDOW)
        bought = [fill.price for fill in recent if fill.side == "buy"]
        paid = bought[-1] if bought else (await self.market.fetch_book(symbol)).bids[0][0]
        return VenuePosition(symbol=symbol, side="long", quantity=coins, avg_price=paid, stop=max(stops, default=None))

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first; funding payments among them (quantity 0)."""
        market, now, found = await self.market.listing(symbol), await self.market.now(), dict[str, Fill]()
        since = max(since, now - FILLS_KEPT)
        while since <= now:
            asked = category_of(market) | {"startTime": ms(since), "limit": 100}
            if since + FILL_WINDOW < now:
                asked["endTime"] = ms(since + FILL_WINDOW)
            fills = await self.rows(
                f"fetch {symbol} fills", "private_get_v5_execution_list", asked, lambda row: bybit.fill_of(row, market)
            )
            found |= {fill.fill_id: fill for fill in fills}
            since += FILL_WINDOW
        newest_last = reversed(found.values())  # of one instant, the venue lists the last first
        return sorted(newest_last, key=lambda fill: fill.at)

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        """Ask what is working, then the history (7 days back). None only if both say there is no such order."""
        doing = f"look up order {client_order_id}"
        asked = category_of(await self.market.listing(symbol)) | {"orderLinkId": client_order_id}
        for method in ("private_get_v5_order_realtime", "private_get_v5_order_history"):
            result = await self.call(doing, method, asked)
            with understood(doing, VenueUnavailable):
                if rows := list(result["list"]):
                    newest = max(rows, key=lambda row: bybit.at(row["updatedTime"], "updatedTime"))
                    if any(row["orderLinkId"] != client_order_id for row in rows):
                        raise ValueError(f"answered with order {newest['orderLinkId']!r}")
                    return bybit.order_of(newest, symbol)
        return None

    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working orders, resting stops and targets among them (types stop and target)."""
        market, found = await self.market.listing(symbol), dict[str, Order]()
        for kind in bybit.order_kinds(market):
            asked = category_of(market) | {"openOnly": 0, "limit": 50} | kind
            orders = await self.rows(
                f"fetch open {symbol} orders", "private_get_v5_order_realtime", asked,
                lambda row: bybit.order_of(row, symbol),
            )  # fmt: skip
            found |= {order.venue_order_id: order for order in orders if order.status is OrderStatus.OPEN}
        return list(found.values())

    # --- whose it is -------------------------------------------------------------------------------------------

    async def permissions(self) -> Permissions:
        """Return whose key this is and what it may do; demo accounts do not tell."""
        if self.settings.profile == "testnet" and self.settings.venue_demo:
            return Permissions(account_id="")
        doing = "ask what the key may do"
        answer = await self.call(doing, "private_get_v5_user_query_api", {}, ready=False)
        with understood(doing, VenueUnavailable):
            return bybit.permissions_of(answer)

    async def margin_mode(self) -> str:
        """Return how the account's margin is reckoned, in the venue's word."""
        answer = await self.call("ask the margin mode", "private_get_v5_account_info", {})
        with understood("the account's margin mode", VenueUnavailable):
            return str(answer["marginMode"])

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        """Return the leverage set for a contract, None where it is not told; raise `refusal` in hedge mode."""
        terms = await self.rows(
            f"ask the position mode of {symbol}", "private_get_v5_position_list",
            category_of(await self.market.listing(symbol)),
            lambda row: (int(row["positionIdx"]), bybit.told(row, "leverage")),
        )  # fmt: skip
        if any(index for index, _ in terms):
            raise refusal(f"{symbol} is in hedge mode at {self.market.name}: switch the account to one-way mode")
        return terms[0][1] if terms else None

    # --- underneath --------------------------------------------------------------------------------------------

    async def _check_key(self) -> None:
        client.check_key(await self.permissions(), self.settings)
        self.market.check_key = None

    def _symbol(self, market_id: str) -> str:
        """Return the unified symbol of a linear contract's id (spot uses the same ids).

        One that is listed no longer can still be held: its name is read from the id, so that the watchdog sees it.
        """
        for market in self.market.client.markets_by_id.get(market_id, ()):
            if market["linear"]:
                return str(market["symbol"])
        base = market_id.removesuffix("USDT")
        if not base or base == market_id:
            raise KeyError(market_id)
        return f"{base}/USDT:USDT"

    async def call(
        self, doing: str, method: str, params: Mapping[str, object], *, fine: frozenset[str] = frozenset(),
        order: bool = False, ready: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Make one signed call and return its result and time.

        fine: the venue's error codes that mean there was nothing left to do. ready: load the markets first.
        """
        from ccxt.base.errors import BaseError

        if self.settings.profile == "paper":
            raise InputError(f"{doing}: profile paper has no account at {self.market.client.id}")
        if ready:
            await self.market.ready()
        with translated(self.market.client, doing, order=order):
            try:
                answer: object = await getattr(self.market.client, method)(dict(params))
            except BaseError as e:
                if client.code_of(e) in fine:
                    return {}
                raise
        if not isinstance(answer, dict) or not isinstance(answer.get("result"), dict):
            raise VenueUnavailable(f"{doing}: the answer has no result")
        return {"time": answer.get("time"), **answer["result"]}

    async def rows(self, doing: str, method: str, params: Mapping[str, object], read: Callable[[Row], T]) -> list[T]:
        """Read all pages of a list, each row by `read`."""
        rows: list[T] = []
        for _ in range(MAX_PAGES):
            result = await self.call(doing, method, params)
            with understood(doing, VenueUnavailable):
                page = [read(row) for row in result["list"]]
            rows += page
            cursor = result.get("nextPageCursor")
            if not page or not cursor or cursor == params.get("cursor"):
                return rows
            params = {**params, "cursor": cursor}
        raise VenueError(f"{doing}: more than {MAX_PAGES} pages")
