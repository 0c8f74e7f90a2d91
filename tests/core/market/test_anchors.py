"""Anchors against a slow reference, and unknown where their days are not all there."""

import math
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import CONSTRAINTS, MARKETS, START, recorded, rows, walk
from reference import anchors as reference_anchors

from tasks.core.market import anchors
from tasks.core.market.bars import resample
from tasks.core.market.market import Market
from tasks.core.market.snapshot import build

BARS = 288


def assert_like_reference(bars: pd.DataFrame, i: int) -> None:
    row = anchors.compute(bars, resample(bars, "5m", "1d")).iloc[i]
    expected = reference_anchors(rows(bars.iloc[: i + 1]))
    for name, got in row.items():
        assert got == pytest.approx(expected.get(str(name), math.nan), rel=1e-9, nan_ok=True), f"{name} at {i}"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 17 * BARS - 1), st.sampled_from([0, 1, 100, 3 * BARS + 50]))
def test_anchors_equal_the_reference_wherever_history_begins(i: int, offset: int) -> None:
    assert_like_reference(walk(17 * BARS, seed=1, start=START + timedelta(minutes=5 * offset)), i)


@pytest.mark.parametrize("symbol", MARKETS)
def test_anchors_of_real_candles_equal_the_reference(symbol: str) -> None:
    bars = recorded(symbol, slice(50_000, 50_000 + 20 * BARS))
    for i in np.random.default_rng(3).integers(0, len(bars), 10):
        assert_like_reference(bars, int(i))


def test_the_bar_that_closes_at_midnight_still_belongs_to_the_old_day() -> None:
    bars = walk(4 * BARS)
    frame = anchors.compute(bars, resample(bars, "5m", "1d"))
    last, first = frame.iloc[3 * BARS - 1], frame.iloc[3 * BARS]
    assert last["daily_open"] == bars["open"].iloc[2 * BARS]
    assert first["daily_open"] == bars["open"].iloc[3 * BARS]
    assert first["prev_day_high"] == bars["high"].iloc[2 * BARS : 3 * BARS].max()


def test_a_missing_day_makes_its_levels_unknown() -> None:
    bars = walk(16 * BARS)
    holed = bars.drop(bars.index[5 * BARS : 6 * BARS])  # the first week's Saturday
    frame = anchors.compute(holed, resample(holed, "5m", "1d"))
    assert frame.loc[bars.index[6 * BARS], ["prev_day_high", "prev_day_low"]].isna().all()
    assert frame.loc[bars.index[8 * BARS], ["prev_week_high", "prev_week_low"]].isna().all()
    assert frame.loc[bars.index[15 * BARS], ["prev_week_high", "prev_week_low"]].notna().all()


def test_the_rolling_vwap_is_unknown_while_one_of_its_bars_is_missing() -> None:
    bars = walk(3 * BARS)
    holed = bars.drop(bars.index[400])
    vwap = anchors.compute(holed, resample(holed, "5m", "1d"))["rolling_vwap_1d"]
    assert vwap.loc[: bars.index[399]].iloc[BARS - 1 :].notna().all()
    assert vwap.loc[bars.index[401] : bars.index[400 + BARS - 1]].isna().all()
    assert vwap.loc[bars.index[400 + BARS] :].notna().all()


def test_distances_are_positive_above_the_price_and_z_is_positive_above_the_level() -> None:
    bars = walk(16 * BARS, seed=9)
    market = Market.from_base("X", bars)
    as_of = bars.index[-1].to_pydatetime() + timedelta(minutes=5)
    view = build(market, as_of, constraints=CONSTRAINTS).htf_anchors
    close, levels = bars["close"].iloc[-1], market.anchors.iloc[-1]
    atr, std = (market.value("15m", name, as_of) for name in ("atr", "std20"))
    assert view.dist_to_prev_day_high_atr == pytest.approx((levels["prev_day_high"] - close) / atr, rel=1e-5)
    assert view.session_vwap_z == pytest.approx((close - levels["session_vwap"]) / std, rel=1e-5)
