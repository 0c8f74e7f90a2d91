"""Candle files as exchanges and tools write them: one reader for whoever takes `--candles`."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.adapters.files.table import read_table
from tasks.core.market.bars import bar_frame, infer_timeframe
from tasks.core.types import COLUMNS, SECONDS, DataError, InputError, Texts

NAMES: dict[str, Texts] = {name: (f"{name}|{name[0]}|{name}price|price{name}",) for name in COLUMNS[:4]}
# with the coin's name in it, as CryptoDataDownload has it: not the one counted in the quote currency
NAMES["volume"] = ("volume|vol|v|basevolume|volumebase|volumetraded", "volume(?!quote|[a-z]?usd|eur|gbp|ma).+")


def read_candles(path: Path) -> pd.DataFrame:
    """Read a candle file as a bar frame, whatever its order; raises InputError naming the row that is no candle."""
    table = read_table(path, "candle file", NAMES)
    o, high, low, close, volume = table.numbers.values()
    sound = (low > 0) & (low <= np.minimum(o, close)) & (np.maximum(o, close) <= high) & (volume >= 0)
    order = f"; without a header the columns are time,{','.join(COLUMNS)}: name them on top" if table.bare else ""
    table.refuse(~sound, lambda i: f"no candle has {table.shown(i)}: mend or leave out the row{order}")
    rows = table.ascending()
    bars = bar_frame(rows.times, rows.numbers)
    try:
        timeframe = infer_timeframe(bars)
    except DataError as e:
        raise InputError(f"{path}: {e}") from e
    asked = f"is not where {timeframe} candles open, in UTC: is it the close time, or local time?"
    table.refuse(table.times % (SECONDS[timeframe] * 1000) != 0, lambda i: f"{table.time(i)} {asked}")
    return bars


def parse_candle_options(values: Texts, symbols: Texts) -> dict[str, Path]:
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
