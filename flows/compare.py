"""The `compare` command: what to replay, what it may cost, and the table of what came out."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.offline import candles_option, check_symbol, end_option, json_option, start_option, symbol_option
from flows.output import emit, utc_time
from flows.spending import agree, max_cost_option, usd
from tasks.core.errors import InputError
from tasks.settings import settings


def print_table(found: dict[str, Any]) -> None:
    """Print the table for a person, and where to read on."""
    from flows.evaluate import COLUMNS, rows

    table = [COLUMNS, *rows(found)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        first, *rest = zip(line, widths, strict=True)
        click.echo("  ".join([f"{first[0]:<{first[1]}}", *(f"{text:>{width}}" for text, width in rest)]))
    if found["overfit"]:
        click.echo(
            f"PBO {found['overfit']['pbo']:.1%} over {found['overfit']['splits']} splits; tried {found['tried']}"
        )
    click.echo(f"models: {found['spent']}" if found["spent"]["asked"] + found["spent"]["reused"] else "no model asked")
    if not found["complete"]:
        click.echo("not complete: the agreed cost was reached")
    click.echo(f"report {found['report'] or 'not kept: name a folder with --out'}")


@click.command()
@candles_option
@symbol_option
@click.option("--decider", "deciders", multiple=True, required=True, help="repeatable; llm:single@v002 names a version")
@click.option("--model", "models", multiple=True, help="repeatable; each is a variant of every llm decider")
@start_option
@end_option
@click.option("--windows", type=click.IntRange(1), default=1, help="walk-forward windows of equal length")
@click.option("--window-days", type=click.FloatRange(0), default=0, help="their length instead of their number")
@click.option("--mask", is_flag=True, help="also replay under other names, dates and prices")
@click.option("--perturb", is_flag=True, help="also replay with noise in the candles")
@click.option("--quiet", type=click.IntRange(0), help="quiet bars sampled per symbol; models: 0 unless said")
@click.option("--funding", multiple=True, help="SYMBOL=FILE with ts,rate; without it funding is unknown")
@click.option("--instruments", default="", help="JSON or TOML, symbol -> tick, step, ...; else as stored or inferred")
@click.option("--news", default="", help='JSON lines {"at","title","source"}; without it news are unknown')
@click.option("--seeds", type=click.IntRange(1), default=200, help="random traders of equal turnover")
@click.option("--cutoff", "cutoffs", multiple=True, help="MODEL=DATE, what the model's maker states")
@max_cost_option
@click.option("--dask", default="", help="address of a Dask scheduler; else processes of this machine")
@click.option("--title", default="", help="of the report")
@click.option("--out", type=click.Path(path_type=Path), help="a folder for report.html and each variant's files")
@json_option
def compare(
    candles: tuple[str, ...], symbols: tuple[str, ...], start: str | None, end: str | None, cutoffs: tuple[str, ...],
    funding: tuple[str, ...], max_cost: str | None, out: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Replay deciders over the same candles and say which is better, and how sure that is."""
    from flows.evaluate import Request, carry_out, plan_work
    from tasks.adapters import variants
    from tasks.adapters.files.candles import parse_candle_options

    for symbol in symbols:
        check_symbol(symbol)
    if out is not None and out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: exists and is not empty; choose another folder")
    files = parse_candle_options(candles, symbols)
    request = Request(
        candles={symbol: str(path.resolve()) for symbol, path in files.items()}, funding=_funding(funding, files),
        start=utc_time(start, "--start"),
        end=utc_time(end, "--end"), cutoffs=dict(_cutoff(text) for text in cutoffs), max_cost=usd(max_cost), **options,
    )  # fmt: skip
    work, cap = plan_work(request), None
    if work.paid:
        grouped = {v.label: (v, [job for w, job in work.paid if w is v]) for v, _ in work.paid}
        cap = agree(asyncio.run(variants.estimate(list(grouped.values()), settings())), request.max_cost)
    with _counting(as_json, len(work.free) + len(work.paid)) as done:
        found = carry_out(work, cap, out, done=done)
    emit(found, True) if as_json else print_table(found)


def _funding(options: tuple[str, ...], symbols: dict[str, Path]) -> dict[str, str]:
    found = {}
    for option in options:
        symbol, sep, path = option.partition("=")
        if not sep or symbol not in symbols:
            raise InputError(f"--funding {option}: write SYMBOL=FILE with a symbol of {', '.join(symbols)}")
        found[symbol] = str(Path(path).resolve())
    return found


def _cutoff(text: str) -> tuple[str, datetime]:
    model, sep, date = text.rpartition("=")
    at = utc_time(date, f"--cutoff {text}:") if sep and model else None
    if at is None:
        raise InputError(f"--cutoff {text!r}: write MODEL=DATE, e.g. openai/gpt-4o=2023-10-01")
    return model, at


class _counting:
    """A progress bar on stderr over replays, when a person watches."""

    def __init__(self, as_json: bool, total: int) -> None:
        self.shown, self.total = not as_json, total

    def __enter__(self) -> Callable[[Any], None]:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, disable=not (self.shown and console.is_terminal), transient=True)
        self.bar.start()
        task = self.bar.add_task("compare", total=self.total)
        return lambda _: self.bar.advance(task)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


COMMANDS = (compare,)
