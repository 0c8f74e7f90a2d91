"""What `up` shows while it works: a spinner per step on a terminal, else one line when a step starts and ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Board:
    """Steps and how long each took, on stderr."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        console = Console(stderr=True, highlight=False)
        self.spinners = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[Callable[[str], None]]:
        """Show `name` as under way until the block ends, with what the block says; one that raises stays unfinished."""
        start, shown = time.monotonic(), ""
        row = self.spinners.add_task(name, total=1, detail=detail)

        def show(detail: str) -> None:
            nonlocal shown
            self.spinners.update(row, detail=detail)
            if self.spinners.disable and detail != shown:
                self.say(f"{name}: {detail}")
            shown = detail

        show(detail or "starting")
        yield show
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.spinners.update(row, completed=1)
        if self.spinners.disable:
            self.say(f"{name}: done after {self.seconds[name]} s")

    def say(self, text: str) -> None:
        """Print one line, with the time where there is no terminal to look at."""
        stamp = f"{datetime.now(UTC):%H:%M:%S} " if self.spinners.disable else ""
        self.spinners.console.print(stamp + text, markup=False, soft_wrap=True)
