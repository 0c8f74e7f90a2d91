"""Indicators and structure of one timeframe, vectorised: one row per bar, each row knowing only its past.

The same function serves live (the last 1,000 bars) and backtest (all of history). What cannot be known (too
few bars, a zero divisor) is NaN here and null in the snapshot. After a gap everything starts anew: nothing is
computed across bars that never traded.

Sources: RSI, ATR and ADX by Wilder (1978), through TA-Lib behind pandas-ta-classic; the rest is defined in its
docstring. std is always the 20-bar sample deviation of close.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pandas_ta_classic as ta
import talib
from numpy import ndarray

from tasks.core.market.bars import Columns, columns_of, frame_of, segments
from tasks.core.types import COLUMNS

WINDOW = 20
PERCENTILE_WINDOW = 90
SWING_SIDE = 2
RECENT, MONTH = 100, 30  # bars within which a cross is told; days
DUST = 1e-12  # a deviation smaller than this share of the values is rounding, not movement


def _per_segment(compute_columns: Callable[[Columns], Columns]) -> Callable[[pd.DataFrame, str], pd.DataFrame]:
    """Compute each gapless run of a frame's bars on its own, as if history began with it."""

    def compute_frame(bars: pd.DataFrame, timeframe: str) -> pd.DataFrame:
        whole, runs = columns_of(bars), segments(bars.index, timeframe)
        parts = [compute_columns({name: whole[name][run] for name in COLUMNS}) for run in runs]
        if len(parts) == 1:
            return frame_of(parts[0], bars.index)
        return frame_of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, bars.index)

    return compute_frame


@_per_segment
def compute(bars: Columns) -> Columns:
    """Compute every feature of a timeframe for each bar.

    bars: n rows as in `types.bars`. Returns n rows: the bar columns, the snapshot's columns, and the levels they
    are made of (sma20 sma50 sma200 std20 vwap20 last_high last_low prev_high prev_low).
    """
    columns = dict(bars)
    for add in (_averages, _momentum, _ranges, _volume, _structure):
        add(columns)
    return columns


def windows(values: ndarray, length: int) -> ndarray:
    """Return the trailing windows of `values` (rows >= length-1), as a view.

    What numpy's sliding_window_view gives, at a tenth of its overhead: a live cycle asks some 80 times.
    """
    values = np.ascontiguousarray(values)
    step = values.strides[0]
    return np.ndarray((max(0, len(values) - length + 1), length), values.dtype, values, 0, (step, step))


def _padded(values: ndarray, length: int) -> ndarray:
    """Put NaN before values that begin with the first whole window."""
    return np.concatenate([np.full(length - len(values), np.nan), values])


def rolling_sum(values: ndarray, length: int) -> ndarray:
    """Sum each trailing window; each value depends on its own window alone, whatever came before."""
    return _padded(windows(values, length).sum(axis=1), len(values))


def rolling_mean(values: ndarray, length: int) -> ndarray:
    return rolling_sum(values, length) / length


def rolling_std(values: ndarray, length: int = WINDOW) -> ndarray:
    """Return the sample deviation of each trailing window; NaN where nothing moved but rounding."""
    view = windows(values, length)
    std = view.std(axis=1, ddof=1)
    return _padded(np.where(std > DUST * np.abs(view[:, -1]), std, np.nan), len(values))


def ratio(top: ndarray, bottom: ndarray) -> ndarray:
    """Divide, giving NaN where the divisor is 0 or unknown."""
    out = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0)
    return np.where(np.isfinite(out), out, np.nan)


def lag(values: ndarray, n: int = 1) -> ndarray:
    """Return the value n bars ago; NaN for the first n."""
    out = np.full(len(values), np.nan)
    out[n:] = values[: max(0, len(values) - n)]
    return out


def typical_value(c: Columns) -> ndarray:
    """Return what each bar traded in quote, at its typical price."""
    return (c["high"] + c["low"] + c["close"]) / 3 * c["volume"]


def _averages(c: Columns) -> None:
    close = c["close"]
    for length in (20, 50, 200):
        c[f"sma{length}"] = rolling_mean(close, length)
    c["std20"] = rolling_std(close)
    c["price_z20"] = ratio(close - c["sma20"], c["std20"])
    c["vwap20"] = ratio(rolling_sum(typical_value(c), WINDOW), rolling_sum(c["volume"], WINDOW))
    c["vwap_z"] = ratio(close - c["vwap20"], c["std20"])


def ema(close: ndarray, length: int) -> ndarray:
    """Return the exponential average seeded with the simple average of its first `length` values."""
    return talib.EMA(close, length)


def macd_hist(close: ndarray) -> ndarray:
    """Return MACD(12,26,9)'s histogram, all three averages SMA-seeded (TA-Lib's own MACD seeds them otherwise)."""
    line = ema(close, 12) - ema(close, 26)
    known = line[np.isfinite(line)]
    signal = ema(known, 9) if len(known) else known
    return line - _padded(signal, len(line))


def _momentum(c: Columns) -> None:
    close = c["close"]
    moved = np.maximum.accumulate(close != close[:1])  # until then TA-Lib says 0, and it is unknown
    c["rsi"] = np.where(moved, talib.RSI(close, 14), np.nan)
    c["rsi_slope"] = c["rsi"] - lag(c["rsi"])
    hist = macd_hist(close)
    before = lag(hist)
    c["macd_hist"] = hist
    c["macd_slope"] = hist - before
    cross = np.where((hist > 0) & (before <= 0), 1.0, np.where((hist < 0) & (before >= 0), -1.0, 0.0))
    c["macd_cross"] = np.where(np.isfinite(before), cross, np.nan)
    c["delta20"] = rolling_mean(np.sign(close - lag(close)), WINDOW)


def true_range(c: Columns) -> ndarray:
    """Return each bar's true range in quote; the first is NaN (no previous close). Source: Wilder (1978)."""
    before = lag(c["close"])
    return np.maximum(c["high"], before) - np.minimum(c["low"], before)


def _percentile(values: ndarray) -> ndarray:
    """Return 100 x the share of the last 90 values (this one included) that are <= this one."""
    view = windows(values, PERCENTILE_WINDOW)
    share = np.count_nonzero(view <= view[:, -1:], axis=1) * (100 / PERCENTILE_WINDOW)
    known = np.count_nonzero(windows(np.isfinite(values), PERCENTILE_WINDOW), axis=1) == PERCENTILE_WINDOW
    return _padded(np.where(known, share, np.nan), len(values))


def realized_vol_pctile(close: ndarray) -> ndarray:
    """Return the percentile of the 20-bar deviation of log returns."""
    return _percentile(rolling_std(_log_returns(close)))


def _log_returns(close: ndarray) -> ndarray:
    logs = np.log(np.where(close > 0, close, np.nan))
    return logs - lag(logs)


def _rolling_median(values: ndarray) -> ndarray:
    return pd.Series(values).rolling(WINDOW).median().to_numpy()


def _ranges(c: Columns) -> None:
    atr = talib.ATR(c["high"], c["low"], c["close"], 14)
    c["atr"] = np.where(atr > 0, atr, np.nan)
    c["atr_pct"] = ratio(c["atr"], c["close"]) * 100
    c["atr_pctile"] = _percentile(c["atr"])
    spread = true_range(c)
    c["range_ratio"] = ratio(spread, _rolling_median(spread))
    c["cloud_atr"] = ratio(c["sma50"] - c["sma200"], c["atr"])


def _volume(c: Columns) -> None:
    volume, close = c["volume"], c["close"]
    c["vol_z20"] = ratio(volume - rolling_mean(volume, WINDOW), rolling_std(volume))
    median = _rolling_median(volume)
    c["vol_spike"] = np.where(np.isfinite(median), volume > 2 * median, np.nan)
    # the change of OBV over 20 bars is the sum of its 20 steps: wherever OBV itself was started
    c["obv_dir"] = np.sign(rolling_sum(np.sign(close - lag(close)) * volume, WINDOW))


def _structure(c: Columns) -> None:
    """Swings: an extreme of two bars on either side, known only after those two bars closed."""
    for name, sign in (("high", 1.0), ("low", -1.0)):
        last, previous = _swing_levels(sign * c[name])
        c[f"last_{name}"], c[f"prev_{name}"] = sign * last, sign * previous
    close, atr, height = c["close"], c["atr"], c["high"] - c["low"]
    for level in ("last_high", "last_low", "prev_high", "prev_low"):
        c[f"to_{level}_atr"] = ratio(c[level] - close, atr)
    c["broke_high"] = np.where(np.isfinite(c["last_high"]), close > c["last_high"], np.nan)
    c["broke_low"] = np.where(np.isfinite(c["last_low"]), close < c["last_low"], np.nan)
    c["upper_wick_pct"] = ratio(c["high"] - np.maximum(c["open"], close), height) * 100
    c["lower_wick_pct"] = ratio(np.minimum(c["open"], close) - c["low"], height) * 100


def _swing_levels(values: ndarray) -> tuple[ndarray, ndarray]:
    """Return the last and the previous known swing high of `values` at each bar."""
    last, previous = np.full(len(values), np.nan), np.full(len(values), np.nan)
    middle, others = values[2:-2], (values[:-4], values[1:-3], values[3:-1], values[4:])
    at = np.flatnonzero(np.logical_and.reduce([middle > other for other in others]))
    known, levels = at + 2 * SWING_SIDE, middle[at]
    order = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    last[order >= 0] = levels[order[order >= 0]]
    previous[order >= 1] = levels[order[order >= 1] - 1]
    return last, previous


@_per_segment
def role_inputs(bars: Columns) -> Columns:
    """Compute what roles need beyond the snapshot: ADX(14), Bollinger(20, 2), EMA50/200, per bar.

    Bollinger uses the deviation of the population, as its author does; bb_percent_b is 0 at the lower band and 1
    at the upper; bb_width is (upper - lower)/middle. EMA200 forgets slowly: from 1,000 bars it is within 0.1 % of
    the distance between price and average, not 1e-9, of the one over all of history.
    """
    price = bars["close"]
    adx = ta.adx(*(pd.Series(bars[name]) for name in ("high", "low", "close")), length=14, talib=True)
    middle = rolling_mean(price, WINDOW)
    deviation = rolling_std(price) * np.sqrt((WINDOW - 1) / WINDOW)
    upper, lower = middle + 2 * deviation, middle - 2 * deviation
    return {
        "adx": np.full(len(price), np.nan) if adx is None else adx["ADX_14"].to_numpy(dtype=float),
        "bb_upper": upper,
        "bb_middle": middle,
        "bb_lower": lower,
        "bb_percent_b": ratio(price - lower, upper - lower),
        "bb_width": ratio(upper - lower, middle),
        "ema50": ema(price, 50),
        "ema200": ema(price, 200),
    }


@_per_segment
def crossings(bars: Columns) -> Columns:
    """Compute, per bar, when EMA50 and EMA200, SMA20 and SMA50, and MACD and its signal last crossed."""
    price = bars["close"]
    over = {
        "ema_cross": ema(price, 50) - ema(price, 200),
        "sma_cross": rolling_mean(price, 20) - rolling_mean(price, 50),
        "macd_cross": macd_hist(price),
    }
    return {name: since_cross(values) for name, values in over.items()}


def since_cross(over: ndarray) -> ndarray:
    """Return how many bars ago `over` changed its sign, this bar 1: below 0 where it went below 0.

    NaN where that is longer than RECENT bars ago, or nowhere in what is known.
    """
    above, before, at = over > 0, lag(over), np.arange(len(over))
    crossed = np.isfinite(over) & np.isfinite(before) & (above != (before > 0))
    bars = at - np.maximum.accumulate(np.where(crossed, at, -RECENT)) + 1
    return np.where(bars <= RECENT, np.where(above, bars, -bars), np.nan)


@_per_segment
def month_volatility(bars: Columns) -> Columns:
    """Compute `volatility_30d` of daily bars: the sample deviation of 30 daily log returns, in percent."""
    return {"volatility_30d": rolling_std(_log_returns(bars["close"]), MONTH) * 100}
