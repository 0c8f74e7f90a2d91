"""A seeded market with changing regimes, one UTC day of 1m candles at a time, the same for ever.

Day n depends on the seed, the symbol and where day n-1 ended, so that any later moment is produced when it is first
asked for and is always the same. All symbols share one factor, as coins do. A weak pull toward the symbol's usual
price keeps years of walking near it.
"""

import threading
import zlib
from functools import cache

import numpy as np

from infra.sandbox.candles import Candles, Floats
from infra.sandbox.config import split_symbol

EPOCH_MS = 1_704_067_200_000  # 2024-01-01
MINUTE_MS = 60_000
DAY_MS = 86_400_000
MINUTES = 1440
SEGMENTS = 4  # regimes hold for a quarter of a day
USUAL = {"BTC": 60_000.0, "ETH": 3_000.0, "BNB": 500.0, "SOL": 150.0, "XRP": 0.6, "DOGE": 0.15}
SIGMA = 0.0006  # of a minute's log return in a calm market
PULL = 0.03  # of the distance to the usual price, per day

# volatility, drift (in sigmas per minute), pull back to the segment's start (per minute), share of time
REGIMES = {
    "range": (0.7, 0.0, 0.02, 0.40),
    "up": (0.9, 0.035, 0.0, 0.22),
    "down": (0.9, -0.035, 0.0, 0.20),
    "wild": (2.2, 0.0, 0.0, 0.15),
    "crash": (3.0, -0.06, 0.0, 0.03),
}
PARAMETERS = np.array(list(REGIMES.values()))
SHARES = PARAMETERS[:, 3]
MOODS = SHARES[:-1] / SHARES[:-1].sum()  # a crash is over in hours


class SyntheticCandles(Candles):
    """Candles from the epoch to as far as anyone has asked."""

    def __init__(self, symbol: str, seed: int) -> None:
        self._symbol, self._seed = zlib.crc32(symbol.encode()), seed
        base = split_symbol(symbol)[0]
        self.usual = USUAL.get(base, float(10 ** (zlib.crc32(base.encode()) % 4)))
        self._log_price = float(np.log(self.usual))
        self._days = 0
        self._growing = threading.Lock()
        empty = np.empty(0)
        decimals = max(0, 5 - int(np.floor(np.log10(self.usual))))
        super().__init__(MINUTE_MS, np.empty(0, dtype=np.int64), empty, empty, empty, empty, empty, decimals)

    def ensure(self, until_ms: int) -> None:
        with self._growing:
            wanted = (until_ms - EPOCH_MS) // DAY_MS + 1
            if wanted > self._days:
                self._grow(wanted)

    def _grow(self, wanted: int) -> None:
        rows = np.concatenate([self._day(day) for day in range(self._days, wanted)], axis=1)
        self._days = wanted
        for name, values in zip(("open", "high", "low", "close", "volume"), rows, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), values]))
        # last, so that a reader who has found a candle's time finds its prices too
        self.ts = EPOCH_MS + np.arange(wanted * MINUTES, dtype=np.int64) * MINUTE_MS

    def _day(self, day: int) -> Floats:
        """Return open, high, low, close, volume of one day's 1,440 minutes."""
        shared = np.random.default_rng([self._seed, day])
        own = np.random.default_rng([self._seed, day, self._symbol])
        vol, drift, pull = _regime_minutes(shared, self._seed, day)
        noise = 0.75 * shared.standard_normal(MINUTES) + 0.66 * own.standard_normal(MINUTES)
        steps = SIGMA * vol * (noise + drift)
        steps += PULL / MINUTES * (np.log(self.usual) - self._log_price)
        path = self._log_price + _pulled_back(steps, pull)
        opens = np.concatenate([[self._log_price], path[:-1]])
        self._log_price = float(path[-1])
        return self._candles(opens, path, SIGMA * vol, own)

    def _candles(self, opens: Floats, closes: Floats, sigma: Floats, rng: np.random.Generator) -> Floats:
        wick = np.abs(rng.standard_normal((2, MINUTES))) * sigma * 0.6
        high = np.exp(np.maximum(opens, closes) + wick[0])
        low = np.exp(np.minimum(opens, closes) - wick[1])
        prices = np.stack([np.exp(opens), high, low, np.exp(closes)]).round(self.price_decimals)
        busy = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(MINUTES) / MINUTES - 0.35))
        effort = 1 + 2.0 * np.abs(closes - opens) / SIGMA
        quote_volume = 400_000 * busy * effort * np.exp(0.5 * rng.standard_normal(MINUTES))
        return np.vstack([prices, (quote_volume / self.usual).round(4)])


@cache
def synthetic_candles(symbol: str, seed: int) -> SyntheticCandles:
    """Return the one copy of a symbol's market in this process."""
    return SyntheticCandles(symbol, seed)


def _regime_minutes(rng: np.random.Generator, seed: int, day: int) -> tuple[Floats, Floats, Floats]:
    """Return volatility, drift and pull of each minute; a regime tends to last about three days."""
    mood = np.random.default_rng([seed, 1_000_000_007, day // 3]).choice(len(MOODS), p=MOODS)
    fresh = rng.choice(len(PARAMETERS), size=SEGMENTS, p=SHARES)
    chosen = np.where(rng.random(SEGMENTS) < 0.65, mood, fresh)
    minutes = np.repeat(PARAMETERS[chosen], MINUTES // SEGMENTS, axis=0)
    return minutes[:, 0], minutes[:, 1], minutes[:, 2]


def _pulled_back(steps: Floats, pull: Floats) -> Floats:
    """Return the day's cumulated log steps, each quarter with a pull to where it began where `pull` is set."""
    out = np.empty(MINUTES)
    size, start = MINUTES // SEGMENTS, 0.0
    for i in range(0, MINUTES, size):
        rate, part = pull[i], steps[i : i + size]
        if rate:
            decay = (1 - rate) ** np.arange(size)
            walked = np.convolve(part, decay)[:size]
        else:
            walked = np.cumsum(part)
        out[i : i + size] = start + walked
        start = float(out[i + size - 1])
    return out
