"""A trial on a venue's demo, in the smallest size: entry with stop, stop read back, moved, found by client id, closed.

Nothing begins where anything is held or working in the symbol, and whatever fails, what the trial bought is sold again
and what it left working is cancelled. A person who trades there meanwhile keeps theirs.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from tasks import clock
from tasks.adapters.venue import trials
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.core.trading.orders import client_order_id
from tasks.core.types import (
    ZERO,
    InputError,
    Instrument,
    OrderIntent,
    OrderStatus,
    OrderType,
    Side,
    T,
    TradingError,
    VenueError,
    VenuePosition,
    VenueUnavailable,
    floor_to_step,
    round_to_tick,
)
from tasks.settings import Settings

STOP, MOVED = Decimal("0.95"), Decimal("0.97")  # of the price: far enough not to be reached meanwhile
WAITS = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each look


async def run(settings: Settings, tell: Callable[[str, bool, str], None]) -> None:
    """Go through the trial; tell each step's name, whether it went well, and what was seen. One that did is kept.

    Raises InputError, and has done nothing, on another profile and where somebody holds something in the symbol.
    """
    if settings.profile not in ("testnet", "sandbox"):
        raise InputError(f"--trial is for profile testnet or sandbox, not {settings.profile}: QUARTERDECK_PROFILE")
    symbol = next((name for name in settings.symbols if ":" in name), settings.symbols[0])
    venue, proved, good = connect(settings.replace(symbols=(symbol,))), dict[str, str](), False
    try:
        trial = _Trial(venue, await venue.instrument(symbol))
        await trial.require_nothing()
        try:
            for step in (trial.entry, trial.stop, trial.moved, trial.found):
                proved[step.__name__] = await step()
                tell(step.__name__, True, proved[step.__name__])
            good = True
        except TradingError as e:
            tell(step.__name__, False, str(e))
        finally:
            closed, proved["closed"] = await trial.closed(good)
            tell("closed", closed, proved["closed"])
        if good and closed:
            trials.keep(settings, await venue.now(), proved)
    finally:
        await venue.close()


class _Trial:
    """The steps; each returns what it saw."""

    def __init__(self, venue: CcxtVenue, instrument: Instrument) -> None:
        self._venue, self._instrument, self._symbol = venue, instrument, instrument.symbol
        self._id = _new_id("e0")
        self._price = self._quantity = Decimal(0)

    async def require_nothing(self) -> None:
        held, working = await self._held(), await self._venue.open_orders(self._symbol)
        if held or working:
            what = f"{held.side} {held.quantity}" if held else f"{len(working)} working orders"
            raise InputError(f"{self._venue.name} has {what} in {self._symbol}: close and cancel them first")

    async def entry(self) -> str:
        of, book = self._instrument, await self._venue.fetch_book(self._symbol)
        if not book.asks:
            raise VenueError(f"nobody sells {self._symbol}: there is no price to buy at")
        self._price = book.asks[0][0]
        least = max(of.min_quantity, of.min_notional / self._price * Decimal("1.1"))
        # a spot fee is paid in the coin: of the least there would be too little left to sell
        self._quantity = round_to_tick(least * (2 if of.kind == "spot" else 1), of.step, ROUND_UP)
        await self._send(
            self._id, "buy", self._quantity, self._below(STOP) if self._venue.attaches_protection else None
        )
        held = await self._seen("position", self._held)
        return f"bought {held.quantity} {self._symbol} at {held.avg_price}"

    async def stop(self) -> str:
        if self._venue.attaches_protection:
            return f"{await self._stop_at(STOP)} rests at the venue, attached to the entry"
        return f"{await self._stop_at(STOP, move=True)} rests at the venue, set after the entry"

    async def moved(self) -> str:
        return f"the stop rests at {await self._stop_at(MOVED, move=True)}"

    async def found(self) -> str:
        order = await self._seen(
            f"filled order {self._id}",
            lambda: self._venue.find_order(self._symbol, self._id),
            lambda order: order.status is OrderStatus.FILLED,
        )
        return f"order {self._id} is {order.status}, {order.filled} of {order.quantity}"

    async def closed(self, good: bool) -> tuple[bool, str]:
        """Sell what the trial holds and cancel what works, until two looks find neither.

        After a step that failed an order may be on its way yet: it is looked for all the while.
        """
        empty, left = 0, ""
        for wait in (*WAITS, *WAITS):
            await asyncio.sleep(wait)
            try:
                held, working = await self._held(), await self._venue.open_orders(self._symbol)
                empty = 0 if held or working else empty + 1
                if empty == (2 if good else len(WAITS)):
                    return True, f"nothing of {self._symbol} is held or working"
                left = f"{held.quantity if held else 0} held, {len(working)} orders working"
                mine = floor_to_step(min(held.quantity, self._quantity), self._instrument.step) if held else ZERO
                if held and mine and held.side == "long":
                    await self._send(_new_id("x0"), "sell", mine)
                for order in working:
                    if order.client_order_id:
                        await self._venue.cancel(self._symbol, order.client_order_id)
                    elif not held:  # an attached stop that outlived its position
                        await self._venue.set_protection(self._symbol, ZERO, ZERO)
            except TradingError as e:
                left = str(e)
        return False, f"LOOK AT {self._symbol} at {self._venue.name}: {left}"

    # --- underneath

    def _below(self, share: Decimal) -> Decimal:
        """Return a stop of three digits, which every venue takes."""
        return round_to_tick(Decimal(f"{self._price * share:.3g}"), self._instrument.tick, ROUND_DOWN)

    async def _stop_at(self, share: Decimal, *, move: bool = False) -> Decimal:
        price = self._below(share)
        if move:
            await self._venue.set_protection(self._symbol, price, None, None, _new_id("s0"))
        await self._seen(f"stop at {price}", self._held, lambda held: held.stop == price)
        return price

    async def _held(self) -> VenuePosition | None:
        return next((each for each in await self._venue.positions() if each.symbol == self._symbol), None)

    async def _seen(
        self, what: str, look: Callable[[], Awaitable[T | None]], good: Callable[[T], bool] = lambda _: True
    ) -> T:
        """Look until it is there, patiently: venues list late."""
        for wait in WAITS:
            await asyncio.sleep(wait)
            with suppress(VenueUnavailable):
                seen = await look()
                if seen is not None and good(seen):
                    return seen
        raise VenueError(f"no {what} is listed after {sum(WAITS):.0f} s")

    async def _send(self, id_: str, side: Side, quantity: Decimal, stop: Decimal | None = None) -> None:
        fields = {"symbol": self._symbol, "side": side, "type": OrderType.MARKET, "quantity": quantity, "stop": stop}
        await self._venue.submit(OrderIntent(client_order_id=id_, reduce_only=side == "sell", **fields))


def _new_id(leg: str) -> str:
    return client_order_id(clock.new_name(), leg)
