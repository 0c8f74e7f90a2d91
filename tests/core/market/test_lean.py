"""The lean encoding: one header, one row per timeframe, and nothing lost that a row should carry."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from market_data import CONSTRAINTS, START, walk

from tasks.core.market import lean
from tasks.core.market.market import Market
from tasks.core.market.snapshot import build
from tasks.core.types.snapshot import OrderBookView, PositionView, RiskView, Snapshot, TradeDigest

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
