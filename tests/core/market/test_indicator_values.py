"""Indicators against known-good values: Excel sheets and JSON of the recorded data, each named, with its mapping.

Source: DaveSkender/Stock.Indicators (Apache-2.0). There is no sheet for swings (fractals): those are held against
the slow reference on the same quotes.
"""

import csv
import json
import math
from functools import cache

import numpy as np
import openpyxl
import pandas as pd
import pytest
import reference
from market_data import OWN, START, rows, walk
from shared_data import shared

from tasks.core.market import anchors, features
from tasks.core.market.bars import bar_frame, columns_of
from tasks.core.types.bars import COLUMNS


def quotes(name: str) -> pd.DataFrame:
    """Return a quotes file as gapless 5m bars from midnight: indicators count bars, not days."""
    with shared(f"indicators/quotes/{name}.csv").open(encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    values = {column: np.array([float(line[column] or "nan") for line in lines]) for column in COLUMNS}
    return bar_frame((int(START.timestamp()) + 300 * np.arange(len(lines))) * 1000, values)


@cache
def sheet(name: str, column: str, tab: int = 0) -> np.ndarray:
    """Return the first column called `column` of indicators/xlsx/NAME.Calc.xlsx; empty cells are NaN."""
    book = openpyxl.load_workbook(shared(f"indicators/xlsx/{name}.Calc.xlsx"), data_only=True, read_only=True)
    header, *lines = book.worksheets[tab].iter_rows(values_only=True)
    at = header.index(column)
    return np.array([math.nan if not isinstance(line[at], int | float) else float(line[at]) for line in lines])


@cache
def library(name: str, field: str) -> np.ndarray:
    """Return a field of indicators/results/NAME.standard.json; null is NaN."""
    lines = json.loads(shared(f"indicators/results/{name}.standard.json").read_text())
    return np.array([math.nan if line[field] is None else float(line[field]) for line in lines])


def computed(name: str, file: str = "default") -> np.ndarray:
    return features.compute(quotes(file), "5m")[name].to_numpy()


def assert_same(ours: np.ndarray, theirs: np.ndarray, *, from_row: int) -> None:
    """Both sides are known from `from_row` on, unknown before, and equal within 1e-9."""
    assert len(ours) == len(theirs)
    assert np.isfinite(theirs[from_row:]).all()
    assert np.flatnonzero(np.isfinite(ours))[0] == from_row
    np.testing.assert_allclose(ours[from_row:], theirs[from_row:], rtol=1e-9, atol=1e-9)


def test_rsi_equals_the_sheet_and_the_library() -> None:
    """Rsi.Calc.xlsx "RSI(14)" and rsi.standard.json: Wilder, as ours."""
    assert_same(computed("rsi"), sheet("Rsi", "RSI(14)"), from_row=14)
    assert_same(computed("rsi"), library("rsi", "rsi"), from_row=14)


def test_atr_equals_the_sheet_and_the_library() -> None:
    """Atr.Calc.xlsx "ATR", "ATR%" and atr.standard.json: Wilder, 14, as ours."""
    assert_same(computed("atr"), sheet("Atr", "ATR"), from_row=14)
    assert_same(computed("atr_pct"), sheet("Atr", "ATR%"), from_row=14)
    assert_same(computed("atr"), library("atr", "atr"), from_row=14)


def test_true_range_equals_the_sheet() -> None:
    """Tr.Calc.xlsx "TR": unknown on the first bar, as ours."""
    assert_same(features.true_range(columns_of(quotes("default"))), sheet("Tr", "TR"), from_row=1)


def test_macd_histogram_equals_the_sheet_and_the_library() -> None:
    """Macd.Calc.xlsx "Histo" and macd.standard.json: SMA-seeded as ours (TA-Lib's MACD is not, for some 150 rows)."""
    assert_same(computed("macd_hist"), sheet("Macd", "Histo"), from_row=33)
    assert_same(computed("macd_hist"), library("macd", "histogram"), from_row=33)


def test_ema_equals_the_sheet() -> None:
    """Ema.Calc.xlsx "ema": length 20, SMA-seeded."""
    assert_same(features.ema(quotes("default")["close"].to_numpy(), 20), sheet("Ema", "ema"), from_row=19)


def test_sma_equals_the_sheet_and_the_library() -> None:
    """Sma.Calc.xlsx "SMA" (close, 20) and, on its second tab, "sma" of volume; sma.standard.json."""
    assert_same(computed("sma20"), sheet("Sma", "SMA"), from_row=19)
    assert_same(computed("sma20"), library("sma", "sma"), from_row=19)
    volume = features.rolling_mean(quotes("default")["volume"].to_numpy(), 20)
    assert_same(volume, sheet("Sma", "sma", 1), from_row=19)


def test_deviation_equals_the_sheet_once_scaled_from_population_to_sample() -> None:
    """StdDev.Calc.xlsx "stddev" (10 bars), stdev.standard.json (14): of the population; ours x sqrt((n - 1)/n)."""
    close = quotes("default")["close"].to_numpy()
    for n, theirs in ((10, sheet("StdDev", "stddev")), (14, library("stdev", "stdDev"))):
        assert_same(features.rolling_std(close, n) * math.sqrt((n - 1) / n), theirs, from_row=n - 1)


def test_price_z_equals_the_bollinger_sheet_once_scaled() -> None:
    """BollingerBands.Calc.xlsx "stdev", "z-score" (20 bars, population): z of the sample = theirs x sqrt(19/20)."""
    assert_same(computed("std20"), sheet("BollingerBands", "stdev") * math.sqrt(20 / 19), from_row=19)
    assert_same(computed("price_z20"), sheet("BollingerBands", "z-score") * math.sqrt(19 / 20), from_row=19)


def test_bollinger_and_adx_of_the_role_inputs_equal_the_sheets() -> None:
    """BollingerBands.Calc.xlsx (population, as ours here) and Adx.Calc.xlsx "ADX".

    TA-Lib's ADX starts its sums one bar earlier than the sheet: the same from row 300 on, where both forgot the start.
    """
    roles = features.role_inputs(quotes("default"), "5m")
    for ours, theirs in (
        ("upper", "upper"),
        ("middle", "sma"),
        ("lower", "lower"),
        ("percent_b", "%b"),
        ("width", "width"),
    ):
        assert_same(roles[f"bb_{ours}"].to_numpy(), sheet("BollingerBands", theirs), from_row=19)
    adx = roles["adx"].to_numpy()
    np.testing.assert_allclose(adx[300:], sheet("Adx", "ADX")[300:], rtol=1e-8)
    assert np.abs(adx - sheet("Adx", "ADX"))[27:].max() < 1


def test_obv_direction_is_the_sign_of_the_change_of_the_sheets_obv() -> None:
    """Obv.Calc.xlsx "obv" starts at 0 (TA-Lib at the first volume): only its change over 20 bars matters to ours."""
    for obv in (sheet("Obv", "obv"), library("obv", "obv")):
        change = np.r_[np.full(20, math.nan), np.sign(obv[20:] - obv[:-20])]
        assert_same(computed("obv_dir"), change, from_row=20)


def test_vwap_of_20_bars_is_the_difference_of_the_sheets_running_sums() -> None:
    """Vwap.Calc.xlsx "CumVTP", "CumVol" are cumulative: VWAP20 = their change over 20 bars, divided."""
    totals = [np.r_[0.0, sheet("Vwap", name)] for name in ("CumVTP", "CumVol")]
    value, volume = (np.r_[np.full(19, math.nan), total[20:] - total[:-20]] for total in totals)
    assert_same(computed("vwap20", "intraday")[:391], value / volume, from_row=19)


def test_session_vwap_equals_the_sheets_cumulative_vwap() -> None:
    """Vwap.Calc.xlsx "VWAP" is cumulative from its first bar, as ours is from 00:00: the first 288 rows are one day."""
    day = quotes("intraday").iloc[:288]
    assert_same(anchors.compute(day, day.iloc[:0])["session_vwap"].to_numpy(), sheet("Vwap", "VWAP")[:288], from_row=0)


@pytest.mark.parametrize("source", [OWN, "default"])
def test_swings_equal_the_reference(source: str) -> None:
    bars = walk(400, seed=6) if source == OWN else quotes(source)
    frame, plain = features.compute(bars, "5m"), rows(bars)
    for i in range(len(bars)):
        for name, column, sign in (("high", 2, 1), ("low", 3, -1)):
            levels = [math.nan, math.nan, *reference.swings(plain[: i + 1], column, sign)]
            np.testing.assert_equal(frame[f"last_{name}"].iloc[i], levels[-1])
            np.testing.assert_equal(frame[f"prev_{name}"].iloc[i], levels[-2])


def odd(kind: str) -> pd.DataFrame:
    """Return quotes as odd as the recorded ones: all zero, with numbers missing, of a hundredth, or large."""
    bars = walk(502, seed=3, price={"own penny": 0.01, "own large": 60_000.0}.get(kind, 100.0))
    if kind == "own zeros":
        bars.loc[:, :] = 0.0
    if kind == "own holes":
        bars.iloc[100:103, 3] = np.nan
        bars.iloc[200, 1:3] = np.nan
        bars.iloc[300, 4] = np.nan
    return bars


OWN_ODD = ["own zeros", "own holes", "own penny", "own large"]


@pytest.mark.parametrize("file", [*OWN_ODD, "zeros", "bad", "penny", "bitcoin"])
def test_odd_quotes_give_finite_numbers_or_unknown(file: str) -> None:
    frame = features.compute(odd(file) if file in OWN_ODD else quotes(file), "5m")
    assert not np.isinf(frame.to_numpy()).any()
    if "zeros" in file:
        assert frame[["rsi", "price_z20", "vwap_z", "atr", "atr_pct", "vol_z20"]].isna().all(axis=None)
