"""The book, trades and 24h numbers around the path's price, modelled from candles that had closed before.

Nothing here reads the current candle's high, low or close: spread and depth follow the last hour's volatility and
volume, and what looks random is derived from seed, symbol and time.
"""

import zlib
from typing import NamedTuple

import numpy as np

from infra.sandbox.candles import Floats
from infra.sandbox.market import Market

LOOKBACK = 60
MINUTE_MS = 60_000
DAY_MS = 86_400_000
MIN_HALF_SPREAD_BPS = 0.3
MAX_HALF_SPREAD_BPS = 25.0
LEVEL_GAP_BPS = 0.15


class Conditions(NamedTuple):
    """How the market has been: volatility of a minute in bps, volume of a minute in base, drift in volatilities."""

    vol_bps: float
    minute_volume: float
    drift: float
    spread_times: int = 1

    @property
    def half_spread_bps(self) -> float:
        return float(min(MIN_HALF_SPREAD_BPS + 0.06 * self.vol_bps, MAX_HALF_SPREAD_BPS)) * self.spread_times


def conditions(market: Market, now_ms: int) -> Conditions:
    """Measure the last closed candles."""
    n = market.closed(now_ms)
    closes = market.candles.close[max(0, n - LOOKBACK) : n]
    volumes = market.candles.volume[max(0, n - LOOKBACK) : n]
    minutes = market.base_ms / MINUTE_MS
    if len(closes) < 3:
        return Conditions(10.0, 1.0, 0.0)
    moves = np.diff(np.log(closes))
    deviation = float(moves.std())
    drift = float(moves[-5:].sum() / (deviation * np.sqrt(5))) if deviation else 0.0
    volume = max(float(volumes.mean() / minutes), 1e-6)
    return Conditions(deviation / np.sqrt(minutes) * 1e4, volume, drift, market.candles.spread_times(now_ms))


def book(market: Market, now_ms: int, levels: int, step: float) -> tuple[list[list[str]], list[list[str]]]:
    """Return (bids, asks), best first, each level [price, quantity]."""
    now, price = conditions(market, now_ms), market.price_at(now_ms)
    tick = 10.0**-market.decimals
    half = price * now.half_spread_bps / 1e4
    bid = np.floor((price - half) / tick + 1e-6) * tick
    ask = max(np.ceil((price + half) / tick - 1e-6) * tick, bid + tick)
    gap = max(tick, round(price * LEVEL_GAP_BPS / 1e4 / tick) * tick)
    tilt = float(np.clip(0.15 * now.drift + _noise(market, now_ms // MINUTE_MS, 1)[0] - 0.5, -0.6, 0.6))
    places = max(0, round(-np.log10(step)))

    def side(best: float, direction: int) -> list[list[str]]:
        shape = (1 + 0.25 * np.arange(levels)) * (0.5 + _noise(market, now_ms // 1000 * 2 + (direction > 0), levels))
        sizes = np.maximum(now.minute_volume * 0.08 * (1 - direction * tilt) * shape, step)
        prices = best + direction * gap * np.arange(levels)
        rows = zip(prices, sizes, strict=True)
        return [[market.text(p), f"{q:.{places}f}"] for p, q in rows if p > 0]

    return side(float(bid), -1), side(float(ask), 1)


def trades(market: Market, now_ms: int, count: int, step: float) -> list[tuple[int, float, float, str]]:
    """Return the last `count` trades, newest first, one a second: (time, price, quantity, side)."""
    now = conditions(market, now_ms)
    slots = now_ms // 1000 - np.arange(count)
    times = np.maximum(slots * 1000, int(market.candles.ts[0])).astype(float)
    luck = _noise(market, slots, count)
    signs = np.where(luck < 0.5 + np.clip(0.1 * now.drift, -0.3, 0.3), 1, -1)
    prices = market.prices_at(times) * (1 + signs * now.half_spread_bps / 1e4)
    sizes = np.maximum(np.round(now.minute_volume / 60 * (0.2 + 1.6 * luck) / step), 1) * step
    sides = ["Buy" if sign > 0 else "Sell" for sign in signs]
    return list(zip(times.astype(int).tolist(), prices.tolist(), sizes.tolist(), sides, strict=True))


class Day(NamedTuple):
    """The last 24 hours up to now."""

    open: float
    high: float
    low: float
    volume: float
    turnover: float


def last_day(market: Market, now_ms: int) -> Day:
    rows = market.klines(market.base_ms, now_ms - DAY_MS, now_ms, now_ms)
    if not len(rows):
        price = market.price_at(now_ms)
        return Day(price, price, price, 0.0, 0.0)
    return Day(
        float(rows[0, 1]),
        float(rows[:, 2].max()),
        float(rows[:, 3].min()),
        float(rows[:, 5].sum()),
        float((rows[:, 4] * rows[:, 5]).sum()),
    )


def _noise(market: Market, at: int | np.ndarray, count: int) -> Floats:
    """Return `count` numbers in [0, 1) that depend on symbol and time only."""
    slots = np.asarray(at, dtype=np.uint64) * np.uint64(1000) + np.arange(count, dtype=np.uint64)
    mixed = (slots + np.uint64(zlib.crc32(market.symbol.encode()))) * np.uint64(0x9E3779B97F4A7C15)
    mixed = np.bitwise_xor(mixed, np.right_shift(mixed, np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray(np.right_shift(mixed, np.uint64(11)), dtype=np.float64) / float(1 << 53)
