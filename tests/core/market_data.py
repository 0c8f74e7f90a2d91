"""Candles for tests: a seeded random walk, noise, and the recorded files where they are there."""

from datetime import UTC, datetime
from functools import cache

import numpy as np
import pandas as pd
from reference import Bar
from shared_data import shared

from tasks.adapters.files.candles import read_candles
from tasks.core.market.bars import bar_frame, epoch_s
from tasks.core.market.market import Market
from tasks.core.market.snapshot import build, to_json
from tasks.core.types.bars import COLUMNS, SECONDS
from tasks.core.types.snapshot import Constraints

OWN = "own"
MARKETS = (OWN, "BTC", "DOGE")  # a fresh clone has only the first
START = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
CONSTRAINTS = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD", "OPEN_LONG"))


def recorded(symbol: str, rows: slice = slice(None)) -> pd.DataFrame:
    """Return the recorded 5m candles of BTC or DOGE, 2022-01 to 2023-09, or as many of OWN, which are made here."""
    if symbol == OWN:
        return made().iloc[rows]
    return read_candles(shared(f"ohlcv/{symbol}-USDT_5m_binance_2022-01_2023-09.parquet")).iloc[rows]


def long(symbol: str) -> pd.DataFrame:
    """Return all that was recorded; of OWN the 40,000 rows around the outage, for the time it takes."""
    return recorded(symbol, slice(100_000, 140_000) if symbol == OWN else slice(None))


@cache
def made() -> pd.DataFrame:
    """Return candles of our own over the recorded time, with its outage: no trades, then no bars at all."""
    bars = walk(183_000, seed=20_220_101, start=datetime(2022, 1, 1, tzinfo=UTC), price=20_000.0)
    still = bars.loc["2023-03-24 11:30":"2023-03-24 12:35"].index
    last = bars["close"].loc[: still[0]].iloc[-2]
    bars.loc[still, ["open", "high", "low", "close"]] = last
    bars.loc[still, "volume"] = 0.0
    return bars.drop(bars.loc["2023-03-24 12:40":"2023-03-24 13:55"].index)


def walk(n: int, seed: int = 0, timeframe: str = "5m", start: datetime = START, price: float = 100.0) -> pd.DataFrame:
    """Return n candles of a random walk whose volatility and volume come in waves; prices have ticks."""
    rng = np.random.default_rng(seed)
    waves = 1 + 0.8 * np.sin(np.arange(n) / 37 + seed)
    close = price * np.exp(np.cumsum(rng.normal(0, 0.002, n) * waves))
    opened = np.r_[price, close[:-1]] if n else close
    reach = np.abs(rng.normal(0, 0.0015, (2, n))) * waves
    high, low = np.maximum(opened, close) * (1 + reach[0]), np.minimum(opened, close) * (1 - reach[1])
    volume = np.round(rng.lognormal(3, 0.8, n) * waves, 3)
    values = dict(zip(COLUMNS, (*(np.round(x, 4) for x in (opened, high, low, close)), volume), strict=True))
    open_ms = (int(start.timestamp()) + SECONDS[timeframe] * np.arange(n)) * 1000
    return bar_frame(open_ms, values)


def rows(bars: pd.DataFrame) -> list[Bar]:
    """Return the bars as plain tuples for the reference."""
    columns = [epoch_s(bars.index).tolist(), *(bars[name].tolist() for name in COLUMNS)]
    return list(zip(*columns, strict=True))


def replace_after(bars: pd.DataFrame, as_of: datetime, seed: int) -> pd.DataFrame:
    """Return `bars` with every 5m candle that closes after as_of replaced by another market's."""
    known = bars.index + pd.Timedelta(minutes=5) <= pd.Timestamp(as_of)
    noise = walk(len(bars), seed, start=bars.index[0].to_pydatetime(), price=1000.0)
    noise.index = bars.index
    return pd.concat([bars[known], noise[~known]])


def told(market: Market, as_of: datetime) -> str:
    """Return all a decider would be told: the snapshot's JSON and the reasons of the last day."""
    reasons = market.reasons(as_of - pd.Timedelta(days=1).to_pytimedelta(), as_of)
    return to_json(build(market, as_of, constraints=CONSTRAINTS)) + "".join(r.fingerprint for r in reasons)
