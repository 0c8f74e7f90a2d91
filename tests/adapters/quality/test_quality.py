"""Each rule of the data suite fires on its own fault and on nothing else; a clean market passes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from market_data import OWN, made
from shared_data import SHARED

from tasks.adapters.files.candles import read_candles
from tasks.adapters.quality.columns import unconfirmed_moves
from tasks.adapters.quality.suite import PRESENT, RULES, SHAPE, validate
from tasks.core.market.bars import closed_by, resample
from tasks.core.types import DataFailure
from tasks.core.types.bars import COLUMNS

pytestmark = pytest.mark.slow  # importing great_expectations takes seconds

AS_OF = datetime(2026, 3, 2, 10, 5, tzinfo=UTC)
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
ROOT = Path(__file__).resolve().parents[3]
RECORDED = SHARED / "ohlcv"
OWN_CRASH = "2023-02-10T21:20"
AGREEMENT = {"prices_agree", "volume_agrees"}


@cache
def every_five_minutes() -> pd.DataFrame:
    """A smooth market of 301 days: every other timeframe is built from it, so that all agree."""
    index = pd.date_range(end=AS_OF - timedelta(minutes=5), periods=301 * 288, freq="5min", name="open_time")
    close = 100 + np.sin(np.arange(len(index)) / 5)
    opens = np.roll(close, 1)
    high, low = np.maximum(opens, close) + 0.5, np.minimum(opens, close) - 0.5
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": close, "volume": 10.0}, index=index)


@cache
def whole(timeframe: str) -> pd.DataFrame:
    return resample(every_five_minutes(), "5m", timeframe)


def bars(timeframe: str, count: int = 50) -> pd.DataFrame:
    return whole(timeframe).iloc[-count:].copy()


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


def flatten(count: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[-count:, :4] = 100.0
        frame.iloc[-count:, 4] = np.arange(1.0, count + 1)
        return frame

    return change


def repeat_last(count: int, volume: float = 10.0) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[-count:] = frame.iloc[-count].to_numpy()
        frame.iloc[-count:, 4] = volume
        return frame

    return change


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
    (put("high", -5, 150.0), {"confirmed"}),
    (flatten(12), {"moving"}),
    (repeat_last(3), {"not_repeated"}),
]


def judged(markets: dict[str, dict[str, pd.DataFrame]]) -> dict[str, list[DataFailure]]:
    """Validate many markets, and a clean one among them, in one pass (it costs the same for one); by symbol."""
    failures = validate({**markets, ETH: market(bars("5m"))[ETH]}, AS_OF)
    assert {f.symbol for f in failures} <= set(markets)
    return {symbol: [f for f in failures if f.symbol == symbol] for symbol in markets}


def named(number: int) -> str:
    return f"S{number}/USDT:USDT"


@cache
def of_faults() -> dict[str, list[DataFailure]]:
    return judged({named(n): market(fault(bars("5m")))[BTC] for n, (fault, _) in enumerate(FAULTS)})


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_fault_fires_its_rules_and_leaves_every_other_frame_clean(number):
    # the timeframes above may say that they no longer agree with the broken 5m bars
    failures = [f for f in of_faults()[named(number)] if f.timeframe == "5m" or f.expectation not in AGREEMENT]
    assert {f.expectation for f in failures} == FAULTS[number][1]
    assert {f.timeframe for f in failures} == {"5m"}


def test_every_rule_has_a_fault_that_fires_it():
    assert {rule["meta"]["rule"] for rule in RULES} == AGREEMENT.union(*(expected for _, expected in FAULTS))


DIFFERING = [
    ("high", 1 + 2e-9, ["prices_agree"]),
    ("low", 1 - 2e-9, ["prices_agree"]),
    ("close", 1 - 2e-9, ["prices_agree"]),
    ("open", 1 + 1e-10, []),
    ("volume", 1 + 2e-6, ["volume_agrees"]),
    ("volume", 1 - 1e-7, []),
]


@pytest.mark.parametrize("timeframe", ["15m", "1h"])
def test_a_bar_must_agree_with_its_5m_bars(timeframe):
    markets = {}
    for n, (column, factor, _) in enumerate(DIFFERING):
        frame = bars(timeframe)
        frame.iloc[-2, frame.columns.get_loc(column)] *= factor
        markets[named(n)] = market(frame, timeframe)[BTC]
    found = judged(markets)
    for n, (column, factor, expected) in enumerate(DIFFERING):
        failures = [(f.timeframe, f.expectation, f.count) for f in found[named(n)]]
        assert failures == [(timeframe, name, 1) for name in expected], (column, factor)


def test_a_bar_whose_5m_bars_are_not_all_there_is_not_compared():
    hours = bars("1h")
    hours.iloc[-2, hours.columns.get_loc("close")] += 0.01
    frames = {BTC: {"5m": bars("5m").drop(hours.index[-2] + timedelta(minutes=25)), "1h": hours}}
    assert [f.expectation for f in validate(frames, AS_OF)] == ["no_gap"]
    assert validate({BTC: {"1h": hours}}, AS_OF) == []


def test_agreement_looks_no_further_back_than_the_window():
    hours = bars("1h")
    hours.iloc[-3, hours.columns.get_loc("close")] += 0.01
    hours.iloc[-6, hours.columns.get_loc("close")] += 0.01
    frames = {BTC: {"5m": bars("5m", 300), "1h": hours}}
    assert [(f.expectation, f.count) for f in validate(frames, AS_OF)] == [("prices_agree", 1)]
    hours.iloc[-3] = bars("1h").iloc[-3]
    assert validate(frames, AS_OF) == []  # the bar six hours back still differs


@pytest.mark.parametrize("timeframe", ["5m", "1d"])
def test_a_wick_that_no_volume_and_no_later_bar_confirms_is_a_spike(timeframe):
    wicks = list(product([-20, -2, -1], [("high", 300.0), ("low", 1.0)]))
    frames = [put(column, row, price)(bars(timeframe, 150)) for row, (column, price) in wicks]
    found = judged({named(n): {timeframe: frame} for n, frame in enumerate(frames)})
    for n, (row, _) in enumerate(wicks):
        [failure] = found[named(n)]
        assert (failure.expectation, failure.count) == ("confirmed", 1)
        assert failure.rows[0].startswith(frames[n].index[row].isoformat().replace("+00:00", "Z"))


def test_a_bad_last_close_is_held_back_until_the_next_bar_opens_there():
    frame = bars("5m", 150)
    frame.loc[frame.index[-1], ["low", "close"]] = 50.0
    assert [f.expectation for f in validate({BTC: {"5m": frame}}, AS_OF)] == ["confirmed"]
    frame = bars("5m", 150)
    frame.loc[frame.index[-2], ["low", "close"]] = 50.0
    frame.loc[frame.index[-1], list(COLUMNS)] = 50.0, 50.5, 49.5, 50.0, 10.0
    assert validate({BTC: {"5m": frame}}, AS_OF) == []


def test_a_wick_with_volume_behind_it_is_a_fact():
    frame = put("low", -1, 50.0)(bars("5m", 150))
    assert validate({BTC: {"5m": put("volume", -1, 31.0)(frame)}}, AS_OF) == []
    assert [f.expectation for f in validate({BTC: {"5m": put("volume", -1, 29.0)(frame)}}, AS_OF)] == ["confirmed"]


def test_an_old_spike_no_longer_counts_and_too_short_a_history_judges_nothing():
    assert validate({BTC: {"5m": put("high", -21, 300.0)(bars("5m", 150))}}, AS_OF) == []
    assert validate({BTC: {"5m": put("high", -1, 300.0)(bars("5m", 20))}}, AS_OF) == []


def test_an_hour_at_one_price_is_a_stale_feed_and_a_bar_less_is_not():
    assert validate({BTC: {"5m": flatten(11)(bars("5m"))}}, AS_OF) == []
    [failure] = validate({BTC: {"5m": flatten(12)(bars("5m"))}}, AS_OF)
    assert failure.rows == ("2026-03-02T10:00:00Z still_bars=12.0",)
    assert validate({BTC: {"1h": flatten(12)(bars("1h"))}}, AS_OF) == []


def test_the_same_five_numbers_three_times_are_a_stale_feed_in_every_timeframe():
    for timeframe in ("5m", "4h"):
        assert validate({BTC: {timeframe: repeat_last(2)(bars(timeframe))}}, AS_OF) == []
        failures = validate({BTC: {timeframe: repeat_last(3)(bars(timeframe))}}, AS_OF)
        assert [f.expectation for f in failures] == ["not_repeated"]


def test_a_clean_market_passes():
    assert validate(market(bars("5m")), AS_OF) == []


def test_a_failure_counts_its_rows_and_shows_the_first_with_their_values():
    frame = bars("5m")
    frame.loc[frame.index[10:17], "volume"] = -2.0
    (failure,) = validate({BTC: {"5m": frame}}, AS_OF)
    assert failure.count == 7
    assert len(failure.rows) == 5
    assert failure.rows[0] == "2026-03-02T06:45:00Z volume=-2.0"


def test_a_gap_says_how_many_bars_are_missing_before_which_bar():
    frame = bars("1h")
    (failure,) = validate(market(frame.drop(frame.index[30:33]), "1h"), AS_OF)
    assert failure.rows == (f"{frame.index[33].isoformat().replace('+00:00', 'Z')} missing_before=3.0",)


def test_an_old_gap_no_longer_counts_once_it_left_the_window():
    frame = bars("5m", 400)
    assert validate({BTC: {"5m": frame.drop(frame.index[98])}}, AS_OF) == []
    assert [f.expectation for f in validate({BTC: {"5m": frame.drop(frame.index[99])}}, AS_OF)] == ["no_gap"]


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


def test_the_docs_show_the_rules_as_they_are():
    page = (ROOT / "docs/validation.md").read_text(encoding="utf-8")
    rows = [f"| `{rule['meta']['rule']}` | {rule['type']} |" for rule in RULES]
    assert re.findall(r"^\| `\w+` \| expect_\w+ \|", page, re.MULTILINE) == rows


def test_the_task_runs_outside_prefect_and_its_table_has_a_row_per_failure():
    from tasks.validate import artifact_table, validate_candles

    clean, broken = {BTC: {"5m": bars("5m"), "1h": bars("1h")}}, {BTC: {"5m": put("volume", -2, 0.0)(bars("5m"))}}
    assert validate_candles.fn(clean, AS_OF) == []
    [row] = artifact_table(clean, [])
    assert (row["symbol"], row["timeframe"], row["expectation"], row["count"]) == (BTC, "5m, 1h", "all passed", 0)
    assert artifact_table(broken, validate_candles.fn(broken, AS_OF)) == [
        {
            "symbol": BTC, "timeframe": "5m", "expectation": "traded", "count": 1,
            "rows": "2026-03-02T09:55:00Z volume=0.0",
        }
    ]  # fmt: skip


# --- recorded markets


def recorded(name: str) -> pd.DataFrame:
    if name == OWN:
        return crashed()
    found = sorted(RECORDED.glob(f"{name}_5m_*.parquet"))
    if not found:
        pytest.skip(f"needs the recorded candles {RECORDED}/{name}_5m_*.parquet")
    return read_candles(found[0])


def known_at(candles: pd.DataFrame, as_of: datetime, count: int = 300) -> dict[str, dict[str, pd.DataFrame]]:
    known = closed_by(candles, "5m", as_of).iloc[-(count + 1) * 288 :]
    frames = {tf: resample(known, "5m", tf).iloc[-count:] for tf in ("5m", "15m", "30m", "1h", "4h", "1d")}
    return {BTC: frames}


@cache
def crashed() -> pd.DataFrame:
    """Candles of our own with the outage, and a crash: 9 % down and back up in ten minutes, at 60 times the volume."""
    candles = made().loc["2022-12-20":"2023-04-10"].copy()
    at = candles.index.get_loc(pd.Timestamp(OWN_CRASH, tz="UTC"))
    fall, back = candles.index[at], candles.index[at + 1]
    before = candles["close"].iloc[at - 1]
    candles.loc[fall, ["open", "high", "low", "close"]] = [before, before, before * 0.90, before * 0.91]
    after = candles["close"].loc[back]
    candles.loc[back, ["open", "high", "low", "close"]] = [before * 0.91, max(before, after), before * 0.905, after]
    candles.loc[[fall, back], "volume"] *= 60
    return candles


@pytest.mark.parametrize("name", [OWN, "BTC-USDT", "DOGE-USDT"])
def test_the_outage_of_march_2023_is_named_bar_by_bar(name):
    candles = recorded(name)
    during = datetime(2023, 3, 24, 12, 40, tzinfo=UTC)
    found = {f.expectation: f for f in validate(known_at(candles, during), during) if f.timeframe == "5m"}
    assert set(found) == {"traded", "moving"}
    assert found["traded"].rows == tuple(f"2023-03-24T12:{minute}:00Z volume=0.0" for minute in (25, 30, 35))
    assert found["moving"].rows == ("2023-03-24T12:35:00Z still_bars=14.0",)
    after = datetime(2023, 3, 24, 14, 15, tzinfo=UTC)
    failures = validate(known_at(candles, after), after)
    [gap] = [f for f in failures if f.timeframe == "5m"]
    assert (gap.expectation, gap.rows) == ("no_gap", ("2023-03-24T14:00:00Z missing_before=16.0",))


@pytest.mark.parametrize(
    ("name", "crash"),
    [
        (OWN, OWN_CRASH),
        ("BTC-USDT-PERP", "2025-10-10T21:20"),  # -9 % and back up in ten minutes
        ("BTC-USDT", "2023-08-17T21:45"),
        ("DOGE-USDT", "2023-06-05T16:05"),
        ("ETH-USDT-PERP", "2025-02-03T02:15"),
    ],
)
def test_a_real_crash_passes_at_every_close_around_it(name, crash):
    candles = recorded(name)
    at = datetime.fromisoformat(crash).replace(tzinfo=UTC)
    for minutes in (0, 5, 10, 60):
        as_of = at + timedelta(minutes=minutes)
        assert validate(known_at(candles, as_of), as_of) == []


@pytest.mark.parametrize("name", [OWN, "BTC-USDT", "DOGE-USDT", "BTC-USDT-PERP", "ETH-USDT-PERP"])
def test_no_recorded_bar_is_a_spike_even_before_the_next_one_is_known(name):
    stack = recorded(name).reset_index(drop=True).assign(frame=0)
    # each bar as the newest of its frame: only volume can confirm it
    moves = unconfirmed_moves(stack, pd.Series(np.nan, stack.index))
    [spike] = (rule["kwargs"]["max_value"] for rule in RULES if rule["meta"]["rule"] == "confirmed")
    assert moves.max() <= spike
