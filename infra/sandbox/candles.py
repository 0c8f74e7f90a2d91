"""Base candles as arrays: read from a file, or grown by a generator as time reaches them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.errors import InputError

COLUMNS = ("ts", "open", "high", "low", "close", "volume")
BASES_MS = (60_000, 300_000, 900_000, 1_800_000, 3_600_000)
Floats = npt.NDArray[np.float64]


@dataclass
class Candles:
    """Ascending base candles of `base_ms`; `ts` is the open time in ms."""

    base_ms: int
    ts: npt.NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    price_decimals: int

    def ensure(self, until_ms: int) -> None:
        """Have every candle that opens before `until_ms`; a file has what it has."""

    def spread_times(self, at_ms: int) -> int:  # noqa: ARG002
        """Return how many times its usual width the spread has."""
        return 1


def read_candles(path: Path) -> Candles:
    """Read a parquet or CSV file; raises InputError saying in one line what is wrong with it."""
    frame = _read(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; needs {' '.join(COLUMNS)} (ts = open time, UTC ms)")
    try:
        ts = frame["ts"].to_numpy(dtype=np.int64)
        values = {name: frame[name].to_numpy(dtype=np.float64) for name in COLUMNS[1:]}
    except (ValueError, TypeError) as e:
        raise InputError(f"{path}: not numbers: {e}") from e
    if len(ts) < 2:
        raise InputError(f"{path}: {len(ts)} candles; a market needs at least 2")
    _check_rows(path, ts, values)
    base_ms = int(np.diff(ts).min())
    if base_ms not in BASES_MS or (ts % base_ms).any():
        raise InputError(f"{path}: candles are {base_ms} ms apart; give 1m, 5m, 15m, 30m or 1h, ts in milliseconds")
    return Candles(base_ms, ts, **values, price_decimals=_decimals(values["close"]))


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pd.errors.ParserError) as e:
        raise InputError(f"{path}: cannot be read as {path.suffix or 'parquet'}: {str(e).splitlines()[0]}") from e


def _check_rows(path: Path, ts: npt.NDArray[np.int64], values: dict[str, Floats]) -> None:
    if (np.diff(ts) <= 0).any():
        at = int(ts[1:][np.diff(ts) <= 0][0])
        raise InputError(f"{path}: ts is not ascending and unique at {at}")
    high, low = values["high"], values["low"]
    inside = (low <= np.minimum(values["open"], values["close"])) & (
        high >= np.maximum(values["open"], values["close"])
    )
    good = inside & (low > 0) & (values["volume"] >= 0) & np.isfinite(high)
    if not good.all():
        raise InputError(f"{path}: row {int(np.flatnonzero(~good)[0])} is not a candle (low <= open, close <= high)")


def _decimals(closes: Floats) -> int:
    """Return the decimals prices are quoted in: those of the data, at most 6 significant digits' worth."""
    sample = closes[:: max(1, len(closes) // 500)]
    most = max(0, 6 - int(np.floor(np.log10(np.median(closes)))))
    return max(len(f"{x:.{most}f}".rstrip("0").partition(".")[2]) for x in sample)
