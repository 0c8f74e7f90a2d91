"""Bar frames: shape, closing times, resampling without open or half-seen bars."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data import START, rows, walk
from reference import resampled

from tasks.core.errors import DataError
from tasks.core.market.bars import check_frame, closed_by, epoch_s, infer_timeframe, resample, timeframes_from
from tasks.core.types.bars import SECONDS


@pytest.mark.parametrize("timeframe", ["15m", "30m", "1h", "4h", "1d"])
@pytest.mark.parametrize("offset", [0, 7])
def test_resampled_bars_equal_the_slow_reference(timeframe: str, offset: int) -> None:
    bars = walk(700, seed=3, start=START + timedelta(minutes=5 * offset))
    built = rows(resample(bars, "5m", timeframe))
    expected = resampled(rows(bars), 300, SECONDS[timeframe])
    assert np.allclose(np.array(built), np.array(expected), rtol=1e-12)
    assert len(built) == len(expected) > 0


@given(st.integers(1, 400))
def test_a_higher_bar_is_never_built_before_its_close(n: int) -> None:
    bars = walk(400).iloc[:n]
    until = bars.index[-1] + pd.Timedelta(minutes=5)
    for timeframe, frame in timeframes_from(bars, "5m").items():
        assert all(frame.index + pd.Timedelta(seconds=SECONDS[timeframe]) <= until)


def test_a_first_bar_seen_only_in_part_is_left_out() -> None:
    bars = walk(40, start=START + timedelta(minutes=5))
    assert resample(bars, "5m", "1h").index[0] == pd.Timestamp(START + timedelta(hours=1))


def test_a_bar_none_of_whose_minutes_traded_does_not_exist() -> None:
    bars = walk(48)
    hours = resample(bars.drop(bars.index[12:24]), "5m", "1h")
    assert [t.hour for t in hours.index] == [0, 2, 3]


def test_closed_by_gives_only_what_had_closed() -> None:
    bars = walk(10)
    assert len(closed_by(bars, "5m", START + timedelta(minutes=14, seconds=59))) == 2
    assert len(closed_by(bars, "5m", START + timedelta(minutes=15))) == 3
    assert closed_by(bars, "5m", START).empty


def test_a_coarse_base_leaves_finer_timeframes_empty() -> None:
    frames = timeframes_from(walk(50, timeframe="1h"), "1h")
    assert {tf: len(frame) for tf, frame in frames.items()} == {
        "5m": 0, "15m": 0, "30m": 0, "1h": 50, "4h": 12, "1d": 2
    }  # fmt: skip


def test_the_timeframe_is_the_smallest_step_and_unknown_steps_are_refused() -> None:
    bars = walk(10)
    assert infer_timeframe(bars.drop(bars.index[4])) == "5m"
    with pytest.raises(DataError, match="600 s apart"):
        infer_timeframe(bars.iloc[::2])
    with pytest.raises(DataError, match="1 bars are too few"):
        infer_timeframe(bars.iloc[:1])


def test_frames_of_the_wrong_shape_are_refused_by_name() -> None:
    bars = walk(5)
    with pytest.raises(DataError, match="lack the columns volume"):
        check_frame(bars.drop(columns="volume"))
    with pytest.raises(DataError, match="ascend"):
        check_frame(bars.iloc[::-1])
    with pytest.raises(DataError, match="ascend"):
        check_frame(bars.iloc[[0, 1, 1, 2]])
    with pytest.raises(DataError, match="UTC"):
        check_frame(bars.tz_localize(None))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_epoch_seconds_do_not_depend_on_the_index_unit(unit: str) -> None:
    bars = walk(3)
    assert epoch_s(bars.index.as_unit(unit)).tolist() == [int(START.timestamp()) + 300 * i for i in range(3)]
