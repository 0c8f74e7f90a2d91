"""Quarterdeck in a notebook: `import quarterdeck`. Replays, comparisons and records as data frames.

What is asked here is carried out by the commands of the same names, so that it comes out the same; options are theirs:
`start="2024-02-01"`, `mask=True`, `max_cost=2`. What a command refuses in a line is an InputError here.
"""

import asyncio
import io
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, NamedTuple

import click
import pandas as pd

from tasks.core.types import CycleRecord, InputError, Json, read_dto
from tasks.settings import settings

_ONE_AT_A_TIME = Lock()  # what a command prints is caught for the whole process
Candles = Mapping[str, str | Path]  # symbol -> file
__all__ = ["Compared", "InputError", "Replay", "backtest", "compare", "records"]


class Replay(NamedTuple):
    """A backtest: its figures, equity by close (quote, index UTC), and a row for each decision."""

    summary: Json
    equity: pd.Series
    decisions: pd.DataFrame


class Compared(NamedTuple):
    """Deciders beside each other: which is better in a sentence, a row for each, and all that `compare --json` says."""

    verdict: str
    table: pd.DataFrame
    document: Json


def backtest(candles: Candles, decider: str = "rules", out: str | Path = "", **options: Any) -> Replay:
    """Replay the cycle over candle files; out: a new folder to keep it in."""
    with TemporaryDirectory(prefix="quarterdeck-notebook-") as folder:
        place = Path(out or Path(folder) / "backtest")
        summary = _said("backtest", *_files(candles), "--decider", decider, "--out", place, **options)
        equity = pd.read_csv(place / "equity.csv", index_col="at", parse_dates=True)["equity"]
        return Replay(summary, equity, records(place))


def compare(candles: Candles, *deciders: str, **options: Any) -> Compared:
    """Replay deciders over the same candles and say which is better; `out` names a folder for the report."""
    named = [word for decider in deciders for word in ("--decider", decider)]
    document = _said("compare", *_files(candles), *named, **options)
    table = pd.DataFrame(document["rows"]).set_index("label")
    return Compared(document["verdict"]["sentence"], table, document)


def records(place: str | Path = "") -> pd.DataFrame:
    """Return a row for each cycle of a backtest's folder or `records.jsonl`; of HOME's strategy where none is named."""
    return pd.DataFrame(map(_row, _lines(Path(place)) if place else _kept()))


def _lines(place: Path) -> Iterator[CycleRecord]:
    path = place / "records.jsonl" if place.is_dir() else place
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}; name a backtest's folder or its records.jsonl") from e
    for n, line in enumerate(lines, 1):
        yield read_dto(CycleRecord, line, f"{path} line {n}")


def _kept() -> Iterator[CycleRecord]:
    from deployments import in_force
    from tasks.connections import store

    in_force.adopt_with_database()
    return store().cycles.oldest_first(settings().strategy)


def _row(record: CycleRecord) -> Json:
    decision, verdict = record.decided and record.decided.decision, record.verdict
    return {
        "as_of": record.as_of, "symbol": record.symbol, "decider": record.decider, "status": record.status.value,
        "reasons": ", ".join(map(str, record.reasons)),
        "action": decision and decision.action, "confidence": decision and float(decision.confidence),
        "codes": ", ".join(verdict.codes) if verdict else "",
        "quantity": float(verdict.quantity) if verdict else 0.0,
        "filled": float(sum(fill.quantity for fill in record.fills)),
        "comment": decision.comment if decision else record.error, "cycle_id": record.cycle_id,
    }  # fmt: skip


def _files(candles: Candles) -> list[str]:
    return [word for symbol, path in candles.items() for word in ("--candles", f"{symbol}={path}")]


def _said(*words: Any, **options: Any) -> Json:
    """Carry out a command in a thread, as a notebook has a loop of its own, and return what it prints."""
    from deployments.cli import cli

    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        words += (option,) if value is True else (option, value) if value not in (False, None) else ()

    def carried_out() -> str:
        printed = io.StringIO()
        with asyncio.Runner() as runner, redirect_stdout(printed):
            asyncio.set_event_loop(runner.get_loop())
            cli.main([str(word) for word in (*words, "--json")], "quarterdeck", standalone_mode=False)
        return printed.getvalue()

    try:
        with _ONE_AT_A_TIME, ThreadPoolExecutor(1) as pool:
            return dict(json.loads(pool.submit(carried_out).result().splitlines()[-1]))
    except click.ClickException as e:  # an option that there is not, or that it cannot read
        raise InputError(e.format_message()) from e
    except click.Abort:
        raise InputError("it asks before models cost money: give max_cost=... in USD") from None
