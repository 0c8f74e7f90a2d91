"""A seeded market with changing regimes, one UTC day of 1m candles at a time, the same for ever.

Day n depends on the seed, the symbol and where day n-1 ended, so that any later moment is produced when it is first
asked for and is always the same. All symbols share one factor, as coins do. A weak pull toward the symbol's usual
price keeps years of walking near it.
"""

import zlib
from functools import cache

import numpy as np

from infra.sandbox.config import split_symbol
from infra.sandbox.market.candles import BaseCandles, Floats
from infra.sandbox.market.crash import Crash

EPOCH_MS = 1_704_067_200_000  # 2024-01-01
MINUTE_MS = 60_000
DAY_MS = 86_400_000
MINUTES = 1440
SEGMENTS = 4  # regimes hold for a quarter of a day
USUAL = {"BTC": 60_000.0, "ETH": 3_000.0, "BNB": 500.0, "SOL": 150.0, "XRP": 0.6, "DOGE": 0.15}
SIGMA = 0.0006  # of a minute's log return in a calm market
PULL = 0.03  # of the distance to the usual price, per day

# volatility, drift (in sigmas per minute), pull back to the segment's start (per minute), share of time
REGIMES = np.array(
    [
        (0.7, 0.0, 0.02, 0.40),  # range
        (0.9, 0.035, 0.0, 0.22),  # up
        (0.9, -0.035, 0.0, 0.20),  # down
        (2.2, 0.0, 0.0, 0.15),  # wild
        (3.0, -0.06, 0.0, 0.03),  # crash, over in hours
    ]
)
SHARES = REGIMES[:, 3]
MOODS = SHARES[:-1] / SHARES[:-1].sum()


class SyntheticCandles(BaseCandles):
    """Candles from the epoch to as far as anyone has asked."""

    def __init__(self, symbol: str, seed: int, crash: Crash | None = None) -> None:
        base = split_symbol(symbol)[0]
        usual = USUAL.get(base, float(10 ** (zlib.crc32(base.encode()) % 4)))
        super().__init__(MINUTE_MS, max(0, 5 - int(np.floor(np.log10(usual)))), usual, crash)
        self._symbol, self._seed = zlib.crc32(symbol.encode()), seed
        self._log_price = float(np.log(usual))

    def ensure(self, until_ms: int) -> None:
        with self._growing:
            days = range(len(self.ts) // MINUTES, (until_ms - EPOCH_MS) // DAY_MS + 1)
            for day in days:
                self.append(EPOCH_MS + np.arange(day * MINUTES, (day + 1) * MINUTES) * MINUTE_MS, self._day(day))

    def _day(self, day: int) -> Floats:
        """Return open, high, low, close, volume of one day's 1,440 minutes."""
        shared = np.random.default_rng([self._seed, day])
        own = np.random.default_rng([self._seed, day, self._symbol])
        vol, drift, pull = _regimes(shared, self._seed, day)
        sigma = SIGMA * vol
        noise = 0.75 * shared.standard_normal(MINUTES) + 0.66 * own.standard_normal(MINUTES)
        steps = sigma * (noise + drift) + PULL / MINUTES * (np.log(self.usual_price) - self._log_price)
        closes = self._log_price + _walk(steps, pull)
        opens = np.append(self._log_price, closes[:-1])
        self._log_price = float(closes[-1])
        wick = np.abs(own.standard_normal((2, MINUTES))) * sigma * 0.6
        high, low = np.maximum(opens, closes) + wick[0], np.minimum(opens, closes) - wick[1]
        prices = np.exp([opens, high, low, closes]).round(self.price_decimals)
        busy = 1 + 0.5 * np.sin(2 * np.pi * (np.arange(MINUTES) / MINUTES - 0.35))
        effort = 1 + 2.0 * np.abs(closes - opens) / SIGMA
        quote_volume = 400_000 * busy * effort * np.exp(0.5 * own.standard_normal(MINUTES))
        return np.column_stack([*prices, (quote_volume / self.usual_price).round(4)])


synthetic_candles = cache(SyntheticCandles)  # one copy of a symbol's market in this process


def _regimes(rng: np.random.Generator, seed: int, day: int) -> Floats:
    """Return volatility, drift and pull of each minute; a regime tends to last about three days."""
    mood = np.random.default_rng([seed, 1_000_000_007, day // 3]).choice(len(MOODS), p=MOODS)
    fresh = rng.choice(len(REGIMES), size=SEGMENTS, p=SHARES)
    chosen = np.where(rng.random(SEGMENTS) < 0.65, mood, fresh)
    return np.repeat(REGIMES[chosen, :3], MINUTES // SEGMENTS, axis=0).T


def _walk(steps: Floats, pull: Floats) -> Floats:
    """Return the day's cumulated log steps, each quarter with a pull to where it began where `pull` is set."""
    size = MINUTES // SEGMENTS
    walked = [np.zeros(1)]
    for rate, part in zip(pull[::size], np.split(steps, SEGMENTS), strict=True):
        pulled = np.convolve(part, (1 - rate) ** np.arange(size))[:size] if rate else np.cumsum(part)
        walked.append(walked[-1][-1] + pulled)
    return np.concatenate(walked[1:])
