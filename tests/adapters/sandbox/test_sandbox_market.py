"""The sandbox's market: candle files, the synthetic market, the path inside a candle, and what is known when."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from infra.sandbox.clock import HOUR_MS, Clock, wall_ms
from infra.sandbox.config import SandboxConfig
from infra.sandbox.exchange import Exchange
from infra.sandbox.market import order_book
from infra.sandbox.market.candles import file_candles
from infra.sandbox.market.listing import Listing
from infra.sandbox.market.synthetic import EPOCH_MS, SyntheticCandles
from tasks.core.errors import InputError
from tasks.core.types.orders import OrderIntent

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = datetime(2025, 3, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def write_candles(path, rows, base_ms=MINUTE, start_ms=START_MS):
    """Write (open, high, low, close) rows as a candle file."""
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"])
    frame.insert(0, "ts", start_ms + np.arange(len(rows), dtype=np.int64) * base_ms)
    frame["volume"] = 100.0
    frame.to_csv(path, index=False)
    return path


def flat(n, price=100.0):
    return [(price, price, price, price)] * n


def market_of(tmp_path, rows, **more):
    return Listing(BTC, file_candles(write_candles(tmp_path / "c.csv", rows, **more)))


@pytest.mark.parametrize(
    ("row", "points"), [((100, 106, 97, 103), (100, 97, 106, 103)), ((103, 106, 97, 100), (103, 106, 97, 100))]
)
def test_the_price_runs_through_both_extremes_the_low_first_when_it_closes_up(tmp_path, row, points):
    market = market_of(tmp_path, [row, *flat(3)])
    times = (0.0, 20_000, 40_000, 59_999.999)
    assert [market.price_at(START_MS + at) for at in times] == pytest.approx(points, abs=1e-3)
    assert market.price_at(START_MS + 10_000) == pytest.approx((points[0] + points[1]) / 2)


def test_the_forming_kline_shows_the_path_so_far_only(tmp_path):
    market = market_of(tmp_path, [(100, 106, 97, 103), *flat(3)])
    (row,) = market.klines(MINUTE, START_MS, START_MS, START_MS + 10_000)
    assert row.tolist() == pytest.approx([START_MS, 100, 100, 98.5, 98.5, 100 / 6])
    (row,) = market.klines(MINUTE, START_MS, START_MS, START_MS + 50_000)
    assert row.tolist() == pytest.approx([START_MS, 100, 106, 97, 104.5, 500 / 6])


def test_a_candle_that_has_not_begun_is_not_served(tmp_path):
    market = market_of(tmp_path, flat(10))
    assert market.klines(MINUTE, START_MS, START_MS + DAY, START_MS + 3 * MINUTE)[:, 0].max() == START_MS + 3 * MINUTE


def test_klines_are_resampled_from_the_base_and_a_finer_timeframe_is_empty(tmp_path):
    rows = [(100 + i, 110 + i, 90 - i, 101 + i) for i in range(20)]
    market = market_of(tmp_path, rows)
    bars = market.klines(5 * MINUTE, START_MS, START_MS + HOUR, START_MS + 20 * MINUTE)
    assert bars[0].tolist() == [START_MS, 100, 114, 86, 105, 500]
    assert len(bars) == 4
    hourly = market_of(tmp_path, flat(5), base_ms=HOUR)
    assert len(hourly.klines(5 * MINUTE, START_MS, START_MS + DAY, START_MS + DAY)) == 0
    assert len(hourly.klines(HOUR, START_MS, START_MS + DAY, START_MS + DAY)) == 5


def test_legs_cover_any_stretch_of_time_without_a_seam(tmp_path):
    market = market_of(tmp_path, [(100, 106, 97, 103), (104, 105, 103, 104)])
    found = market.legs(START_MS + 10_000, START_MS + 75_000)
    assert [s.start_ms for s in found[1:]] == [s.end_ms for s in found[:-1]]
    assert (found[0].start_ms, found[-1].end_ms) == (START_MS + 10_000, START_MS + 75_000)
    assert found[0].start == pytest.approx(98.5)
    assert (found[2].end, found[3].start) == (103, 104)  # the gap between two candles is a jump


def test_nothing_about_the_current_candle_but_its_path_shows_in_the_book(tmp_path):
    calm, wild = (100.0, 100.1, 99.9, 100.0), (100.0, 180.0, 20.0, 100.0)
    history = [(100.0, 100.2, 99.8, 100.0 + i % 2 / 10) for i in range(70)]
    now = START_MS + 70 * MINUTE
    quiet, loud = (market_of(tmp_path, [*history, last, *flat(2)]) for last in (calm, wild))
    assert order_book.book(quiet, now, 20) == order_book.book(loud, now, 20)
    assert order_book.conditions(quiet, now) == order_book.conditions(loud, now)
    spreads = [order_book.conditions(market, now + MINUTE).half_spread_bps for market in (quiet, loud)]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.2)


def test_a_restless_market_has_a_wider_book(tmp_path):
    restless = market_of(tmp_path, [(100.0, 103.0, 97.0, 98.0 + 4 * (i % 2)) for i in range(70)])
    calm = market_of(tmp_path, [(100.0, 100.2, 99.8, 100.0 + i % 2 / 50) for i in range(70)])
    spreads = []
    for market in (calm, restless):
        bids, asks = order_book.book(market, START_MS + 65 * MINUTE, 5)
        spreads.append(float(asks[0][0]) - float(bids[0][0]))
        assert sorted(bids, key=lambda level: -float(level[0])) == bids
        assert sorted(asks, key=lambda level: float(level[0])) == asks
    assert 0 < spreads[0] < spreads[1]


def test_the_synthetic_market_is_the_same_however_it_is_reached():
    at_once, in_steps = SyntheticCandles(BTC, 3), SyntheticCandles(BTC, 3)
    at_once.ensure(EPOCH_MS + 20 * DAY)
    for day in range(21):
        in_steps.ensure(EPOCH_MS + day * DAY)
    assert np.array_equal(at_once.rows, in_steps.rows)
    at_once.forget()
    at_once.ensure(EPOCH_MS + 21 * DAY)
    assert np.array_equal(at_once.rows[: 21 * 1440], in_steps.rows)
    assert len(at_once.ts) == len(at_once.rows) == 22 * 1440
    other = SyntheticCandles(BTC, 4)
    other.ensure(EPOCH_MS)
    assert not np.array_equal(at_once.rows[:1440], other.rows)


def test_the_synthetic_market_has_valid_candles_near_its_usual_price_and_changing_regimes():
    candles = SyntheticCandles(BTC, 7)
    candles.ensure(EPOCH_MS + 400 * DAY)
    opened, high, low, close, volume = candles.rows.T
    assert (low <= np.minimum(opened, close)).all()
    assert (high >= np.maximum(opened, close)).all()
    assert (volume > 0).all()
    assert np.array_equal(opened[1:], close[:-1])
    assert 15_000 < low.min() < 60_000 < high.max() < 200_000
    daily = np.log(close).reshape(-1, 1440)
    volatility = np.diff(daily, axis=1).std(axis=1)
    assert np.quantile(volatility, 0.9) > 1.8 * np.quantile(volatility, 0.1)
    moves = np.abs(daily[:, -1] - daily[:, 0])
    assert np.quantile(moves, 0.9) > 0.03 > 0.01 > np.quantile(moves, 0.3)


@pytest.mark.slow
def test_years_of_two_synthetic_symbols_are_made_in_seconds():
    began = time.process_time()
    for symbol in (BTC, ETH):
        SyntheticCandles(symbol, 1234).ensure(EPOCH_MS + 1100 * DAY)
    assert time.process_time() - began < 8


# --- the clock ----------------------------------------------------------------------------------------------------


def test_a_replay_in_real_time_keeps_its_distance_to_wall_time_whole_hours():
    clock = Clock(START_MS + 12_345, 1.0, stepped=False)
    now = clock.now_ms()
    assert abs((wall_ms() - now) % HOUR_MS) in (0, 1, HOUR_MS - 1)
    assert START_MS + 12_345 - HOUR_MS <= now <= START_MS + 12_345 + 100


def test_a_fast_clock_runs_at_its_speed_and_a_stepped_one_not_at_all():
    fast, began = Clock(START_MS, 1_000_000.0, stepped=False), wall_ms()
    while wall_ms() - began < 5:
        pass
    assert fast.now_ms() - START_MS > 5_000_000 - HOUR_MS
    stepped = Clock(START_MS, 1.0, stepped=True)
    stepped.step(1500)
    assert stepped.now_ms() == START_MS + 1500
    with pytest.raises(InputError, match="only moves forward"):
        stepped.step(-1)
    with pytest.raises(InputError, match="--stepped"):
        fast.step(1)


def test_candle_files_start_a_third_in_or_after_250_days(tmp_path):
    short = write_candles(tmp_path / "short.csv", flat(301))
    assert Exchange(SandboxConfig(candles={BTC: short}, stepped=True)).now == START + timedelta(minutes=100)
    long = write_candles(tmp_path / "long.csv", flat(300 * 24), base_ms=HOUR)
    assert Exchange(SandboxConfig(candles={BTC: long}, stepped=True)).now == START + timedelta(days=250)


# --- the exchange over time ---------------------------------------------------------------------------------------


def exchange_on(tmp_path, rows, **more):
    file = write_candles(tmp_path / "c.csv", rows)
    return Exchange(SandboxConfig(candles={BTC: file}, stepped=True, start=START, **more))


def buy(ex, name="a", quantity="1", **more):
    fields = {"client_order_id": name, "symbol": BTC, "side": "buy", "type": "market", "quantity": Decimal(quantity)}
    return ex.submit(OrderIntent(**fields | more))


def wavy(n):
    return [(100 + np.sin(i), 101.5 + np.sin(i), 98.5 + np.sin(i), 100 + np.sin(i + 1)) for i in range(n)]


def test_the_outcome_does_not_depend_on_how_often_one_looks(tmp_path):
    outcomes = []
    for stride in (7_000, 60_000, 1_234_567):
        ex = exchange_on(tmp_path, wavy(200))
        buy(ex, stop=Decimal("98.2"), target=Decimal("102.1"))
        buy(ex, "limit", type="limit", price=Decimal("98.9"), stop=Decimal("97.2"))
        until = START_MS
        while until < START_MS + 150 * MINUTE:
            until = min(until + stride, START_MS + 150 * MINUTE)
            ex.advance_to(until)
        outcomes.append([(f.reason, f.price, f.quantity) for f in ex.account.fills])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0]) > 2


def test_the_path_decides_which_of_stop_and_target_is_met_first(tmp_path):
    both = (100.0, 106.0, 94.0, 101.0)  # closes up: the low comes first
    ex = exchange_on(tmp_path, [*flat(2), both, *flat(2)])
    buy(ex, stop=Decimal(95), target=Decimal(105))
    ex.advance_to(START_MS + 5 * MINUTE)
    assert [f.reason for f in ex.account.fills] == ["entry", "stop"]
    ex = exchange_on(tmp_path, [*flat(2), (101.0, 106.0, 94.0, 100.0), *flat(2)])
    buy(ex, stop=Decimal(95), target=Decimal(105))
    ex.advance_to(START_MS + 5 * MINUTE)
    assert [f.reason for f in ex.account.fills] == ["entry", "target"]


def test_funding_is_charged_on_its_hours_in_order_of_time(tmp_path):
    ex = exchange_on(tmp_path, flat(17 * 60), funding_rate=Decimal("0.0001"))
    buy(ex, quantity="2")
    ex.advance_to(START_MS + 16 * HOUR + MINUTE)
    charged = [f for f in ex.account.fills if f.reason == "funding"]
    assert [f.at for f in charged] == [START + timedelta(hours=8), START + timedelta(hours=16)]
    assert [f.fee for f in charged] == [Decimal("0.02")] * 2


def test_the_seconds_a_position_has_no_stop_are_counted(tmp_path):
    ex = exchange_on(tmp_path, flat(60))
    buy(ex)
    ex.advance_to(START_MS + 90_000)
    ex.account.set_protection(BTC, Decimal(90), None, ex.now)
    ex.advance_to(START_MS + 10 * MINUTE)
    assert ex.naked_ms[BTC] == 90_000


# --- wrong input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "step", "tick"),
    [(2e-8, 1.3e-12, "1E-13"), (2.13e-8, 0.0, "1E-10"), (60_000.0, 0.1, "0.1"), (0.07, 1e-5, "0.00001")],
)
def test_prices_of_any_size_are_quoted_as_the_file_has_them(tmp_path, price, step, tick):
    closes = [float(f"{price + i * step:.12g}") for i in range(20)]
    market = market_of(tmp_path, [(x, x, x, x) for x in closes])
    assert market.instrument.tick == Decimal(tick)
    assert [float(market.text(x)) for x in closes] == closes


def test_a_price_that_fell_to_nothing_is_exact_to_the_last(tmp_path):
    closes = [80.53, 0.0000011214, 2e-8, 2.003e-8]
    market = market_of(tmp_path, [(x, x, x, x) for x in closes])
    assert [market.text(x) for x in closes] == ["80.53000000000", "0.00000112140", "0.00000002000", "0.00000002003"]


def test_digits_beyond_the_seventh_are_the_floats_own(tmp_path):
    assert market_of(tmp_path, flat(5, 0.1 + 0.2)).candles.price_decimals == 1
    assert market_of(tmp_path, flat(5, 2e-8 / 3)).candles.price_decimals == 15


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ts,open,high,low,close\n1,1,1,1,1\n", "volume"),
        ("ts,open,high,low,close,volume\n1704067200,1,1,1,1,1\n1704067260,1,1,2,1,1\n", "line 3: no candle"),
        ("ts,open,high,low,close,volume\n1704067200,1,1,1,1,1\n1704153600,1,1,1,1,1\n", "86400 s apart; give 1m"),
    ],
)
def test_a_wrong_candle_file_is_named_with_what_is_wrong(tmp_path, text, said):
    file = tmp_path / "wrong.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        file_candles(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_one_line(tmp_path):
    (tmp_path / "not.parquet").write_bytes(b"not parquet at all")
    for name, said in (("not.parquet", "cannot be read"), ("gone.csv", "no such candle file")):
        with pytest.raises(InputError, match=said):
            file_candles(tmp_path / name)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTC/USD:USD", "BTC/USDT:USDC", "/USDT", "BTC-USDT"])
def test_an_unknown_form_of_symbol_is_refused(symbol):
    with pytest.raises(InputError, match=r"BTC/USDT:USDT"):
        SandboxConfig(symbols=(symbol,)).traded()


def test_a_start_before_the_candles_is_refused(tmp_path):
    file = write_candles(tmp_path / "c.csv", flat(10))
    with pytest.raises(InputError, match="before the first candle"):
        Exchange(SandboxConfig(candles={BTC: file}, start=START - timedelta(days=1), stepped=True))
