"""What `up` shows while it works: a line on stderr when a step starts, says something new, and ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from flows.commands.output import echo
from tasks.redaction import redacted


class Board:
    """Steps and how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, detail: str = "starting") -> Iterator[Callable[[str], None]]:
        """Show `name` as under way until the block ends, with what the block says; one that raises stays unfinished."""
        start, shown = time.monotonic(), ""

        def show(detail: str) -> None:
            nonlocal shown
            if detail != shown:
                self.say(f"{name}: {detail}")
            shown = detail

        show(detail)
        yield show
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.say(f"{name}: done after {self.seconds[name]} s")

    def say(self, text: str) -> None:
        """Print one line, with the time."""
        echo(f"{datetime.now(UTC):%H:%M:%S} {redacted(text)}", err=True)
