"""A symbol's candles as they were known: all of history at once, read as if each cycle saw its last bars alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.market.bars import closed_by, epoch_s, history_of, segments
from tasks.core.market.features import ema, rolling_mean
from tasks.core.market.market import Market
from tasks.core.types import SECONDS, EventThresholds, Strategy

_EMAS = {"ema50": 50, "ema200": 200}


@dataclass(frozen=True)
class Windowed(Market):
    """A market over all of history whose every row is what the last `limit` bars alone would have given."""

    limit: int = 0

    @cached_property
    def roles(self) -> dict[str, dict[str, ndarray]]:
        """Return the role columns, with the EMAs, which never quite forget, cut to the window."""
        whole = Market(self.symbol, self.bars, self.thresholds).roles
        return {tf: columns | self._emas(tf) for tf, columns in whole.items()}

    def _emas(self, timeframe: str) -> dict[str, ndarray]:
        bars = self.bars[timeframe]
        close, runs = bars["close"].to_numpy(dtype=float), list(segments(bars.index, timeframe))
        return {
            name: np.concatenate([window_ema(close[run], length, self.limit) for run in runs])
            for name, length in _EMAS.items()
        }


def window_ema(close: ndarray, length: int, limit: int) -> ndarray:
    """Return what `ema` over the last `limit` closes alone ends in, at each close."""
    whole = ema(close, length)
    if len(close) > limit:
        began = np.arange(length - 1, length + len(close) - limit)
        decay = (1 - 2 / (length + 1)) ** (limit - length)
        whole[limit - 1 :] += decay * (rolling_mean(close, length)[began] - whole[began])
    return whole


@dataclass
class History:
    """A symbol's candles per timeframe; `recorded`: when each was stored, in s, empty for candle files, which have a
    `base` as `Market` has."""

    symbol: str
    frames: Mapping[str, pd.DataFrame]
    recorded: Mapping[str, ndarray] = field(default_factory=dict)
    base: str = ""
    _markets: dict[tuple[EventThresholds, int], Market] = field(default_factory=dict)

    def market(self, thresholds: EventThresholds, limit: int) -> Market:
        """Return the market over everything, computed once."""
        key = (thresholds, limit)
        if key not in self._markets:
            self._markets[key] = (
                Windowed(self.symbol, self.frames, thresholds, self.base, limit)
                if limit
                else Market(self.symbol, self.frames, thresholds, self.base)
            )
        return self._markets[key]

    def seen(self, strategy: Strategy, known_at: datetime | None, as_of: datetime) -> Market:
        """Return the market as a live cycle saw it: its last bars, those stored by then."""
        frames = {}
        for tf, frame in self.frames.items():
            bars = frame
            if known_at is not None and tf in self.recorded:
                bars = frame[self.recorded[tf] <= known_at.timestamp()]
            frames[tf] = closed_by(bars, tf, as_of).tail(history_of(tf, strategy.history_bars))
        return Market(self.symbol, frames, strategy.thresholds, self.base)

    def has_later(self, strategy: Strategy, known_at: datetime | None, as_of: datetime) -> bool:
        """Return whether a bar among the last ones was stored only after the cycle had read them."""
        if known_at is None:
            return False
        known = known_at.timestamp()
        for tf, recorded in self.recorded.items():
            limit = history_of(tf, strategy.history_bars)
            end = int(np.searchsorted(self._closes[tf], as_of.timestamp(), side="right"))
            if (recorded[max(0, end - limit) : end] > known).any():
                return True
        return False

    @cached_property
    def _closes(self) -> dict[str, ndarray]:
        return {tf: epoch_s(frame.index) + SECONDS[tf] for tf, frame in self.frames.items()}
