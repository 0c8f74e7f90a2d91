"""Nothing of the future, and one path: a cut file, later noise and a live window all tell the same."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import CONSTRAINTS, MARKETS, OWN, START, long, recorded, replace_after, told, walk

from tasks.core.market.bars import closed_by
from tasks.core.market.market import Market
from tasks.core.market.moments import NUMBERS
from tasks.core.market.snapshot import build

FIVE = timedelta(minutes=5)
OUTAGE = slice(120_000, 132_000)  # 2023-02-21 to 2023-04-04: 250 bars of 4h
AROUND = slice(126_500, 129_500)  # enough of our own, for the time it takes
LIVE_BARS = 1_000
IN_PRICE = frozenset({"macd_hist", "macd_slope"})  # differences of averages as large as the price


def cut(bars: pd.DataFrame, as_of: datetime) -> Market:
    return Market.from_base("X/USDT", closed_by(bars, "5m", as_of))


def live(market: Market, as_of: datetime) -> Market:
    """Return the market as a live cycle has it: the last 1,000 bars of each timeframe."""
    frames = {tf: closed_by(frame, tf, as_of).iloc[-LIVE_BARS:] for tf, frame in market.bars.items()}
    return Market(market.symbol, frames)


def times(bars: pd.DataFrame, n: int, seed: int) -> list[datetime]:
    rng = np.random.default_rng(seed)
    return [(bars.index[i] + FIVE).to_pydatetime() for i in np.sort(rng.integers(300, len(bars), n))]


@pytest.mark.slow
@pytest.mark.parametrize("symbol", MARKETS)
def test_a_file_cut_off_at_as_of_tells_the_same_as_the_whole_file(symbol: str) -> None:
    bars = recorded(symbol, AROUND if symbol == OWN else OUTAGE)
    whole = Market.from_base("X/USDT", bars)
    often = symbol == "BTC"
    around_outage = [
        datetime.fromisoformat("2023-03-24T11:00+00:00") + i * FIVE for i in range(0, 60, 1 if often else 3)
    ]
    for as_of in (*times(bars, 120 if often else 60, seed=1), *around_outage):
        assert told(cut(bars, as_of), as_of) == told(whole, as_of), as_of


@pytest.mark.slow
@pytest.mark.parametrize("symbol", MARKETS)
def test_every_feature_and_event_of_a_cut_file_is_the_beginning_of_those_of_the_whole(symbol: str) -> None:
    bars = long(symbol)
    whole = Market.from_base("X/USDT", bars)
    for as_of in times(bars, 8, seed=2):
        part = cut(bars, as_of)
        for timeframe, frame in part.features.items():
            pd.testing.assert_frame_equal(frame, whole.features[timeframe].iloc[: len(frame)], check_exact=True)
        pd.testing.assert_frame_equal(part.anchors, whole.anchors.iloc[: len(part.anchors)], check_exact=True)
        assert part.events == [event for event in whole.events if event[0] <= as_of.timestamp()]
        assert part.moment(as_of).roles == whole.moment(as_of).roles


WALK = walk(3_000, seed=11)
WHOLE_WALK = Market.from_base("X/USDT", WALK)


@settings(max_examples=40, deadline=None)
@given(st.integers(30, 2_999), st.integers(1, 10_000))
def test_replacing_every_later_candle_by_noise_changes_nothing(i: int, seed: int) -> None:
    as_of = (WALK.index[i] + FIVE).to_pydatetime()
    noisy = Market.from_base("X/USDT", replace_after(WALK, as_of, seed))
    assert told(noisy, as_of) == told(WHOLE_WALK, as_of)
    assert noisy.moment(as_of).roles == WHOLE_WALK.moment(as_of).roles


@settings(max_examples=40, deadline=None)
@given(st.integers(500, 2_999), st.data())
def test_missing_candles_are_known_as_missing_only_in_time(i: int, data: st.DataObject) -> None:
    """Holes anywhere, also at the close of a higher bar: the whole file must not know it was a hole before it ended."""
    holes = data.draw(st.sets(st.integers(max(0, i - 60), min(2_998, i + 60)), max_size=40))
    holed = WALK.drop(WALK.index[sorted(holes)])
    as_of = (WALK.index[i] + FIVE).to_pydatetime()
    assert told(cut(holed, as_of), as_of) == told(Market.from_base("X/USDT", holed), as_of)


def test_a_bar_whose_last_minutes_are_missing_is_not_known_before_the_next_trade() -> None:
    hour = next(i for i, t in enumerate(WALK.index) if i > 1_000 and t.minute == 0)
    holed = WALK.drop(WALK.index[hour + 9 : hour + 20])  # 45 past to 40 past: shorter than the hour it ends in
    whole = Market.from_base("X/USDT", holed)
    for i in range(hour + 9, hour + 30):
        as_of = (WALK.index[i] + FIVE).to_pydatetime()
        assert told(cut(holed, as_of), as_of) == told(whole, as_of), as_of
    at_close = (WALK.index[hour + 11] + FIVE).to_pydatetime()
    assert whole.value("1h", "close", at_close) is None
    assert whole.value("1h", "close", at_close + timedelta(minutes=50)) is not None


def test_a_higher_timeframe_never_shows_an_open_bar() -> None:
    for i in range(2_000, 2_100):
        as_of = (WALK.index[i] + FIVE).to_pydatetime()
        for timeframe, view in build(WHOLE_WALK, as_of, constraints=CONSTRAINTS).timeframes.items():
            last = closed_by(WHOLE_WALK.bars[timeframe], timeframe, as_of).iloc[-1]
            assert view.close == pytest.approx(last["close"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("symbol", MARKETS)
def test_the_last_thousand_bars_give_the_features_and_events_of_all_of_history(symbol: str) -> None:
    """State machines start elsewhere; they must have come to the same state long before the last hour."""
    bars = long(symbol)
    whole = Market.from_base("X/USDT", bars)
    numbers = differing = fired = 0
    for as_of in times(bars.iloc[20_000:], 150, seed=3):
        window, hour = live(whole, as_of), (as_of - timedelta(hours=1), as_of)
        assert window.reasons(*hour) == whole.reasons(*hour), as_of
        fired += len(whole.reasons(*hour))
        for timeframe in window.features:
            a, b = window.features[timeframe].iloc[-1], whole.features[timeframe].loc[window.bars[timeframe].index[-1]]
            for name in NUMBERS:
                tolerance = 1e-15 * b["close"] if name in IN_PRICE else 1e-12
                assert a[name] == pytest.approx(b[name], rel=1e-9, abs=tolerance, nan_ok=True), (
                    f"{name} {timeframe} {as_of}"
                )
        pairs = list(zip(leaves(window, as_of), leaves(whole, as_of), strict=True))
        numbers += len(pairs)
        for (path, x), (_, y) in pairs:
            if x != y:
                differing += 1
                assert isinstance(x, float), path
                assert x == pytest.approx(y, rel=1.1e-5, abs=1e-15 * bars["close"].max()), path
    assert differing <= numbers / 10_000, f"{differing} of {numbers} rounded numbers differ"
    assert fired > 30


def leaves(market: Market, as_of: datetime) -> list[tuple[str, object]]:
    """Return every value of the snapshot with its path."""
    found: list[tuple[str, object]] = []

    def visit(path: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{path}.{key}", item)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                visit(f"{path}[{i}]", item)
        else:
            found.append((path, value))

    visit("", build(market, as_of, constraints=CONSTRAINTS).model_dump(mode="json"))
    return found


def test_after_three_days_cut_out_all_is_told_as_if_the_candles_began_there() -> None:
    bars = walk(288 * 24, seed=11)
    cut_from, cut_to = START + timedelta(days=5, hours=10), START + timedelta(days=8, hours=10)  # over a Monday
    holed = Market.from_base("X/USDT", bars[(bars.index < cut_from) | (bars.index >= cut_to)])
    fresh = Market.from_base("X/USDT", bars[bars.index >= cut_to])
    for hours in (*np.arange(1, 30, 0.25), *range(30, 15 * 24, 7)):
        as_of = cut_to + timedelta(hours=float(hours))
        assert holed.reasons(cut_to, as_of) == fresh.reasons(cut_to, as_of)
        ours, theirs = (build(market, as_of, constraints=CONSTRAINTS) for market in (holed, fresh))
        assert ours == theirs, as_of
        assert holed.moment(as_of).roles == fresh.moment(as_of).roles, as_of


def test_the_vwap_of_a_session_is_unknown_after_a_gap_in_it_and_last_bars_stop_at_it() -> None:
    bars = walk(700, seed=4)
    holed = Market.from_base("X/USDT", bars.drop(bars.index[580:583]))
    as_of = (bars.index[583] + FIVE).to_pydatetime()
    assert holed.moment(as_of).anchors.session_vwap_z is None
    assert len(holed.moment(as_of).timeframes["5m"].last3) == 1
    assert len(holed.moment(as_of).roles.recent_closes) == 1
    assert len(holed.moment(as_of + 3 * FIVE).timeframes["5m"].last3) == 3
    vwap = holed.anchors["session_vwap"]
    assert vwap.iloc[576:580].notna().all()
    assert vwap.iloc[580:].isna().all()
