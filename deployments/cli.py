"""The `quarterdeck` command. With --json it prints one JSON document on stdout; logs go to stderr.

Exit codes: 0 done, 2 the user's input was wrong (one line says what), 1 the system failed. Commands import what they
need when they run: the tree itself must be there at once.
"""

import asyncio
import getpass
import logging
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before any import: litellm hangs without a network

import click

from flows.commands import backtest, compare, guard, learning, prompts, replay, snapshot
from flows.commands.options import PLACE, Finite, decider_option, json_option, time_option
from flows.commands.output import echo, emit, say
from tasks.core.errors import InputError, TradingError
from tasks.redaction import guard_logs, redacted
from tasks.settings import ROOT, Settings, load


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="logs on stderr")
def cli(verbose: bool) -> None:
    """An LLM on the quarterdeck of a crypto trading system: the model asks, the guard disposes."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    logging.getLogger("quarterdeck").setLevel(logging.INFO if verbose else logging.WARNING)


for part in (snapshot, guard, backtest, compare, replay, prompts, learning):
    for command in part.COMMANDS:
        cli.add_command(command)


# --- the system on this machine


def _installed() -> Settings:
    """Return the settings as read at the installation's root, where the processes that are started run too."""
    os.chdir(ROOT)
    return load()


@cli.command()
@click.option("--profile", help="sandbox, paper, testnet or live; default: QUARTERDECK_PROFILE")
@click.option("--once", is_flag=True, help="stop after the first cycle; exit 0 if it completed")
@click.option("--detach", is_flag=True, help="come back when it is up, and leave it running")
@click.option("--yes-live", is_flag=True, envvar="QUARTERDECK_YES_LIVE", help="profile live: confirm it beforehand")
@json_option
def up(profile: str | None, **options: bool) -> int:
    """Start everything and run a first cycle; Ctrl-C stops it."""
    from deployments.up import up as start

    if profile:
        os.environ["QUARTERDECK_PROFILE"] = profile
    return start(_installed(), **options)


@cli.command()
@json_option
def down(as_json: bool) -> None:
    """Stop what `up` started with this HOME."""
    from deployments.up import down as stop

    done = stop(_installed().home)
    say(done, as_json, result=done)


@cli.command()
def worker() -> None:
    """Carry out runs of a Prefect server that runs elsewhere: a warm daemon and QUARTERDECK_WORKERS workers."""
    from deployments.up import work

    work(_installed())


@cli.command()
def deploy() -> None:
    """Create or refresh the work pool and every deployment on the Prefect server."""
    from deployments.up import deploy as refresh

    refresh(_installed())


@cli.command()
@json_option
def migrate(as_json: bool) -> None:
    """Bring the store's tables up to this release; every other command waits for nothing else."""
    from deployments.supervisor import migrate as bring_up

    bring_up(_installed())
    say("the store is of this release", as_json, migrated=True)


@cli.command()
@click.argument("archive", type=PLACE)
@json_option
def backup(archive: Path, as_json: bool) -> None:
    """Save all state to ARCHIVE (.tar.gz); the system may be running."""
    from deployments.backup import backup as save

    archive = archive.absolute()  # not resolved: a link in its place is refused, not followed
    saved = save(_installed(), archive)
    say(f"{archive}: {', '.join(saved)}", as_json, archive=archive, saved=saved)


@cli.command()
@click.argument("archive", type=click.Path(path_type=Path, resolve_path=True))
@json_option
def restore(archive: Path, as_json: bool) -> None:
    """Bring back what `backup` saved, into an empty HOME and empty databases."""
    from deployments import up_state
    from deployments.backup import restore as bring_back

    now = _installed()
    up_state.make_home(now.home)
    restored = bring_back(now, archive)
    say(f"{now.home}: {', '.join(restored)}", as_json, home=now.home, restored=restored)


@cli.command()
@click.option("--host", default="127.0.0.1", help="0.0.0.0 only where a network keeps others out")
@click.option("--port", type=click.IntRange(1, 65535), default=9464)
def metrics(host: str, port: int) -> None:
    """Serve Prometheus metrics of the store; where HOME has a secret, to who knows it."""
    from prometheus_client import CollectorRegistry, make_asgi_app

    from infra.door import NEAR, Door
    from infra.sandbox.server import listen, uvicorn_server
    from tasks.adapters import secret
    from tasks.adapters.metrics import Exporter

    now, registry = _installed(), CollectorRegistry()
    registry.register(Exporter(now.store_url, now.strategy, now.budget))
    listener, known = listen(port, host), secret.of_home(now.home)
    echo(f"http://{host}:{port}/metrics of strategy {now.strategy}; Ctrl-C stops it", err=True)
    door = Door(make_asgi_app(registry), secret=known, any_name=host not in NEAR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        uvicorn_server(door).run(sockets=[listener])


@cli.command()
@json_option
def status(as_json: bool) -> None:
    """Show what runs, what was decided and what is open."""
    from deployments.status import status as look

    report = look(_installed())
    if not as_json and report["last_cycle"]:
        report["last_cycle"] = report["last_cycle"]["summary"]
    emit(report, as_json)


@cli.command()
@click.option("--trial", is_flag=True, help="On a demo: enter, move the stop, find the order and close, smallest size.")
@json_option
def doctor(trial: bool, as_json: bool) -> int:
    """Check everything `up` needs and say the remedy; exit 1 if something fails."""
    from deployments import doctor as doctors

    def tell(check: doctors.Diagnosis) -> None:
        if not as_json:
            echo(str(check))

    if trial:
        checks = doctors.trial(_installed(), tell)
    else:
        checks = doctors.diagnose(_installed())
        for check in checks:
            tell(check)
    failed = any(each.result == "fail" for each in checks)
    if as_json:
        emit({"ok": not failed, "checks": checks}, True)
    return int(failed)


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> int:
    """Run the local exchange: sandbox [--candles SYMBOL=FILE ...] [--speed X] [--stepped] [--port N]."""
    from infra.sandbox.server import main as serve

    return serve(arguments)


# --- one story here and now


@cli.command()
@click.option("--symbol", required=True)
@decider_option
@time_option("--as-of", help="ISO time; the 5m close the cycle is about")
@click.option("--dry-run", is_flag=True, help="go as far as the guard, send nothing")
@click.option("--reason", default="asked on the command line")
@json_option
def cycle(symbol: str, as_json: bool, **options: Any) -> None:
    """One cycle here and now, no server needed."""
    from flows.clock import to_the_end
    from flows.cycle import Request
    from flows.trade import run_cycles
    from tasks.core.pages.decision import summary_line

    [record] = asyncio.run(to_the_end(run_cycles(Request(symbols=(symbol,), **options))))
    emit(record, True) if as_json else echo(summary_line(record))


@cli.command()
@click.option("--hours", type=Finite(0), required=True, help="how much of the sandbox's time")
@json_option
def step(hours: float, as_json: bool) -> None:
    """Step a `sandbox --stepped` through time: watch, trade, protect and settle at each 5m close."""
    from flows.clock import to_the_end
    from flows.step import step as through
    from tasks.core.pages.decision import summary_line

    def show(record: Any) -> None:
        if record.decided is not None and not as_json:
            echo(summary_line(record))

    emit(asyncio.run(to_the_end(through(hours, show))), as_json)


@cli.command()
@click.option("--venue", "name", default="", help="ccxt id; default: the profile's")
@click.option("--symbol", required=True)
@click.option("--timeframe", required=True)
@time_option("--since", required=True, help="ISO time, UTC")
@json_option
def ingest(name: str, symbol: str, timeframe: str, since: datetime, as_json: bool) -> None:
    """Backfill and repair stored candles from a venue."""
    from flows.ingest import ingest as fetch_bars

    emit(asyncio.run(fetch_bars.fn(symbol, timeframe, since, name)), as_json)


@cli.command()
@click.option("--reason", default="by hand")
@click.option("--flatten", is_flag=True, help="close our positions too: `protect` does it at its next run")
@json_option
def halt(reason: str, flatten: bool, as_json: bool) -> None:
    """Stop new entries at once; protection and exits go on.

    A file HOME/HALT or a Prefect variable quarterdeck_halt does the same, its text is the reason.
    """
    from tasks.connections import store

    emit(store().halts.add(reason, getpass.getuser(), datetime.now(UTC), flatten), as_json)


@cli.command()
@json_option
def resume(as_json: bool) -> None:
    """Lift every halt and say which; a file or variable that still says halt is named and halts again."""
    from tasks import halts
    from tasks.connections import store

    halts.active_halts()  # what a file or variable asked for meanwhile is lifted, and so listed, too
    resumed = store().halts.resume(getpass.getuser(), datetime.now(UTC))
    still = [{"who": who, "reason": reason} for who, reason in halts.switches(fresh=True).items()]
    emit({"resumed": resumed, "still_halted_by": still}, as_json)
    for switch in still:
        echo(f"still halted: {switch['who']} says {switch['reason']!r}; remove it and resume again", err=True)


@cli.command()
def mcp() -> None:
    """Serve the read-only data tools of `llm:tools` to an MCP client, over stdio."""
    from flows.commands.mcp import serve

    asyncio.run(serve())


def main() -> None:
    """Run the command; every failure is one line. What it writes, and what it starts writes, is its owner's alone."""
    os.umask(0o077)
    guard_logs()
    try:
        sys.exit(cli.main(prog_name="quarterdeck", standalone_mode=False))
    except click.Abort:
        _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        sys.exit(2)
    except click.ClickException as e:
        _fail(e.format_message(), 2)
    except InputError as e:
        _fail(str(e), 2)
    except (TradingError, OSError) as e:
        _fail(f"{type(e).__name__}: {e}", 1)


def _fail(message: str, code: int) -> None:
    echo(f"quarterdeck: {redacted(' '.join(message.split()))}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
