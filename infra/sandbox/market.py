"""One listed symbol: its candles, the path of the price inside them, and the klines served from both.

Inside a base candle the price runs open -> first extreme -> second extreme -> close, a third of the time each, linear
in time; the low comes first when it closes up. What is served at a moment knows the path up to that moment only.
"""

from decimal import Decimal
from typing import NamedTuple

import numpy as np

from infra.sandbox.candles import Candles, Floats
from infra.sandbox.config import split_symbol
from tasks.core.types.orders import Instrument

MAX_LEVERAGE = Decimal(100)
MIN_NOTIONAL = Decimal(5)


class Segment(NamedTuple):
    """A stretch of time over which the price moves on a straight line."""

    start_ms: int
    end_ms: int
    start: float
    end: float


class Market:
    """A symbol as the exchange sees it."""

    def __init__(self, symbol: str, candles: Candles) -> None:
        self.symbol = symbol
        self.base, self.quote, self.category = split_symbol(symbol)
        self.id = self.base + self.quote
        self.candles = candles
        self.decimals = candles.price_decimals
        self.base_ms = candles.base_ms

    def instrument(self, reference: float) -> Instrument:
        """Return the trading rules of a symbol that costs about `reference`: a lot is worth some tens of quote."""
        places = min(max(int(np.floor(np.log10(reference))) - 1, 0), 5)
        step = Decimal(1).scaleb(-places)
        linear = self.category == "linear"
        return Instrument(
            symbol=self.symbol,
            tick=Decimal(1).scaleb(-self.decimals),
            step=step,
            min_quantity=step,
            min_notional=MIN_NOTIONAL,
            max_leverage=MAX_LEVERAGE if linear else Decimal(1),
            shorting=linear,
            kind="linear" if linear else "spot",
        )

    def text(self, price: float) -> str:
        return f"{price:.{self.decimals}f}"

    def decimal(self, price: float) -> Decimal:
        """Cross from a candle's float to money, on the tick grid."""
        return Decimal(self.text(price))

    def closed(self, now_ms: int) -> int:
        """Return how many base candles have closed at `now_ms`."""
        self.candles.ensure(now_ms)
        return int(np.searchsorted(self.candles.ts, now_ms - self.base_ms, side="right"))

    def prices_at(self, times: Floats) -> Floats:
        """Return the path's price at each time in ms; in a gap and after the end, the last close."""
        c = self.candles
        c.ensure(int(times.max()))
        whole_ms = times.astype("int64")  # searching for floats would first turn all of ts into them
        i = np.clip(np.searchsorted(c.ts, whole_ms, side="right") - 1, 0, None)
        share = np.clip((times - c.ts[i]) / self.base_ms, 0.0, 1.0)
        points = self._vertices(i)
        leg = np.minimum((share * 3).astype(int), 2)
        along = share * 3 - leg
        rows = np.arange(len(times))
        prices: Floats = points[rows, leg] + (points[rows, leg + 1] - points[rows, leg]) * along
        return prices

    def price_at(self, now_ms: int) -> float:
        return float(self.prices_at(np.array([float(now_ms)]))[0])

    def _vertices(self, i: np.ndarray) -> Floats:
        c = self.candles
        up = c.close[i] >= c.open[i]
        first, second = np.where(up, c.low[i], c.high[i]), np.where(up, c.high[i], c.low[i])
        return np.stack([c.open[i], first, second, c.close[i]], axis=1)

    def segments(self, start_ms: int, end_ms: int) -> list[Segment]:
        """Return the straight pieces of the path between two moments; nothing where there are no candles."""
        c = self.candles
        c.ensure(end_ms)
        first = max(int(np.searchsorted(c.ts, start_ms, side="right")) - 1, 0)
        last = int(np.searchsorted(c.ts, end_ms, side="left"))
        third = self.base_ms / 3
        found = []
        for i in range(first, last):
            points = self._vertices(np.array([i]))[0]
            for leg in range(3):
                a, b = int(c.ts[i] + leg * third), int(c.ts[i] + (leg + 1) * third)
                lo, hi = max(a, start_ms), min(b, end_ms)
                if lo < hi:
                    slope = (points[leg + 1] - points[leg]) / (b - a)
                    start, end = points[leg] + slope * (lo - a), points[leg] + slope * (hi - a)
                    found.append(Segment(lo, hi, float(start), float(end)))
        return found

    def klines(self, timeframe_ms: int, start_ms: int, end_ms: int, now_ms: int) -> Floats:
        """Return rows (open time, o, h, l, c, volume) of bars opening in [start, end], the forming one included."""
        rows = self._base_rows(start_ms // timeframe_ms * timeframe_ms, end_ms + timeframe_ms, now_ms)
        if not len(rows) or timeframe_ms % self.base_ms:
            return np.empty((0, 6))
        buckets = rows[:, 0] // timeframe_ms * timeframe_ms
        heads = np.flatnonzero(np.concatenate([[True], buckets[1:] != buckets[:-1]]))
        tails = np.append(heads[1:], len(rows)) - 1
        out = np.column_stack(
            [
                buckets[heads],
                rows[heads, 1],
                np.maximum.reduceat(rows[:, 2], heads),
                np.minimum.reduceat(rows[:, 3], heads),
                rows[tails, 4],
                np.add.reduceat(rows[:, 5], heads),
            ]
        )
        return out[(out[:, 0] >= start_ms) & (out[:, 0] <= end_ms)]

    def _base_rows(self, start_ms: int, end_ms: int, now_ms: int) -> Floats:
        """Return closed base candles opening in [start, end), then the forming one as far as it is known."""
        c = self.candles
        n = self.closed(now_ms)
        lo, hi = np.searchsorted(c.ts[:n], [start_ms, end_ms])
        part = slice(int(lo), int(hi))
        rows = np.column_stack([c.ts[part], c.open[part], c.high[part], c.low[part], c.close[part], c.volume[part]])
        if n < len(c.ts) and start_ms <= c.ts[n] < end_ms and c.ts[n] <= now_ms:
            rows = np.vstack([rows, self._forming(n, now_ms)])
        return rows

    def _forming(self, i: int, now_ms: int) -> Floats:
        c = self.candles
        share = (now_ms - c.ts[i]) / self.base_ms
        points = self._vertices(np.array([i]))[0]
        seen = np.append(points[: int(share * 3) + 1], self.price_at(now_ms))
        volume = c.volume[i] * share
        return np.array([c.ts[i], c.open[i], seen.max(), seen.min(), seen[-1], volume])
