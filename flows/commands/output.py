"""What the command prints: one JSON document (or JSON lines) on stdout with --json, else a small table."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from tasks import clock
from tasks.core.errors import InputError
from tasks.core.pages import inert

WIDE = 240  # columns


def plain(value: Any) -> Any:
    """Turn DTOs, Decimals and times into what JSON has; an exact number is printed as the number it is."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, date) else str(value)


def echo(text: str, err: bool = False) -> None:
    """Print lines, with what a terminal would act on as its escapes."""
    click.echo("\n".join(map(inert.line, text.split("\n"))), err=err)


def emit(value: Any, as_json: bool) -> None:
    """Print `value`: one JSON document, or its entries line by line."""
    value = plain(value)
    if as_json or not isinstance(value, dict):
        click.echo(json.dumps(value))
        return
    width = max((len(key) for key in value), default=0)
    for key, item in value.items():
        echo(inert.line(f"{key:<{width}}  {item if isinstance(item, str | int | float) else json.dumps(item)}"))


def show(parts: Iterable[Any]) -> None:
    """Print rich's texts and tables for a person, in colour on a terminal; nowhere else is a line too long."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
    for part in parts:
        console.print(part)


def say(text: str, as_json: bool, **fields: Any) -> None:
    """Print a sentence, or with --json what it says."""
    echo(json.dumps(plain(fields)) if as_json else text)


def read_text(name: str, what: str) -> str:
    """Read a file, or stdin for `-`; raises InputError naming it."""
    if name == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        return Path(name).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as e:
        raise InputError(f"{what} {name}: {e.strerror or e}") from e


def read_json(name: str, what: str) -> Any:
    """Read JSON with every number as Decimal; raises InputError naming the file and the place."""
    try:
        return json.loads(read_text(name, what), parse_float=Decimal)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{what} {name}: not JSON ({e})") from e


def utc_time(text: str | None, option: str) -> datetime | None:
    """Read an ISO time; one without a timezone is taken as UTC. Raises InputError naming the option."""
    if not text:
        return None
    with suppress(ValueError):
        at = datetime.fromisoformat(text)
        if 1970 < at.year < 2200:
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    raise InputError(f"{option} {text!r}: not an ISO time such as 2025-03-01T12:00Z")


def stopwatch() -> Callable[[], dict[str, float]]:
    """Return what tells the seconds since, on the wall and of this process's CPU."""
    began = clock.monotonic(), time.process_time()
    return lambda: {
        "wall_s": round(clock.monotonic() - began[0], 3),
        "cpu_s": round(time.process_time() - began[1], 3),
    }


@contextmanager
def progress(what: str, as_json: bool, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr when a person watches; yields what updates it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as bar:
        yield partial(bar.update, bar.add_task(what, total=total))
