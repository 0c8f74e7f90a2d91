"""The `backtest` command: the cycle replayed over candle files, kept in a folder, resumable."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from flows.commands.options import PLACE, decider_option, json_option, mask_option, name_gaps, replay_options
from flows.commands.output import echo, emit, plain, progress, stopwatch
from flows.commands.spending import max_cost_option
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.settings import MOST_VOTES, settings


@click.command()
@replay_options
@decider_option
@mask_option
@max_cost_option
@click.option(
    "--votes",
    type=click.IntRange(1, MOST_VOTES),
    default=1,
    help="ask a model so often about each question: the first answer decides, all are kept as its propensity",
)
@click.option("--out", type=PLACE, help="a folder for its records; goes on where it was stopped")
@json_option
def backtest(
    files: dict[str, str],
    decider: str,
    start: datetime | None,
    end: datetime | None,
    funding: dict[str, str],
    instruments: str,
    news: str,
    mask: str | None,
    max_cost: Decimal | None,
    votes: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay the cycle over candle files.

    Ctrl-C stops it; with --out the same command goes on from there and ends as if it had never stopped.
    """
    from flows.commands.spending import ALWAYS, decider_for
    from tasks.adapters.files.folders import check_new
    from tasks.adapters.parallel_backtests import Job, ReplayFiles, replayed, terms_of, treated, treatment_of
    from tasks.core.lab.compare import BacktestWindow

    s = settings()
    if mask is not None and kind_of(decider).by_time:
        raise InputError(f"--mask: {decider} answers by symbol and time, which a mask hides; leave one of them out")
    if votes > 1 and not kind_of(decider).asks_alone:
        raise InputError(f"--votes {votes}: {decider} asks no model by itself; votes are of one that does")
    if out:
        check_new(out)
    read = ReplayFiles(
        candles=sorted(files.items()),
        funding=funding.items(),
        news=news,
        instruments=instruments,
        calendar=str(s.calendar or ""),
    )
    window = BacktestWindow(start=start or ALWAYS[0], end=end or ALWAYS[1])
    strategy, sources = replayed(s, decider, read, window)
    gaps = name_gaps(treated(read.candles, "raw", None, s.events).markets)
    job = Job(
        label=decider,
        strategy=strategy,
        window=window,
        files=read,
        treatment=treatment_of(mask),
        mask_key=mask or "",
        latency_s=s.decision_latency_s,
    )
    chosen, spending = decider_for(job, max_cost, votes)
    took, shown = stopwatch(), job.shown
    try:
        result = _carried_out(job, chosen, out, spending, as_json)
    except KeyboardInterrupt:
        where = f"the same command goes on in {_partial(out)}" if out else "nothing was kept: give it --out DIR"
        echo(f"stopped: {where}", err=True)
        raise
    seconds, figures = took(), result.summary()
    sources = {masked: sources[real] for masked, real in job.seen.names.items()}
    summary = {
        "symbols": shown.symbols,
        "instruments": terms_of(shown, sources),
        "decider": chosen.name,
        **figures,
        "gaps": gaps,
        "complete": result.complete,
        "mask": job.mask and job.mask.describe(tuple(files)),
        **seconds,
        "candles_per_s": round(figures["candles"] / max(seconds["wall_s"], 0.001)),
    }
    if out:
        _finish(out, summary, result, shown)
    emit(summary, as_json)


def _carried_out(job: Any, decider: Any, out: Path | None, spending: Any, as_json: bool) -> Any:
    """Replay, up to where the agreed cost is reached."""
    from tasks.core.simulation.resume import ResumedDecider

    with (
        _recorded(out) if out else nullcontext((None, None)) as (earlier, write),
        progress("backtest", as_json) as bar,
    ):
        run = job.backtest(
            ResumedDecider(decider, earlier) if out else decider,
            spending,
            progress=lambda done, total: bar(completed=done, total=total),
            on_line=write,
        )
        result = asyncio.run(run.run())
    if not result.complete:
        at = result.grid.closes_at(result.grid.n - 1).isoformat()
        echo(f"the agreed cost was reached at {at}: what was decided before that counts", err=True)
    return result


def _partial(out: Path) -> Path:
    """Return what the folder is called until it is whole."""
    return out.with_name(out.name + ".partial")


@contextmanager
def _recorded(out: Path) -> Iterator[tuple[Any, Callable[[bytes], None]]]:
    """Write records into DIR.partial, after those that a run before left; yields them and what takes a new line."""
    from tasks.core.simulation.resume import EarlierRun

    partial = _partial(out)
    if partial.is_symlink() or (partial.exists() and partial.stat().st_uid != os.getuid()):
        raise InputError(f"--out {out}: {partial} is a link or another user's: move it away, or give another name")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "records.jsonl").open("ab") as file:
        earlier = EarlierRun(_whole_lines(partial / "records.jsonl"), f"--out {out}: cannot go on with {partial}: ")
        if earlier.hashes:
            echo(f"going on after {len(earlier.hashes)} decisions in {partial}", err=True)

        def write(line: bytes) -> None:
            if not earlier.has(line):
                file.write(line)

        yield earlier, write


def _finish(out: Path, summary: dict[str, Any], result: Any, strategy: Any) -> None:
    """Write what stands beside the records; the folder gets its name when all of it is there."""
    from tasks.kept_history import STRATEGIES

    closes = (result.grid.closes_at(k).isoformat() for k in range(len(result.equity)))
    rows = (f"{at},{value:.8g}\n" for at, value in zip(closes, result.equity, strict=True))
    named = {strategy.sha256: strategy.model_dump(mode="json")}
    texts = {
        STRATEGIES: json.dumps(named, indent=1) + "\n",
        "equity.csv": "".join(("at,equity\n", *rows)),
        "summary.json": json.dumps(plain(summary), indent=2) + "\n",
    }
    for name, text in texts.items():
        (_partial(out) / name).write_text(text, encoding="utf-8")
    _partial(out).rename(out)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the file's lines; one that was being written when the run died is cut off."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                end += len(line)
                yield line
    os.truncate(path, end)


COMMANDS = (backtest,)
