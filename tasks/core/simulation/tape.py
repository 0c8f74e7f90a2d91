"""Candles of several symbols on one 5m grid, as plain arrays, with searches ahead for the first touch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd

from tasks.core.errors import DataError, InputError
from tasks.core.market.bars import epoch_s
from tasks.core.market.market import Market
from tasks.core.market.position_events import Closes
from tasks.core.simulation.account import PriceBar, Triggers
from tasks.core.trading.money import exact
from tasks.core.types.orders import Side

STEP = 300
CHUNK = 2016  # a week of bars: searches ahead go in pieces of this length


@dataclass(frozen=True)
class Grid:
    """5m bars 0..n-1; bar k opens at start_s + 300 k and closes 300 s later."""

    start_s: int
    n: int

    def closes_at(self, k: int) -> datetime:
        return datetime.fromtimestamp(self.start_s + (k + 1) * STEP, tz=UTC)

    def index(self, close_s: int) -> int:
        """Return the bar that closes at `close_s`."""
        return (close_s - self.start_s) // STEP - 1

    def index_after(self, at: datetime) -> int:
        """Return the first bar that closes at or after `at`."""
        return -int(-(at.timestamp() - self.start_s) // STEP) - 1


class Tape:
    """One symbol on the grid; a bar that never traded is NaN and touches nothing."""

    def __init__(self, market: Market, grid: Grid) -> None:
        bars = market.bars["5m"]
        at = (epoch_s(bars.index) - grid.start_s) // STEP
        inside = (at >= 0) & (at < grid.n)
        self.arrays = {}
        for name in ("open", "high", "low", "close", "volume"):
            self.arrays[name] = np.full(grid.n, np.nan)
            self.arrays[name][at[inside]] = bars[name].to_numpy()[inside]
        self.grid, self.count = grid, int(inside.sum())
        self.traded = np.flatnonzero(np.isfinite(self.arrays["close"]))
        filled = np.maximum.accumulate(np.where(np.isfinite(self.arrays["close"]), np.arange(grid.n), 0))
        self.marks = self.arrays["close"][filled]
        self.closes = Closes(grid.start_s + (self.traded + 1) * STEP, self.arrays["close"][self.traded])

    def next_traded(self, k: int) -> int | None:
        """Return the first bar after k that traded."""
        i = int(np.searchsorted(self.traded, k, side="right"))
        return int(self.traded[i]) if i < len(self.traded) else None

    def mark(self, k: int) -> Decimal:
        """Return the last close by bar k."""
        return exact(self.marks[k])

    def closes_from(self, at: datetime) -> Closes:
        """Return the closes at or after `at`."""
        i = int(np.searchsorted(self.closes.at_s, math.ceil(at.timestamp())))
        return Closes(self.closes.at_s[i:], self.closes.price[i:])

    def series_before(self, at: datetime, days: int) -> pd.Series:
        """Return the closes of the last `days` days up to and including `at`, by open time."""
        end = int(at.timestamp())
        part = slice(*np.searchsorted(self.closes.at_s, (end - days * 86_400, end), side="right").tolist())
        opens = pd.DatetimeIndex((self.closes.at_s[part] - STEP) * 10**9, tz=UTC)
        return pd.Series(self.closes.price[part], index=opens)

    def price_in(self, k: int, seconds: float, side: Side) -> Decimal:
        """Return what an order that arrives `seconds` into bar k meets: the open, or as far on the way to the worse."""
        opened = exact(self.arrays["open"][k])
        worse = exact(self.arrays["high" if side == "buy" else "low"][k])
        return opened + (worse - opened) * exact(seconds) / STEP if seconds else opened

    def depth(self, k: int) -> Decimal | None:
        """Return the most one order can take of bar k: all that traded; None where volume is not recorded."""
        volume = self.arrays["volume"][k]
        return exact(volume) if volume > 0 else None

    def bar(self, k: int) -> PriceBar:
        """Cross bar k from float to Decimal."""
        values = {name: exact(column[k]) for name, column in self.arrays.items()}
        return PriceBar(open_time=datetime.fromtimestamp(self.grid.start_s + k * STEP, tz=UTC), **values)

    def first_touch(self, after: int, triggers: Triggers) -> int | None:
        """Return the first traded bar after `after` at which anything resting could happen, to the tape's end."""
        below = -np.inf if triggers.below is None else float(triggers.below)
        above = np.inf if triggers.above is None else float(triggers.above)
        due = None
        if triggers.expires_at is not None:
            due = self.next_traded(max(self.grid.index(int(triggers.expires_at.timestamp())) - 1, after))
        for start in range(after + 1, self.grid.n, CHUNK):
            part = slice(start, start + CHUNK)
            hit = (self.arrays["low"][part] <= below) | (self.arrays["high"][part] >= above)
            found = start + int(hit.argmax()) if hit.any() else None
            if due is not None and due < start + CHUNK:
                return due if found is None else min(due, found)
            if found is not None:
                return found
        return None


def make_grid(markets: Mapping[str, Market], start: datetime | None, end: datetime | None) -> Grid:
    """Lay the grid over every symbol's 5m bars within [start, end]; raises InputError when nothing is left."""
    for symbol, market in markets.items():
        if market.bars["5m"].empty:
            raise DataError(f"{symbol}: a backtest needs candles of 5m or finer")
    first = min(int(epoch_s(m.bars["5m"].index)[0]) for m in markets.values())
    last = max(int(epoch_s(m.bars["5m"].index)[-1]) + STEP for m in markets.values())
    start_s = max(first, int(start.timestamp()) // STEP * STEP) if start else first
    end_s = min(last, int(end.timestamp()) // STEP * STEP) if end else last
    if end_s <= start_s:
        there = " to ".join(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (first, last))
        raise InputError(
            f"no candles between {start or 'the beginning'} and {end or 'the end'}: these are from {there}"
        )
    return Grid(start_s, (end_s - start_s) // STEP)
