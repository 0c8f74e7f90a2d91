"""A bad day on purpose: any market of candles, turned into one that crashes.

From its start on the price loses 40 % within an hour, 12 % of it in one gap; until then spreads are 20 times as wide
and 30 % of all requests fail somehow. Over the six hours that follow, three quarters of the fall are won back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

HOUR_MS = 3_600_000
GAP, FALL, RECOVERED = 0.12, 0.40, 0.75
SPREAD_TIMES, ERROR_SHARE, VOLUME_TIMES = 20, 0.3, 10
RECOVERY_HOURS = 6
SHARES = [1 - GAP, 1 - FALL, 1 - FALL * (1 - RECOVERED)]  # of the calm price: at the start, at the low, at the end


@dataclass(frozen=True)
class Crash:
    """When it begins; everything else follows."""

    start: datetime

    @property
    def start_ms(self) -> int:
        return int(self.start.timestamp() * 1000)

    def lasts(self, at_ms: Any) -> Any:
        """Return whether it goes on at a time, or at each of an array of times."""
        return (self.start_ms <= at_ms) & (at_ms < self.start_ms + HOUR_MS)

    def strike(
        self, ts: npt.NDArray[np.int64], rows: npt.NDArray[np.float64], decimals: int
    ) -> npt.NDArray[np.float64]:
        """Return calm candles as the crash leaves them: candle by candle, so the price gaps."""
        hours = (ts - self.start_ms) / HOUR_MS
        share = np.interp(hours, [0, 1, 1 + RECOVERY_HOURS], SHARES, left=1)
        volume = rows[:, 4] * np.where(self.lasts(ts), VOLUME_TIMES, 1)
        return np.column_stack([(rows[:, :4] * share[:, None]).round(decimals), volume])
