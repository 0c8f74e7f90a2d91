"""The `quarterdeck` command. With --json it prints one JSON document on stdout; logs go to stderr.

Exit codes: 0 done, 2 the user's input was wrong (one line says what), 1 the system failed.
"""

import asyncio
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before any import: litellm hangs without a network

import click

from flows import backtest, compare, guard, learning, prompts, replay, snapshot
from flows.options import json_option
from flows.output import emit, utc_time
from tasks.core.errors import InputError, TradingError
from tasks.settings import ROOT, settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="logs on stderr")
def cli(verbose: bool) -> None:
    """An LLM on the quarterdeck of a crypto trading system: the model asks, the guard disposes."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("quarterdeck").setLevel(logging.INFO if verbose else logging.WARNING)


for part in (snapshot, guard, backtest, compare, replay, prompts, learning):
    for command in part.COMMANDS:
        cli.add_command(command)


def _supervised(name: str, text: str) -> None:
    """Register a command that the supervisor carries out, in its own process: flows know nothing of deployments."""

    @cli.command(name, help=text, context_settings={"ignore_unknown_options": True, "help_option_names": []})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "deployments.supervisor", name, *arguments])  # noqa: S606  (our own interpreter)


_supervised("up", "Start everything and run a first cycle: up [--profile P] [--once] [--detach].")
_supervised("down", "Stop what `up` started.")
_supervised("worker", "Carry out runs of a Prefect server that runs elsewhere.")
_supervised("migrate", "Bring the store's tables up to this release.")
_supervised("deploy", "Create or refresh the work pool and every deployment.")
_supervised("backup", "Save all state: backup ARCHIVE.tar.gz.")
_supervised("restore", "Bring all state back into an empty HOME: restore ARCHIVE.tar.gz.")
_supervised("metrics", "Serve Prometheus metrics: metrics [--host 127.0.0.1] [--port 9464].")
_supervised("status", "What runs, what was decided, what is open.")
_supervised("doctor", "Check everything and say the remedy.")


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    """Run the local exchange: sandbox [--candles SYMBOL=FILE ...] [--speed X] [--stepped] [--port N]."""
    os.execv(sys.executable, [sys.executable, "-m", "infra.sandbox", *arguments])  # noqa: S606  (our own interpreter)


@cli.command()
@click.option("--symbol", required=True)
@click.option("--decider", default="")
@click.option("--as-of", help="ISO time; the 5m close the cycle is about")
@click.option("--dry-run", is_flag=True, help="go as far as the guard, send nothing")
@click.option("--reason", default="asked on the command line")
@json_option
def cycle(symbol: str, decider: str, as_of: str | None, dry_run: bool, reason: str, as_json: bool) -> None:
    """One cycle here and now, no server needed."""
    from flows.trade import Request, run_cycles
    from tasks.connections import venue
    from tasks.core.pages.decision import summary_line

    if symbol not in settings().symbols:
        raise InputError(f"--symbol {symbol!r}: QUARTERDECK_SYMBOLS has {', '.join(settings().symbols)}")
    request = Request(
        symbols=(symbol,), decider=decider or settings().decider_name, dry_run=dry_run, reason=reason,
        as_of=utc_time(as_of, "--as-of"),
    )  # fmt: skip

    async def once() -> Any:
        try:
            return (await run_cycles(request))[0]
        finally:
            await venue().close()

    record = asyncio.run(once())
    emit(record, True) if as_json else click.echo(summary_line(record))


@cli.command()
@click.option("--hours", type=float, required=True, help="how much of the sandbox's time")
@json_option
def step(hours: float, as_json: bool) -> None:
    """Step a `sandbox --stepped` through time: watch, trade, protect and settle at each 5m close."""
    from flows.step import step as through
    from tasks.connections import venue
    from tasks.core.pages.decision import summary_line

    def show(_: datetime, records: list[Any]) -> None:
        for record in records:
            if record.decided is not None and not as_json:
                click.echo(summary_line(record))

    async def run() -> dict[str, int]:
        try:
            return await through(hours, show)
        finally:
            await venue().close()

    emit(asyncio.run(run()), as_json)


@cli.command()
@click.option("--venue", "name", default="", help="ccxt id; default: the profile's")
@click.option("--symbol", required=True)
@click.option("--timeframe", required=True)
@click.option("--since", required=True, help="ISO time, UTC")
@json_option
def ingest(name: str, symbol: str, timeframe: str, since: str, as_json: bool) -> None:
    """Backfill and repair stored candles from a venue."""
    from flows.ingest import backfill

    emit(asyncio.run(backfill(name, symbol, timeframe, utc_time(since, "--since"))), as_json)


@cli.command()
@click.option("--reason", default="by hand")
@click.option("--flatten", is_flag=True, help="close our positions too: `protect` does it at its next run")
@json_option
def halt(reason: str, flatten: bool, as_json: bool) -> None:
    """Stop new entries at once; protection and exits go on.

    A file HOME/HALT or a Prefect variable quarterdeck_halt does the same, its text is the reason.
    """
    from tasks.connections import store

    emit(store().halts.add(reason, _who(), datetime.now(UTC), flatten), as_json)


@cli.command()
@json_option
def resume(as_json: bool) -> None:
    """Lift every halt and say which; a file or variable that still says halt is named and halts again."""
    from tasks import halts
    from tasks.connections import store

    halts.active_halts()  # what a file or variable asked for meanwhile is lifted, and so listed, too
    resumed = store().halts.resume(_who(), datetime.now(UTC))
    still = [{"who": who, "reason": reason} for who, reason in halts.switches(fresh=True).items()]
    emit({"resumed": resumed, "still_halted_by": still}, as_json)
    for switch in still:
        click.echo(f"still halted: {switch['who']} says {switch['reason']!r}; remove it and resume again", err=True)


@cli.command()
def mcp() -> None:
    """Serve the read-only data tools of `llm:tools` to an MCP client, over stdio."""
    from flows.mcp import serve

    serve()


def _who() -> str:
    import getpass

    return getpass.getuser()


def main() -> None:
    """Run the command; every failure is one line."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.exceptions.Abort:
        _fail("interrupted", 130)
    except click.ClickException as e:
        _fail(e.format_message(), 2)
    except InputError as e:
        _fail(str(e), 2)
    except TradingError as e:
        _fail(f"{type(e).__name__}: {e}", 1)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    click.echo(f"quarterdeck: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
