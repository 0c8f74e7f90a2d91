"""The exchange through ccxt: market data of any venue, orders in Bybit's V5 dialect (sandbox, testnet, live).

USDT-settled linear contracts take stop and target with the entry. On spot a market order can bring neither: the stop
rests as an order of its own that does not tie up the coins (placed or replaced by `set_protection`, and after every
trade as large as what is held), and the target is not sent, `protect` takes it. Left out on purpose: hedge mode,
spot's one-cancels-other orders (for limit entries only), streaming.
"""

import asyncio
import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tasks.adapters.venue import bybit, client
from tasks.adapters.venue.account import VenueAccount
from tasks.adapters.venue.bybit import at, category_of
from tasks.adapters.venue.client import understood
from tasks.adapters.venue.market import MarketData
from tasks.core.errors import OrderRejected, VenueUnavailable
from tasks.core.trading.money import floor_to_step
from tasks.core.types.orders import Order, OrderIntent, OrderStatus
from tasks.settings import Settings

LOOKS = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds before each look for a new order; Bybit creates them asynchronously
CREATE, CANCEL = "private_post_v5_order_create", "private_post_v5_order_cancel"
TOLD_APART_BY = {"profile", "venue", "sandbox_url", "venue_url", "venue_demo", "live_account", "symbols", "limits"}
_open: dict[tuple[object, ...], "CcxtVenue"] = {}


def connect(settings: Settings) -> "CcxtVenue":
    """Return this process's client for `settings` in the running event loop; closed by `close`.

    Raises InputError when keys are missing or live is not armed. Opens no connection.
    """
    for key in [k for k in _open if isinstance(k[0], asyncio.AbstractEventLoop) and k[0].is_closed()]:
        del _open[key]
    keys = [os.environ.get(name) for name in (client.KEY, client.SECRET, client.SANDBOX_KEY)]
    key = (asyncio.get_running_loop(), *keys, settings.model_dump_json(include=TOLD_APART_BY))
    if key not in _open:  # making a client takes some 10 ms, and a cycle asks for it dozens of times
        _open[key] = CcxtVenue(client.build(settings), settings)
    return _open[key]


async def close_all() -> None:
    """Close every client of the running event loop."""
    here = asyncio.get_running_loop()
    for opened in [venue for key, venue in _open.items() if key[0] is here]:
        await opened.close()


class CcxtVenue:
    """`ports.Venue` over a ccxt client; see that Protocol for what each method promises."""

    def __init__(self, ccxt_client: Any, settings: Settings) -> None:
        self.market = market = MarketData(ccxt_client, client.name_of(settings))
        self.account = account = VenueAccount(market, settings)
        self.name, self.attaches_protection, self._limits = market.name, not account.spot, settings.limits
        self.now, self.instrument, self.has_timeframe = market.now, market.instrument, market.has_timeframe
        self.fetch_bars, self.fetch_book, self.funding_paid = market.fetch_bars, market.fetch_book, market.funding_paid
        self.balance, self.positions, self.fills = account.balance, account.positions, account.fills
        self.find_order, self.open_orders = account.find_order, account.open_orders
        self._prepared: set[str] = set()

    async def submit(self, intent: OrderIntent) -> Order:
        """Send once, then look until the venue lists it. An order it rejects afterwards raises OrderRejected too."""
        if intent.type in bybit.PROTECTION:
            await self.set_protection(intent.symbol, *bybit.protection_of(intent), intent.client_order_id)
            return bybit.accepted(intent, "", await self.now())
        doing = f"send order {intent.client_order_id}"
        market = await self._tradable(intent.symbol, doing)
        body = bybit.order_request(intent, market)
        if not intent.reduce_only:
            await self._prepare(market)
        answer = await self.account.call(doing, CREATE, body, order=True)
        with understood(doing, VenueUnavailable):
            sent = bybit.accepted(intent, answer["orderId"], at(answer["time"]))
        order = await self._settled(sent)
        if order.status is OrderStatus.REJECTED:
            raise OrderRejected(f"{doing}: {self.name} rejected {order.venue_order_id}: {order.reason or 'no reason'}")
        if market["spot"] and order.filled:
            await self._fit_stop(market)
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

    async def _prepare(self, market: Mapping[str, Any]) -> None:
        """Before a contract's first entry: one-way mode is required, and the leverage the limits reckon with is set."""
        symbol = market["symbol"]
        if market["spot"] or symbol in self._prepared:
            return
        leverage = await self.account.leverage(symbol, OrderRejected)
        wanted = min(self._limits.leverage_of(symbol), (await self.instrument(symbol)).max_leverage)
        if leverage != wanted:
            value = bybit.wire(wanted)
            body = category_of(market) | {"buyLeverage": value, "sellLeverage": value}
            method, same = "private_post_v5_position_set_leverage", client.NOT_MODIFIED
            await self.account.call(f"set {symbol} leverage {value}", method, body, fine=same, order=True)
        self._prepared.add(symbol)

    async def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, client_order_id: str = ""
    ) -> None:
        """Change stop and target; doing it twice is harmless. On contracts the venue keeps no client id for it."""
        doing = f"set {symbol} stop={stop} target={target}"
        market, prices = await self._tradable(symbol, doing), bybit.protection(stop, target)
        if market["spot"]:
            if stop is not None:
                await self._rest_stop(market, stop, client_order_id)
        elif prices:
            body = category_of(market) | {"positionIdx": 0, **prices}
            method, same = "private_post_v5_position_trading_stop", client.NOT_MODIFIED
            await self.account.call(doing, method, body, fine=same, order=True)

    async def cancel(self, symbol: str, client_order_id: str) -> None:
        """Cancel a working order; one that is already gone is fine."""
        market = await self.market.listing(symbol)
        for kind in bybit.order_kinds(market):
            body = category_of(market) | {"orderLinkId": client_order_id} | kind
            await self.account.call(f"cancel order {client_order_id}", CANCEL, body, fine=client.GONE, order=True)

    async def close(self) -> None:
        """Close the connections; `connect` makes a new client."""
        for key in [k for k, venue in _open.items() if venue is self]:
            del _open[key]
        await self.market.close()

    # --- spot --------------------------------------------------------------------------------------------------

    async def _fit_stop(self, market: Mapping[str, Any]) -> None:
        """After a trade: a stop that rests covers what is held now, and goes when nothing is."""
        stops = [order.price for order in await self.open_orders(market["symbol"]) if order.type == "stop"]
        if prices := [price for price in stops if price]:
            position = await self.account.spot_position(market["symbol"])
            await self._rest_stop(market, max(prices) if position else Decimal(0))

    async def _rest_stop(self, market: Mapping[str, Any], trigger: Decimal, client_order_id: str = "") -> None:
        """Let one stop rest for all we hold: the new one first, then those before it are cancelled; 0: none."""
        symbol, doing = market["symbol"], f"set {market['symbol']} stop={trigger}"
        resting = [order for order in await self.open_orders(symbol) if order.type == "stop"]
        keep: list[Order] = []
        if trigger:
            position = await self.account.spot_position(symbol)
            if position is None:
                raise OrderRejected(f"{doing}: nothing of it is held")
            quantity = floor_to_step(position.quantity, (await self.instrument(symbol)).step)
            keep = [order for order in resting if (order.price, order.quantity) == (trigger, quantity)][:1]
            if not keep:
                bid = (await self.fetch_book(symbol)).bids[0][0]
                if trigger >= bid:
                    raise OrderRejected(f"{doing}: must be below the best bid {bid}")
                body = bybit.spot_stop_request(market, quantity, trigger, client_order_id)
                await self.account.call(doing, CREATE, body, order=True)
        for order in resting:
            if order not in keep:
                body = category_of(market) | {"orderId": order.venue_order_id, "orderFilter": "StopOrder"}
                await self.account.call(doing, CANCEL, body, fine=client.GONE, order=True)

    async def _tradable(self, symbol: str, doing: str) -> Mapping[str, Any]:
        market = await self.market.listing(symbol)
        if not (market["linear"] or market["spot"]) or (market["settle"] or market["quote"]) != "USDT":
            raise OrderRejected(f"{doing}: {symbol} is neither a USDT-settled linear contract nor spot against USDT")
        return market
