"""What `up` shows while it works: a spinner per step on a terminal, else one line when a step starts and ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, Task, TextColumn
from rich.text import Text


class _Seconds(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{(task.finished_time if task.finished else task.elapsed) or 0:6.1f} s", style="dim")


class Board:
    """Steps and how long each took, on stderr."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._console = Console(stderr=True, highlight=False)
        columns = (
            SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description:<12}", markup=False),
            _Seconds(""), TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )  # fmt: skip
        self._progress = Progress(*columns, console=self._console) if sys.stderr.isatty() else None

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator["Step"]:
        """Show `name` as under way until the block ends; a block that raises stays unfinished."""
        step, start = Step(self, name, detail), time.monotonic()
        yield step
        self.seconds[name] = round(time.monotonic() - start, 1)
        step.finish(self.seconds[name])

    @contextmanager
    def live(self) -> Iterator[None]:
        """Let the spinners turn during the block."""
        if self._progress is None:
            yield
            return
        with self._progress:
            yield

    def say(self, text: str) -> None:
        """Print one line, with the time where there is no terminal to look at."""
        stamp = "" if self._progress else f"{datetime.now(UTC):%H:%M:%S} "
        self._console.print(stamp + text, markup=False, soft_wrap=True)


class Step:
    """One line of the board."""

    def __init__(self, board: Board, name: str, detail: str) -> None:
        self._board, self._name, self._detail = board, name, detail
        self._progress = board._progress
        if self._progress:
            self._row = self._progress.add_task(name, total=1, detail=detail)
        else:
            board.say(f"{name}: {detail or 'starting'}")

    def show(self, detail: str) -> None:
        """Say how far it is."""
        if detail == self._detail:
            return
        self._detail = detail
        if self._progress:
            self._progress.update(self._row, detail=detail)
        else:
            self._board.say(f"{self._name}: {detail}")

    def finish(self, seconds: float) -> None:
        if self._progress:
            self._progress.update(self._row, completed=1)
        else:
            self._board.say(f"{self._name}: done after {seconds} s")
