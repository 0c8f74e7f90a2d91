"""Each rule of the data suite fires on its own fault and on nothing else; a clean market passes."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.adapters.quality import PRESENT, RULES, SHAPE, validate
from tasks.core.types.bars import duration, floor_time

pytestmark = pytest.mark.slow  # importing great_expectations takes seconds

AS_OF = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


def bars(timeframe: str, count: int = 50, as_of: datetime = AS_OF) -> pd.DataFrame:
    last = floor_time(as_of, timeframe) - duration(timeframe)
    index = pd.date_range(end=last, periods=count, freq=duration(timeframe), name="open_time")
    close = 100 + np.sin(np.arange(count) / 5)
    opens = np.roll(close, 1)
    return pd.DataFrame(
        {
            "open": opens,
            "high": np.maximum(opens, close) + 0.5,
            "low": np.minimum(opens, close) - 0.5,
            "close": close,
            "volume": 10.0,
        },
        index=index,
    )


def market(broken: pd.DataFrame, timeframe: str = "5m") -> dict[str, dict[str, pd.DataFrame]]:
    clean = {tf: bars(tf) for tf in ("5m", "15m", "1h", "4h", "1d")}
    return {BTC: {**clean, timeframe: broken}, ETH: dict(clean)}


def put(column: str, row: int, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[row, frame.columns.get_loc(column)] = value
        return frame

    return change


def shift(by: timedelta) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.set_axis(frame.index + by)


def swap(frame: pd.DataFrame) -> pd.DataFrame:
    order = np.arange(len(frame))
    order[[20, 21]] = [21, 20]
    return frame.iloc[order]


FAULTS = [
    (put("open", 7, np.nan), {"open_not_null"}),
    (put("high", 7, np.inf), {"high_not_null"}),
    (put("low", 7, np.nan), {"low_not_null"}),
    (put("close", 7, -np.inf), {"close_not_null"}),
    (put("volume", 7, np.nan), {"volume_not_null"}),
    (put("open", 7, 0.0), {"open_positive", "low_is_lowest"}),
    (put("high", 7, -1.0), {"high_positive", "high_is_highest", "low_is_lowest"}),
    (put("low", 7, 0.0), {"low_positive"}),
    (put("close", 7, -5.0), {"close_positive", "low_is_lowest"}),
    (put("volume", 7, -1.0), {"volume_not_negative"}),
    (put("close", 7, 1000.0), {"high_is_highest"}),
    (put("low", 7, 102.0), {"high_is_highest", "low_is_lowest"}),
    (put("volume", -2, 0.0), {"traded"}),
    (lambda f: f.iloc[[*range(20), 19, *range(20, 50)]], {"unique", "increasing"}),
    (swap, {"increasing", "no_gap"}),
    (lambda f: f.drop(f.index[30:33]), {"no_gap"}),
    (shift(timedelta(minutes=-1)), {"aligned", "fresh"}),
    (shift(timedelta(minutes=5)), {"closed"}),
    (lambda f: f.iloc[:-1], {"fresh"}),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_fault_fires_its_rules_and_leaves_every_other_frame_clean(fault, expected):
    failures = validate(market(fault(bars("5m"))), AS_OF)
    assert {f.expectation for f in failures} == expected
    assert {(f.symbol, f.timeframe) for f in failures} == {(BTC, "5m")}


def test_every_rule_has_a_fault_that_fires_it():
    assert {rule.name for rule in RULES} == set().union(*(expected for _, expected in FAULTS))


def test_a_clean_market_passes():
    assert validate(market(bars("5m")), AS_OF) == []


def test_a_failure_counts_its_rows_and_shows_the_first_with_their_values():
    frame = bars("5m")
    frame.loc[frame.index[10:17], "volume"] = -2.0
    (failure,) = validate(market(frame), AS_OF)
    assert failure.count == 7
    assert len(failure.rows) == 5
    assert failure.rows[0] == "2026-03-02T06:45:00Z volume=-2.0"


def test_a_gap_says_how_many_bars_are_missing_before_which_bar():
    frame = bars("1h")
    (failure,) = validate(market(frame.drop(frame.index[30:33]), "1h"), AS_OF)
    assert failure.rows == (f"{frame.index[33].isoformat().replace('+00:00', 'Z')} missing_before=3.0",)


def test_an_old_gap_no_longer_counts_once_it_left_the_window():
    frame = bars("5m", 400)
    gapped = frame.drop(frame.index[98])
    assert validate({BTC: {"5m": gapped}}, AS_OF) == []
    assert [f.expectation for f in validate({BTC: {"5m": gapped}}, AS_OF, gap_window=302)] == ["no_gap"]


def test_a_missing_or_misshapen_frame_is_a_failure_and_the_rest_is_still_checked():
    frames = {
        BTC: {"5m": bars("5m").iloc[:0], "15m": bars("15m")},
        ETH: {"5m": bars("5m").tz_localize(None), "1h": bars("1h").drop(columns="volume"), "7m": bars("5m")},
        "SOL/USDT:USDT": {"5m": put("volume", 3, -1.0)(bars("5m")), "1h": bars("1h").astype({"close": str})},
        "XRP/USDT:USDT": {},
    }
    found = {(f.symbol[:3], f.timeframe, f.expectation) for f in validate(frames, AS_OF)}
    assert found == {
        ("BTC", "5m", PRESENT),
        ("ETH", "5m", SHAPE),
        ("ETH", "1h", SHAPE),
        ("ETH", "7m", SHAPE),
        ("SOL", "5m", "volume_not_negative"),
        ("SOL", "1h", SHAPE),
        ("XRP", "", PRESENT),
    }
    assert validate({}, AS_OF) == []


def test_max_age_lets_a_timeframe_be_older_but_not_older_than_that():
    frames = {BTC: {"5m": bars("5m").iloc[:-2]}}
    assert validate(frames, AS_OF, max_age={"5m": timedelta(minutes=10)}) == []
    assert [f.expectation for f in validate(frames, AS_OF, max_age={"5m": timedelta(minutes=9)})] == ["fresh"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_the_index_does_not_matter(unit):
    frame = bars("5m")
    frame.index = pd.DatetimeIndex(frame.index).as_unit(unit)
    assert validate({BTC: {"5m": frame, "1h": bars("1h")}}, AS_OF) == []


def test_the_frames_handed_in_are_not_changed():
    frame = put("high", 7, np.inf)(bars("5m"))
    before = frame.copy()
    validate({BTC: {"5m": frame}}, AS_OF)
    pd.testing.assert_frame_equal(frame, before)


def test_fifty_symbols_in_five_timeframes_take_about_a_second():
    one = {tf: bars(tf, 300) for tf in ("5m", "15m", "1h", "4h", "1d")}
    frames = {f"C{n}/USDT:USDT": one for n in range(50)}
    started = time.process_time()
    assert validate(frames, AS_OF) == []
    assert time.process_time() - started < 3  # 0.6 s measured; the rest is for a busy machine
