"""One symbol of a replay: its candles on the 5m grid, its events to come, and our position in it."""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tasks.core.decision.memory import COMPARED, LAST, Earlier, Remembered, vector
from tasks.core.market.bars import epoch_s
from tasks.core.market.calendar import calendar_reasons
from tasks.core.market.market import Market
from tasks.core.market.position_events import STEP, Closes, reviewed_at
from tasks.core.simulation.account import PriceBar, Triggers
from tasks.core.simulation.backtest_inputs import World
from tasks.core.trading import ledger
from tasks.core.trading.portfolio import past_of
from tasks.core.trading.positions import PositionFold
from tasks.core.types import (
    COLUMNS,
    Answer,
    Fill,
    InputError,
    Memory,
    OrderIntent,
    Outcome,
    Position,
    Question,
    Reason,
    Side,
    exact,
)

AHEAD = 512  # event closes whose moments are read at once
REVIEWS_AHEAD = 12  # and reviews of a position, which may end before


class Arrival(NamedTuple):
    """An order under way: when it meets the market; `done` is told the refusal, and the fills it brought at once."""

    at: datetime
    cycle_id: str
    intent: OrderIntent
    done: Callable[[str, Sequence[Fill]], None]


@dataclass(frozen=True)
class Grid:
    """5m bars 0..n-1; bar k opens at start_s + 300 k and closes 300 s later."""

    start_s: int
    n: int

    def closes_at(self, k: int) -> datetime:
        return datetime.fromtimestamp(self.start_s + (k + 1) * STEP, UTC)

    def index(self, at: datetime) -> int:
        """Return the first bar that closes at or after `at`."""
        return -int(-(at.timestamp() - self.start_s) // STEP) - 1


class SymbolBacktest:
    """A bar without trades touches nothing; `seen` are the bars that there are, `traded` those with a volume."""

    def __init__(self, market: Market, grid: Grid, world: World, fold: PositionFold) -> None:
        self.market, self.grid, self.fold = market, grid, fold
        bars = market.bars["5m"]
        at = (epoch_s(bars.index) - grid.start_s) // STEP
        inside = (at >= 0) & (at < grid.n)
        self.arrays = {name: np.full(grid.n, np.nan) for name in COLUMNS}
        for name, column in self.arrays.items():
            column[at[inside]] = bars[name].to_numpy()[inside]
        close = self.arrays["close"]
        self.seen, trades = np.flatnonzero(np.isfinite(close)), self.arrays["volume"] > 0
        self.traded = np.flatnonzero(trades)
        self.low, self.high = (np.where(trades, self.arrays[name], np.nan).tolist() for name in ("low", "high"))
        self.marks = close[np.maximum.accumulate(np.where(np.isfinite(close), np.arange(grid.n), 0))]
        self.closes = Closes(grid.start_s + (self.seen + 1) * STEP, close[self.seen])
        opens = pd.to_datetime(self.closes.at_s - STEP, unit="s", utc=True)
        self.by_open = pd.Series(self.closes.level, index=opens)
        self.events: dict[int, list[Reason]] = {}  # by bar, as those of our position
        self.ahead: dict[int, list[Reason]] = {}
        self.arriving: dict[int, list[Arrival]] = {}  # our orders, by the bar they meet
        window = market.symbol, grid.closes_at(-1), grid.closes_at(grid.n - 1)
        for reason in (*market.reasons(*window[1:]), *calendar_reasons(world.calendar, *window)):
            self.events.setdefault(grid.index(reason.as_of), []).append(reason)
        self.event_bars = sorted(self.events)
        rates = ((grid.index(funding.at), funding.rate) for funding in world.funding.get(market.symbol, ()))
        self.funding = {k: rate for k, rate in rates if 0 <= k < grid.n}
        self.watch(Triggers())
        self.reported: set[str] = set()
        self.running = ledger.RunningDigest()
        self.decisions: dict[str, Earlier] = {}  # ours but those that nothing usable came of, by cycle
        self.settled: list[Earlier] = []  # those whose trade has ended
        self.read_to = self.reviews_read_to = -1

    @property
    def position(self) -> Position | None:
        return self.fold.position

    # its candles

    def watch(self, triggers: Triggers) -> None:
        """Set the prices and the expiry at which a resting order or an open position could change."""
        self.below = -math.inf if triggers.below is None else float(triggers.below)
        self.above = math.inf if triggers.above is None else float(triggers.above)
        self.expires = math.inf if triggers.expires_at is None else self.grid.index(triggers.expires_at)

    def is_touched(self, k: int) -> bool:
        low = self.low[k]
        return low <= self.below or self.high[k] >= self.above or (k >= self.expires and not math.isnan(low))

    def is_busy(self, k: int) -> bool:
        """Return whether anything may happen on bar k."""
        return k in self.events or k in self.ahead or k in self.arriving or k in self.funding or self.is_touched(k)

    def next_traded(self, k: int) -> int | None:
        """Return the first bar after k that traded."""
        i = int(np.searchsorted(self.traded, k, side="right"))
        return int(self.traded[i]) if i < len(self.traded) else None

    def gap(self, k: int, later: int) -> bool:
        """Return whether a candle is missing between bars k and `later`."""
        return bool(np.isnan(self.arrays["close"][k + 1 : later]).any())

    def mark(self, k: int) -> Decimal:
        """Return the last close by bar k."""
        return exact(self.marks[k])

    def price_in(self, k: int, seconds: float, side: Side) -> Decimal:
        """Return what an order that arrives `seconds` into bar k meets: the open, or as far on the way to the worse."""
        opened = exact(self.arrays["open"][k])
        worse = exact(self.arrays["high" if side == "buy" else "low"][k])
        return opened + (worse - opened) * exact(seconds) / STEP if seconds else opened

    def bar(self, k: int) -> PriceBar:
        """Cross bar k from float to Decimal."""
        opened, high, low, close, volume = (exact(self.arrays[name][k]) for name in COLUMNS)
        return PriceBar(self.grid.closes_at(k - 1), opened, high, low, close, volume)

    # its decisions

    def reasons_at(self, k: int) -> list[Reason]:
        reasons = (*self.events.get(k, ()), *self.ahead.get(k, ()))
        return [reason for reason in reasons if reason.fingerprint not in self.reported]

    def remember(self, cycle_id: str, question: Question, answer: Answer, **became: Any) -> None:
        """Keep a decision for the memory of later ones; became: how its cycle ended."""
        if answer.rung != "hold":
            past = past_of(question.snapshot, answer.decision, **became)
            self.decisions[cycle_id] = Earlier(past, vector(question.snapshot))

    def note(self, cycle_id: str, **became: Any) -> None:
        """Note what became of a decision that is remembered."""
        if (earlier := self.decisions.get(cycle_id)) is not None:
            self.decisions[cycle_id] = earlier._replace(past=earlier.past.replace(**became))

    def remembered(self, done: Memory) -> Remembered:
        """Return what the store would remember of a live strategy: all that is decided, and ended, by now."""
        recent = tuple(islice(reversed(self.decisions.values()), LAST))
        return Remembered(recent, self.settled[: -COMPARED - 1 : -1], done)

    def settle(self, outcome: Outcome) -> None:
        """Take note of a trade that has ended."""
        self.note(outcome.cycle_id, outcome_r=None if outcome.outcome_r is None else float(outcome.outcome_r))
        if outcome.cycle_id in self.decisions:
            self.settled.append(self.decisions[outcome.cycle_id])
        self.running.add(outcome)

    def read_ahead(self, k: int, review_bars: int) -> None:
        """Have the market's moments of the coming events read together, and at a review those of the next ones."""
        if k > self.read_to:
            i = bisect_left(self.event_bars, k)
            if coming := self.event_bars[i : i + AHEAD]:
                self.market.read_ahead(self._closes_s(np.array(coming)))
                self.read_to, self.reviews_read_to = coming[-1], -1
        if k > self.reviews_read_to and reviewed_at(self._closes_s(k), review_bars):
            reviews = range(k, min(k + REVIEWS_AHEAD * review_bars, self.grid.n), review_bars)
            self.market.read_ahead(self._closes_s(np.array(reviews)), beside=True)
            self.reviews_read_to = reviews[-1]

    def _closes_s(self, bars: Any) -> Any:
        """Return when a bar, or each of an array, closes, in s since 1970."""
        return self.grid.start_s + (bars + 1) * STEP


def make_grid(markets: Mapping[str, Market], start: datetime | None, end: datetime | None) -> Grid:
    """Lay the grid over every symbol's 5m bars within [start, end]; raises InputError when nothing is left."""
    opens = {symbol: epoch_s(market.bars["5m"].index) for symbol, market in markets.items()}
    if empty := [symbol for symbol, at in opens.items() if not len(at)]:
        raise InputError(f"{empty[0]}: events and replays need candles of 5m or finer")
    first, last = min(int(at[0]) for at in opens.values()), max(int(at[-1]) + STEP for at in opens.values())
    start_s = max(first, int(start.timestamp()) // STEP * STEP) if start else first
    end_s = min(last, int(end.timestamp()) // STEP * STEP) if end else last
    if end_s <= start_s:
        there = " to ".join(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (first, last))
        begin = start if start and start.timestamp() else "the beginning"  # a window without a start has one in 1970
        raise InputError(f"no candles between {begin} and {end or 'the end'}: these are from {there}")
    return Grid(start_s, (end_s - start_s) // STEP)
