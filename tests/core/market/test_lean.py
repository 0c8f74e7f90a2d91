"""The lean encoding: one header, one row per timeframe, and nothing lost that a row should carry."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data import CONSTRAINTS, START, walk

from tasks.core.market import lean
from tasks.core.market.market import Market
from tasks.core.market.snapshot import build
from tasks.core.types.snapshot import (
    OrderBookView,
    PositionView,
    RiskView,
    Snapshot,
    Swing,
    TimeframeView,
    TradeDigest,
)

FIVE = timedelta(minutes=5)


def snapshot(**views: object) -> Snapshot:
    bars = walk(4_000, seed=6)
    as_of = (bars.index[-1] + FIVE).to_pydatetime()
    return build(Market.from_base("X/USDT", bars), as_of, constraints=CONSTRAINTS, **views)


def test_each_timeframe_is_one_row_under_one_header() -> None:
    whole = snapshot()
    header, *lines = lean.encode(whole).splitlines()
    names = header.split()
    assert names[0] == "tf"
    for (timeframe, view), line in zip(whole.timeframes.items(), lines, strict=False):
        cells = dict(zip(names, line.split(), strict=True))
        assert cells["tf"] == timeframe
        assert float(cells["close"]) == view.close
        for column, short in (*lean.COLUMNS[1:], *lean.SWINGS):
            value = getattr(view, column, None) if column in type(view).model_fields else getattr(view.swing, column)
            if value is None:
                assert cells[short] == "-"
            elif isinstance(value, bool | int):
                assert int(cells[short]) == int(value)
            elif isinstance(value, str):
                assert cells[short] == value
            else:
                assert float(cells[short]) == pytest.approx(value, rel=5e-3, abs=0.5 if column in lean.WHOLE else 0)


def test_the_lines_below_the_rows_say_the_rest() -> None:
    text = lean.encode(
        snapshot(
            book=OrderBookView(imbalance=-0.1234, spread_bps=1.5),
            position=PositionView(side="short", size_pct=12.5, avg_price=104.567, unrealized_R=-0.5, age_bars_5m=3),
            risk=RiskView(daily_pnl_pct=-1.25, risk_mode="tighten"),
            digest=TradeDigest(trade_count=3, win_rate=0.5, avg_holding_ms=90_000.0, last_trade_ts=START),
        )
    )
    lines = dict(line.split(" ", 1) for line in text.splitlines()[6:])
    assert lines["book"] == "imbalance=-.123 spread_bps=1.5"
    assert lines["position"] == "short avg_price=104.567 size_pct=12.5 unrealized_R=-.5 age_bars_5m=3"
    assert lines["risk"] == "tighten daily_pnl_pct=-1.25"
    assert lines["digest"] == "trades=3 win_rate=.5 hold_min=1.5 last=2024-01-01T00:00"
    assert lines["confluence"].split()[0] in {f"{n:+d}" for n in range(-5, 6)}
    assert len(lines["anchors"].split()) == 8


def test_the_last_three_bars_of_5m_15m_and_1h_are_there_with_their_volume() -> None:
    whole = snapshot()
    lines = {line.split()[0]: line for line in lean.encode(whole).splitlines() if " ohlcv " in line}
    assert list(lines) == ["5m", "15m", "1h"]
    for timeframe, line in lines.items():
        bars = [[float(x) for x in bar.split()] for bar in line.partition(" ohlcv ")[2].split(" ; ")]
        wanted = [list(bar) for bar in whole.timeframes[timeframe].last3]
        assert len(bars) == 3
        for bar, of in zip(bars, wanted, strict=True):
            assert bar == pytest.approx(of, rel=1e-5)


def test_a_1m_row_is_there_only_where_that_bar_is_known() -> None:
    whole = snapshot()
    known = whole.timeframes["5m"].replace(swing=Swing(), last3=())
    for view, rows in ((known, 6), (TimeframeView(), 5)):
        text = lean.encode(whole.replace(timeframes={"1m": view, **whole.timeframes}))
        assert len([line for line in text.splitlines() if len(line.split()) == 26]) == rows + 1
        assert ("\n1m " in text) is (rows == 6)


def test_where_numbers_are_too_long_the_bars_of_1h_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = snapshot()
    monkeypatch.setattr(lean, "MAX_BYTES", len(lean.encode(whole).encode()) - 1)
    assert [line.split()[0] for line in lean.encode(whole).splitlines() if " ohlcv " in line] == ["5m", "15m"]


def test_prompts_published_before_have_what_they_had() -> None:
    header, *lines = lean.encode_first(snapshot()).splitlines()
    assert header.endswith("dlt sh sl bh bl")
    assert [line.split()[:2] for line in lines if "ohlc" in line] == [["5m", "ohlc"]]


def test_the_short_forms_are_a_half_and_a_line() -> None:
    whole = snapshot()
    sizes = [len(form(whole)) for form in (lean.encode, lean.short, lean.brief)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]
    assert [line.split()[0] for line in lean.short(whole).splitlines()[:4]] == ["tf", "15m", "1h", "4h"]
    assert "\n" not in lean.brief(whole)


def test_what_is_unknown_or_nothing_takes_little_room() -> None:
    lines = dict(line.split(" ", 1) for line in lean.encode(snapshot()).splitlines()[6:] if " " in line)
    assert lines["position"] == "flat"
    assert lines["risk"] == "normal"
    assert "book" not in lines
    assert "digest" not in lines


def test_recorded_budget_holds_for_a_snapshot_without_any_bar() -> None:
    empty = build(Market("X", {}), START, constraints=CONSTRAINTS)
    assert len(lean.encode(empty)) < 600
    assert "nan" not in lean.encode(empty).lower()


@given(st.floats(-1e99, 1e99))
def test_a_cell_is_the_number_in_three_digits(value: float) -> None:
    text = lean.cell(value)
    assert float(text) == float(f"{value:.3g}")
    assert len(text) <= 13


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "1"), (False, "0"), (-1, "-1"), (0.0, "0"), (-0.5, "-.5"), (0.0649, ".0649"),
     (1.23e-05, "1.23e-05"), (123456.0, "123000"), (25811.0, "25800"), ("200>20>50", "200>20>50")],
)  # fmt: skip
def test_cells_are_short(value: object, text: str) -> None:
    assert lean.cell(value) == text
