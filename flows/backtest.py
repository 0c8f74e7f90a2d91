"""The `backtest` command: the cycle replayed over candle files, kept in a folder, resumable."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from flows.offline import candles_option, check_symbol, end_option, json_option, start_option, symbol_option
from flows.output import emit, plain, utc_time
from flows.spending import max_cost_option, usd
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.settings import settings


@click.command()
@candles_option
@symbol_option
@click.option("--decider", default="", help="rules, hold, llm:single, recorded:FILE")
@start_option
@end_option
@click.option("--funding", multiple=True, help="SYMBOL=FILE with ts,rate; without it funding is unknown")
@click.option("--mask", is_flag=False, flag_value="mask", help="hide names, dates and prices; --mask=KEY says how")
@max_cost_option
@click.option("--out", type=click.Path(path_type=Path), help="a folder for its records; goes on where it was stopped")
@json_option
def backtest(
    candles: tuple[str, ...], symbols: tuple[str, ...], decider: str, start: str | None, end: str | None,
    funding: tuple[str, ...], mask: str | None, max_cost: str | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Replay the cycle over candle files.

    Ctrl-C stops it; with --out the same command goes on from there and ends as if it had never stopped.
    """
    from flows.spending import decider_for
    from tasks.adapters.candles import parse_candle_options

    for symbol in symbols:
        check_symbol(symbol)
    files = parse_candle_options(candles, symbols)
    first, last = utc_time(start, "--start"), utc_time(end, "--end")
    name = decider or settings().decider_name
    if mask is not None and kind_of(name).by_time:
        raise InputError(f"--mask: {name} answers by symbol and time, which a mask hides; leave one of them out")
    recorder = Recorder(out)
    markets, plan, described = _prepared(files, funding, mask)
    shift = described.shift if described else timedelta(0)
    plan = replace(plan, start=first and first - shift, end=last and last - shift)
    chosen, spending = decider_for(name, files, first, last, usd(max_cost))
    began, cpu = time.perf_counter(), time.process_time()
    result, complete = _carried_out(markets, chosen, plan, recorder, spending, as_json)
    wall = time.perf_counter() - began
    summary = {
        "symbols": list(markets), "decider": chosen.name, **result.summary(), "complete": complete,
        "mask": described and described.describe(tuple(files)), "wall_s": round(wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3), "candles_per_s": round(result.candles / wall),
    }  # fmt: skip
    recorder.finish(summary, result)
    emit(summary, as_json)


def _prepared(files: dict[str, Path], funding: tuple[str, ...], mask: str | None) -> tuple[dict[str, Any], Any, Any]:
    """Read every file; return the markets, the plan and the mask over both, if any."""
    from tasks.adapters.calendar import read_calendar
    from tasks.adapters.candles import read_candles
    from tasks.core.evaluation.masking import Mask, mask_bars, mask_instrument
    from tasks.core.evaluation.plan import FundingRate, Plan
    from tasks.core.market.snapshot import Market
    from tasks.core.types.orders import Instrument

    s, over = settings(), None if mask is None else Mask(mask)
    calendar, rates = read_calendar(s.calendar) if s.calendar else (), _rates(funding, files)
    bars = {symbol: read_candles(path) for symbol, path in files.items()}
    instruments = {symbol: Instrument(symbol=symbol) for symbol in files}
    if over is not None:
        bars = dict(mask_bars(frame, symbol, over) for symbol, frame in bars.items())
        instruments = {over.symbol(symbol): mask_instrument(each, over) for symbol, each in instruments.items()}
        calendar = tuple(event.model_copy(update={"at": over.time(event.at)}) for event in calendar)
        rates = {
            over.symbol(symbol): tuple(FundingRate(over.time(at), rate) for at, rate in of)
            for symbol, of in rates.items()
        }
    plan = Plan(
        strategy=s.strategy, limits=s.limits, costs=s.costs, thresholds=s.events, instruments=instruments,
        calendar=calendar, latency_s=s.decision_latency_s, funding=rates,
    )  # fmt: skip
    return {symbol: Market.from_base(symbol, frame, s.events) for symbol, frame in bars.items()}, plan, over


def _rates(options: tuple[str, ...], files: dict[str, Path]) -> dict[str, Any]:
    from tasks.adapters.funding import read_funding

    rates = {}
    for option in options:
        symbol, sep, path = option.partition("=")
        if not sep or symbol not in files:
            raise InputError(f"--funding {option}: write SYMBOL=FILE with a symbol of {', '.join(files)}")
        rates[symbol] = read_funding(Path(path))
    return rates


def _carried_out(
    markets: dict[str, Any], decider: Any, plan: Any, recorder: "Recorder", spending: Any, as_json: bool
) -> tuple[Any, bool]:
    """Replay, up to where the agreed cost is reached; say whether that was all of it."""
    from tasks.adapters.replays import CapReached
    from tasks.core.evaluation.backtest import Backtest
    from tasks.core.evaluation.resume import ResumedDecider

    def note(record: Any) -> None:
        if spending is not None and spending.reached:
            raise CapReached(record.as_of)

    def replay(until: Any) -> Any:
        with recorder as kept, _progress(as_json) as progress:
            run = Backtest(
                markets, ResumedDecider(decider, kept), until, on_record=note, progress=progress, on_line=recorder.write
            )
            return asyncio.run(run.run())

    try:
        return replay(plan), True
    except CapReached as e:
        click.echo(f"{e}: what was decided before that counts", err=True)
        spending = None
        recorder.start_over()
        return replay(replace(plan, end=e.as_of - timedelta(minutes=5))), False  # all its replies are kept


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
        from tasks.core.evaluation.resume import Kept

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

    def finish(self, summary: dict[str, Any], result: Any) -> None:
        if self.out is None:
            return
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
