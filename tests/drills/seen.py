"""What a drill saw: plain lines as they come, and what did not hold."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import isawaitable

import httpx

from deployments.orchestrator import PrefectError
from tasks.core.errors import TradingError

POLL_S = 0.2
Question = Callable[[], object | Awaitable[object]]


class Skipped(Exception):
    """This machine cannot hold the drill; the message says why."""


class Stuck(Exception):
    """What a drill waited for did not come about: there is nothing to go on with."""


class Seen:
    """The lines of one drill."""

    def __init__(self, drill: str) -> None:
        self.drill, self.began = drill, time.monotonic()
        self.breaches: list[str] = []

    def say(self, text: str) -> None:
        print(f"{self.drill} +{time.monotonic() - self.began:3.0f}s {text}", flush=True)

    def must(self, holds: object, text: str) -> None:
        """Note whether something that must hold does."""
        self.say(f"{'ok  ' if holds else 'FAIL'} {text}")
        if not holds:
            self.breaches.append(text)


async def until(true: Question, what: str, seconds: float = 120) -> float:
    """Ask until the answer is yes and return how long that took; a Prefect or sandbox that does not answer says no.

    Raises Stuck when the time is up.
    """
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with suppress(PrefectError, TradingError, httpx.HTTPError, OSError):
            answer = true()
            if await answer if isawaitable(answer) else answer:
                return time.monotonic() - began
        await asyncio.sleep(POLL_S)
    raise Stuck(f"{what}: not within {seconds:.0f} s")
