"""A bad day on purpose: any market of candles, turned into one that crashes.

From its start on the price loses 40 % within an hour, 12 % of it in one gap; until then spreads are 20 times as wide
and 30 % of all requests fail somehow. Over the six hours that follow, three quarters of the fall are won back.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from infra.sandbox.candles import Candles, Floats

HOUR_MS = 3_600_000
GAP, FALL, RECOVERED = 0.12, 0.40, 0.75
SPREAD_TIMES, ERROR_SHARE, VOLUME_TIMES = 20, 0.3, 10
RECOVERY_HOURS = 6


@dataclass(frozen=True)
class Crash:
    """When it begins; everything else follows."""

    start: datetime

    @property
    def start_ms(self) -> int:
        return int(self.start.timestamp() * 1000)

    def lasts(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms < self.start_ms + HOUR_MS

    def of_calm(self, ts: npt.NDArray[np.int64]) -> Floats:
        """Return what share of its calm price a candle that opens at `ts` has: candle by candle, so it gaps."""
        hours = (ts - self.start_ms) / HOUR_MS
        low, back = 1 - FALL, 1 - FALL * (1 - RECOVERED)
        shape = np.interp(hours, [0.0, 1.0, 1.0 + RECOVERY_HOURS], [1 - GAP, low, back])
        return np.where(hours < 0, 1.0, shape)


class CrashingCandles(Candles):
    """Other candles through a crash."""

    def __init__(self, calm: Candles, crash: Crash) -> None:
        self.calm, self.crash = calm, crash
        none = np.empty(0)
        super().__init__(calm.base_ms, np.empty(0, np.int64), none, none, none, none, none, calm.price_decimals)
        self.ensure(int(calm.ts[-1]) if len(calm.ts) else 0)

    def ensure(self, until_ms: int) -> None:
        self.calm.ensure(until_ms)
        ts = self.calm.ts
        if len(ts) == len(self.ts):
            return
        share = self.crash.of_calm(ts)
        for name in ("open", "high", "low", "close"):
            setattr(self, name, (getattr(self.calm, name) * share).round(self.price_decimals))
        hectic = (ts >= self.crash.start_ms) & (ts < self.crash.start_ms + HOUR_MS)
        self.volume = self.calm.volume * np.where(hectic, VOLUME_TIMES, 1)
        self.ts = ts  # last, so that a reader who has found a candle's time finds its prices too

    def spread_times(self, at_ms: int) -> int:
        return SPREAD_TIMES if self.crash.lasts(at_ms) else 1
