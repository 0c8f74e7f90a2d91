"""An event loop whose time is stepped: what waits for a time goes on at once, in the order of the times.

A deadline of 30 s then takes no time, and one of 0.2 s is not missed by a busy machine. For code that waits for
timers and tasks alone: a thread or a socket is not waited for.
"""

import asyncio


class SteppedLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while anything can run, and goes to the next timer when nothing can."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        due = [handle.when() for handle in self._scheduled if not handle.cancelled()]
        if not self._ready and due:
            self._now = max(self._now, min(due))
        super()._run_once()


class SteppedPolicy(asyncio.DefaultEventLoopPolicy):
    """Gives stepped loops; a test module asks for it with a fixture `event_loop_policy`."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return SteppedLoop()
