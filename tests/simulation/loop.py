"""Time that passes only when nobody has anything left to do: an event loop and a clock for one world."""

import asyncio
import selectors
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from tasks.clock import MachineClock


class _NoSockets(selectors.BaseSelector):
    """Waits for nothing: where the loop would sleep, its time moves on at once."""

    def __init__(self, passes: Callable[[float], None]) -> None:
        self._passes = passes

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every coroutine of this world waits for something that nobody will do")
        self._passes(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose seconds cost nothing."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_NoSockets(self._pass))

    def _pass(self, seconds: float) -> None:
        self._now += max(seconds, 0.0)

    def time(self) -> float:
        return self._now


class WorldClock(MachineClock):
    """The machine's clock of one world; `skew`: how far it is ahead of the venue's, in seconds."""

    def __init__(self, loop: VirtualLoop, start: datetime, seed: int) -> None:
        self._loop, self._start, self._seed = loop, start.astimezone(UTC), seed
        self._names = 0
        self.skew = 0.0

    @property
    def venue_time(self) -> datetime:
        return self._start + timedelta(milliseconds=round(self._loop.time() * 1000))

    def now(self) -> datetime:
        return self.venue_time + timedelta(seconds=self.skew)

    def monotonic(self) -> float:
        return self._loop.time()

    def sleep(self, seconds: float) -> None:
        self._loop._pass(seconds)

    def new_name(self) -> str:
        self._names += 1
        return blake2b(f"{self._seed}|{self._names}".encode(), digest_size=16).hexdigest()
