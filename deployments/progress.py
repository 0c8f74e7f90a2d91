"""What `up` shows while it works: a spinner per step on a terminal, else one line when a step starts and ends."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Board:
    """Steps and how long each took, on stderr."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True, highlight=False)
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=self._console) if sys.stderr.isatty() else None

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[Callable[[str], None]]:
        """Show `name` as under way until the block ends, with what the block says; one that raises stays unfinished."""
        start, progress, last = time.monotonic(), self._progress, detail
        row = progress.add_task(name, total=1, detail=detail) if progress else None

        def show(detail: str) -> None:
            nonlocal last
            if progress and row is not None:
                progress.update(row, detail=detail)
            elif detail != last:
                self.say(f"{name}: {detail}")
            last = detail

        if not progress:
            self.say(f"{name}: {detail or 'starting'}")
        yield show
        self.seconds[name] = round(time.monotonic() - start, 1)
        if progress and row is not None:
            progress.update(row, completed=1)
        else:
            show(f"done after {self.seconds[name]} s")

    def live(self) -> AbstractContextManager[object]:
        """Let the spinners turn during the block."""
        return self._progress or nullcontext()

    def say(self, text: str) -> None:
        """Print one line, with the time where there is no terminal to look at."""
        stamp = "" if self._progress else f"{datetime.now(UTC):%H:%M:%S} "
        self._console.print(stamp + text, markup=False, soft_wrap=True)
