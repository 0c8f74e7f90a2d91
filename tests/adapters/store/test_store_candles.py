"""Candles: saved once, first values win, read back exactly."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
from instrument_cases import spot
from sqlalchemy import select
from store_samples import AT, BTC, minutes

from tasks.adapters.store.tables import CandleRow
from tasks.core.errors import DataError
from tasks.core.market.bars import bar_frame
from tasks.core.types.bars import COLUMNS

KEY = ("bybit", BTC, "5m")


def bars(count: int, seed: int = 1, start=AT) -> pd.DataFrame:
    open_ms = int(start.timestamp() * 1000) + 300_000 * np.arange(count)
    values = np.random.default_rng(seed).normal(65_000, 100, (count, 5))
    return bar_frame(open_ms, dict(zip(COLUMNS, values.T, strict=True)))


def save_bars(store, venue, symbol, timeframe, frame, at) -> tuple[int, int]:
    """Save one series; returns how many bars were new and how many revised."""
    new, revised = store.candles.save(venue, {(symbol, timeframe): frame}, at)
    return new, revised.total()


def test_bars_come_back_exactly_with_the_same_index(store):
    frame = bars(50)
    assert save_bars(store, *KEY, frame, AT) == (50, 0)
    pd.testing.assert_frame_equal(store.candles.load(*KEY, AT + timedelta(days=1), 1000), frame, check_freq=False)


def test_the_last_bars_that_had_closed_by_then_are_loaded(store):
    frame = bars(10)
    save_bars(store, *KEY, frame, AT)
    at_close = store.candles.load(*KEY, AT + minutes(25), 3)
    pd.testing.assert_frame_equal(at_close, frame.iloc[2:5], check_freq=False)
    just_before = store.candles.load(*KEY, AT + minutes(25) - timedelta(microseconds=1), 3)
    pd.testing.assert_frame_equal(just_before, frame.iloc[1:4], check_freq=False)


def test_empty_series_is_an_empty_bar_frame(store):
    empty = store.candles.load(*KEY, AT, 10)
    pd.testing.assert_frame_equal(empty, bars(1).iloc[:0], check_freq=False)
    assert save_bars(store, *KEY, empty, AT) == (0, 0)


def test_series_do_not_mix(store):
    save_bars(store, *KEY, bars(3), AT)
    save_bars(store, "bybit", BTC, "15m", bars(4, seed=2), AT)
    save_bars(store, "other", BTC, "5m", bars(5, seed=3), AT)
    assert len(store.candles.load(*KEY, AT + timedelta(days=1), 100)) == 3
    assert store.counts()["candles"] == 12


def test_same_bars_again_are_neither_new_nor_revised(store):
    save_bars(store, *KEY, bars(20), AT)
    assert save_bars(store, *KEY, bars(20), AT + minutes(1)) == (0, 0)


def test_changed_bar_keeps_its_first_values_and_its_later_ones_beside(store):
    first = bars(3)
    later = first.copy()
    later.iloc[1, later.columns.get_loc("close")] = 1.25
    save_bars(store, *KEY, first, AT)
    assert save_bars(store, *KEY, later, AT + minutes(9)) == (0, 1)
    assert save_bars(store, *KEY, later, AT + minutes(10)) == (0, 0)
    pd.testing.assert_frame_equal(store.candles.load(*KEY, AT + minutes(60), 9), first, check_freq=False)
    query = select(CandleRow.open_time, CandleRow.revisions).where(CandleRow.revisions.is_not(None))
    [(at, [revision])] = store.rows(query)
    assert at == AT + minutes(5)
    assert revision == {**later.iloc[1].to_dict(), "recorded_at": (AT + minutes(9)).isoformat()}


def test_overlap_adds_only_what_is_new(store):
    frame = bars(30)
    save_bars(store, *KEY, frame.iloc[5:20], AT)
    assert save_bars(store, *KEY, frame, AT) == (15, 0)
    pd.testing.assert_frame_equal(store.candles.load(*KEY, AT + timedelta(days=1), 99), frame, check_freq=False)


def test_many_series_at_once_are_those_one_by_one(store):
    whole, gap, young = bars(40), bars(40, seed=2).drop(bars(40).index[20]), bars(7, seed=3)
    frames = {("B", "5m"): whole, ("a", "5m"): gap, ("C", "5m"): young, ("B", "15m"): bars(4, seed=4)}
    assert store.candles.save("v", frames, AT) == (40 + 39 + 7 + 4, {})
    symbols = ("a", "B", "none", "C")
    for until in (AT + minutes(200), AT + minutes(142), AT + minutes(600)):
        for limit in (5, 30, 100):
            found = store.candles.load_frames("v", symbols, "5m", until, limit)
            for symbol in symbols:
                one = store.candles.load("v", symbol, "5m", until, limit)
                pd.testing.assert_frame_equal(found[symbol], one, check_freq=False)


def test_many_series_saved_again_tell_which_were_revised(store):
    frames = {("A", "5m"): bars(5), ("B", "5m"): bars(5, seed=2)}
    store.candles.save("v", frames, AT)
    later = frames | {
        ("B", "5m"): frames["B", "5m"].assign(close=lambda f: f["close"].where(f.index != f.index[3], 1.0))
    }
    assert store.candles.save("v", later, AT) == (0, {("B", "5m"): 1})
    pd.testing.assert_frame_equal(
        store.candles.load("v", "B", "5m", AT + minutes(60), 9), frames["B", "5m"], check_freq=False
    )


def test_threads_that_save_the_same_bars_count_each_once(store):
    frame, together = bars(300), Barrier(4)

    def save(_: int) -> tuple[int, int]:
        together.wait(10)
        return save_bars(store, *KEY, frame, AT)

    with ThreadPoolExecutor(4) as pool:
        saved = list(pool.map(save, range(4)))
    assert sum(new for new, _ in saved) == 300 == store.counts()["candles"]


def test_frames_of_any_resolution_are_saved(store):
    frame = bars(5)
    for unit in ("s", "us", "ns"):
        other = frame.set_axis(frame.index.as_unit(unit))
        save_bars(store, *KEY, other, AT)
    assert store.counts()["candles"] == 5


def test_what_is_no_bar_frame_is_refused(store):
    with pytest.raises(DataError, match="UTC DatetimeIndex"):
        save_bars(store, *KEY, bars(3).tz_localize(None), AT)
    holes = bars(3)
    holes.iloc[1, 0] = np.nan
    with pytest.raises(DataError, match="missing values"):
        save_bars(store, *KEY, holes, AT)
    assert store.counts()["candles"] == 0


def test_the_venues_last_word_on_an_instrument_is_kept_beside_its_candles(store):
    first = spot("DOGE/USDT", tick=Decimal("0.00001"), step=Decimal("1"), min_notional=Decimal("1.50"))
    store.instruments.save("bybit", first)
    store.instruments.save("binance", first.model_copy(update={"step": Decimal("0.1")}))
    assert store.instruments.get("bybit", "DOGE/USDT") == first
    assert str(store.instruments.get("bybit", "DOGE/USDT").min_notional) == "1.50"
    later = first.model_copy(update={"tick": Decimal("1E-7")})
    store.instruments.save("bybit", later)
    assert store.instruments.get("bybit", "DOGE/USDT") == later
    assert store.instruments.get("bybit", "DOGE/USDT:USDT") is None
    assert store.counts()["instruments"] == 2
