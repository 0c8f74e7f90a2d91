"""Stored candles as a replay reads them, and the replayer of what the store has recorded."""

from collections.abc import Callable
from functools import cache

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.connections import store
from tasks.core.lab.replay import Replayer
from tasks.core.market.bars import WORKING_TIMEFRAMES
from tasks.core.simulation.candle_history import History
from tasks.core.types import DataError, Strategy
from tasks.settings import settings


def replayer(history: Callable[[str, str], History], strategies: Callable[[str], Strategy]) -> Replayer:
    """Return a replayer over these candles and strategies, with the prompts and deciders there are here."""
    return Replayer(history, strategies, cache(load_prompt), cache(lambda name: build(name, settings())))


def store_replayer() -> Replayer:
    """Return the replayer of the store's records."""
    return replayer(cache(stored_candles), cache(store().strategies.get))


def stored_candles(venue: str, symbol: str) -> History:
    """Return all that is stored of a symbol's candles at a venue; raises DataError where a record names no venue."""
    if not venue:
        raise DataError(f"a cycle of {symbol} names no venue: it is of a backtest, use --records and --candles")
    series = {tf: store().candles.history(venue, symbol, tf) for tf in ("1m", *WORKING_TIMEFRAMES)}
    return History(symbol, {tf: bars for tf, (bars, _) in series.items()}, {tf: at for tf, (_, at) in series.items()})
