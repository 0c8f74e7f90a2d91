"""Candles as a replay reads them, stored or in files, and the replayer of what the store or a backtest recorded."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.connections import store
from tasks.core.lab.replay import Replayer
from tasks.core.market.bars import WORKING_TIMEFRAMES
from tasks.core.simulation.candle_history import History
from tasks.core.types import DataError, InputError, Strategy, hash_of
from tasks.settings import settings

STRATEGIES = "strategies.json"  # beside records.jsonl: what its records name by hash


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


def file_replayer(files: Mapping[str, str], records: Path, tell: Callable[[Any], Any] = lambda _: None) -> Replayer:
    """Return the replayer of a backtest's records over the candle files it was made from; tell: gets its markets."""
    return replayer(_candles(files, records, tell), _strategies(records))


def _strategies(records: Path) -> Callable[[str], Strategy]:
    """Return what finds a strategy by its hash in the file that `backtest --out` writes beside its records."""
    path = records.with_name(STRATEGIES)
    try:
        documents = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = {name: (Strategy.model_validate(each), hash_of(each)) for name, each in documents.items()}
    except (ValueError, AttributeError) as e:
        raise InputError(f"{path}: not the strategies of a backtest ({str(e).splitlines()[0][:120]})") from e

    def find(name: str) -> Strategy:
        if name not in known:
            raise InputError(f"{name[:12]}... is not in {path}, which `backtest --out` writes beside its records")
        strategy, sha256 = known[name]
        if sha256 != name:
            raise InputError(f"{name[:12]}... in {path} was changed since: its hash is another")
        return strategy

    return find


def _candles(files: Mapping[str, str], records: Path, tell: Callable[[Any], Any]) -> Callable[[str, str], History]:
    """Return what finds a symbol's candles in the files that a backtest was made from, masked as it had them.

    `backtest --out` writes the mask into summary.json, beside its records. Without files none are known.
    """
    from tasks.adapters.files.document import read_document
    from tasks.adapters.parallel_backtests import treated, treatment_of
    from tasks.core.lab.masking import Mask

    summary = records.with_name("summary.json")
    told = read_document(summary, "--records", '{"mask": null}').get("mask") if summary.is_file() else None
    key = told and told["key"]
    seen = treated(tuple(sorted(files.items())), treatment_of(key), key and Mask(key), settings().events).markets
    tell(seen)
    histories = {symbol: History(symbol, market.bars, base=market.base) for symbol, market in seen.items()}

    def find(_venue: str, symbol: str) -> History:
        if not files:
            raise DataError("--candles were not given")
        if symbol not in histories:
            raise InputError(f"--candles: there are none for {symbol}, which --records has")
        return histories[symbol]

    return find
