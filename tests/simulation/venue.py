"""The sandbox's exchange behind the Venue port, without sockets: every call may be answered in any way a venue does.

`Exchange` acts as in the sandbox; what reaches a process is drawn. A call's answer has one of the meanings that an
answer has (see `adapters.venue.meaning`), it may be late, doubled or old, and the process may die before or after.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import numpy as np
import pandas as pd

from infra.sandbox.exchange import Exchange
from infra.sandbox.market import order_book
from infra.sandbox.market.synthetic import EPOCH_MS
from tasks.adapters.venue.account import accepted, protection_of
from tasks.core.errors import DuplicateOrder, OrderGone, OrderRejected, VenueBusy, VenueUnavailable
from tasks.core.market.bars import bar_frame
from tasks.core.ports import OrderBook
from tasks.core.simulation.rejections import PROTECTIVE, protection_refusal
from tasks.core.types import (
    COLUMNS,
    SECONDS,
    ZERO,
    Balance,
    Fill,
    Instrument,
    Order,
    OrderIntent,
    OrderStatus,
    VenuePosition,
    floor_to_step,
)
from tests.simulation.luck import Luck
from tests.simulation.process import CURRENT

T = TypeVar("T")
IN_FLIGHT_S = 10.0  # so old may a signed request be
AHEAD_MS = 120 * 86_400_000  # of the first moment asked for: how far bars are made at once
# what may become of a call that changes something, and of one that only reads; how often relative to each other
CHANGES = {
    "busy": 2.0, "silent": 2.0, "unheard": 3.0, "late": 2.0, "refused": 1.5, "doubled": 1.5, "slow": 1.0,
    "killed before": 2.0, "killed after": 3.0,
}  # fmt: skip
READS = {
    "busy": 2.0, "silent": 2.0, "unheard": 1.0, "slow": 1.0, "old": 2.0, "reordered": 1.0, "in part": 1.0,
    "killed before": 2.0, "killed after": 1.0,
}  # fmt: skip
FAVOUR, FAVOURED_RATE = 20.0, (0.05, 0.5)  # of a call that reads, that changes
OFTENER, MOST = 4, 0.5  # changes go wrong so much oftener, as there are so many fewer of them, up to this rate
SENDS = 0.5  # how often an order does, where anything may
LISTS = ("fills", "positions", "open_orders")
ONLY_OF = {"old": ("positions", "find_order"), "reordered": LISTS, "in part": LISTS}


class Tape:
    """The bars of the markets of one seed, shared by all worlds that have it."""

    def __init__(self) -> None:
        self._frames: dict[tuple[int, str, str], tuple[np.ndarray, pd.DataFrame]] = {}

    def bars(self, exchange: Exchange, symbol: str, timeframe: str, since: datetime, until: datetime) -> pd.DataFrame:
        """Return bars with since <= open_time and close time <= until."""
        key, step = (exchange.config.seed, symbol, timeframe), SECONDS[timeframe]
        if key not in self._frames or self._frames[key][0][-1] + 2 * step < until.timestamp():
            end_ms = round(until.timestamp() * 1000) + AHEAD_MS
            rows = exchange.markets[symbol].klines(step * 1000, EPOCH_MS, end_ms, end_ms)
            frame = bar_frame(rows[:, 0].astype("int64"), dict(zip(COLUMNS, rows[:, 1:].T, strict=True)))
            self._frames[key] = rows[:, 0] / 1000, frame
        opens, frame = self._frames[key]
        first, last = np.searchsorted(opens, [since.timestamp(), until.timestamp() - step + 1e-6])
        return frame.iloc[first:last].copy()


TAPE = Tape()


class SimulatedVenue:
    """`ports.Venue` for the processes of one world."""

    name = "simulated"

    def __init__(
        self, exchange: Exchange, luck: Luck, tell: Callable[[str], None], attaches: bool, forgets_ids: bool
    ) -> None:
        """attaches: it takes a stop with an entry. forgets_ids: only open orders keep an id from being used again."""
        self.exchange, self._luck, self.attaches_protection = exchange, luck, attaches
        self.keeps_ids = not forgets_ids
        self._tell, self._forgets_ids = tell, forgets_ids
        self.rate = 0.0  # how often a call goes wrong
        self.favoured = ""  # in which way oftener than others
        self.ahead_s = 0.0  # how far its clock is ahead
        self.late_fills_s = self.late_orders_s = 0.0  # how old they are before they are told
        self.refuses_stops = self.answers_no_stop = False
        self.shallow = False  # only half of what an order asks for is there
        self.lists_no_positions = False
        self.numbers_fills = luck.draw("numbers") < 0.5  # their ids tell apart those of one symbol alone
        self._names, self._numbers = dict[str, str](), Counter[str]()
        self.unheard: set[str] = set()  # symbols whose fills were asked for in vain
        self.refused = defaultdict[str, list[datetime]](
            list
        )  # when a symbol's stop was refused, or was beyond the price
        self.learn_instruments()
        self._late: set[asyncio.Task[None]] = set()

    # -- what there is -------------------------------------------------------------------------------------------

    async def now(self) -> datetime:
        def answer() -> datetime:
            return self.exchange.now + timedelta(seconds=self.ahead_s)

        return await self._asked("now", answer)

    async def instrument(self, symbol: str) -> Instrument:
        return self._instruments[symbol]

    def learn_instruments(self) -> None:
        """Ask for the instruments anew, as a client does once an hour."""
        self._instruments = {symbol: market.instrument for symbol, market in self.exchange.markets.items()}

    async def fetch_bars(self, symbol: str, timeframe: str, since: datetime, until: datetime) -> pd.DataFrame:
        def answer() -> pd.DataFrame:
            return TAPE.bars(self.exchange, symbol, timeframe, since, min(until, self.exchange.now))

        return await self._asked("bars", answer)

    async def fetch_book(self, symbol: str) -> OrderBook:
        def answer() -> OrderBook:
            sides = order_book.book(self.exchange.markets[symbol], self.exchange.now_ms, 5)
            bids, asks = (tuple((Decimal(p), Decimal(q)) for p, q in side) for side in sides)
            return OrderBook(bids, asks)

        return await self._asked("book", answer)

    async def funding_paid(self, *_: object) -> list[tuple[datetime, str, Decimal]]:
        return []

    async def balance(self) -> Balance:
        return await self._asked("balance", lambda: self.exchange.account.balance(self.exchange.marks()))

    async def positions(self) -> list[VenuePosition]:
        def answer() -> list[VenuePosition]:
            return [] if self.lists_no_positions else self.exchange.account.positions()

        return await self._asked("positions", answer)

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        def answer() -> Order | None:
            order = self.exchange.account.order(client_order_id)
            return order if order is not None and order.symbol == symbol and self._tells(order) else None

        return await self._asked("find_order", answer)

    async def open_orders(self, symbol: str) -> list[Order]:
        def answer() -> list[Order]:
            return [order for order in self.exchange.account.open_orders(symbol) if self._tells(order)]

        return await self._asked("open_orders", answer)

    async def fills(self, symbol: str, since: datetime) -> list[Fill]:
        def answer() -> list[Fill]:
            mine = [f for f in self.exchange.account.fills if f.symbol == symbol and f.at >= since]
            told = [f.replace(fill_id=self.name_of(f)) for f in mine if self._tells(f)]
            return [f.replace(quantity=ZERO) if f.reason == "funding" else f for f in told]

        try:
            said = await self._asked("fills", answer)
        except VenueUnavailable:
            self.unheard.add(symbol)
            raise
        if len(said) < len(answer()):  # in part: what closed ours may be missing
            self.unheard.add(symbol)
        return said

    @property
    def is_sound(self) -> bool:
        """Return whether it answers everything as it should."""
        return not (self.rate or self.favoured)

    def name_of(self, fill: Fill) -> str:
        """Return the id that it tells an execution by."""
        if not self.numbers_fills:
            return fill.fill_id
        for new in self.exchange.account.fills[len(self._names) :]:
            self._numbers[new.symbol] += 1
            self._names[new.fill_id] = str(self._numbers[new.symbol])
        return self._names[fill.fill_id]

    # -- what is done --------------------------------------------------------------------------------------------

    async def submit(self, intent: OrderIntent) -> Order:
        if intent.type in PROTECTIVE:
            await self.set_protection(intent.symbol, *protection_of(intent), intent.quantity)
            return accepted(intent, "", await self.now())

        def act() -> Order:
            bare = self.refuses_stops or not self.attaches_protection
            sent = intent.replace(stop=None, target=None) if bare else intent
            step = self.exchange.markets[intent.symbol].instrument.step
            depth = floor_to_step(intent.quantity / 2, step) if self.shallow else None
            had = self.exchange.account.order(intent.client_order_id)
            if self._forgets_ids and had is not None and had.status is not OrderStatus.OPEN:
                del self.exchange.account._ids[intent.client_order_id]
            order = self.exchange.submit(sent, depth)
            if order.status is OrderStatus.REJECTED:
                error = DuplicateOrder if order.reason == "duplicate_id" else OrderRejected
                raise error(f"send order {intent.client_order_id}: {order.reason}")
            return order

        return await self._changed("submit", act)

    async def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None = None
    ) -> None:
        def act() -> None:
            doing, account = f"set {symbol} stop={stop} target={target}", self.exchange.account
            held = account.position(symbol)
            if held is None:
                raise OrderGone(f"{doing}: no position is open")
            if self.refuses_stops and stop:
                self.refuse(symbol)
                raise OrderRejected(f"{doing}: it cannot be set now")
            sign = 1 if held.side == "long" else -1
            refusal = protection_refusal(sign, self.exchange.price(symbol), stop, target)
            if refusal:
                self.refuse(symbol)
                raise OrderRejected(f"{doing}: {refusal}")
            part = quantity if quantity is not None and quantity < held.quantity else None
            kept = target if self.attaches_protection else None
            account.set_protection(symbol, stop, kept, self.exchange.now, part)

        if self.answers_no_stop:
            raise VenueBusy(f"set {symbol} stop={stop}: too many requests")
        await self._changed("set_protection", act)

    async def cancel(self, symbol: str, client_order_id: str) -> None:
        await self._changed("cancel", lambda: self.exchange.account.cancel(client_order_id, self.exchange.now))

    async def close(self) -> None:
        """There is nothing to close."""

    def refuse(self, *symbols: str) -> None:
        """Note that there is a cause to close what is ours of these symbols."""
        for symbol in symbols:
            self.refused[symbol].append(self.exchange.now)

    # -- how it is answered --------------------------------------------------------------------------------------

    async def _asked(self, what: str, answer: Callable[[], T]) -> T:
        """Answer a question; a fault may hide, age or reorder what is said."""
        place, kind = self._fault(what, READS)
        await self._wait(place, kind)
        if kind == "old" and what == "positions":
            seconds = self._luck.between(f"{place}:old", 1, 60)
            held = self.exchange.held(seconds)
            return [VenuePosition.of(h, side="long" if h.sign > 0 else "short") for h in held.values()]  # type: ignore[return-value]  # of positions alone
        said = answer()
        if kind == "old" and isinstance(said, Order):  # as it was when it came in
            said = said.replace(status=OrderStatus.OPEN, filled=ZERO, avg_price=None, updated_at=said.created_at)  # type: ignore[assignment]
        elif kind == "reordered" and isinstance(said, list):
            order = sorted(range(len(said)), key=lambda n: self._luck.draw(f"{place}:{n}"))
            said = [said[n] for n in (*order, *order[:1])]  # type: ignore[assignment]  # one of them twice
        elif kind == "in part" and isinstance(said, list):
            said = said[: int(len(said) * self._luck.draw(f"{place}:part"))]  # type: ignore[assignment]
        self._end(place, kind)
        return said

    async def _changed(self, what: str, act: Callable[[], T]) -> T:
        """Carry out a change, or not, and say so, or not."""
        place, kind = self._fault(what, CHANGES)
        await self._wait(place, kind)
        if kind == "refused":
            self.refuse(*self.exchange.markets)
            raise OrderRejected(f"{what}: refused")
        if kind == "late":
            late = asyncio.get_running_loop().create_task(self._later(place, act))
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            raise VenueUnavailable(f"{what}: no answer")
        done = act()
        if kind == "doubled" and not (self._forgets_ids and what == "submit"):  # that one no id can keep apart
            done = act()
        self._end(place, kind)
        return done

    async def _later(self, place: str, act: Callable[[], object]) -> None:
        seconds = self._luck.between(f"{place}:late", 0.1, 20)
        await asyncio.sleep(seconds)
        self.exchange.catch_up()
        if seconds > IN_FLIGHT_S:
            self._tell(f"{place} late, and too old to be taken")
            return
        try:
            act()
        except (OrderRejected, DuplicateOrder):
            self._tell(f"{place} late and refused")

    def _fault(self, what: str, odds: dict[str, float]) -> tuple[str, str]:
        process = CURRENT.get()
        place = process.place(what)
        fitting = {kind: weight for kind, weight in odds.items() if what in ONLY_OF.get(kind, (what,))}
        rate = min(self.rate * (OFTENER if odds is CHANGES else 1), max(self.rate, MOST))
        if what == "submit" and not self.is_sound:
            rate = max(rate, SENDS)
        if self.favoured in fitting:
            fitting[self.favoured] *= FAVOUR
            rate = max(rate, FAVOURED_RATE[odds is CHANGES])
        kind = self._luck.fault(place, fitting, rate)
        if kind:
            self._tell(f"{place} {kind}")
        if kind == "killed before":
            process.die()
        return place, kind

    async def _wait(self, place: str, kind: str) -> None:
        """Let the answer take its time, in which others act."""
        slow = 8.0 if kind == "slow" else 0.05
        await asyncio.sleep(round(self._luck.between(f"{place}:s", 0.01, slow), 3))
        CURRENT.get().alive()
        self.exchange.catch_up()
        if kind == "busy":
            raise VenueBusy(f"{place}: too many requests")
        if kind == "silent":
            raise VenueUnavailable(f"{place}: no answer")

    def _end(self, place: str, kind: str) -> None:
        if kind == "killed after":
            CURRENT.get().die()
        if kind == "unheard":
            raise VenueUnavailable(f"{place}: the answer was lost")

    def _tells(self, of: Order | Fill) -> bool:
        """Return whether an order or execution is old enough to be told, and not too old."""
        at, late = (of.at, self.late_fills_s) if isinstance(of, Fill) else (of.created_at, self.late_orders_s)
        return (self.exchange.now - at).total_seconds() >= late and self.exchange.tells(of)
