"""Candle files: parquet or CSV with `ts` (open time, UTC ms) and open high low close volume."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tasks.core.errors import DataError, InputError
from tasks.core.market.bars import bar_frame, infer_timeframe
from tasks.core.types.bars import COLUMNS

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}


def read_candles(path: Path) -> pd.DataFrame:
    """Read a candle file as a bar frame, sorted, without duplicates.

    Raises InputError naming the file and what is wrong with it.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: candle files end in {' or '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such candle file")
    try:
        raw = reader(path)
    except (OSError, ValueError, pd.errors.ParserError) as e:
        raise InputError(f"{path}: not a readable {path.suffix[1:]} file ({_first_line(e)})") from e
    missing = [name for name in ("ts", *COLUMNS) if name not in raw.columns]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; has {', '.join(map(str, raw.columns))}")
    try:
        raw = raw.assign(**{name: _decimal(raw[name]) for name in COLUMNS if raw[name].dtype == "float32"})
        raw = raw.astype({"ts": "int64", **dict.fromkeys(COLUMNS, "float64")})
    except (TypeError, ValueError) as e:
        raise InputError(f"{path}: a column is not numeric ({_first_line(e)})") from e
    raw = raw.drop_duplicates("ts").sort_values("ts")
    bars = bar_frame(raw["ts"].to_numpy(), {name: raw[name].to_numpy() for name in COLUMNS})
    try:
        infer_timeframe(bars)
    except DataError as e:
        raise InputError(f"{path}: {e}") from e
    return bars


def _decimal(column: "pd.Series[float]") -> "pd.Series[float]":
    """Return the float64 of the shortest decimal that is this float32: 45000.1, and not 45000.1015625."""
    return column.astype(str).astype("float64")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:120]


def parse_candle_options(values: tuple[str, ...], symbols: tuple[str, ...]) -> dict[str, Path]:
    """Read `--candles FILE` (with one --symbol) or repeated `--candles SYMBOL=FILE` into symbol -> path."""
    named = {}
    for value in values:
        symbol, sep, path = value.partition("=")
        if sep and "/" in symbol and not Path(value).exists():
            named[symbol] = Path(path)
        elif len(values) == 1 and len(symbols) == 1:
            named[symbols[0]] = Path(value)
        else:
            raise InputError(f"--candles {value}: give --symbol with one file, or SYMBOL=FILE for each")
    unknown = [symbol for symbol in symbols if symbol not in named]
    if unknown:
        raise InputError(f"--symbol {unknown[0]}: no candles for it; --candles has {', '.join(named) or 'none'}")
    return {symbol: named[symbol] for symbol in (symbols or tuple(named))}
