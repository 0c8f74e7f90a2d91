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

from flows import offline
from flows.offline import json_option
from flows.output import emit, utc_time
from tasks.core.errors import InputError, TrackingUnavailable, TradingError
from tasks.settings import ROOT, settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="logs on stderr")
def cli(verbose: bool) -> None:
    """An LLM on the quarterdeck of a crypto trading system: the model asks, the guard disposes."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("quarterdeck").setLevel(logging.INFO if verbose else logging.WARNING)


for command in offline.COMMANDS:
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
    from tasks.core.evaluation.explain import summary_line

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
    from tasks.core.evaluation.explain import summary_line

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
@json_option
def halt(reason: str, as_json: bool) -> None:
    """Stop new entries at once; protection and exits go on."""
    from tasks.connections import store

    emit(store().halt(reason, _who(), datetime.now(UTC)), as_json)


@cli.command()
@json_option
def resume(as_json: bool) -> None:
    """Lift every halt and say which."""
    from tasks.connections import store

    emit({"resumed": store().resume(_who(), datetime.now(UTC))}, as_json)


@cli.command()
def mcp() -> None:
    """Serve the read-only data tools of `llm:tools` to an MCP client, over stdio."""
    from flows.mcp import serve

    serve()


def _who() -> str:
    import getpass

    return getpass.getuser()


@cli.group()
def prompts() -> None:
    """Prompt versions."""


@prompts.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Every prompt file with its version, hash and aliases."""
    from tasks.adapters.prompts import aliases, list_prompts

    known = aliases()
    for prompt in list_prompts():
        named = sorted(alias for alias, version in known.get(prompt.name, {}).items() if version == prompt.version)
        if as_json:
            row = {"name": prompt.name, "version": prompt.version, "sha256": prompt.sha256, "aliases": named}
            emit(row, as_json=True)
        else:
            click.echo(f"{prompt.name:<12} {prompt.version}  {prompt.sha256[:12]}  {' '.join(named)}".rstrip())


@prompts.command()
def sync() -> None:
    """Register every prompt file in MLflow, in order, and set its aliases as they are here.

    MLflow counts versions itself: the file's version and hash are tags. A file that differs from what was registered
    under its version is refused.
    """
    from tasks.adapters.prompts import aliases, list_prompts, load_prompt
    from tasks.connections import tracker

    mirror = tracker()
    if mirror is None:
        raise InputError("QUARTERDECK_MLFLOW_URL is empty: there is nothing to sync to")
    for prompt in list_prompts():
        version = mirror.register_prompt(prompt)
        click.echo(f"{prompt.name} {prompt.version} is MLflow version {version}")
    for role, named in aliases().items():
        for alias, file_version in named.items():
            mirror.set_prompt_alias(load_prompt(role, file_version), alias)
            click.echo(f"{role} {alias} is {file_version}")


@prompts.command()
@click.argument("role")
@click.argument("old")
@click.argument("new")
def diff(role: str, old: str, new: str) -> None:
    """What changed between two versions of a role's prompt; OLD and NEW may be aliases."""
    from tasks.adapters.prompts import diff_prompts

    click.echo(diff_prompts(role, old, new) or f"{role}: {old} and {new} are the same")


@prompts.command()
@click.argument("role")
@click.argument("version")
@click.option("--alias", type=click.Choice(["champion", "challenger"]), required=True)
@json_option
def promote(role: str, version: str, alias: str, as_json: bool) -> None:
    """Let an alias name this version: live runs use the champion, and the latest where there is none.

    This moves the alias, in HOME/prompts.json and in MLflow. It does not ask yet for evidence that the version is
    better: compare before you promote. Going back is promoting the earlier version.
    """
    from tasks.adapters.prompts import load_prompt, set_alias
    from tasks.connections import tracker

    prompt, mirror = load_prompt(role, version), tracker()
    registered = None
    if mirror is not None:
        try:
            registered = mirror.set_prompt_alias(prompt, alias)
        except TrackingUnavailable as e:
            click.echo(f"not in MLflow yet, `quarterdeck prompts sync` does that later: {e}", err=True)
    set_alias(prompt, alias)
    emit({"role": role, "alias": alias, "version": prompt.version, "mlflow_version": registered}, as_json)


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
