"""What a symbol trades in, told by its form, a file, `ingest`, the candles before the first decision, or a price."""

from datetime import timedelta
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instrument_cases import linear, spot
from market_data import START, shared, walk
from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.core.market.bars import bar_frame
from tasks.core.market.instruments import by_form, derived, infer, resolve, warm_up
from tasks.core.types.orders import Instrument, InstrumentTerms

PERP, SPOT = "BTC/USDT:USDT", "BTC/USDT"
PRICES = ("open", "high", "low", "close")
REAL = [  # symbol, price, tick, step: as Binance lists them
    ("BTC/USDT", 42_000.0, "0.01", "0.00001"),
    ("BTC/USDT:USDT", 93_000.0, "0.1", "0.001"),
    ("ETH/USDT:USDT", 3_300.0, "0.01", "0.001"),
    ("XRP/USDT:USDT", 2.3, "0.0001", "0.1"),
    ("DOGE/USDT", 0.07, "0.00001", "1"),
    ("BTC/USD", 42_000.0, "0.5", "0.000001"),
]


def listed(price: float, tick: str, step: str, n: int = 300) -> pd.DataFrame:
    """Candles as a venue with these grids would print them: the floats nearest to its decimals."""
    bars = walk(n)
    values = {name: on_grid(bars[name] * price / 100, tick) for name in PRICES}
    values["volume"] = on_grid(bars["volume"] ** 1.1 * 1000 / price, step)
    return bar_frame(epoch_ms(bars), values)


def on_grid(values: pd.Series, step: str) -> np.ndarray:
    return np.array([float(round(x / float(step)) * D(step)) for x in values])


def epoch_ms(bars: pd.DataFrame) -> np.ndarray:
    return int(START.timestamp()) * 1000 + np.arange(len(bars)) * 300_000


def test_no_term_that_orders_depend_on_has_a_default():
    for name in Instrument.model_fields.keys() - {"maintenance", "contract_size", "max_quantity"}:
        with pytest.raises(ValidationError, match=name):
            Instrument.model_validate(linear().model_dump(exclude={name}))


def test_an_instrument_of_before_contract_sizes_reads_and_is_written_as_it_was():
    written = linear().model_dump(mode="json")
    assert written.keys().isdisjoint({"contract_size", "max_quantity"})
    read = Instrument.model_validate(written)
    assert (read, read.contract_size, read.max_quantity) == (linear(), 1, None)
    now = linear(contract_size=D("0.01"), max_quantity=D(120))
    assert Instrument.model_validate(now.model_dump(mode="json")) == now


def test_the_form_of_the_symbol_says_what_may_be_done():
    assert by_form(SPOT, D("0.1"), D("0.001")) == spot()
    assert by_form(PERP, D("0.1"), D("0.001")) == linear()
    asked = InstrumentTerms(shorting=True, max_leverage=D(20), kind="linear", min_notional=D(7), min_quantity=D(1))
    bound = by_form(SPOT, D("0.1"), D("0.001"), asked)
    assert bound == spot(min_notional=D(7), min_quantity=D(1))
    assert by_form(PERP, D("0.1"), D("0.001"), InstrumentTerms(shorting=False, max_leverage=D(20))) == linear(
        shorting=False, max_leverage=D(20)
    )


@pytest.mark.parametrize(("symbol", "price", "tick", "step"), REAL)
def test_the_grids_of_real_listings_are_read_off_their_candles(symbol, price, tick, step):
    found = infer(symbol, listed(price, tick, step))
    assert (found.tick, found.step) == (D(tick), D(step))
    assert (found.min_notional, found.min_quantity) == (5, 0)
    assert (found.shorting, found.max_leverage) == ((True, 100) if ":" in symbol else (False, 1))


@pytest.mark.parametrize("n", [60, 150, 300])
def test_fewer_candles_tell_the_same(n):
    bars = listed(93_000.0, "0.1", "0.001")
    assert infer(PERP, bars.iloc[:n]) == infer(PERP, bars)


def test_prices_on_no_grid_have_a_tick_of_a_tenth_of_a_millionth():
    bars = listed(93_000.0, "0.1", "0.001")
    noisy = bars * np.random.default_rng(1).uniform(1, 1.0001, (len(bars), 1))
    assert infer(PERP, noisy).tick == D("0.001")
    assert infer(PERP, noisy).step == D("0.00001")
    assert infer(PERP, noisy / 1e12).tick == D("1e-15")  # 9e-8
    assert infer(PERP, noisy / 1e12).step == 1


def test_the_last_digits_that_sums_spoil_are_no_grid():
    bars = listed(0.07, "0.00001", "1")
    spoiled = bars.assign(volume=bars["volume"] * 0.1 * 3 + 0.1 - 0.1, close=bars["close"] * 3 / 3)
    found = infer("DOGE/USDT", spoiled)
    assert (found.tick, found.step) == (D("0.00001"), D("0.3"))


def test_a_price_of_two_hundred_millionths_trades_in_whole_coins():
    found = infer("PEPE/USDT", listed(2e-8, "1e-12", "1"))
    assert (found.tick, found.step) == (D("1e-12"), 1)


@pytest.mark.parametrize("volume", [0.0, 1.0, np.nan])
def test_without_volumes_a_step_is_worth_at_most_one_quote(volume):
    assert infer(PERP, listed(93_000.0, "0.1", "0.001").assign(volume=volume)).step == D("0.00001")


def test_volumes_in_thousands_do_not_tell_the_step():
    assert infer(PERP, listed(93_000.0, "0.1", "1")).step == D("0.00001")


def test_rows_without_prices_are_passed_over():
    bars = listed(93_000.0, "0.1", "0.001")
    holes = bars.copy()
    holes.iloc[3], holes.iloc[9] = np.nan, 0.0
    assert infer(PERP, holes) == infer(PERP, bars)


@pytest.mark.parametrize("bars", [walk(3), walk(300).assign(**dict.fromkeys(PRICES, 1.0)), walk(0)])
def test_too_few_prices_ask_for_the_file_in_one_line(bars):
    with pytest.raises(InputError, match=r"^BTC/USDT: .*--instruments FILE.*\"tick\"") as caught:
        infer(SPOT, bars)
    assert "\n" not in str(caught.value)
    assert infer(SPOT, bars, InstrumentTerms(tick=D("0.1"), step=D("0.001"))) == spot()


@settings(max_examples=40)
@given(st.integers(60, 300), st.integers(0, 300), st.integers(0, 2**16), st.sampled_from(["5m", "1m", "1h"]))
def test_rows_cut_off_or_added_after_the_first_decision_change_nothing(first, more, seed, timeframe):
    bars = walk(400, seed, timeframe)
    decision = bars.index[first].to_pydatetime() + timedelta(seconds=30)  # the row before has just closed
    known = warm_up(bars, decision)
    assert len(known) == first
    later = pd.concat([bars.iloc[: first + 1], walk(400, seed + 1, timeframe, price=0.007).iloc[first + 1 :]])
    for other in (bars.iloc[: first + 1 + more], later):
        pd.testing.assert_frame_equal(warm_up(other, decision), known, check_freq=False)
        assert resolve(PERP, warm_up(other, decision), None, None) == resolve(PERP, known, None, None)


def test_a_row_counts_from_its_close_on():
    bars = walk(10)
    assert len(warm_up(bars, bars.index[5].to_pydatetime())) == 5
    assert len(warm_up(bars, bars.index[5].to_pydatetime() - timedelta(seconds=1))) == 4
    assert len(warm_up(bars, bars.index[0].to_pydatetime())) == 0


def test_old_ticks_are_forgotten():
    bars = pd.concat([listed(93_000.0, "0.01", "0.001", 300), listed(93_000.0, "0.1", "0.001", 5_000)])
    bars.index = walk(len(bars)).index
    assert infer(PERP, warm_up(bars, bars.index[-1].to_pydatetime())).tick == D("0.01")
    assert infer(PERP, warm_up(bars, bars.index[-1].to_pydatetime() + timedelta(minutes=5))).tick == D("0.1")


BARS = listed(93_000.0, "0.1", "0.001")
STORED = linear(tick=D("0.5"), step=D("0.01"), min_quantity=D("0.02"), max_leverage=D(50))


@pytest.mark.parametrize(
    ("named", "stored", "instrument", "source"),
    [
        (None, None, linear(), "inferred"),
        ({}, STORED, STORED, "ingested"),
        ({"tick": 1, "step": 2}, None, linear(tick=D(1), step=D(2)), "file"),
        ({"step": 2, "max_leverage": 5}, None, linear(step=D(2), max_leverage=D(5)), "file+inferred"),
        ({"tick": 1}, STORED, STORED.model_copy(update={"tick": D(1)}), "file+ingested"),
        ({"max_quantity": 7}, STORED, STORED.replace(max_quantity=D(7)), "file+ingested"),
        ({"tick": 1}, STORED.replace(max_quantity=D(9)), STORED.replace(tick=D(1), max_quantity=D(9)), "file+ingested"),
        (
            {"tick": 1, "step": 2, "min_quantity": 0, "min_notional": 9, "max_leverage": 3}, STORED,
            linear(tick=D(1), step=D(2), min_notional=D(9), max_leverage=D(3)), "file",
        ),
    ],
)  # fmt: skip
def test_a_file_comes_before_what_was_ingested_and_that_before_what_candles_tell(named, stored, instrument, source):
    terms = None if named is None else InstrumentTerms(**named)
    assert resolve(PERP, BARS, terms, stored) == (instrument, source)


def test_a_moment_without_history_goes_by_its_price():
    assert derived(PERP, D("65432.1")) == (linear(step=D("0.00001")), "derived from the price")
    told = InstrumentTerms(step=D("0.01"))
    assert derived(PERP, D("65432.1"), told) == (linear(step=D("0.01")), "state, the rest derived from the price")
    assert derived(SPOT, None, InstrumentTerms(tick=D("0.1"), step=D("0.001"))) == (spot(), "state")
    assert derived(SPOT, None) is derived(SPOT, D(0)) is None


@pytest.mark.parametrize(
    ("price", "tick", "step"),
    [("0.07", "1e-7", 1), ("2e-8", "1e-13", 1), ("3300", "0.01", "0.0001"), ("100000", 1, "0.00001"), ("1", "1e-5", 1)],
)
def test_a_price_gives_six_digits_and_a_step_worth_at_most_one_quote(price, tick, step):
    found = derived(PERP, D(price)).instrument
    assert (found.tick, found.step) == (D(tick), D(step))
    assert "E+" not in f"{found.tick}{found.step}"


@pytest.mark.parametrize(
    ("file", "symbol", "tick", "step"),
    [
        ("ohlcv/BTC-USDT_5m_binance_2022-01_2023-09.parquet", "BTC/USDT", "0.01", "0.00001"),
        ("ohlcv/DOGE-USDT_5m_binance_2022-01_2023-09.parquet", "DOGE/USDT", "0.0001", "1"),
        ("ohlcv/BTC-USDT-PERP_5m_binanceusdm_2024-12_2026-02.parquet", "BTC/USDT:USDT", "0.1", "0.001"),
        ("ohlcv/ETH-USDT-PERP_5m_binanceusdm_2024-12_2026-02.parquet", "ETH/USDT:USDT", "0.01", "0.001"),
        ("ohlcv/BTC-USDT_1h_binance_2017-08_2024-04.parquet", "BTC/USDT", "0.01", "0.000001"),
        ("ohlcv/ETH-USDT_1m_binance_2024-07_2024-08.parquet", "ETH/USDT", "0.01", "0.0001"),
        ("../cases/cheap-coin.csv.gz", "DOGE/USDT:USDT", "0.000001", "0.0001"),
        ("../cases/spot-btc.csv.gz", "BTC/USDT", "0.1", "0.0001"),
    ],
)
def test_recorded_candles_tell_the_same_early_and_late(file, symbol, tick, step):
    path = shared(file)
    raw = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    bars = bar_frame(raw["ts"].to_numpy(), {name: raw[name].to_numpy() for name in (*PRICES, "volume")})
    for n in (150, 3000):
        found = infer(symbol, bars.iloc[:n])
        assert (found.tick, found.step, found.shorting) == (D(tick), D(step), ":" in symbol)
