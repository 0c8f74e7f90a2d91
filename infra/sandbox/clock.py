"""The exchange's clock: wall time, a replay of it at some speed, or steps."""

import time

from tasks.core.errors import InputError

HOUR_MS = 3_600_000  # of a replay's distance to wall time: 15m and 1h closes fall together
DAY_MS = 24 * HOUR_MS


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Milliseconds UTC. A replay in real time keeps its distance to wall time a multiple of an hour."""

    def __init__(self, start_ms: int | None, speed: float, stepped: bool) -> None:
        self.stepped, self.speed = stepped, speed
        self._wall_start = self._start = wall_ms()
        if start_ms is not None:
            ahead = start_ms - self._start
            self._start += ahead if stepped else ahead // HOUR_MS * HOUR_MS

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
