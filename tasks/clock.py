"""This process's clock and the names it makes up: all that differs when the same thing happens twice.

Everything of ours that needs either asks here (ruff's banned-api says so), so that a simulated world can put a source
of its own in place. A coroutine sleeps with asyncio: the time is that of the loop it runs in.
"""

import time
from datetime import UTC, datetime
from uuid import uuid4


class MachineClock:
    """The machine's clock, and names that nobody has used before."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some moment, which no correction of the clock moves."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Hold this thread up."""
        time.sleep(seconds)

    def new_name(self) -> str:
        """Return 32 hexadecimal digits."""
        return uuid4().hex


source = MachineClock()


def now() -> datetime:
    """Return what time it is, aware UTC."""
    return source.now()


def monotonic() -> float:
    """Return seconds since some moment, for how long something took."""
    return source.monotonic()


def sleep(seconds: float) -> None:
    """Hold this thread up; a coroutine awaits `asyncio.sleep` instead."""
    source.sleep(seconds)


def new_name() -> str:
    """Return a name of 32 hexadecimal digits that nobody has used before."""
    return source.new_name()
