"""The exchange's clock: wall time, a replay of it at some speed, or steps."""

import time

from tasks.core.errors import InputError

HOUR_MS = 3_600_000  # of a replay's distance to wall time: 15m and 1h closes fall together
ALIGN_MS = 300_000
DAY_MS = 86_400_000
WARM_UP_DAYS = 250


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Milliseconds UTC. A replay in real time keeps its distance to wall time a multiple of an hour."""

    def __init__(self, start_ms: int | None, speed: float, stepped: bool) -> None:
        self.stepped = stepped
        self.speed = speed
        self._wall_start = wall_ms()
        self._start = self._wall_start if start_ms is None else start_ms
        if not stepped and start_ms is not None:
            self._start = self._wall_start + (start_ms - self._wall_start) // HOUR_MS * HOUR_MS

    def now_ms(self) -> int:
        if self.stepped:
            return self._start
        return self._start + int((wall_ms() - self._wall_start) * self.speed)

    def step(self, milliseconds: int) -> None:
        """Move a stepped clock forward; raises InputError on any other clock and on a step backwards."""
        if not self.stepped:
            raise InputError("this clock follows wall time: start the sandbox with --stepped to move it")
        if milliseconds < 0:
            raise InputError(f"advance_s is {milliseconds / 1000}: time only moves forward")
        self._start += milliseconds


def default_start(first_ms: int, last_ms: int) -> int:
    """Return where a replay of candle files begins: 250 days in, or a third of a shorter file."""
    begin = first_ms + WARM_UP_DAYS * DAY_MS
    if begin >= last_ms:
        begin = first_ms + (last_ms - first_ms) // 3
    return begin // ALIGN_MS * ALIGN_MS
