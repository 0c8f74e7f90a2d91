"""The book and the trades around the path's price, modelled from candles that had closed before.

Nothing here reads the current candle's high, low or close: spread and depth follow the last hour's volatility and
volume, and what looks random is derived from symbol and time.
"""

import zlib
from typing import NamedTuple

import numpy as np

from infra.sandbox.market.candles import Floats
from infra.sandbox.market.crash import SPREAD_TIMES
from infra.sandbox.market.listing import Listing

LOOKBACK = 60
MINUTE_MS = 60_000
MIN_HALF_SPREAD_BPS = 0.3
MAX_HALF_SPREAD_BPS = 25.0
LEVEL_GAP_BPS = 0.15


class Conditions(NamedTuple):
    """How the market has been: half the spread in bps, volume of a minute in base, drift in volatilities."""

    half_spread_bps: float
    minute_volume: float
    drift: float


def conditions(market: Listing, now_ms: int) -> Conditions:
    """Measure the last closed candles."""
    n = market.begun(now_ms - market.candles.base_ms)
    closes, volumes = market.candles.rows[max(0, n - LOOKBACK) : n, 3:].T
    vol_bps, volume, drift = 10.0, 1.0, 0.0
    if len(closes) > 2:
        minutes = market.candles.base_ms / MINUTE_MS
        moves = np.diff(np.log(closes))
        deviation = moves.std()
        vol_bps = deviation / np.sqrt(minutes) * 1e4
        volume = max(volumes.mean() / minutes, 1e-6)
        drift = moves[-5:].sum() / (deviation * np.sqrt(5)) if deviation else 0.0
    half_spread = float(min(MIN_HALF_SPREAD_BPS + 0.06 * vol_bps, MAX_HALF_SPREAD_BPS))
    return Conditions(half_spread * (SPREAD_TIMES if market.candles.crashing(now_ms) else 1), volume, drift)


def book(market: Listing, now_ms: int, levels: int) -> list[list[list[str]]]:
    """Return [bids, asks], best first, each level [price, quantity]."""
    now, price = conditions(market, now_ms), market.price_at(now_ms)
    tick, step = float(market.instrument.tick), float(market.instrument.step)
    half = price * now.half_spread_bps / 1e4
    bid = np.floor((price - half) / tick + 1e-6) * tick
    ask = max(np.ceil((price + half) / tick - 1e-6) * tick, bid + tick)
    gap = max(tick, round(price * LEVEL_GAP_BPS / 1e4 / tick) * tick)
    tilt = np.clip(0.15 * now.drift + _noise(market, now_ms // MINUTE_MS, 1)[0] - 0.5, -0.6, 0.6)
    places = max(0, round(-np.log10(step)))
    sides = []
    for best, direction in ((bid, -1), (ask, 1)):
        shape = (1 + 0.25 * np.arange(levels)) * (0.5 + _noise(market, now_ms // 1000 * 2 + (direction > 0), levels))
        sizes = np.maximum(now.minute_volume * 0.08 * (1 - direction * tilt) * shape, step)
        prices = best + direction * gap * np.arange(levels)
        sides.append([[market.text(p), f"{q:.{places}f}"] for p, q in zip(prices, sizes, strict=True) if p > 0])
    return sides


def trades(market: Listing, now_ms: int, count: int) -> list[tuple[int, float, float, str]]:
    """Return the last `count` trades, newest first, one a second: (time, price, quantity, side)."""
    now, step = conditions(market, now_ms), float(market.instrument.step)
    slots = now_ms // 1000 - np.arange(count)
    times = np.maximum(slots * 1000, int(market.candles.ts[0])).astype(float)
    luck = _noise(market, slots, count)
    signs = np.where(luck < 0.5 + np.clip(0.1 * now.drift, -0.3, 0.3), 1, -1)
    prices = np.array([market.price_at(at) for at in times.tolist()]) * (1 + signs * now.half_spread_bps / 1e4)
    sizes = np.maximum(np.round(now.minute_volume / 60 * (0.2 + 1.6 * luck) / step), 1) * step
    sides = np.where(signs > 0, "Buy", "Sell")
    return list(zip(*(column.tolist() for column in (times.astype(int), prices, sizes, sides)), strict=True))


def _noise(market: Listing, at: int | np.ndarray, count: int) -> Floats:
    """Return `count` numbers in [0, 1) that depend on symbol and time only."""
    mixed = np.asarray(at, np.uint64) * 1000 + np.arange(count, dtype=np.uint64) + zlib.crc32(market.symbol.encode())
    mixed *= 0x9E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9
    return (mixed >> 11) / (1 << 53)
