"""Features against a slow pure-Python reference of the same definitions, and what is unknown."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import MARKETS, recorded, rows, walk
from reference import features as reference_features

from tasks.core.market import features
from tasks.core.market.moments import AVERAGES, NUMBERS, ma_stacks


def assert_like_reference(bars: pd.DataFrame, i: int, timeframe: str = "5m") -> None:
    frame = features.compute(bars, timeframe)
    expected = reference_features(rows(bars.iloc[: i + 1]))
    row = frame.iloc[i]
    in_price = {name: abs(row["close"]) for name in ("macd_hist", "macd_slope")}  # differences of averages near it
    for name in NUMBERS:
        want, got = expected.get(name), float(row[name])
        if want is None:
            assert math.isnan(got), f"{name} at {i} should be unknown, is {got}"
        else:
            assert got == pytest.approx(float(want), rel=1e-9, abs=1e-12 * in_price.get(name, 100)), f"{name} at {i}"
    [stack] = ma_stacks([np.array([row[name]]) for name in AVERAGES])
    assert stack == expected.get("ma_stack")


@pytest.mark.parametrize("i", [0, 1, 4, 13, 14, 15, 18, 19, 20, 25, 32, 33, 34, 49, 102, 103, 198, 199, 200, 431])
def test_every_feature_equals_the_reference_from_the_first_bar_on(i: int) -> None:
    assert_like_reference(walk(432, seed=5), i)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 259))
def test_features_of_any_walk_equal_the_reference(seed: int, i: int) -> None:
    assert_like_reference(walk(260, seed), i)


@pytest.mark.parametrize("symbol", MARKETS)
def test_features_of_real_candles_equal_the_reference(symbol: str) -> None:
    bars = recorded(symbol, slice(90_000, 91_000))
    for i in np.random.default_rng(7).integers(200, 1_000, 12):
        assert_like_reference(bars, int(i))


def test_nothing_is_computed_across_a_gap() -> None:
    bars = walk(600, seed=2)
    after = features.compute(bars.drop(bars.index[300:303]), "5m").iloc[300:]
    fresh = features.compute(bars.iloc[303:], "5m")
    pd.testing.assert_frame_equal(after, fresh, check_freq=False)


def test_a_market_that_does_not_move_is_unknown_not_zero() -> None:
    bars = walk(300)
    bars[["open", "high", "low", "close"]] = 0.1
    bars["volume"] = 0.3
    row = features.compute(bars, "5m").iloc[-1]
    unknown = ("rsi", "price_z20", "vwap_z", "vol_z20", "atr", "atr_pct", "atr_pctile", "range_ratio", "cloud_atr")
    assert row[list(unknown)].isna().all()
    assert row["obv_dir"] == 0
    assert row[["upper_wick_pct", "lower_wick_pct"]].isna().all()


def test_a_zero_volume_stretch_has_no_vwap_and_no_volume_z() -> None:
    bars = walk(300)
    bars.loc[bars.index[200:], "volume"] = 0.0
    row = features.compute(bars, "5m").iloc[-1]
    assert row[["vwap_z", "vol_z20"]].isna().all()
    assert row["vol_spike"] == 0
    assert math.isfinite(row["rsi"])


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 13, 19])
def test_a_few_bars_give_as_many_rows_of_unknowns(n: int) -> None:
    frame = features.compute(walk(n), "5m")
    assert len(frame) == n
    assert frame[["sma20", "macd_hist", "atr_pctile"]].isna().all(axis=None)
    assert len(features.role_inputs(walk(n), "5m")) == n


def test_equal_highs_are_not_a_swing_and_a_swing_is_known_two_bars_later() -> None:
    bars = walk(12)
    bars["high"] = [5.0, 6, 9, 6, 5, 7, 8, 8, 7, 6, 5, 4]
    bars["low"] = 1.0
    last = features.compute(bars, "5m")["last_high"].tolist()
    assert all(math.isnan(x) for x in last[:4])
    assert last[4:] == [9.0] * 8  # the twin 8s are no extreme


def test_role_inputs_start_anew_after_a_gap() -> None:
    bars = walk(500, seed=4)
    after = features.role_inputs(bars.drop(bars.index[250]), "5m").iloc[250:]
    pd.testing.assert_frame_equal(after, features.role_inputs(bars.iloc[251:], "5m"), check_freq=False)


def test_bars_since_a_cross_count_from_the_bar_of_it_and_are_forgotten():
    over = np.array([np.nan, -1.0, -2.0, 1.0, 3.0, 0.0, -1.0, 2.0] + [2.0] * features.RECENT)
    since = features.since_cross(over)
    assert since[3:8].tolist() == [1, 2, -1, -2, 1]
    assert np.isnan(since[:3]).all()
    assert (since[-2], math.isnan(since[-1])) == (features.RECENT, True)


def test_crossings_know_only_their_past_and_nothing_before_a_gap() -> None:
    bars = walk(900, seed=4)
    whole = features.crossings(bars, "5m")
    assert whole.notna().any().all()
    pd.testing.assert_frame_equal(whole.iloc[:600], features.crossings(bars.iloc[:600], "5m"), check_freq=False)
    after = features.crossings(bars.drop(bars.index[300]), "5m").iloc[300:]
    pd.testing.assert_frame_equal(after, features.crossings(bars.iloc[301:], "5m"), check_freq=False)


def test_the_months_volatility_is_that_of_thirty_daily_returns() -> None:
    bars = walk(40, seed=1).set_axis(pd.date_range("2026-01-01", periods=40, freq="1D", tz="UTC"))
    returns = np.diff(np.log(bars["close"].to_numpy()))
    volatility = features.month_volatility(bars, "1d")["volatility_30d"].to_numpy()
    assert np.isnan(volatility[:30]).all()
    assert volatility[-1] == pytest.approx(returns[-30:].std(ddof=1) * 100)
