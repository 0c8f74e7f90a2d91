"""Bybit's V5 dialect (sandbox, testnet, live): signed calls, and the venue's own rows.

ccxt's signed calls rather than its unified ones, so that quantities and prices keep their exact digits. USDT-settled
linear contracts take stop and target with the entry. On spot a market order can bring neither: the stop rests as an
order of its own that does not tie up the coins (placed or replaced by `protect`, and after every trade as large as
what is held), and the target is not sent, the watchdog takes it. Left out on purpose: hedge mode, spot's
one-cancels-other orders (for limit entries only), streaming.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from tasks.adapters.venue import bybit_rows
from tasks.adapters.venue.account import ArmingFacts, Dialect, Permissions, accepted
from tasks.adapters.venue.bybit_rows import category_of
from tasks.adapters.venue.client import translated, understood
from tasks.adapters.venue.meaning import Meaning
from tasks.adapters.venue.wire import Row, at, ms, number, told, wire
from tasks.core.errors import OrderRejected, TradingError, VenueError, VenueUnavailable
from tasks.core.trading.money import floor_to_step
from tasks.core.types import Balance, Fill, Order, OrderIntent, OrderStatus, VenuePosition

CREATE, CANCEL = "private_post_v5_order_create", "private_post_v5_order_cancel"
FEE_SWITCHES = ("fmsef", "smsef")  # fees in MNT, on contracts and on spot
MAX_PAGES = 100
FILL_WINDOW = timedelta(days=7)  # the longest span one /v5/execution/list answers
FILLS_KEPT = timedelta(days=730)
T = TypeVar("T")


class Bybit(Dialect):
    """Orders in Bybit's words; see `Dialect`."""

    takes_spot = True

    async def balance(self) -> Balance:
        bases = [symbol.partition("/")[0] for symbol in self.spot]
        return await self._wallet(lambda account: bybit_rows.balance_of(account, bases))

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
            lambda row: bybit_rows.position_of(row, self._symbol(row["symbol"])),
        )  # fmt: skip
        found += [await self.spot_position(symbol) for symbol in self.spot]
        return [position for position in found if position]

    async def spot_position(self, symbol: str) -> VenuePosition | None:
        """Read a coin as a position: the venue has none on spot. Less than can be sold is flat."""
        instrument, base = await self.market.instrument(symbol), symbol.partition("/")[0]
        coins = await self._wallet(lambda account: number(bybit_rows.coin_of(account, base), "equity"))
        if coins < max(instrument.step, instrument.min_quantity):
            return None
        stop, covers = max(await self._stops(symbol), default=(None, None))
        recent = await self.fills(symbol, await self.market.now() - FILL_WINDOW)
        bought = [fill.price for fill in recent if fill.side == "buy"]
        paid = bought[-1] if bought else (await self.market.fetch_book(symbol)).bids[0][0]
        return VenuePosition(
            symbol=symbol, side="long", quantity=coins, avg_price=paid, stop=stop, stop_quantity=covers
        )

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first; funding payments among them (quantity 0)."""
        market, now, found = await self.market.listing(symbol), await self.market.now(), dict[str, Fill]()
        since = max(since, now - FILLS_KEPT)
        while since <= now:
            asked = category_of(market) | {"startTime": ms(since), "limit": 100}
            if since + FILL_WINDOW < now:
                asked["endTime"] = ms(since + FILL_WINDOW)
            fills = await self.rows(
                f"fetch {symbol} fills",
                "private_get_v5_execution_list",
                asked,
                lambda row: bybit_rows.fill_of(row, market),
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
                    newest = max(rows, key=lambda row: at(row["updatedTime"], "updatedTime"))
                    if any(row["orderLinkId"] != client_order_id for row in rows):
                        raise ValueError(f"answered with order {newest['orderLinkId']!r}")
                    return bybit_rows.order_of(newest, symbol)
        return None

    async def open_orders(self, symbol: str) -> list[Order]:
        market, found = await self.market.listing(symbol), dict[str, Order]()
        for kind in bybit_rows.order_kinds(market):
            asked = category_of(market) | {"openOnly": 0, "limit": 50} | kind
            orders = await self.rows(
                f"fetch open {symbol} orders", "private_get_v5_order_realtime", asked,
                lambda row: bybit_rows.order_of(row, symbol),
            )  # fmt: skip
            found |= {order.venue_order_id: order for order in orders if order.status is OrderStatus.OPEN}
        return list(found.values())

    # --- what is done

    async def prepare(self, market: Row) -> None:
        symbol = market["symbol"]
        leverage = await self.leverage(symbol, OrderRejected)
        limits, instrument = self.settings.limits, await self.market.instrument(symbol)
        wanted = min(limits.leverage_of(symbol), instrument.max_leverage)
        if leverage != wanted:
            value = wire(wanted)
            body = category_of(market) | {"buyLeverage": value, "sellLeverage": value}
            doing, method = f"set {symbol} leverage {value}", "private_post_v5_position_set_leverage"
            await self.call(doing, method, body, fine=Meaning.NOT_MODIFIED, order=True)

    async def create(self, intent: OrderIntent, market: Row) -> Order:
        doing, body = f"send order {intent.client_order_id}", bybit_rows.order_request(intent, market)
        answer = await self.call(doing, CREATE, body, order=True)
        with understood(doing, VenueUnavailable):
            return accepted(intent, answer["orderId"], at(answer["time"]))

    async def protect(
        self, market: Row, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None, client_order_id: str
    ) -> None:
        """Doing it twice is harmless. On contracts the venue keeps no client id for it."""
        prices = bybit_rows.protection(stop, target)
        if market["spot"]:
            if stop is not None:
                await self._rest_stop(market, stop, quantity, client_order_id)
        elif prices:
            doing, body = f"set {market['symbol']} stop={stop} target={target}", category_of(market)
            body |= {"positionIdx": 0, **prices}
            method = "private_post_v5_position_trading_stop"
            await self.call(doing, method, body, fine=Meaning.NOT_MODIFIED, order=True)

    async def cancel(self, market: Row, client_order_id: str) -> None:
        for kind in bybit_rows.order_kinds(market):
            body = category_of(market) | {"orderLinkId": client_order_id} | kind
            await self.call(f"cancel order {client_order_id}", CANCEL, body, fine=Meaning.GONE, order=True)

    async def traded(self, market: Row, order: Order) -> None:
        """On spot a stop that rests covers what it did and what came or went, and goes when nothing is left."""
        if market["spot"] and (stops := await self._stops(market["symbol"])):
            trigger, covers = max(stops)
            covers += order.filled if order.side == "buy" else -order.filled
            left = covers > 0 and await self.spot_position(market["symbol"])
            await self._rest_stop(market, trigger if left else Decimal(0), covers)

    async def _stops(self, symbol: str) -> list[tuple[Decimal, Decimal]]:
        """Return trigger and open quantity of the spot stops that rest."""
        resting = [order for order in await self.open_orders(symbol) if order.type == "stop"]
        return [(order.price, order.quantity - order.filled) for order in resting if order.price]

    async def _rest_stop(
        self, market: Row, trigger: Decimal, quantity: Decimal | None, client_order_id: str = ""
    ) -> None:
        """Let one stop rest for `quantity`, None: all we hold; the new one first, then others are cancelled; 0: none.

        Never for more than there is: such a one is refused when it fires, for want of coins.
        """
        symbol, doing = market["symbol"], f"set {market['symbol']} stop={trigger}"
        resting = [order for order in await self.open_orders(symbol) if order.type == "stop"]
        keep: list[Order] = []
        position = await self.spot_position(symbol) if trigger else None
        if trigger and position is None:
            raise OrderRejected(f"{doing}: nothing of it is held")
        if position is not None:
            covered = position.quantity if quantity is None else min(quantity, position.quantity)
            quantity = floor_to_step(covered, (await self.market.instrument(symbol)).step)
            keep = [order for order in resting if (order.price, order.quantity) == (trigger, quantity)][:1]
            if not keep:
                bid = (await self.market.fetch_book(symbol)).bids[0][0]
                if trigger >= bid:
                    raise OrderRejected(f"{doing}: must be below the best bid {bid}")
                body = bybit_rows.spot_stop_request(market, quantity, trigger, client_order_id)
                await self.call(doing, CREATE, body, order=True)
        for order in resting:
            if order not in keep:
                body = category_of(market) | {"orderId": order.venue_order_id, "orderFilter": "StopOrder"}
                await self.call(doing, CANCEL, body, fine=Meaning.GONE, order=True)

    # --- whose it is

    async def permissions(self) -> Permissions:
        """Demo accounts do not tell."""
        if self.settings.profile == "testnet" and self.settings.venue_demo:
            return Permissions(account_id="")
        doing = "ask what the key may do"
        answer = await self.call(doing, "private_get_v5_user_query_api", {}, ready=False)
        with understood(doing, VenueUnavailable):
            contracts = len(self.spot) < len(self.settings.symbols)
            wanted = {
                "ContractTrade": ("Order", "Position") if contracts else (),
                "Spot": ("SpotTrade",) * bool(self.spot),
            }
            return bybit_rows.permissions_of(answer, wanted)

    async def arming(self) -> ArmingFacts:
        info = await self._info()
        if str(info.get("unifiedMarginStatus")) == "1":  # its wallet answers otherwise
            flaw = "a classic account: upgrade it to a unified trading account at Bybit"
            return ArmingFacts(margin_mode="classic", leverage={}, flaws=(flaw,))
        facts = await super().arming()
        flaws, notes = [*facts.flaws], []
        if facts.margin_mode == "PORTFOLIO_MARGIN":
            flaws.append("portfolio margin: switch the account to cross margin at Bybit")
        with suppress(VenueError):  # demo accounts do not tell
            switches = await self.call("ask the fee coin", "private_get_v5_account_user_setting_config", {})
            if any(switches.get(name) for name in FEE_SWITCHES):
                notes.append("pays fees in MNT, which are booked at what they are worth: switch it off to pay USDT")
        return facts.replace(flaws=tuple(flaws), notes=tuple(notes))

    async def _info(self) -> dict[str, Any]:
        return await self.call("ask how the account is set", "private_get_v5_account_info", {})

    async def margin_mode(self) -> str:
        answer = await self._info()
        with understood("the account's margin mode", VenueUnavailable):
            return str(answer["marginMode"])

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        terms = await self.rows(
            f"ask the position mode of {symbol}", "private_get_v5_position_list",
            category_of(await self.market.listing(symbol)),
            lambda row: (int(row["positionIdx"]), told(row, "leverage")),
        )  # fmt: skip
        if any(index for index, _ in terms):
            raise refusal(f"{symbol} is in hedge mode at {self.market.name}: switch the account to one-way mode")
        return terms[0][1] if terms else None

    # --- underneath

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
        self, doing: str, method: str, params: Mapping[str, object], *, fine: Meaning | None = None,
        order: bool = False, ready: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Make one signed call and return its result and time.

        fine: an error of this meaning is none. ready: load the markets first.
        """
        await self.allowed(doing, ready)
        answer: object = {"result": {}}
        with translated(self.market.client, doing, order=order, fine=fine):
            answer = await getattr(self.market.client, method)(dict(params))
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
