"""Candle files: parquet or CSV with `ts` (open time, UTC ms) and open high low close volume."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.adapters.files.table import read_table
from tasks.core.errors import DataError, InputError
from tasks.core.market.bars import bar_frame, infer_timeframe
from tasks.core.types.bars import COLUMNS


def read_candles(path: Path) -> pd.DataFrame:
    """Read a candle file as a bar frame, sorted, without duplicates.

    Raises InputError naming the file and what is wrong with it.
    """
    raw = read_table(path, "candle file", {"ts": "int64", **dict.fromkeys(COLUMNS, "float64")})
    bars = bar_frame(raw["ts"].to_numpy(), {name: raw[name].to_numpy() for name in COLUMNS})
    o, high, low, close, volume = bars.to_numpy().T
    sound = (low > 0) & (low <= np.minimum(o, close)) & (np.maximum(o, close) <= high)
    sound &= (volume >= 0) & (np.maximum(high, volume) < np.inf)
    if not sound.all():
        first = bars[~sound].iloc[0]
        raise InputError(f"{path}: no bar is {first.to_dict()} at {first.name}: mend or leave out such rows")
    try:
        infer_timeframe(bars)
    except DataError as e:
        raise InputError(f"{path}: {e}") from e
    return bars


def parse_candle_options(values: tuple[str, ...], symbols: tuple[str, ...]) -> dict[str, Path]:
    """Read `--candles FILE` (with one --symbol) or repeated `--candles SYMBOL=FILE` into symbol -> path."""
    named = {}
    for value in values:
        symbol, sep, path = value.partition("=")
        if sep and "/" in symbol and symbol not in named and not Path(value).exists():
            named[symbol] = Path(path)
        elif len(values) == 1 and len(symbols) == 1:
            named[symbols[0]] = Path(value)
        else:
            raise InputError(f"--candles {value}: give --symbol with one file, or one SYMBOL=FILE for each")
    unknown = [symbol for symbol in symbols if symbol not in named]
    if unknown:
        raise InputError(f"--symbol {unknown[0]}: no candles for it; --candles has {', '.join(named) or 'none'}")
    return {symbol: named[symbol] for symbol in (symbols or tuple(named))}
