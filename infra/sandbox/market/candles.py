"""Base candles as arrays: read from a file, or grown by a generator as time reaches them."""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.sandbox.market.crash import Crash
from tasks.core.types import SECONDS, InputError

BASES_MS = (60_000, 300_000, 900_000, 1_800_000, 3_600_000)
Floats = npt.NDArray[np.float64]


class Column:
    """Numbers that only grow, in a file without a name: of three years of minutes memory holds what is looked at."""

    def __init__(self, kind: type[np.generic], *shape: int) -> None:
        self._file, self._size = TemporaryFile(), 0  # noqa: SIM115  (closed with the column)
        self._one = np.dtype((kind, shape))

    def append(self, more: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the whole column with `more` at its end; a forked process writes the same to the same place."""
        self._size += os.pwrite(self._file.fileno(), more.tobytes(), self._size)
        return self.fresh()

    def fresh(self) -> npt.NDArray[Any]:
        """Return the whole column, none of it in memory yet."""
        return np.memmap(self._file, self._one, "r", shape=self._size // self._one.itemsize)


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
    _files: tuple[Column, Column] = field(default_factory=lambda: (Column(np.int64), Column(np.float64, 5)), repr=False)
    _growing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def append(self, ts: npt.NDArray[np.int64], rows: Floats) -> None:
        if self.crash:
            rows = self.crash.strike(ts, rows, self.price_decimals)
        times, prices = self._files
        self.rows = prices.append(rows)
        # last, so that a reader who has found a candle's time finds its prices too
        self.ts = times.append(ts)

    def forget(self) -> None:
        """Let go of the memory that a look at much of the past has taken."""
        times, prices = self._files
        with self._growing:
            self.rows, self.ts = prices.fresh(), times.fresh()

    def ensure(self, until_ms: int) -> None:
        """Have every candle that opens before `until_ms`; a file has what it has."""

    def crashing(self, at_ms: int) -> bool:
        return self.crash is not None and self.crash.lasts(at_ms)


def file_candles(path: Path, crash: Crash | None = None) -> BaseCandles:
    """Read a candle file; raises InputError saying in one line what is wrong with it."""
    from tasks.adapters.files.candles import read_candles  # pandas: a market of its own needs none
    from tasks.core.market.bars import epoch_s, infer_timeframe

    bars = read_candles(path)
    ts, rows = epoch_s(bars.index) * 1000, bars.to_numpy()
    base_ms = SECONDS[infer_timeframe(bars)] * 1000
    if base_ms not in BASES_MS:
        raise InputError(f"{path}: candles are {base_ms // 1000} s apart; give 1m, 5m, 15m, 30m or 1h")
    candles = BaseCandles(base_ms, _decimals(rows[:, :4]), np.median(rows[:, 3]), crash)
    candles.append(ts, rows)
    return candles


def _decimals(prices: Floats) -> int:
    """Return the decimals prices are quoted in: those of the data, at most 7 significant digits of the lowest."""
    most = max(0, 6 - int(np.floor(np.log10(prices.min()))))
    exact = prices.round(most)
    return next(n for n in range(most + 1) if (exact.round(n) == exact).all())
