"""The exchange through ccxt: market data of any venue, orders in the dialect of those that are spoken here."""

import asyncio
import os
from datetime import datetime
from decimal import Decimal
from typing import Any

from tasks.adapters.venue import Dialect, MarketData, accepted, client, protection_of
from tasks.adapters.venue.binanceusdm import BinanceUsdm
from tasks.adapters.venue.bitget import Bitget
from tasks.adapters.venue.bybit import Bybit
from tasks.adapters.venue.hyperliquid import Hyperliquid
from tasks.adapters.venue.okx import Okx
from tasks.core.simulation.rejections import PROTECTIVE
from tasks.core.types import Fill, Order, OrderIntent, OrderRejected, OrderStatus, VenueUnavailable
from tasks.settings import Settings

DIALECTS: dict[str, type[Dialect]] = {
    "binanceusdm": BinanceUsdm,
    "bitget": Bitget,
    "bybit": Bybit,
    "hyperliquid": Hyperliquid,
    "okx": Okx,
}
LOOKS = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds before each look for a new order; Bybit creates them asynchronously
TOLD_APART_BY = {
    "profile",
    "venue",
    "sandbox_url",
    "venue_url",
    "venue_host",
    "venue_demo",
    "live_account",
    "symbols",
    "limits",
}
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
        self.account = account = DIALECTS.get(client.exchange_of(settings), Bybit)(market, settings)
        self.name, self.attaches_protection = market.name, account.attaches and not account.spot
        self.keeps_ids = account.keeps_ids
        self.now, self.instrument, self.has_timeframe = market.now, market.instrument, market.has_timeframe
        self.fetch_bars, self.fetch_book, self.funding_paid = market.fetch_bars, market.fetch_book, market.funding_paid
        self.balance, self.positions = account.balance, account.positions
        self.find_order, self.open_orders = account.find_order, account.open_orders
        self._prepared: set[str] = set()

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        return [await self.market.valued(fill) for fill in await self.account.fills(symbol, since)]

    async def submit(self, intent: OrderIntent) -> Order:
        """Send once, then look until the venue lists it. An order it rejects afterwards raises OrderRejected too."""
        if intent.type in PROTECTIVE:
            await self.set_protection(intent.symbol, *protection_of(intent), intent.quantity, intent.client_order_id)
            return accepted(intent, "", await self.now())
        doing = f"send order {intent.client_order_id}"
        market = await self.account.tradable(intent.symbol, doing)
        if not (intent.reduce_only or market["spot"] or intent.symbol in self._prepared):
            await self.account.prepare(market)
            self._prepared.add(intent.symbol)
        order = await self._settled(await self.account.create(intent, market))
        if order.status is OrderStatus.REJECTED:
            raise OrderRejected(f"{doing}: {self.name} rejected {order.venue_order_id}: {order.reason or 'no reason'}")
        if order.filled:
            await self.account.traded(market, order)
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

    async def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None = None,
        client_order_id: str = "",
    ) -> None:  # fmt: skip
        """Change stop and target; doing it twice is harmless."""
        market = await self.account.tradable(symbol, f"set {symbol} stop={stop} target={target}")
        await self.account.protect(market, stop, target, quantity, client_order_id)

    async def cancel(self, symbol: str, client_order_id: str) -> None:
        await self.account.cancel(await self.market.listing(symbol), client_order_id)

    async def close(self) -> None:
        """Close the connections; `connect` makes a new client."""
        for key in [k for k, venue in _open.items() if venue is self]:
            del _open[key]
        await self.market.close()
