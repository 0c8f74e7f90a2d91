"""Candles to measure on: the recorded BTC file where it is, else a seeded walk of the same length."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.adapters.files.candles import read_candles
from tasks.core.market.bars import bar_frame

RECORDED = Path(__file__).resolve().parents[3] / "shared/data/ohlcv/BTC-USDT_5m_binance_2022-01_2023-09.parquet"
N = 182_794


def candles() -> tuple[str, pd.DataFrame]:
    """Return what the candles are, and them."""
    if RECORDED.exists():
        return "BTC-USDT 5m 2022-01..2023-09", read_candles(RECORDED)
    return "seeded walk of 182,794 bars", walk(N, seed=1)


def walk(n: int, seed: int) -> pd.DataFrame:
    """Return n seeded 5m candles from 2022 on."""
    rng = np.random.default_rng(seed)
    close = 40_000 * np.exp(np.cumsum(rng.normal(0, 1.5e-3, n)))
    open_ = np.r_[40_000.0, close[:-1]]
    values = {
        "open": open_, "close": close, "high": np.maximum(open_, close) * 1.0005,
        "low": np.minimum(open_, close) * 0.9995, "volume": rng.lognormal(3, 0.7, n),
    }  # fmt: skip
    return bar_frame(1_640_995_200_000 + np.arange(n) * 300_000, values)
