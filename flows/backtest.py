"""The `backtest` command: the cycle replayed over candle files, kept in a folder, resumable."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from flows.offline import candles_option, check_symbol, end_option, json_option, start_option, symbol_option
from flows.output import emit, plain, utc_time
from flows.spending import max_cost_option, usd
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.settings import settings

STRATEGIES = "strategies.json"  # beside records.jsonl: what its records name by hash


@click.command()
@candles_option
@symbol_option
@click.option("--decider", default="", help="rules, hold, llm:single, recorded:FILE")
@start_option
@end_option
@click.option("--funding", multiple=True, help="SYMBOL=FILE with ts,rate; without it funding is unknown")
@click.option("--instruments", default="", help="JSON or TOML, symbol -> tick, step, ...; else as stored or inferred")
@click.option("--news", default="", help='JSON lines {"at","title","source"}; without it news are unknown')
@click.option("--mask", is_flag=False, flag_value="mask", help="hide names, dates and prices; --mask=KEY says how")
@max_cost_option
@click.option("--out", type=click.Path(path_type=Path), help="a folder for its records; goes on where it was stopped")
@json_option
def backtest(
    candles: tuple[str, ...], symbols: tuple[str, ...], decider: str, start: str | None, end: str | None,
    funding: tuple[str, ...], instruments: str, news: str, mask: str | None, max_cost: str | None, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Replay the cycle over candle files.

    Ctrl-C stops it; with --out the same command goes on from there and ends as if it had never stopped.
    """
    from flows.spending import decider_for
    from tasks.adapters.files.candles import parse_candle_options
    from tasks.adapters.parallel_replays import strategy_for, terms_of

    for symbol in symbols:
        check_symbol(symbol)
    files = parse_candle_options(candles, symbols)
    first, last = utc_time(start, "--start"), utc_time(end, "--end")
    name = decider or settings().decider_name
    if mask is not None and kind_of(name).by_time:
        raise InputError(f"--mask: {name} answers by symbol and time, which a mask hides; leave one of them out")
    recorder = Recorder(out)
    job, sources = _job(files, name, first, last, funding, news, mask, instruments)
    chosen, spending = decider_for(job, usd(max_cost))
    began, cpu = time.perf_counter(), time.process_time()
    shown = strategy_for(job)
    result, complete = _carried_out(job, chosen, recorder, spending, as_json)
    wall = time.perf_counter() - began
    summary = {
        "symbols": list(shown.symbols), "instruments": terms_of(shown, sources), "decider": chosen.name,
        **result.summary(), "complete": complete,
        "mask": None if mask is None else job.mask.describe(tuple(files)), "wall_s": round(wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3), "candles_per_s": round(result.candles / wall),
    }  # fmt: skip
    recorder.finish(summary, result, job)
    emit(summary, as_json)


def _job(
    files: dict[str, Path], decider: str, first: datetime | None, last: datetime | None, funding: tuple[str, ...],
    news: str, mask: str | None, instruments: str,
) -> tuple[Any, dict[str, str]]:  # fmt: skip
    """Make the options out into the one replay they ask for; says where its instruments come from."""
    from flows.spending import ALWAYS
    from tasks.adapters import parallel_replays
    from tasks.core.lab.comparison import Window

    s, candles = settings(), tuple((symbol, str(path.resolve())) for symbol, path in sorted(files.items()))
    window = Window(index=0, start=first or ALWAYS[0], end=last or ALWAYS[1])
    read = parallel_replays.Files(candles=candles, instruments=instruments, calendar=str(s.calendar or ""))
    strategy, sources = parallel_replays.replayed(s, decider, read, window, memory=kind_of(decider).asks_model)
    job = parallel_replays.Job(
        label=decider, strategy=strategy, window=window, candles=candles, calendar=read.calendar,
        treatment="raw" if mask is None else "masked", mask_key=mask or "", funding=_rates(funding, files), news=news,
        latency_s=s.decision_latency_s,
    )  # fmt: skip
    return job, {shown: sources[real] for shown, real in parallel_replays.treated_for(job).names.items()}


def _rates(options: tuple[str, ...], files: dict[str, Path]) -> tuple[tuple[str, str], ...]:
    rates = []
    for option in options:
        symbol, sep, path = option.partition("=")
        if not sep or symbol not in files:
            raise InputError(f"--funding {option}: write SYMBOL=FILE with a symbol of {', '.join(files)}")
        rates.append((symbol, str(Path(path).resolve())))
    return tuple(rates)


def _carried_out(job: Any, decider: Any, recorder: "Recorder", spending: Any, as_json: bool) -> tuple[Any, bool]:
    """Replay, up to where the agreed cost is reached; say whether that was all of it."""
    from tasks.adapters.parallel_replays import CapReached, strategy_for, treated_for, world_of
    from tasks.core.simulation.backtest import Backtest
    from tasks.core.simulation.resume import ResumedDecider

    markets, strategy, world = treated_for(job).markets, strategy_for(job), world_of(job)

    def note(record: Any) -> None:
        if spending is not None and spending.reached:
            raise CapReached(record.as_of)

    def replay(until: Any) -> Any:
        with recorder as kept, _progress(as_json) as progress:
            resumed = ResumedDecider(decider, kept)
            run = Backtest(
                markets, resumed, strategy, until, on_record=note, progress=progress, on_line=recorder.write
            )  # fmt: skip
            return asyncio.run(run.run())

    try:
        return replay(world), True
    except CapReached as e:
        click.echo(f"{e}: what was decided before that counts", err=True)
        spending = None
        recorder.start_over()
        return replay(replace(world, end=e.as_of - timedelta(minutes=5))), False  # all its replies are kept


class Recorder:
    """Writes a backtest's records beside its summary; DIR appears when it is done, until then it is DIR.partial."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        if out is not None and out.exists() and any(out.iterdir()):
            raise InputError(f"--out {out}: exists and is not empty; choose another folder")

    @property
    def partial(self) -> Path:
        assert self.out is not None
        return self.out.with_name(self.out.name + ".partial")

    def start_over(self) -> None:
        if self.out is not None:
            (self.partial / "records.jsonl").unlink()

    def __enter__(self) -> Any:
        from tasks.core.simulation.resume import Kept

        self.kept = Kept()
        if self.out is not None:
            self.partial.mkdir(parents=True, exist_ok=True)
            path = self.partial / "records.jsonl"
            self.kept = Kept(_whole_lines(path)) if path.exists() else self.kept
            if self.kept.hashes:
                click.echo(f"going on after {len(self.kept.hashes)} decisions in {self.partial}", err=True)
            self.file = path.open("ab")
        return self.kept

    def write(self, line: bytes) -> None:
        if self.out is None:
            return
        try:
            known = self.kept.has(line)
        except InputError as e:
            raise InputError(f"--out {self.out}: cannot go on with {self.partial}: {e}") from e
        if not known:
            self.file.write(line)

    def finish(self, summary: dict[str, Any], result: Any, job: Any) -> None:
        if self.out is None:
            return
        from tasks.adapters.parallel_replays import strategy_for

        strategy = strategy_for(job)
        named = {strategy.sha256: strategy.model_dump(mode="json")}
        (self.partial / STRATEGIES).write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
        closes = [result.grid.closes_at(k).isoformat() for k in range(len(result.equity))]
        rows = [f"{at},{value:.8g}" for at, value in zip(closes, result.equity, strict=True)]
        (self.partial / "equity.csv").write_text("\n".join(["at,equity", *rows]) + "\n", encoding="utf-8")
        (self.partial / "summary.json").write_text(json.dumps(plain(summary), indent=2) + "\n", encoding="utf-8")
        if self.out.exists():
            self.out.rmdir()
        self.partial.rename(self.out)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.out is not None:
            self.file.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            where = f"the same command goes on in {self.partial}" if self.out else "nothing was kept: give it --out DIR"
            click.echo(f"stopped: {where}", err=True)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the file's lines; one that was being written when the run died is cut off."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                end += len(line)
                yield line
    os.truncate(path, end)


@contextmanager
def _progress(as_json: bool) -> Iterator[Any]:
    """Show a progress bar on stderr when a person watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("backtest", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


COMMANDS = (backtest,)
