"""Indicators on series short and even enough to be worked out by hand; the recorded sheets say the same at length."""

import math

import numpy as np
import pandas as pd
import pytest
from market_data import START

from tasks.core.market import anchors, features
from tasks.core.market.bars import bar_frame, columns_of


def bars(close: list[float] | np.ndarray, reach: float = 1.0, volume: float = 10.0) -> pd.DataFrame:
    """Return 5m bars with these closes that open at the close before and reach as far beyond both."""
    close = np.asarray(close, dtype=float)
    opened = np.r_[close[0], close[:-1]]
    values = {
        "open": opened, "high": np.maximum(opened, close) + reach, "low": np.minimum(opened, close) - reach,
        "close": close, "volume": np.full(len(close), volume),
    }  # fmt: skip
    return bar_frame((int(START.timestamp()) + 300 * np.arange(len(close))) * 1000, values)


def last(name: str, frame: pd.DataFrame) -> float:
    return float(features.compute(frame, "5m")[name].iloc[-1])


def ramp(n: int) -> np.ndarray:
    return 100.0 + np.arange(n)


def test_rsi_is_wilders() -> None:
    """Seven steps of +2 and seven of -1: mean gain 1, mean loss 0.5. Then +1: 14/14 against 6.5/14."""
    closes = list(100 + np.cumsum([0, *([2, -1] * 7)]))
    assert last("rsi", bars(closes)) == pytest.approx(100 - 100 / 3)
    assert last("rsi", bars([*closes, closes[-1] + 1])) == pytest.approx(100 - 100 / (1 + 14 / 6.5))
    assert math.isnan(last("rsi", bars(closes[:-1])))


def test_atr_is_wilders_and_counts_gaps() -> None:
    """A range of 2 on every bar; then a bar that goes 14 up and 1 beyond on both sides: 16. (13 x 2 + 16) / 14 = 3."""
    flat = [100.0] * 15
    assert last("atr", bars(flat)) == pytest.approx(2)
    assert last("atr", bars([*flat, 114.0])) == pytest.approx(3)
    assert last("atr_pct", bars([*flat, 114.0])) == pytest.approx(100 * 3 / 114)
    gap = bars([*flat, 114.0])
    gap.iloc[-1, :4] = [113.0, 115.0, 112.0, 114.0]  # a range of 3, and 15 from the close before
    assert last("atr", gap) == pytest.approx((13 * 2 + 15) / 14)
    assert features.true_range(columns_of(gap))[-1] == 15
    assert math.isnan(features.true_range(columns_of(gap))[0])


def test_averages_and_macd_of_a_ramp() -> None:
    """An average of n, seeded with the simple one, stays (n - 1) / 2 behind a ramp: MACD is 12.5 - 5.5 = 7 for ever.

    Then one step of 1 + 13: the fast average moves 13 x 2/13 further, the slow one 13 x 2/27.
    """
    line = ramp(34)
    assert features.ema(line, 20)[-1] == pytest.approx(line[-1] - 9.5)
    assert math.isnan(features.ema(line, 20)[18])
    assert last("sma20", bars(line)) == pytest.approx(line[-1] - 9.5)
    assert last("macd_hist", bars(line)) == pytest.approx(0, abs=1e-9)
    assert math.isnan(last("macd_hist", bars(line[:-1])))
    moved = 2 - 13 * 2 / 27
    assert last("macd_hist", bars([*line, line[-1] + 14])) == pytest.approx(moved * 0.8)


def test_deviation_and_z_of_a_ramp_are_the_samples() -> None:
    """20 numbers in a row deviate by the root of 20 x 21 / 12 = 35, the last lies 9.5 above their mean."""
    line = ramp(20)
    assert last("std20", bars(line)) == pytest.approx(math.sqrt(35))
    assert last("price_z20", bars(line)) == pytest.approx(9.5 / math.sqrt(35))
    assert features.rolling_std(line, 10)[-1] == pytest.approx(math.sqrt(10 * 11 / 12))
    assert features.rolling_mean(line, 10)[-1] == pytest.approx(line[-1] - 4.5)


def test_bollinger_of_a_ramp_is_the_populations_and_the_adx_of_one_is_100() -> None:
    """Of the population: the root of (20 x 20 - 1) / 12. Two of it on both sides of the mean."""
    line = ramp(60)
    roles = features.role_inputs(bars(line), "5m").iloc[-1]
    middle, deviation = line[-1] - 9.5, math.sqrt(399 / 12)
    assert roles["bb_middle"] == pytest.approx(middle)
    assert roles["bb_upper"] == pytest.approx(middle + 2 * deviation)
    assert roles["bb_lower"] == pytest.approx(middle - 2 * deviation)
    assert roles["bb_percent_b"] == pytest.approx((9.5 + 2 * deviation) / (4 * deviation))
    assert roles["bb_width"] == pytest.approx(4 * deviation / middle)
    assert roles["adx"] == pytest.approx(100)


def test_obv_goes_where_the_closes_go() -> None:
    assert last("obv_dir", bars(ramp(40))) == 1
    assert last("obv_dir", bars(ramp(40)[::-1])) == -1
    assert last("obv_dir", bars([100.0, 101.0] * 20)) == 0
    assert math.isnan(last("obv_dir", bars(ramp(20))))


def test_vwap_weighs_by_volume() -> None:
    """19 bars of volume 1 at 100 and one of volume 19 at 140: 120. `typical`: high, low and close meet in the price."""
    frame = bars([100.0] * 20)
    frame[["high", "low", "open"]] = 100.0
    frame["volume"] = 1.0
    frame.iloc[-1] = [140.0, 140.0, 140.0, 140.0, 19.0]
    assert last("vwap20", frame) == pytest.approx(120)
    day = anchors.compute(frame, frame.iloc[:0])["session_vwap"]
    assert day.iloc[-1] == pytest.approx(120)
    assert day.iloc[-2] == pytest.approx(100)
