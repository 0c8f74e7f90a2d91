"""A mask hides the market and changes no decision of who only reads it; noise changes it for whoever does."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from instrument_cases import linear
from market_data import walk
from replayed import backtest

from tasks.core.decision.rules import RulesDecider
from tasks.core.lab.masking import Mask, mask_bars, mask_instrument, perturbed
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.types.bars import COLUMNS
from tasks.core.types.orders import Instrument
from tasks.core.types.strategy import Told

SYMBOL = "BTC/USDT:USDT"
INSTRUMENT = linear(SYMBOL, tick=Decimal("0.01"), step=Decimal("0.001"))
BARS = walk(8_000, seed=3, price=500.0)


def trades(bars: pd.DataFrame, instrument: Instrument, masked: bool = False) -> Backtest:
    symbol, told = instrument.symbol, Told(memory=False, masked=masked)
    markets = {symbol: Market.from_base(symbol, bars)}
    run = backtest(markets, RulesDecider(), instruments={symbol: instrument}, told=told)
    asyncio.run(run.run())
    return run


@pytest.fixture(scope="module")
def plain() -> Backtest:
    return trades(BARS, INSTRUMENT)


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_rules_trade_the_same_behind_a_mask(key, plain):
    mask = Mask(key)
    masked = trades(mask_bars(BARS, SYMBOL, mask)[1], mask_instrument(INSTRUMENT, mask), masked=True)
    real, seen = plain.account.fills, masked.account.fills
    assert len(real) > 20
    assert [(f.reason, f.side, f.at) for f in real] == [(f.reason, f.side, f.at + mask.shift) for f in seen]
    factor = 2.0 ** mask.doublings(SYMBOL)
    assert [float(f.price) for f in real] == pytest.approx([float(f.price) / factor for f in seen], rel=1e-4)
    assert [float(f.price * f.quantity) for f in real] == pytest.approx(
        [float(f.price * f.quantity) for f in seen], rel=0.01
    )
    assert masked.by_action == plain.by_action


def test_a_mask_shows_no_name_price_or_date_of_the_market():
    mask = Mask("k")
    symbol, bars = mask_bars(BARS, SYMBOL, mask)
    assert "BTC" not in symbol
    assert symbol.endswith("/USDT:USDT")
    assert not set(bars.index) & set(BARS.index)
    assert (bars.index - BARS.index == -mask.shift).all()
    assert mask.shift % timedelta(weeks=1) == timedelta(0)
    ratios = bars.to_numpy() / BARS.to_numpy()
    assert set(np.log2(ratios).round(12).ravel()) == {mask.doublings(SYMBOL), -mask.doublings(SYMBOL)}


def test_the_same_key_masks_the_same_way_and_another_key_otherwise():
    assert mask_bars(BARS, SYMBOL, Mask("k"))[1].equals(mask_bars(BARS, SYMBOL, Mask("k"))[1])
    described = [str(Mask(key).describe((SYMBOL,))) for key in ("k", "l", "m")]
    assert len(set(described)) == 3


def test_what_a_mask_did_can_be_undone_from_its_description():
    mask = Mask("k")
    told = mask.describe((SYMBOL, "ETH/USDT:USDT"))
    symbol, bars = mask_bars(BARS, SYMBOL, mask)
    of = told["symbols"][symbol]
    assert of["symbol"] == SYMBOL
    assert (bars["close"] / of["price_times"]).tolist() == BARS["close"].tolist()
    assert bars.index[0] + timedelta(weeks=told["weeks_back"]) == BARS.index[0]


def test_a_masked_instrument_keeps_its_steps_to_the_last_digit():
    seen = mask_instrument(INSTRUMENT, Mask("k"))
    assert seen.tick * seen.step == INSTRUMENT.tick * INSTRUMENT.step
    assert seen.min_notional == INSTRUMENT.min_notional


def test_noise_makes_other_candles_that_are_still_candles(plain):
    noisy = perturbed(BARS, seed=1, strength=0.5)
    assert noisy.equals(perturbed(BARS, seed=1, strength=0.5))
    assert not noisy.equals(perturbed(BARS, seed=2, strength=0.5))
    assert tuple(noisy.columns) == COLUMNS
    assert (noisy["high"] >= noisy[["open", "close"]].max(axis=1) * (1 - 1e-12)).all()
    assert (noisy["low"] <= noisy[["open", "close"]].min(axis=1) * (1 + 1e-12)).all()
    assert trades(noisy, INSTRUMENT).by_action != plain.by_action


def test_no_noise_is_the_same_market():
    assert np.allclose(perturbed(BARS, seed=1, strength=0.0), BARS, rtol=1e-12)
