"""The snapshot: its keys, its bytes, unknown as null, and markets that have little to tell."""

import json
import math
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_data import CONSTRAINTS, MARKETS, OWN, START, long, walk
from shared_data import shared

from tasks.adapters.files.candles import read_candles
from tasks.core.errors import DataError
from tasks.core.market import lean
from tasks.core.market.bars import bar_frame, timeframes_from
from tasks.core.market.market import Market, bar_closes
from tasks.core.market.moments import significant
from tasks.core.market.snapshot import MAX_BYTES, build, to_json
from tasks.core.types.bars import COLUMNS
from tasks.core.types.question import Reason
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    HtfAnchors,
    OrderBookView,
    PositionView,
    RiskView,
    Snapshot,
    Swing,
    TimeframeView,
    TradeDigest,
)

FIVE = timedelta(minutes=5)
TIMEFRAMES = ("1m", "5m", "15m", "1h", "4h", "1d")
ACTIONS = (
    "HOLD", "OPEN_LONG", "OPEN_SHORT", "ADD", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP", "SET_TP", "CANCEL_TP",
    "PAUSE",
)  # fmt: skip
VIEW_KEYS = (
    "close rsi rsi_slope macd_hist macd_cross macd_slope price_z20 vwap_z atr atr_pct atr_pctile range_ratio ma_stack "
    "cloud_atr vol_z20 obv_dir vol_spike delta20 swing last3"
)
SWING_KEYS = (
    "to_last_high_atr to_last_low_atr to_prev_high_atr to_prev_low_atr broke_high broke_low "
    "upper_wick_pct lower_wick_pct"
)


def at(bars: pd.DataFrame, i: int = -1, step: timedelta = FIVE) -> datetime:
    return (bars.index[i] + step).to_pydatetime()


def reason(rule: str, detail: str = "up", as_of: datetime = START) -> Reason:
    return Reason(rule=rule, symbol="X", timeframe="15m", detail=detail, as_of=as_of, fingerprint=rule + detail)


def finite_or_null(value: object, path: str = "") -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            finite_or_null(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            finite_or_null(item, path)
    elif isinstance(value, float):
        assert math.isfinite(value), path
        assert not (value == 0 and math.copysign(1, value) < 0), f"-0.0 at {path}"


def test_the_json_has_the_keys_of_the_contract_in_their_order() -> None:
    bars = walk(4_000)
    document = json.loads(to_json(build(Market.from_base("X/USDT", bars), at(bars), constraints=CONSTRAINTS)))
    assert " ".join(document) == (
        "pair as_of reason_for_call timeframes htf_anchors orderbook position risk constraints confluence digest"
    )
    assert " ".join(document["timeframes"]) == "5m 15m 1h 4h 1d"
    for view in document["timeframes"].values():
        assert " ".join(view) == VIEW_KEYS
        assert " ".join(view["swing"]) == SWING_KEYS
        assert [len(bar) for bar in view["last3"]] == [5, 5, 5]
    assert " ".join(document["htf_anchors"]) == (
        "dist_to_prev_day_high_atr dist_to_prev_day_low_atr dist_to_prev_week_high_atr dist_to_prev_week_low_atr "
        "daily_open_z weekly_open_z session_vwap_z rolling_vwap_1d_z"
    )
    assert " ".join(document["orderbook"]) == "imbalance spread_bps slippage_bps_for_size"
    assert " ".join(document["position"]) == "side size_pct avg_price unrealized_R age_bars_5m stop_atr tp_atr"
    assert " ".join(document["risk"]) == "daily_pnl_pct max_drawdown_today_pct risk_mode"
    assert " ".join(document["constraints"]) == "max_trade_risk_pct max_total_risk_pct allowed_actions"
    assert " ".join(document["confluence"]) == "score direction alignment momentum volume vwap book"


def test_the_1m_view_is_there_when_there_are_1m_bars_without_swings_and_bars() -> None:
    bars = walk(6_000, timeframe="1m")
    snapshot = build(Market.from_base("X/USDT", bars), at(bars, step=timedelta(minutes=1)), constraints=CONSTRAINTS)
    document = json.loads(to_json(snapshot))
    assert list(document["timeframes"]) == list(TIMEFRAMES)
    assert " ".join(document["timeframes"]["1m"]) == VIEW_KEYS.removesuffix(" swing last3")
    assert document["timeframes"]["1m"]["rsi"] is not None
    assert Snapshot.model_validate_json(to_json(snapshot)) == snapshot


@pytest.mark.parametrize("source", [OWN, "ETH"])
def test_1m_candles_fit_the_budget_with_all_six_views(source: str) -> None:
    if source == OWN:
        bars = walk(44_000, seed=8, timeframe="1m", price=3_000.0)
    else:
        bars = read_candles(shared("ohlcv/ETH-USDT_1m_binance_2024-07_2024-08.parquet"))
    market = Market.from_base("ETH/USDT", bars)
    for i in range(30_000, 43_000, 500):
        as_of = bars.index[i].floor("5min").to_pydatetime()
        snapshot = build(
            market, as_of, reasons=market.reasons(as_of - timedelta(hours=1), as_of), constraints=CONSTRAINTS
        )
        document = json.loads(to_json(snapshot))
        assert list(document["timeframes"]) == list(TIMEFRAMES)
        assert len(to_json(snapshot)) <= 5_400
        assert len(lean.encode(snapshot)) <= 1_900


ordinary = st.builds(
    lambda sign, digits, power: sign * digits * 10.0**power,
    st.sampled_from([-1, 1]),
    st.floats(1, 9.999),
    st.integers(-98, 98),
)
signed = st.one_of(ordinary, st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0]))
number = st.one_of(st.none(), signed).map(significant)
share = st.one_of(st.none(), st.floats(0, 100)).map(significant)
whole = st.one_of(st.none(), st.integers(-1, 1))
flag = st.one_of(st.none(), st.booleans())
swing = st.builds(
    Swing, **dict.fromkeys(SWING_KEYS.split(), number) | {"broke_high": flag, "broke_low": flag}
)  # fmt: skip
price = st.floats(1e-99, 1e99).map(significant)
view = st.builds(
    TimeframeView,
    **dict.fromkeys(VIEW_KEYS.split(), number)
    | {
        "macd_cross": whole, "obv_dir": whole, "vol_spike": flag, "ma_stack": st.sampled_from([None, "200>50>20"]),
        "rsi": share, "atr_pctile": share, "swing": swing,
        "last3": st.lists(st.tuples(price, price, price, price, price), max_size=3).map(tuple),
    },
)  # fmt: skip
snapshots = st.builds(
    Snapshot,
    pair=st.just("1000000BABYDOGE/USDT:USDT-260327"),
    as_of=st.just(START),
    reason_for_call=st.just(("x" * 477,)),
    timeframes=st.fixed_dictionaries(dict.fromkeys(TIMEFRAMES, view)),
    htf_anchors=st.builds(HtfAnchors, **dict.fromkeys(HtfAnchors.model_fields, number)),
    orderbook=st.builds(OrderBookView, **dict.fromkeys(OrderBookView.model_fields, number)),
    position=st.builds(
        PositionView,
        **dict.fromkeys(PositionView.model_fields, number)
        | {"side": st.sampled_from(["long", "short"]), "age_bars_5m": st.integers(0, 10**6)},
    ),
    risk=st.builds(
        RiskView, daily_pnl_pct=number, max_drawdown_today_pct=number, risk_mode=st.sampled_from(["tighten", "normal"])
    ),
    constraints=st.just(Constraints(max_trade_risk_pct=0.123456, max_total_risk_pct=1.23456, allowed_actions=ACTIONS)),
    confluence=st.just(Confluence(score=5, direction=-1, alignment=-1, momentum=-1, volume=-1, vwap=-1, book=-1)),
    digest=st.builds(
        TradeDigest,
        **dict.fromkeys(TradeDigest.model_fields, number)
        | {"trade_count": st.integers(0, 10**6), "last_trade_ts": st.just(START)},
    ),
)


@settings(max_examples=40, deadline=None)
@given(snapshots)
def test_any_numbers_fit_the_budgets_and_read_back(snapshot: Snapshot) -> None:
    text = to_json(snapshot)
    assert len(text.encode()) <= MAX_BYTES == 6_144
    assert len(lean.encode(snapshot).encode()) <= lean.MAX_BYTES == 3_072
    again = Snapshot.model_validate_json(text)
    assert again.timeframes["5m"] == snapshot.timeframes["5m"]
    assert again.digest == snapshot.digest


@pytest.mark.parametrize("x", [-1.23457e-05, -1.23457e-99, -1.23457e99, -0.000123457, -1234570000000000.0])
def test_the_longest_numbers_fit_the_budgets(x: float) -> None:
    def full(model: type, **rest: object) -> object:
        return model(**dict.fromkeys(model.model_fields, x) | rest)

    worst = full(
        TimeframeView, macd_cross=-1, obv_dir=-1, vol_spike=False, ma_stack="200>50>20", rsi=12.3457,
        atr_pctile=5.55556, swing=full(Swing, broke_high=False, broke_low=False), last3=((x,) * 5,) * 3,
    )  # fmt: skip
    snapshot = Snapshot(
        pair="1000000BABYDOGE/USDT:USDT-260327", as_of=START, reason_for_call=("x" * 477,),
        timeframes=dict.fromkeys(TIMEFRAMES, worst), htf_anchors=full(HtfAnchors), orderbook=full(OrderBookView),
        position=full(PositionView, side="short", age_bars_5m=10**6), risk=full(RiskView, risk_mode="tighten"),
        constraints=Constraints(max_trade_risk_pct=0.123456, max_total_risk_pct=1.23456, allowed_actions=ACTIONS),
        confluence=Confluence(score=5, direction=-1, alignment=-1, momentum=-1, volume=-1, vwap=-1, book=-1),
        digest=full(TradeDigest, trade_count=10**6, last_trade_ts=START),
    )  # fmt: skip
    assert len(to_json(snapshot).encode()) <= MAX_BYTES
    assert len(lean.encode(snapshot).encode()) <= lean.MAX_BYTES
    assert list(json.loads(to_json(snapshot))["timeframes"])[-5:] == list(TIMEFRAMES[1:])


def test_reasons_beyond_their_bytes_leave_the_oldest_out() -> None:
    bars = walk(300)
    market = Market.from_base("X", bars)
    many = [reason("Calendar", f"Zinsentscheid für März, Sitzung {i}") for i in range(40)] + [reason("StopRun")]
    said = build(market, at(bars), reasons=many, constraints=CONSTRAINTS).reason_for_call
    assert said[-1] == "StopRun(15m up)"
    assert said[:-1] == tuple(map(str, many[-len(said) : -1]))
    assert 5 < len(said) < 41
    assert (
        build(market, at(bars), reasons=[reason("Calendar", "x" * 600)], constraints=CONSTRAINTS).reason_for_call == ()
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400), st.integers(0, 10_000), st.sampled_from(["5m", "15m", "1h", "4h", "1d"]), st.integers(0, 3))
def test_values_are_finite_or_null_however_little_there_is(n: int, seed: int, timeframe: str, flat: int) -> None:
    bars = walk(n + 2, seed, timeframe)
    if flat:  # stretches without movement, without volume, or both
        bars.loc[bars.index[n // 2 :], ["open", "high", "low", "close"]] = 0.1 if flat != 2 else 7e-8
        bars.loc[bars.index[n // 3 :], "volume"] = 0.0 if flat > 1 else 0.3
    market = Market.from_base("X", bars)
    as_of = at(bars, step=bars.index[1] - bars.index[0])
    snapshot = build(market, as_of, reasons=bar_closes("X", as_of), constraints=CONSTRAINTS)
    finite_or_null(snapshot.model_dump(mode="json"))
    assert "NaN" not in to_json(snapshot)
    finite_or_null(market.moment(as_of).roles.model_dump(mode="json"))
    assert len(lean.encode(snapshot)) <= lean.MAX_BYTES
    market.reasons(START, as_of)


def test_a_market_of_1h_bars_has_no_5m_view_and_no_anchors() -> None:
    bars = walk(3_000, timeframe="1h")
    market, as_of = Market.from_base("X", bars), at(bars, step=timedelta(hours=1))
    snapshot = build(market, as_of, constraints=CONSTRAINTS)
    assert snapshot.timeframes["5m"] == TimeframeView()
    assert snapshot.timeframes["1h"].rsi is not None
    assert snapshot.htf_anchors == HtfAnchors()
    assert snapshot.confluence == Confluence()
    assert snapshot.last_price is None
    assert market.moment(as_of).roles.volume_24h is None
    assert {rule for _, rule, *_ in market.events} == {"TrendFlip"}


@pytest.mark.parametrize("missing", [("5m",), ("15m",), ("1d",), ("1h", "4h"), ("5m", "15m", "30m", "1h", "4h", "1d")])
@pytest.mark.parametrize("how", ["empty", "absent"])
def test_timeframes_that_are_empty_or_absent_are_null(missing: tuple[str, ...], how: str) -> None:
    bars = walk(3_000)
    frames = dict(timeframes_from(bars, "5m"))
    for timeframe in missing:
        frames[timeframe] = frames[timeframe].iloc[:0]
        if how == "absent":
            del frames[timeframe]
    market, as_of = Market("X", frames), at(bars)
    snapshot = build(market, as_of, reasons=market.reasons(START, as_of), constraints=CONSTRAINTS)
    assert all(snapshot.timeframes[tf] == TimeframeView() for tf in missing if tf != "30m")
    assert market.moment(as_of).roles is not None


def test_a_market_without_a_timeframe_is_refused_in_one_line() -> None:
    with pytest.raises(DataError, match="too few"):
        Market.from_base("X", walk(1))
    with pytest.raises(DataError, match="lack the columns volume"):
        Market.from_base("X", walk(9).drop(columns="volume"))
    with pytest.raises(DataError, match="ascend"):
        Market.from_base("X", walk(9).iloc[::-1])


def test_a_late_bar_is_null_not_the_one_before() -> None:
    bars = walk(3_000)
    market = Market.from_base("X", bars)
    late = build(market, at(bars) + FIVE, constraints=CONSTRAINTS)
    assert late.timeframes["5m"] == TimeframeView()
    assert late.htf_anchors == HtfAnchors()
    assert market.value("5m", "close", at(bars) + FIVE) is None
    assert market.value("5m", "close", at(bars)) == bars["close"].iloc[-1]


def test_before_its_first_bar_a_market_is_null() -> None:
    market = Market.from_base("X", walk(300))
    snapshot = build(market, START, constraints=CONSTRAINTS)
    assert set(snapshot.timeframes.values()) == {TimeframeView()}
    assert market.reasons(START - timedelta(days=1), START) == ()


def test_24h_volume_is_unknown_across_a_gap() -> None:
    bars = walk(600)
    holed = bars.drop(bars.index[500])
    volumes = [Market.from_base("X", frame).moment(at(bars)).roles.volume_24h for frame in (bars, holed)]
    assert volumes == [pytest.approx(bars["volume"].iloc[-288:].sum(), rel=1e-5), None]


def test_the_book_votes_on_confluence_and_unknown_parts_are_null() -> None:
    bars = walk(3_000)
    market = Market.from_base("X", bars)
    views = [
        build(market, at(bars), book=OrderBookView(imbalance=x), constraints=CONSTRAINTS).confluence
        for x in (None, 0.1, 0.3, -0.3)
    ]
    assert [v.book for v in views] == [None, 0, 1, -1]
    bare = views[0].signed
    assert [v.signed for v in views] == [bare, bare, bare + 1, bare - 1]
    assert bare == sum((views[0].alignment, views[0].momentum, views[0].volume, views[0].vwap))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        (1234567.0, 1234570.0),
        (0.000123456789, 0.000123457),
        (0.0, 0.0),
    ],
)
def test_numbers_have_six_significant_digits(value: float | None, expected: float | None) -> None:
    assert significant(value) == expected


def test_minus_zero_never_appears() -> None:
    assert str(significant(-0.0)) == "0.0"


def test_the_last_price_crosses_to_decimal_by_its_text() -> None:
    bars = walk(300)
    bars["close"] = 0.1
    assert build(Market.from_base("X", bars), at(bars), constraints=CONSTRAINTS).last_price == Decimal("0.1")


@pytest.mark.parametrize("symbol", MARKETS)
def test_snapshots_stay_far_below_the_budgets(symbol: str) -> None:
    bars = long(symbol)
    market = Market.from_base(f"{symbol}/USDT", bars)
    for i in np.random.default_rng(5).integers(len(bars) // 2, len(bars), 60):
        as_of = at(bars, int(i))
        reasons = (*market.reasons(as_of - timedelta(hours=1), as_of), *bar_closes(symbol, as_of))
        snapshot = build(market, as_of, reasons=reasons, constraints=CONSTRAINTS)
        finite_or_null(json.loads(to_json(snapshot)))
        assert len(to_json(snapshot)) <= 4_900
        assert len(lean.encode(snapshot)) <= 1_600


def test_bars_of_no_length_make_no_market() -> None:
    empty = bar_frame(np.array([], dtype="int64"), dict.fromkeys(COLUMNS, np.array([])))
    with pytest.raises(DataError, match="0 bars"):
        Market.from_base("X", empty)
