"""Indicators and structure of one timeframe, vectorised: one row per bar, each row knowing only its past.

The same function serves live (the last 1,000 bars) and backtest (all of history). What cannot be known (too
few bars, a zero divisor) is NaN here and null in the snapshot. After a gap everything starts anew: nothing is
computed across bars that never traded.

Sources: RSI, ATR and ADX by Wilder (1978), through TA-Lib behind pandas-ta-classic; the rest is defined in its
docstring. std is always the 20-bar sample deviation of close.
"""

from itertools import pairwise

import numpy as np
import pandas as pd
import pandas_ta_classic as ta

from tasks.core.market.bars import gap_starts
from tasks.core.types.bars import COLUMNS

WINDOW = 20
PERCENTILE_WINDOW = 90
SWING_SIDE = 2
Columns = dict[str, np.ndarray]


def compute(bars: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Compute every feature of `timeframe` for each bar.

    bars: n rows as in `types.bars`. Returns n rows: the bar columns, the snapshot's columns, and the levels they
    are made of (sma20 sma50 sma200 std20 vwap20 last_high last_low prev_high prev_low realized_vol_pctile).
    """
    edges = [0, *gap_starts(bars, timeframe).tolist(), len(bars)] if len(bars) else [0, 0]
    parts = [_contiguous(bars.iloc[a:b]) for a, b in pairwise(edges)]
    return parts[0] if len(parts) == 1 else pd.concat(parts)


def _contiguous(bars: pd.DataFrame) -> pd.DataFrame:
    columns: Columns = {name: bars[name].to_numpy() for name in COLUMNS}
    _averages(columns)
    _momentum(columns, bars)
    _ranges(columns, bars)
    _volume(columns, bars)
    _structure(columns)
    return pd.DataFrame(columns, index=bars.index)


def windows(values: np.ndarray, length: int) -> np.ndarray:
    """Return the trailing windows of `values` (rows >= length-1), as a view."""
    return np.lib.stride_tricks.sliding_window_view(values, length)


def _rolling(values: np.ndarray, length: int, reduce: str) -> np.ndarray:
    """Reduce each trailing window; each value depends on its own window alone, whatever came before."""
    out = np.full(len(values), np.nan)
    if len(values) >= length:
        view = windows(values, length)
        out[length - 1 :] = view.std(axis=1, ddof=1) if reduce == "std" else getattr(view, reduce)(axis=1)
    return out


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide, giving NaN where the divisor is 0 or unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        out = top / bottom
    return np.where(np.isfinite(out), out, np.nan)


def lag(values: np.ndarray, n: int = 1) -> np.ndarray:
    """Return the value n bars ago; NaN for the first n."""
    out = np.full(len(values), np.nan)
    out[n:] = values[:-n] if n else values
    return out


def _indicator(result: pd.Series | None, length: int) -> np.ndarray:
    """Return pandas-ta's series as an array; it gives None when there are too few bars."""
    return np.full(length, np.nan) if result is None else result.to_numpy(dtype=float)


def _averages(c: Columns) -> None:
    close = c["close"]
    for length in (20, 50, 200):
        c[f"sma{length}"] = _rolling(close, length, "mean")
    std = _rolling(close, WINDOW, "std")
    # a window of equal closes has no deviation; floating point may leave dust
    c["std20"] = np.where(std > 1e-12 * np.abs(close), std, np.nan)
    c["price_z20"] = ratio(close - c["sma20"], c["std20"])
    typical = (c["high"] + c["low"] + close) / 3
    c["vwap20"] = ratio(_rolling(typical * c["volume"], WINDOW, "sum"), _rolling(c["volume"], WINDOW, "sum"))
    c["vwap_z"] = ratio(close - c["vwap20"], c["std20"])


def ema(close: pd.Series, length: int) -> np.ndarray:
    """Return the exponential average seeded with the simple average of its first `length` values."""
    return _indicator(ta.ema(close, length=length, talib=True), len(close))


def macd_hist(close: pd.Series) -> np.ndarray:
    """Return MACD(12,26,9)'s histogram, all three averages SMA-seeded (TA-Lib's own MACD seeds them otherwise)."""
    line = ema(close, 12) - ema(close, 26)
    signal = np.full(len(line), np.nan)
    known = np.flatnonzero(np.isfinite(line))
    if len(known):
        signal[known[0] :] = ema(pd.Series(line[known[0] :]), 9)
    return np.asarray(line - signal)


def _momentum(c: Columns, bars: pd.DataFrame) -> None:
    n = len(bars)
    c["rsi"] = _indicator(ta.rsi(bars["close"], length=14, talib=True), n)
    c["rsi_slope"] = c["rsi"] - lag(c["rsi"])
    hist = macd_hist(bars["close"])
    before = lag(hist)
    c["macd_hist"] = hist
    c["macd_slope"] = hist - before
    cross = np.where((hist > 0) & (before <= 0), 1.0, np.where((hist < 0) & (before >= 0), -1.0, 0.0))
    c["macd_cross"] = np.where(np.isfinite(before), cross, np.nan)
    steps = np.sign(np.diff(c["close"], prepend=np.nan))
    c["delta20"] = _rolling(steps, WINDOW, "sum") / WINDOW
    returns = np.diff(np.log(np.where(c["close"] > 0, c["close"], np.nan)), prepend=np.nan)
    c["realized_vol_pctile"] = _percentile(_rolling(returns, WINDOW, "std"))


def true_range(c: Columns) -> np.ndarray:
    """Return each bar's true range in quote; the first is NaN (no previous close). Source: Wilder (1978)."""
    before = lag(c["close"])
    return np.asarray(np.maximum(c["high"], before) - np.minimum(c["low"], before))


def _percentile(values: np.ndarray) -> np.ndarray:
    """Return 100 x the share of the last 90 values (this one included) that are <= this one."""
    out = np.full(len(values), np.nan)
    if len(values) >= PERCENTILE_WINDOW:
        view = windows(values, PERCENTILE_WINDOW)
        share = (view <= view[:, -1:]).mean(axis=1) * 100
        out[PERCENTILE_WINDOW - 1 :] = np.where(np.isfinite(view).all(axis=1), share, np.nan)
    return out


def _rolling_median(values: np.ndarray) -> np.ndarray:
    return pd.Series(values).rolling(WINDOW).median().to_numpy()


def _ranges(c: Columns, bars: pd.DataFrame) -> None:
    atr = _indicator(ta.atr(bars["high"], bars["low"], bars["close"], length=14, talib=True), len(bars))
    c["atr"] = np.where(atr > 0, atr, np.nan)
    c["atr_pct"] = ratio(c["atr"], c["close"]) * 100
    c["atr_pctile"] = _percentile(c["atr"])
    spread = true_range(c)
    c["range_ratio"] = ratio(spread, _rolling_median(spread))
    c["cloud_atr"] = ratio(c["sma50"] - c["sma200"], c["atr"])


def _volume(c: Columns, bars: pd.DataFrame) -> None:
    volume = c["volume"]
    c["vol_z20"] = ratio(volume - _rolling(volume, WINDOW, "mean"), _rolling(volume, WINDOW, "std"))
    median = _rolling_median(volume)
    c["vol_spike"] = np.where(np.isfinite(median), (volume > 2 * median).astype(float), np.nan)
    obv = _indicator(ta.obv(bars["close"], bars["volume"], talib=True), len(bars))
    c["obv_dir"] = np.sign(obv - lag(obv, WINDOW))


def _structure(c: Columns) -> None:
    """Swings: an extreme of two bars on either side, known only after those two bars closed."""
    for name, values in (("high", c["high"]), ("low", -c["low"])):
        last, previous = _swing_levels(values)
        sign = 1.0 if name == "high" else -1.0
        c[f"last_{name}"], c[f"prev_{name}"] = sign * last, sign * previous
    close, atr, height = c["close"], c["atr"], c["high"] - c["low"]
    for level in ("last_high", "last_low", "prev_high", "prev_low"):
        c[f"to_{level}_atr"] = ratio(c[level] - close, atr)
    c["broke_high"] = np.where(np.isfinite(c["last_high"]), close > c["last_high"], np.nan)
    c["broke_low"] = np.where(np.isfinite(c["last_low"]), close < c["last_low"], np.nan)
    c["upper_wick_pct"] = ratio(c["high"] - np.maximum(c["open"], close), height) * 100
    c["lower_wick_pct"] = ratio(np.minimum(c["open"], close) - c["low"], height) * 100


def _swing_levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last and the previous known swing high of `values` at each bar."""
    last, previous = np.full(len(values), np.nan), np.full(len(values), np.nan)
    width = 2 * SWING_SIDE + 1
    if len(values) < width:
        return last, previous
    view = windows(values, width)
    middle = view[:, SWING_SIDE : SWING_SIDE + 1]
    at = np.flatnonzero((np.delete(view, SWING_SIDE, axis=1) < middle).all(axis=1))
    known, levels = at + width - 1, values[at + SWING_SIDE]
    order = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    last[order >= 0] = levels[order[order >= 0]]
    previous[order >= 1] = levels[order[order >= 1] - 1]
    return last, previous


def role_inputs(bars: pd.DataFrame) -> pd.DataFrame:
    """Compute what roles need beyond the snapshot: ADX(14), Bollinger(20, 2), EMA50/200, per bar.

    Bollinger uses the deviation of the population, as its author does; bb_percent_b is 0 at the lower band and 1
    at the upper; bb_width is (upper - lower)/middle.
    """
    n = len(bars)
    adx = ta.adx(bars["high"], bars["low"], bars["close"], length=14, talib=True)
    middle = _rolling(bars["close"].to_numpy(), WINDOW, "mean")
    deviation = _rolling(bars["close"].to_numpy(), WINDOW, "std") * np.sqrt((WINDOW - 1) / WINDOW)
    upper, lower = middle + 2 * deviation, middle - 2 * deviation
    return pd.DataFrame(
        {
            "adx": _indicator(None if adx is None else adx["ADX_14"], n),
            "bb_upper": upper,
            "bb_middle": middle,
            "bb_lower": lower,
            "bb_percent_b": ratio(bars["close"].to_numpy() - lower, upper - lower),
            "bb_width": ratio(upper - lower, middle),
            "ema50": ema(bars["close"], 50),
            "ema200": ema(bars["close"], 200),
        },
        index=bars.index,
    )
