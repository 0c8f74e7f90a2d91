"""Frames as plain arrays with the times at which each bar was known, for quick reads of one row."""

import numpy as np
import pandas as pd
from numpy import ndarray
from numpy.typing import ArrayLike

from tasks.core.market.bars import columns_of, epoch_s, segments
from tasks.core.types import SECONDS


class Table:
    """One timeframe's rows: `closes` and `known` in s since 1970, ascending; `run`: the bars before it up to a gap."""

    def __init__(self, frame: pd.DataFrame, timeframe: str, base_closes: ndarray | None = None) -> None:
        self.closes = epoch_s(frame.index) + SECONDS[timeframe]
        self.known = self.closes if base_closes is None else known_at(self.closes, base_closes)
        self.columns = columns_of(frame)
        self.run = np.concatenate([np.arange(run.stop - run.start) for run in segments(frame.index, timeframe)])

    def at(self, as_of_s: ArrayLike) -> ndarray:
        """Return the row of the last bar known at each of `as_of_s`; -1 where there is none."""
        return np.searchsorted(self.known, as_of_s, side="right") - 1


def known_at(closes: ndarray, base_closes: ndarray) -> ndarray:
    """Return when each higher bar was known: with the first base bar that reaches its close.

    That is its close, unless base bars are missing there: then nobody could tell a bar without trades from one
    still to come. A bar that no base bar reaches is not known yet.
    """
    at = np.searchsorted(base_closes, closes)
    never = np.iinfo(np.int64).max
    return np.maximum(closes, np.append(base_closes, never)[at])
