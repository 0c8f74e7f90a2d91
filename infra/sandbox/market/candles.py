"""Base candles as arrays: read from a file, or grown by a generator as time reaches them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.sandbox.market.crash import Crash
from tasks.core.errors import InputError
from tasks.core.types.bars import COLUMNS

BASES_MS = (60_000, 300_000, 900_000, 1_800_000, 3_600_000)
Floats = npt.NDArray[np.float64]


@dataclass
class BaseCandles:
    """Ascending candles of `base_ms`: `ts` has open times in ms, `rows` open, high, low, close and volume.

    usual_price: about what the symbol costs. crash: what happens to these candles, if anything does.
    """

    base_ms: int
    price_decimals: int
    usual_price: float
    crash: Crash | None = None
    ts: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rows: Floats = field(default_factory=lambda: np.empty((0, 5)))

    def append(self, ts: npt.NDArray[np.int64], rows: Floats) -> None:
        if self.crash:
            rows = self.crash.strike(ts, rows, self.price_decimals)
        self.rows = np.concatenate([self.rows, rows])
        # last, so that a reader who has found a candle's time finds its prices too
        self.ts = np.concatenate([self.ts, ts])

    def ensure(self, until_ms: int) -> None:
        """Have every candle that opens before `until_ms`; a file has what it has."""

    def crashing(self, at_ms: int) -> bool:
        return self.crash is not None and self.crash.lasts(at_ms)


def read_candles(path: Path, crash: Crash | None = None) -> BaseCandles:
    """Read a parquet or CSV file; raises InputError saying in one line what is wrong with it."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        ts, rows = frame["ts"].to_numpy(np.int64), frame[list(COLUMNS)].to_numpy(np.float64)
    except (KeyError, ValueError, TypeError, OSError) as e:
        needed = f"ts (open time, UTC ms) {' '.join(COLUMNS)}"
        raise InputError(f"{path}: cannot be read as candles of {needed}: {str(e).splitlines()[0]}") from e
    if len(ts) < 2:
        raise InputError(f"{path}: {len(ts)} candles; a market needs at least 2")
    low, prices = rows[:, 2], rows[:, :4]
    good = (low == prices.min(axis=1)) & (rows[:, 1] == prices.max(axis=1)) & np.isfinite(rows[:, 1])
    _refuse(path, np.diff(ts, prepend=ts[0] - 1) <= 0, "is not later than the one before: ts is not ascending")
    _refuse(path, ~(good & (low > 0) & (rows[:, 4] >= 0)), "is not a candle (low <= open, close <= high)")
    base_ms = int(np.diff(ts).min())
    if base_ms not in BASES_MS or (ts % base_ms).any():
        raise InputError(f"{path}: candles are {base_ms} ms apart; give 1m, 5m, 15m, 30m or 1h, ts in milliseconds")
    candles = BaseCandles(base_ms, _decimals(rows[:, 3]), float(np.median(rows[:, 3])), crash)
    candles.append(ts, rows)
    return candles


def _refuse(path: Path, wrong: npt.NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        raise InputError(f"{path}: row {int(wrong.argmax())} {why}")


def _decimals(closes: Floats) -> int:
    """Return the decimals prices are quoted in: those of the data, at most 6 significant digits' worth."""
    sample = closes[:: max(1, len(closes) // 500)]
    most = max(0, 6 - int(np.floor(np.log10(np.median(closes)))))
    return max(len(f"{x:.{most}f}".rstrip("0").partition(".")[2]) for x in sample)
