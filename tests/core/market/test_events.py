"""Each rule on frames made by hand, what never fires, the recorded outage, and how often it all happens."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import MARKETS, OWN, START, recorded, walk

from tasks.core.market import events
from tasks.core.market.bars import Columns, epoch_s
from tasks.core.market.market import Market, bar_closes
from tasks.core.market.position_events import STEP, Closes, account_symbol, drawdown, next_review, reasons_at
from tasks.core.types.bars import SECONDS
from tasks.core.types.limits import EventThresholds
from tasks.core.types.portfolio import Position

T = EventThresholds()
OUTAGE = (datetime(2023, 3, 24, 11, 30, tzinfo=UTC), datetime(2023, 3, 24, 14, tzinfo=UTC))


def columns(n: int, **given_columns: object) -> Columns:
    """Return columns of n bars; what is not given does not change."""
    quiet = {
        "open": 100.0, "high": 100.5, "low": 99.5, "close": 100.0, "volume": 10.0, "vwap20": 100.0, "std20": 1.0,
        "sma20": 100.0, "sma50": 99.0, "sma200": 98.0, "macd_hist": 0.0, "atr": 1.0, "atr_pctile": 50.0, "vol_z20": 0.0,
        "vol_spike": 0.0, "range_ratio": 1.0, "last_high": 110.0, "last_low": 90.0, "prev_high": 112.0,
        "prev_low": 88.0, "rsi": 50.0, "obv_dir": 0.0, "vwap_z": 0.0, "prev_day_high": 120.0, "prev_day_low": 80.0,
        "prev_week_high": 130.0, "prev_week_low": 70.0, "weekly_open": 125.0,
    }  # fmt: skip
    return {
        name: np.broadcast_to(np.asarray(value, float), n).copy() for name, value in (quiet | given_columns).items()
    }


def fired(rule: events.Rule, x: Columns, thresholds: EventThresholds = T) -> list[tuple[int, int]]:
    out = rule(x, thresholds)
    return [(int(i), int(out[i])) for i in np.flatnonzero(out)]


def test_trend_flip_fires_once_when_confirmed_within_three_bars_of_the_cross() -> None:
    x = columns(10, sma20=[99, 99, 101, 101, 101, 101, 101, 101, 101, 101], sma50=100.0, macd_hist=1.0)
    x["close"][4:] = 100.6
    assert fired(events.trend_flip, x) == [(4, 1)]
    x["close"][:6] = 100.4  # stretched from bar 6 on: four bars after the cross
    assert fired(events.trend_flip, x) == []


def test_trend_flip_needs_macd_on_its_side() -> None:
    x = columns(6, sma20=[101, 101, 99, 99, 99, 99], sma50=100.0, macd_hist=[1, 1, 1, -1, -1, -1], close=99.0)
    assert fired(events.trend_flip, x) == [(3, -1)]


def vol(levels: list[float], monkeypatch: pytest.MonkeyPatch, other: float | None = None, loud: float = 2.0) -> Columns:
    x = columns(len(levels), atr_pctile=levels, vol_z20=loud)
    second = np.asarray(levels if other is None else [other] * len(levels), float)
    monkeypatch.setattr(events, "realized_vol_pctile", lambda close: second[: len(close)])
    return x


def test_vol_regime_fires_on_crosses_and_again_only_after_the_hysteresis(monkeypatch: pytest.MonkeyPatch) -> None:
    x = vol([50, 75, 68, 75, 64, 71, 50, 29, 33, 29, 36, 30], monkeypatch)
    assert fired(events.vol_regime, x) == [(1, 1), (5, 1), (7, -1), (11, -1)]


def test_vol_regime_upwards_needs_volume_and_downwards_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fired(events.vol_regime, vol([50, 75, 50, 25], monkeypatch, loud=1.5)) == [(3, -1)]


def test_vol_regime_needs_the_other_percentile_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fired(events.vol_regime, vol([50, 75, 50, 25], monkeypatch, other=50)) == []
    assert fired(events.vol_regime, vol([50, 75, 50, 25], monkeypatch, other=60)) == [(1, 1)]
    assert fired(events.vol_regime, vol([50, 75, 50, 25], monkeypatch, other=40)) == [(3, -1)]


def test_range_break_measures_from_the_far_swing_and_needs_a_volume_spike() -> None:
    x = columns(6, last_high=101.0, last_low=99.0, close=[100, 102.9, 103.1, 103.2, 100, 96.9], vol_spike=1.0)
    assert fired(events.range_break, x) == [(2, 1), (5, -1)]
    x["vol_spike"][2] = 0.0
    assert fired(events.range_break, x) == [(3, 1), (5, -1)]


def test_range_break_measures_by_the_swings_known_before_the_bar() -> None:
    """The bar that confirms a nearer swing is not measured by it: 101.5 is 2.5 above the low, 2 x 2 before, 2 x 1.2."""
    x = columns(5, last_high=[101.0, 101, 100.2, 100.2, 100.2], last_low=99.0, close=101.5, vol_spike=1.0)
    assert fired(events.range_break, x) == [(3, 1)]
    x = columns(5, last_high=101.0, last_low=[99.0, 99, 99.8, 99.8, 99.8], close=98.5, vol_spike=1.0)
    assert fired(events.range_break, x) == [(3, -1)]


def test_sweep_reclaim_measures_by_the_swings_and_the_atr_known_before_the_bar() -> None:
    swept = {"low": 98.3, "close": 99.1, "vol_z20": 2.0}
    assert fired(events.sweep_reclaim, columns(3, last_low=[90.0, 99, 99], **swept)) == [(2, 1)]
    assert fired(events.sweep_reclaim, columns(3, prev_low=[90.0, 99, 99], **swept)) == [(2, 1)]
    assert fired(events.sweep_reclaim, columns(3, last_low=99.0, atr=[2.0, 1, 1], **swept)) == [(2, 1)]
    swept = {"high": 101.7, "close": 100.9, "vol_z20": 2.0}
    assert fired(events.sweep_reclaim, columns(3, last_high=[110.0, 101, 101], **swept)) == [(2, -1)]
    assert fired(events.sweep_reclaim, columns(3, prev_high=[110.0, 101, 101], **swept)) == [(2, -1)]


def test_stop_run_goes_through_swings_known_before_the_bar() -> None:
    loud = {"vol_z20": 4.0, "range_ratio": 3.0, "high": 101.0, "low": 98.0}
    assert fired(events.stop_run, columns(3, last_low=[90.0, 99, 99], close=100.5, **loud)) == [(2, 1)]
    assert fired(events.stop_run, columns(3, last_high=[110.0, 100, 100], close=98.5, **loud)) == [(2, -1)]


@pytest.mark.parametrize(
    ("level", "direction"),
    [("prev_day_low", 1), ("prev_week_low", 1), ("last_low", 1), ("prev_day_high", -1), ("prev_week_high", -1),
     ("last_high", -1)],
)  # fmt: skip
def test_stop_run_goes_through_each_of_its_levels(level: str, direction: int) -> None:
    loud = {"vol_z20": 4.0, "range_ratio": 3.0, "high": 101.0, "low": 98.0}
    through = {level: 99.0, "close": 100.5} if direction > 0 else {level: 100.0, "close": 98.5}
    assert fired(events.stop_run, columns(2, **through, **loud))[-1] == (1, direction)


@pytest.mark.parametrize("level", ["prev_day_high", "prev_day_low", "weekly_open"])
def test_break_hold_holds_at_each_of_its_levels(level: str) -> None:
    up = columns(4, **{level: 101.0}, close=[100, 101.4, 101.5, 101.6], low=[99.5, 101.2, 101.2, 101.4])
    assert fired(events.break_hold, up) == [(2, 1)]
    down = columns(4, **{level: 99.0}, close=[100, 98.6, 98.5, 98.4], high=[100.5, 98.8, 98.8, 98.6])
    assert fired(events.break_hold, down) == [(2, -1)]


def score(values: list[int]) -> Columns:
    """Return columns whose signed score is `values`: alignment, momentum, volume and vwap filled up in turn."""
    votes = np.array([[np.sign(v) * (abs(v) > k) for k in range(4)] for v in values]).T
    return columns(
        len(values), sma50=100.0 + votes[0], sma200=100.0, rsi=50 + votes[1], macd_hist=votes[1], obv_dir=votes[2],
        vwap_z=votes[3],
    )  # fmt: skip


def test_confluence_fires_when_the_score_has_weakened_or_turned_and_stayed() -> None:
    hold = EventThresholds(confluence_bars=3)
    assert fired(events.confluence_shift, score([3, 3, 3, 1, 1, 1, 1, 0, -1, -1, -1]), hold) == [
        (2, 1),
        (5, -1),
        (10, -1),
    ]
    assert fired(events.confluence_shift, score([-3] * 3 + [-1] * 3 + [2, -1] * 3), hold) == [(2, -1), (5, 1)]
    assert fired(events.confluence_shift, score([3] * 3 + [1, 1, 2, 1, 1, 1]), hold) == [(2, 1), (8, -1)]


def test_confluence_fires_when_a_move_of_two_has_held() -> None:
    hold = EventThresholds(confluence_bars=3)
    assert fired(events.confluence_shift, score([0, 2, 2, 2, 2, 4, 4, 4]), hold) == [(3, 1), (7, 1)]
    assert fired(events.confluence_shift, score([3, 3, 3, -1, -1, -1, -2, -2, -2]), hold) == [(2, 1), (5, -1)]


def test_confluence_does_not_fire_on_flicker_nor_where_a_side_is_asked_for_on_a_move_that_takes_none() -> None:
    sided = EventThresholds(confluence_score=2)
    assert fired(events.confluence_shift, score([0, 3] * 20)) == []
    assert fired(events.confluence_shift, score([3] * 6 + [1] * 20), sided) == [(5, 1)]
    before = EventThresholds(confluence_score=2, confluence_bars=3)
    assert fired(events.confluence_shift, score([3, 3, 3, -1, -1, -1, -2, -2, -2]), before) == [(2, 1), (8, -1)]
    assert fired(events.confluence_shift, score([3] * 6 + [4] * 20)) == [(5, 1)]


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=80), st.integers(1, 4))
def test_every_confluence_event_is_a_move_of_at_least_two_since_the_last(values: list[int], bars: int) -> None:
    said = 0
    for i, side in fired(events.confluence_shift, score(values), EventThresholds(confluence_bars=bars)):
        assert (values[i] - said) * side >= 2
        assert all((v - said) * side >= 2 for v in values[i - bars + 1 : i + 1])
        said = values[i]


def test_sweep_reclaim_needs_the_wick_the_close_back_inside_and_volume() -> None:
    x = columns(5, last_low=99.0, low=[99.5, 99.5, 98.3, 98.3, 98.3], close=[100, 100, 99.1, 98.9, 99.1], vol_z20=2.0)
    assert fired(events.sweep_reclaim, x) == [(2, 1), (4, 1)]
    x["vol_z20"][:] = 1.8
    assert fired(events.sweep_reclaim, x) == []


def test_break_hold_fires_on_the_retest_never_on_the_break_or_after_a_close_back_inside() -> None:
    x = columns(8, prev_day_high=101.0, close=[100, 101.4, 101.5, 101.6, 101.6, 101.6, 101.6, 101.6])
    x["low"] = np.array([99.5, 100.9, 101.5, 101.2, 101.2, 101.4, 101.4, 101.4])
    assert fired(events.break_hold, x) == [(3, 1)]
    x["close"][2] = 100.9
    assert fired(events.break_hold, x) == []


def test_break_hold_fires_with_the_last_bar_where_the_price_does_not_come_back() -> None:
    x = columns(8, prev_day_high=101.0, close=[100, 101.4, 102, 102, 102, 102, 102, 102])
    x["low"] = np.array([99.5, 100.9, 101.8, 101.8, 101.8, 101.8, 101.8, 101.8])
    assert fired(events.break_hold, x) == [(4, 1)]
    assert fired(events.break_hold, x, EventThresholds(hold_retest=True)) == []
    x["close"][4] = 100.9
    assert fired(events.break_hold, x) == []


def test_of_one_move_only_the_first_event_tells() -> None:
    minutes = [
        (0, "up"),
        (0, "up"),
        (15, "down"),
        (45, "up"),
        (45, "down"),
        (46, "up"),
        (60, "down"),
        (61, "down"),
        (92, "up"),
    ]
    told = [(at * 60, "R", "15m", way) for at, way in minutes]
    kept = [(at // 60, way) for at, _, _, way in events._news(told, 45 * 60)]
    assert kept == [(0, "up"), (0, "up"), (15, "down"), (46, "up"), (61, "down"), (92, "up")]
    assert list(events._news(told, 0)) == told


def test_thresholds_of_before_keep_their_meaning_and_their_hash() -> None:
    new = EventThresholds().model_dump(mode="json")
    assert EventThresholds.model_validate(new) == EventThresholds()
    old = {name: value for name, value in new.items() if name not in ("hold_retest", "same_way_min", "review_bars")}
    read = EventThresholds.model_validate(old | {"confluence_score": 2})
    assert (read.hold_retest, read.same_way_min, read.review_bars, read.confluence_score) == (True, 0, 0, 2)
    assert read.model_dump(mode="json") == old | {"confluence_score": 2}
    assert EventThresholds.model_validate({"vol_z": 1}).same_way_min == 60  # what a file names in part


def test_break_hold_is_armed_again_by_a_close_well_inside() -> None:
    once = [100, 101.4, 101.4, 100.9, 101.4, 101.4, 100.6, 101.4, 101.4]
    x = columns(9, prev_day_high=101.0, close=once, low=100.9)
    assert fired(events.break_hold, x) == [(2, 1), (8, 1)]


def test_break_hold_does_not_take_a_new_days_level_for_a_break() -> None:
    x = columns(6, prev_day_high=[105, 105, 101, 101, 101, 101], close=101.5, low=101.1)
    assert fired(events.break_hold, x) == []


def test_stop_run_closes_in_the_opposite_third_of_a_loud_bar_through_a_level() -> None:
    x = columns(3, prev_day_low=99.0, high=101.0, low=98.0, close=[100.1, 100.1, 99.5], vol_z20=4.0, range_ratio=3.0)
    assert fired(events.stop_run, x) == [(0, 1), (1, 1)]
    x["range_ratio"][1] = 2.0
    assert fired(events.stop_run, x) == [(0, 1)]


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rule, _ in events.RULES])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_the_unknown_never_fires(name: str, rule: events.Rule, n: int) -> None:
    x = {column: np.full(n, np.nan) for column in columns(1)}
    assert len(rule(x, T)) == n
    assert not rule(x, T).any()


def test_reasons_are_of_the_window_only_and_once_per_change() -> None:
    market = Market.from_base("X/USDT", walk(6_000, seed=8))
    start, end = START + timedelta(days=10), START + timedelta(days=20)
    reasons = market.reasons(start, end)
    assert len(reasons) > 20
    assert all(start < reason.as_of <= end for reason in reasons)
    assert len({reason.fingerprint for reason in reasons}) == len(reasons)
    middle = START + timedelta(days=15)
    assert market.reasons(start, middle) + market.reasons(middle, end) == reasons


def test_no_bar_without_trades_fires_whatever_it_looks_like() -> None:
    bars = walk(6_000, seed=8)
    quiet = {at for at, *_ in Market.from_base("X/USDT", bars).events}
    silenced = bars.copy()
    silenced.loc[(epoch_s(bars.index) + 300) % 1800 == 0, "volume"] = 0.0
    fired_at = {at for at, *_ in Market.from_base("X/USDT", silenced).events}
    assert any(at % 1800 == 0 for at in quiet)
    assert not any(at % 1800 == 0 for at in fired_at)


@pytest.mark.parametrize("seed", range(6))
def test_after_a_gap_every_rule_starts_anew(seed: int) -> None:
    bars = walk(8_640, seed)
    gap_end = START + timedelta(days=12)
    each = EventThresholds(same_way_min=0)  # also those that levels from before the gap would make no news
    fresh = Market.from_base("X", bars.loc[gap_end:], each)
    holed = Market.from_base("X", bars[(bars.index < gap_end - timedelta(hours=5)) | (bars.index >= gap_end)], each)
    without_levels = {"TrendFlip", "VolRegime", "RangeBreak", "Confluence", "SweepReclaim"}
    expected = [event for event in fresh.events if event[1] in without_levels]
    after = [event for event in holed.events if event[1] in without_levels and event[0] > gap_end.timestamp()]
    assert after == expected
    assert len(expected) > 30


@pytest.mark.parametrize("symbol", MARKETS)
def test_no_event_fires_in_the_outage_or_from_it(symbol: str) -> None:
    """11:30-12:35 traded nothing, 12:40-13:55 do not exist, trading again at 14:00."""
    market = Market.from_base(symbol, recorded(symbol, slice(120_000, 135_000)))
    during = market.reasons(*OUTAGE)
    assert during == ()
    warm = {"5m": 20, "15m": 15, "30m": 15, "1h": 50}  # bars before each timeframe's first rule can know anything
    for reason in market.reasons(OUTAGE[1], OUTAGE[1] + timedelta(days=3)):
        needed = timedelta(seconds=warm[reason.timeframe] * SECONDS[reason.timeframe])
        assert reason.as_of >= OUTAGE[1] + needed, str(reason)


@pytest.mark.parametrize("symbol", MARKETS)
def test_after_the_outage_each_feature_is_known_exactly_when_it_is_warm(symbol: str) -> None:
    market = Market.from_base(symbol, recorded(symbol, slice(120_000, 135_000)))
    first = {
        "rsi": 14, "rsi_slope": 15, "macd_hist": 33, "macd_slope": 34, "macd_cross": 34, "price_z20": 19, "vwap_z": 19,
        "atr": 14, "atr_pct": 14, "atr_pctile": 103, "range_ratio": 20, "cloud_atr": 199, "vol_z20": 19,
        "vol_spike": 19, "obv_dir": 20, "delta20": 20,
    }  # fmt: skip
    for timeframe in ("5m", "15m", "30m", "1h"):
        after = market.features[timeframe].loc["2023-03-24 14:00":]
        known = {name: int(np.isfinite(after[name].to_numpy()).argmax()) for name in first}
        assert known == first
        assert all(np.isfinite(after[name].to_numpy()[bars:]).all() for name, bars in first.items())


@pytest.mark.slow
@pytest.mark.parametrize(("symbol", "least", "most"), [(OWN, 6, 16), ("BTC", 6, 12), ("DOGE", 6, 12)])
def test_there_are_about_ten_decision_points_a_day(symbol: str, least: int, most: int) -> None:
    """Thresholds were chosen on 2022 alone; 2023 says whether they hold."""
    market = Market.from_base(symbol, recorded(symbol))
    closes = np.unique(market.event_closes)
    boundary = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp())
    bars = epoch_s(market.bars["5m"].index)
    for points, days in (
        ((closes <= boundary).sum(), (bars < boundary).sum() / 288),
        ((closes > boundary).sum(), (bars >= boundary).sum() / 288),
    ):
        assert least <= points / days <= most


def test_bar_closes_are_context_never_a_reason_alone() -> None:
    closes = bar_closes("X", START)
    assert [str(reason) for reason in closes] == ["BarClose(15m)", "BarClose(1h)", "BarClose(4h)"]
    assert all(reason.context for reason in closes)
    assert bar_closes("X", START + timedelta(minutes=5)) == ()


def position(**changes: object) -> Position:
    values = {
        "position_id": "p1", "strategy": "s", "cycle_id": "c1", "symbol": "X", "side": "long", "quantity": Decimal(1),
        "entry_quantity": Decimal(1), "avg_price": Decimal(100), "initial_stop": Decimal(98), "opened_at": START,
    }  # fmt: skip
    return Position(**(values | changes))


def said(closes: list[float], held: Position, first_bar: datetime = START) -> list[tuple[str, int]]:
    """Return each reason with the number of the bar that gave it."""
    bars = walk(len(closes), start=first_bar)
    bars["close"] = closes
    closes = Closes(epoch_s(bars.index) + STEP, bars["close"].to_numpy())
    found = reasons_at(held, closes, first_bar + timedelta(days=30), T)
    return [(str(r), int((r.as_of - first_bar) / timedelta(minutes=5)) - 1) for r in found]


def test_each_level_of_r_is_a_reason_once_on_either_side() -> None:
    assert said([100, 102, 101, 102.5, 104, 98, 97], position()) == [
        ("RMultiple(5m +1.0R)", 1), ("RMultiple(5m -1.0R)", 5), ("RMultiple(5m +2.0R)", 4)
    ]  # fmt: skip
    assert said([98.0], position(side="short", initial_stop=Decimal(102))) == [("RMultiple(5m +1.0R)", 0)]


def test_a_position_is_stale_after_96_bars_that_never_reached_half_an_r() -> None:
    assert said([100.5] * 96, position()) == []
    assert said([100.5] * 97, position()) == [("PositionAge(5m 96 bars)", 96)]
    assert said([100.5] * 10 + [101.0] + [100.5] * 200, position()) == []


def test_bars_that_do_not_go_back_to_the_opening_cannot_call_a_position_stale() -> None:
    assert said([100.5] * 200, position(), START + timedelta(hours=1)) == []


def test_a_position_without_a_stop_has_no_r_and_grows_stale() -> None:
    assert said([150.0] * 97, position(initial_stop=None)) == [("PositionAge(5m 96 bars)", 96)]


def test_an_open_position_is_reviewed_every_hour_at_five_past_once_it_is_an_hour_old() -> None:
    opened = START + timedelta(minutes=20)
    at_s = np.array([int(START.timestamp()) + STEP * n for n in range(1, 60)])
    closes, held, seen, after = Closes(at_s, np.full(59, 100.0)), position(opened_at=opened), [], START
    while review := next_review(held, closes, after, START + timedelta(hours=4, minutes=30), T):
        after = review.as_of
        seen.append(((after - START) / timedelta(minutes=1), review.detail))
    assert seen == [(125, "open 21 bars"), (185, "open 33 bars"), (245, "open 45 bars")]
    assert next_review(held, closes, START, after, EventThresholds(review_bars=0)) is None


def test_drawdown_fires_below_two_percent_and_at_each_further_percent_once_a_day() -> None:
    marks = {pnl: [r.fingerprint for r in drawdown("X", pnl, START, T)] for pnl in (None, 0.0, -2.0, -2.1, -2.9, -3.0)}
    assert marks[None] == marks[0.0] == marks[-2.0] == []
    assert marks[-2.1] == marks[-2.9] != marks[-3.0]
    assert [str(r) for r in drawdown("X", -2.1, START, T)] == ["Drawdown(account -2.1%)"]
    assert drawdown("X", -2.1, START, T)[0].fingerprint == drawdown("Y", -2.1, START, T)[0].fingerprint


def test_the_accounts_question_is_put_with_the_largest_position_else_with_the_first_symbol() -> None:
    small, large = position(symbol="B"), position(symbol="C", quantity=Decimal(5))
    assert account_symbol("ABC", []) == "A"
    assert account_symbol("ABC", [small, large, position(symbol="D", quantity=Decimal(9))]) == "C"
    assert account_symbol("ABC", [position(symbol="C"), small]) == "B"  # as large: the first
