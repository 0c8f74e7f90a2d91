"""The paper venue: a real venue's public data, and an account in the fill engine whose state is in the database.

Nothing runs in the background. Whoever asks first brings the account up to date: the bars that have closed since the
last look (1m where the venue has them, else 5m) pass over what rests and what is open, with funding where the venue
tells rates. Where a long absence began before these (Kraken tells the last 720, Hyperliquid 5,000), coarser ones tell
of the time until they begin; where none reach back, nothing is guessed.
Market orders fill at the book as fetched, spread included. Every change is a compare-and-swap on the stored state, so
processes may share an account: whoever was slower starts over, and nothing is applied twice.
What cannot be known is decided against the account: on the bar of its entry a position can be stopped, also by a
price from before it. Left out on purpose: queues (limits fill when traded through) and accounts of several quotes.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pandas as pd

from tasks.adapters.store.shadow import PaperBookRepository
from tasks.adapters.venue import accepted, protection_of
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.simulation.rejections import PROTECTIVE, protection_refusal
from tasks.core.types import (
    BPS,
    Balance,
    DataError,
    DuplicateOrder,
    Fill,
    InputError,
    Order,
    OrderIntent,
    OrderRejected,
    OrderStatus,
    PaperBookState,
    Side,
    T,
    VenuePosition,
    VenueUnavailable,
    duration,
    exact_sum,
    floor_time,
    quote_of,
)
from tasks.settings import Settings

ATTEMPTS = 100  # each one that fails is another process's success
LATE = timedelta(minutes=10)  # a market without bars for longer no longer holds the others up
MANY = 500  # bars that every venue tells of
COARSER = ("5m", "15m", "1h", "4h", "1d")
_log = logging.getLogger(__name__)
KEPT = timedelta(days=90)  # closed orders and fills, as long as a venue would tell of them


class PaperVenue:
    """`ports.Venue` over public market data and a paper book; see that Protocol for what each method promises."""

    attaches_protection = keeps_ids = True

    def __init__(self, market: CcxtVenue, books: PaperBookRepository, settings: Settings) -> None:
        self.name = market.name
        self.now, self.instrument, self.close = market.now, market.instrument, market.close
        self.fetch_bars, self.fetch_book, self.funding_paid = market.fetch_bars, market.fetch_book, market.funding_paid
        self._books, self._settings = books, settings
        self._account = (settings.strategy, f"venue:{market.name}")
        self._step = "1m" if market.has_timeframe("1m") else "5m"
        self._coarser = [each for each in COARSER if each != self._step and market.has_timeframe(each)]

    # --- the account -------------------------------------------------------------------------------------------

    async def balance(self) -> Balance:
        return (await self._read()).balance({}).replace(currency=quote_of(self._settings.symbols[0]))

    async def positions(self) -> list[VenuePosition]:
        return (await self._read()).positions()

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        """Return executions since then, oldest first; funding payments among them (quantity 0)."""
        mine = [fill for fill in (await self._read()).fills if fill.symbol == symbol and fill.at >= since]
        return [f.replace(quantity=Decimal(0)) if f.reason == "funding" else f for f in mine]

    # --- orders ------------------------------------------------------------------------------------------------

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        order = (await self._read()).order(client_order_id)
        return order if order is not None and order.symbol == symbol else None

    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working limit orders; stops and targets are the position's."""
        return (await self._read()).open_orders(symbol)

    async def submit(self, intent: OrderIntent) -> Order:
        """Carry an intent out against the book of this moment."""
        doing = f"send order {intent.client_order_id}"
        if intent.type in PROTECTIVE:
            await self.set_protection(intent.symbol, *protection_of(intent))
            return accepted(intent, "", await self.now())
        bid, ask, depth = await self._top(intent.symbol, intent.side)
        mid = (bid + ask) / 2

        def send(account: SimulatedAccount, now: datetime) -> Order:
            spread = (ask - mid) / mid / BPS
            order = account.submit(intent, mid, now, modelled_half_spread_bps=spread, depth=depth)
            if order.status is OrderStatus.REJECTED:
                error = DuplicateOrder if order.reason == "duplicate_id" else OrderRejected
                raise error(f"{doing}: {order.reason}")
            return order

        return await self._on_account(send, intent.symbol)

    async def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, _quantity: Decimal | None = None
    ) -> None:
        bid, ask, _ = await self._top(symbol, "sell")

        def change(account: SimulatedAccount, now: datetime) -> None:
            held = account.wallet.holdings.get(symbol)
            price = bid if held is not None and held.sign > 0 else ask
            refusal = protection_refusal(held.sign, price, stop, target) if held is not None else "no_position"
            if refusal:
                raise OrderRejected(f"set {symbol} stop={stop} target={target}: {refusal} at {price}")
            account.set_protection(symbol, stop, target, now)

        await self._on_account(change, symbol)

    async def cancel(self, symbol: str, client_order_id: str) -> None:
        await self._on_account(lambda account, now: account.cancel(client_order_id, now), symbol)

    async def _top(self, symbol: str, side: Side) -> tuple[Decimal, Decimal, Decimal]:
        """Return best bid and ask, and how much an order of `side` finds on the other side of the book."""
        book = await self.fetch_book(symbol)
        if not book.bids or not book.asks:
            raise VenueUnavailable(f"the {symbol} book is empty on one side: there is no price to fill at")
        depth = exact_sum(quantity for _, quantity in (book.asks if side == "buy" else book.bids))
        return book.bids[0][0], book.asks[0][0], depth

    # --- underneath --------------------------------------------------------------------------------------------

    async def _on_account(self, act: Callable[[SimulatedAccount, datetime], T], symbol: str = "") -> T:
        """Bring the account up to now, let `act` look at it or change it, and keep it; over again if others changed it.

        What `act` raises leaves the account as it was.
        """
        for _ in range(ATTEMPTS):
            now, stored = await self.now(), self._books.get(*self._account)
            account, until = await self._caught_up(stored, now, symbol)
            result = act(account, now)
            account.forget(now - KEPT)
            after = PaperBookState(state=account.dump(), equity=account.balance({}).equity, until=until)
            if after == stored or self._books.save(*self._account, after, stored):
                return result
        raise VenueUnavailable(f"paper account {self._account}: others changed it {ATTEMPTS} times; nothing was done")

    async def _read(self) -> SimulatedAccount:
        """Return the account as it is now, to be looked at."""
        return await self._on_account(lambda account, _: account)

    async def _caught_up(
        self, stored: PaperBookState | None, now: datetime, symbol: str
    ) -> tuple[SimulatedAccount, datetime]:
        """Return the account as the bars up to now have left it, and until when they went."""
        end, settings = floor_time(now, self._step), self._settings
        account = SimulatedAccount(settings.paper_cash, {}, settings.costs)
        if stored is not None:
            account.load(stored.state)
        wallet = account.wallet
        wallet.default_leverage = settings.limits.leverage
        working = sorted({*wallet.holdings, *(order.symbol for order in account.open_orders())})
        named = sorted({*working, symbol} - {""})
        wallet.instruments = {name: await self.instrument(name) for name in named}
        wallet.leverages |= {name: settings.limits.leverage_of(name) for name in named}
        if len(quotes := sorted({quote_of(name) for name in (*settings.symbols, *named)})) > 1:
            raise InputError(f"a paper account has one quote currency, not {' and '.join(quotes)}: QUARTERDECK_SYMBOLS")
        since = stored.until if stored else end
        if not working:
            return account, max(end, since)
        timeframe = ""
        while timeframe != self._step and since < end:
            timeframe, bars, until = await self._reaching(working, since, now)
            step = duration(timeframe)
            if timeframe == self._step:
                ends = [frame.index[-1].to_pydatetime() + step if len(frame) else since for frame in bars.values()]
                until = max(min(ends), end - LATE, since)
            cut = {name: frame.loc[: until - step] for name, frame in bars.items()}
            rates = await self.funding_paid(sorted(wallet.holdings), since, until)
            account.pass_bars(cut, step, funding=rates)
            since = until
        return account, since

    async def _reaching(
        self, symbols: Sequence[str], since: datetime, now: datetime
    ) -> tuple[str, dict[str, pd.DataFrame], datetime]:
        """Return the finest bars that tell of all the time since then, and until when: now, or where finer ones begin.

        Raises DataError where none do.
        """
        until, begun = now, since
        for timeframe in (self._step, *self._coarser):
            step = duration(timeframe)
            until = now if timeframe == self._step else floor_time(min(now, begun + step), timeframe)
            first = floor_time(since, timeframe)
            bars = {name: await self.fetch_bars(name, timeframe, first, until) for name in symbols}
            begun = max((frame.index[0].to_pydatetime() for frame in bars.values() if len(frame)), default=since)
            if until > since and (begun <= since or (timeframe == self._step and now - since < MANY * step)):
                return timeframe, bars, until
            _log.warning("paper symbols=%s %s bars since=%s begin at=%s", symbols, timeframe, since, begun)
        raise DataError(
            f"paper account {self._account}: {', '.join(symbols)} was last looked at {since:%Y-%m-%d %H:%M} UTC, and "
            f"the venue's bars begin {begun:%Y-%m-%d %H:%M}: what a stop met between is not known; begin anew with "
            "another QUARTERDECK_STRATEGY"
        )
