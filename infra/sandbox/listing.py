"""One listed symbol: its candles, the path of the price inside them, and the klines served from both.

Inside a base candle the price runs open -> first extreme -> second extreme -> close, a third of the time each, linear
in time; the low comes first when it closes up. What is served at a moment knows the path up to that moment only.
"""

from decimal import Decimal
from typing import NamedTuple

import numpy as np

from infra.sandbox.candles import BaseCandles, Floats
from infra.sandbox.config import split_symbol
from tasks.core.types.orders import Instrument

MAX_LEVERAGE = 100
MIN_NOTIONAL = Decimal(5)


class Leg(NamedTuple):
    """A stretch of time over which the price moves on a straight line."""

    start_ms: int
    end_ms: int
    start: float = 0
    end: float = 0


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
        )

    def text(self, price: float) -> str:
        return f"{price:.{self.candles.price_decimals}f}"

    def decimal(self, price: float) -> Decimal:
        """Cross from a candle's float to money, on the tick grid."""
        return Decimal(self.text(price))

    def closed(self, now_ms: int) -> int:
        """Return how many base candles have closed at `now_ms`."""
        self.candles.ensure(now_ms)
        return int(np.searchsorted(self.candles.ts, now_ms - self.candles.base_ms, side="right"))

    def prices_at(self, times: Floats) -> Floats:
        """Return the path's price at each time in ms; in a gap and after the end, the last close."""
        c = self.candles
        c.ensure(int(times.max()))
        whole_ms = times.astype("int64")  # searching for floats would first turn all of ts into them
        i = np.clip(np.searchsorted(c.ts, whole_ms, side="right") - 1, 0, None)
        thirds = np.clip((times - c.ts[i]) / c.base_ms, 0.0, 1.0) * 3
        leg = np.minimum(thirds.astype(int), 2)
        points, rows = self._vertices(i), np.arange(len(times))
        prices: Floats = points[rows, leg] + (points[rows, leg + 1] - points[rows, leg]) * (thirds - leg)
        return prices

    def price_at(self, now_ms: int) -> float:
        return float(self.prices_at(np.array([float(now_ms)]))[0])

    def _vertices(self, i: np.ndarray) -> Floats:
        """Return the four corners of the path through each candle."""
        opened, high, low, close = self.candles.rows[i, :4].T
        up = close >= opened
        return np.stack([opened, np.where(up, low, high), np.where(up, high, low), close], axis=1)

    def legs(self, start_ms: int, end_ms: int) -> list[Leg]:
        """Return the straight pieces of the path between two moments; nothing where there are no candles."""
        c = self.candles
        c.ensure(end_ms)
        first = max(int(np.searchsorted(c.ts, start_ms, side="right")) - 1, 0)
        candles = np.arange(first, int(np.searchsorted(c.ts, end_ms)))
        third, found = c.base_ms // 3, []
        for opened, points in zip(c.ts[candles].tolist(), self._vertices(candles), strict=True):
            for leg in range(3):
                begin = opened + leg * third
                lo, hi = max(begin, start_ms), min(begin + third, end_ms)
                if lo < hi:
                    prices = np.interp([lo, hi], [begin, begin + third], points[leg : leg + 2]).tolist()
                    found.append(Leg(lo, hi, *prices))
        return found

    def klines(self, timeframe_ms: int, start_ms: int, end_ms: int, now_ms: int) -> Floats:
        """Return rows (open time, o, h, l, c, volume) of bars opening in [start, end], the forming one included."""
        rows = self._base_rows(start_ms // timeframe_ms * timeframe_ms, end_ms + timeframe_ms, now_ms)
        if not len(rows) or timeframe_ms % self.candles.base_ms:
            return np.empty((0, 6))
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
        out = np.column_stack(bars)
        return out[(out[:, 0] >= start_ms) & (out[:, 0] <= end_ms)]

    def _base_rows(self, start_ms: int, end_ms: int, now_ms: int) -> Floats:
        """Return closed base candles opening in [start, end), then the forming one as far as it is known."""
        c = self.candles
        n = self.closed(now_ms)
        part = slice(*np.searchsorted(c.ts[:n], [start_ms, end_ms]).tolist())
        rows = np.column_stack([c.ts[part], c.rows[part]])
        if n < len(c.ts) and start_ms <= c.ts[n] < end_ms and c.ts[n] <= now_ms:
            rows = np.vstack([rows, self._forming(n, now_ms)])
        return rows

    def _forming(self, i: int, now_ms: int) -> Floats:
        c = self.candles
        share = (now_ms - c.ts[i]) / c.base_ms
        seen = np.append(self._vertices(np.array([i]))[0, : int(share * 3) + 1], self.price_at(now_ms))
        return np.array([c.ts[i], seen[0], seen.max(), seen.min(), seen[-1], c.rows[i, 4] * share])
