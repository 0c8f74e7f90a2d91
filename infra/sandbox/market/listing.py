"""One listed symbol: its candles, the path of the price inside them, and the klines served from both.

Inside a base candle the price runs open -> first extreme -> second extreme -> close, a third of the time each, linear
in time; the low comes first when it closes up. What is served at a moment knows the path up to that moment only.
"""

from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from infra.sandbox.config import split_symbol
from infra.sandbox.market.candles import BaseCandles, Floats
from tasks.core.types import Instrument

MAX_LEVERAGE = 100
MAX_LOTS = 500_000  # of a market order; a limit order may be of twice as many
MIN_NOTIONAL = Decimal(5)
MANY = 100_000  # candles: ten weeks of minutes


class Leg(NamedTuple):
    """A stretch of time over which the price moves on a straight line, the volume of its candle and when that began."""

    start_ms: int
    end_ms: int
    start: float = 0
    end: float = 0
    volume: float = 0
    candle_ms: int = 0


class Listing:
    """A symbol as the exchange sees it; a lot is worth some tens of quote."""

    def __init__(self, symbol: str, candles: BaseCandles) -> None:
        self.symbol, self.candles = symbol, candles
        self.base, self.quote, self.category = split_symbol(symbol)
        self.id = self.base + self.quote
        linear = self.category == "linear"
        step = Decimal(1).scaleb(-min(max(int(np.floor(np.log10(candles.usual_price))) - 1, 0), 5))
        self.instrument = Instrument(
            symbol=symbol,
            tick=Decimal(1).scaleb(-candles.price_decimals),
            step=step,
            min_quantity=step,
            min_notional=MIN_NOTIONAL,
            max_leverage=Decimal(MAX_LEVERAGE if linear else 1),
            shorting=linear,
            kind=self.category,
            max_quantity=step * MAX_LOTS,
        )

    def text(self, price: float) -> str:
        return f"{price:.{self.candles.price_decimals}f}"

    def decimal(self, price: float) -> Decimal:
        """Cross from a candle's float to money, on the tick grid."""
        return Decimal(self.text(price))

    def begun(self, at_ms: float) -> int:
        """Return how many base candles have opened by `at_ms`; searching for a float would turn all of ts into them."""
        self.candles.ensure(int(at_ms))
        return int(np.searchsorted(self.candles.ts, int(at_ms), side="right"))

    def _corners(self, i: int) -> list[float]:
        """Return the four prices that the path through a candle runs between."""
        opened, high, low, close = self.candles.rows[i, :4].tolist()
        return [opened, low, high, close] if close >= opened else [opened, high, low, close]

    def price_at(self, at_ms: float) -> float:
        """Return the path's price; in a gap and after the end, the last close."""
        i = max(self.begun(at_ms) - 1, 0)
        thirds = min(max((at_ms - int(self.candles.ts[i])) / self.candles.base_ms, 0.0), 1.0) * 3
        leg = min(int(thirds), 2)
        start, end = self._corners(i)[leg : leg + 2]
        return start + (end - start) * (thirds - leg)

    def legs(self, start_ms: int, end_ms: int) -> list[Leg]:
        """Return the straight pieces of the path between two moments; nothing where there are no candles."""
        third, found = self.candles.base_ms // 3, []
        for i in range(max(self.begun(start_ms) - 1, 0), self.begun(end_ms - 1)):
            for leg, prices in enumerate(pairwise(self._corners(i))):
                begin = int(self.candles.ts[i]) + leg * third
                lo, hi = max(begin, start_ms), min(begin + third, end_ms)
                if lo < hi:
                    ends = np.interp([lo, hi], [begin, begin + third], prices).tolist()
                    found.append(Leg(lo, hi, *ends, float(self.candles.rows[i, 4]), int(self.candles.ts[i])))
        return found

    def klines(self, timeframe_ms: int, start_ms: int, end_ms: int, now_ms: int) -> Floats:
        """Return rows (open time, o, h, l, c, volume) of bars opening in [start, end], the forming one included."""
        c = self.candles
        c.ensure(now_ms)
        bounds = -(-start_ms // timeframe_ms) * timeframe_ms, (end_ms // timeframe_ms + 1) * timeframe_ms
        lo, hi = np.searchsorted(c.ts, [bounds[0], min(bounds[1], now_ms + 1)])
        if lo >= hi or timeframe_ms % c.base_ms:
            return np.empty((0, 6))
        rows = np.column_stack([c.ts[lo:hi], c.rows[lo:hi]])
        if hi - lo > MANY:
            c.forget()
        share = (now_ms - rows[-1, 0]) / c.base_ms
        if share < 1:
            seen = [*self._corners(hi - 1)[: int(share * 3) + 1], self.price_at(now_ms)]
            rows[-1, 2:] = max(seen), min(seen), seen[-1], rows[-1, 5] * share
        buckets = rows[:, 0] // timeframe_ms * timeframe_ms
        heads = np.flatnonzero(np.diff(buckets, prepend=-1))
        bars = [
            buckets[heads],
            rows[heads, 1],
            np.maximum.reduceat(rows[:, 2], heads),
            np.minimum.reduceat(rows[:, 3], heads),
            rows[np.append(heads[1:], len(rows)) - 1, 4],
            np.add.reduceat(rows[:, 5], heads),
        ]
        return np.column_stack(bars)
