"""A trial on a venue's demo, in the smallest size: entry with stop, stop read back, moved, found by client id, closed.

Nothing begins where anything is held or working in the symbol, and whatever fails, what the trial bought is sold again
and what it left working is cancelled. A person who trades there meanwhile keeps theirs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import TypeVar
from uuid import uuid4

from tasks.adapters.venue import trials
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.errors import InputError, TradingError, VenueError, VenueUnavailable
from tasks.core.trading.money import floor_to_step, round_to_tick
from tasks.core.trading.orders import client_order_id
from tasks.core.types.base import ZERO, Dto
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType, Side, VenuePosition
from tasks.settings import Settings

PROFILES = ("testnet", "sandbox")
STOP, MOVED = Decimal("0.95"), Decimal("0.97")  # of the price: far enough not to be reached meanwhile
WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further look
T = TypeVar("T")


class Step(Dto):
    """One thing that was tried, and what came of it."""

    name: str
    ok: bool
    detail: str


async def run(settings: Settings, tell: Callable[[Step], None]) -> None:
    """Go through the trial, telling each step; one that passed is kept in HOME.

    Raises InputError, and has done nothing, on another profile and where somebody holds something in the symbol.
    """
    if settings.profile not in PROFILES:
        raise InputError(f"--trial is for profile testnet or sandbox, not {settings.profile}: QUARTERDECK_PROFILE")
    symbol = next((name for name in settings.symbols if ":" in name), settings.symbols[0])
    venue, proved, ended = connect(settings.replace(symbols=(symbol,))), dict[str, str](), False
    trial, unsure = _Trial(venue, symbol), False
    try:
        await trial.require_nothing()
        try:
            for step in (trial.entry, trial.stop, trial.moved, trial.found, trial.closed):
                proved[step.__name__] = await step()
                tell(Step(name=step.__name__, ok=True, detail=proved[step.__name__]))
            ended = True
        except TradingError as e:
            unsure = isinstance(e, VenueUnavailable)
            tell(Step(name=step.__name__, ok=False, detail=str(e)))
        finally:
            flat = await trial.flat(unsure)
            tell(flat)
        if ended and flat.ok:
            trials.keep(settings, await venue.now(), proved)
    finally:
        await venue.close()


class _Trial:
    """The steps; each returns what it saw."""

    def __init__(self, venue: CcxtVenue, symbol: str) -> None:
        self._venue, self._symbol, self._id = venue, symbol, _new_id("e0")
        self._quantity = self._price = ZERO
        self._step = self._tick = Decimal(1)

    async def require_nothing(self) -> None:
        if held := await self._held():
            raise InputError(
                f"{held.side} {held.quantity} {self._symbol} is held at {self._venue.name}: close it first"
            )
        if working := await self._venue.open_orders(self._symbol):
            raise InputError(f"{len(working)} orders work in {self._symbol} at {self._venue.name}: cancel them first")

    async def entry(self) -> str:
        instrument, book = await self._venue.instrument(self._symbol), await self._venue.fetch_book(self._symbol)
        if not book.asks:
            raise VenueError(f"nobody sells {self._symbol}: there is no price to buy at")
        self._price, self._tick, self._step = book.asks[0][0], instrument.tick, instrument.step
        least = max(instrument.min_quantity, instrument.min_notional / self._price * Decimal("1.1"))
        # a spot fee is paid in the coin: of the least there would be too little left to sell
        self._quantity = round_to_tick(least * (2 if instrument.kind == "spot" else 1), self._step, ROUND_UP)
        stop = self._below(STOP) if self._venue.attaches_protection else None
        await self._venue.submit(self._market(self._id, "buy", self._quantity, stop))
        held = await self._seen("the position is not listed", self._held)
        return f"bought {held.quantity} {self._symbol} at {held.avg_price}"

    async def stop(self) -> str:
        attached = self._venue.attaches_protection
        if not attached:
            await self._venue.set_protection(self._symbol, self._below(STOP), None, None, _new_id("s0"))
        seen = await self._stop_at(self._below(STOP))
        return f"{seen} rests at the venue, {'attached to the entry' if attached else 'set after the entry'}"

    async def moved(self) -> str:
        await self._venue.set_protection(self._symbol, self._below(MOVED), None, None, _new_id("s0"))
        return f"the stop rests at {await self._stop_at(self._below(MOVED))}"

    async def found(self) -> str:
        async def look() -> Order | None:
            order = await self._venue.find_order(self._symbol, self._id)
            return order if order and order.status is OrderStatus.FILLED else None

        order = await self._seen(f"order {self._id} is not found filled", look)
        return f"order {self._id} is {order.status}, {order.filled} of {order.quantity}"

    async def closed(self) -> str:
        held = await self._seen("the position is not listed", self._held)
        await self._sell(held)
        await self._seen("the position is still listed", self._nothing_held)
        return f"sold {held.quantity} {self._symbol}"

    async def flat(self, unsure: bool) -> Step:
        """Sell what the trial still holds and cancel what still works, until two looks find neither.

        unsure: an order may be on its way yet, so look for it all the while.
        """
        looks, left = 0, ""
        for wait in (0.0, *WAITS, *WAITS):
            await asyncio.sleep(wait)
            try:
                held, working = await self._held(), await self._venue.open_orders(self._symbol)
                looks = 0 if held or working else looks + 1
                if looks == (len(WAITS) if unsure else 2):
                    return Step(name="flat", ok=True, detail=f"nothing of {self._symbol} is held or working")
                left = f"{held.quantity if held else 0} held, {len(working)} orders working"
                if held:
                    await self._sell(held)
                for order in working:
                    if order.client_order_id:
                        await self._venue.cancel(self._symbol, order.client_order_id)
                    elif not held:  # an attached stop that outlived its position
                        await self._venue.set_protection(self._symbol, ZERO, ZERO)
            except TradingError as e:
                left = str(e)
        return Step(name="flat", ok=False, detail=f"LOOK AT {self._symbol} at {self._venue.name}: {left}")

    # --- underneath

    async def _held(self) -> VenuePosition | None:
        return next((each for each in await self._venue.positions() if each.symbol == self._symbol), None)

    async def _nothing_held(self) -> bool:
        return await self._held() is None

    async def _sell(self, held: VenuePosition) -> None:
        mine = floor_to_step(min(held.quantity, self._quantity), self._step)
        if mine and held.side == "long":
            await self._venue.submit(self._market(_new_id("x0"), "sell", mine))

    async def _stop_at(self, price: Decimal) -> Decimal:
        async def look() -> Decimal | None:
            held = await self._held()
            return held.stop if held and held.stop == price else None

        return await self._seen(f"no stop at {price} is listed", look)

    async def _seen(self, otherwise: str, look: Callable[[], Awaitable[T | None]]) -> T:
        """Look until there is something, patiently: venues list late."""
        for wait in (0.0, *WAITS):
            await asyncio.sleep(wait)
            with suppress(VenueUnavailable):
                if seen := await look():
                    return seen
        raise VenueError(f"{otherwise} after {sum(WAITS):.0f} s")

    def _below(self, share: Decimal) -> Decimal:
        """Return a stop of three digits, which every venue takes."""
        return round_to_tick(Decimal(f"{self._price * share:.3g}"), self._tick, ROUND_DOWN)

    def _market(self, id_: str, side: Side, quantity: Decimal, stop: Decimal | None = None) -> OrderIntent:
        return OrderIntent(
            client_order_id=id_,
            symbol=self._symbol,
            side=side,
            type=OrderType.MARKET,
            quantity=quantity,
            stop=stop,
            reduce_only=side == "sell",
        )


def _new_id(leg: str) -> str:
    return client_order_id(str(uuid4()), leg)
