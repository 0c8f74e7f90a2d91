"""The `quarterdeck` command. With --json it prints one JSON document on stdout; logs go to stderr.

Exit codes: 0 done, 2 the user's input was wrong (one line says what), 1 the system failed. Commands import what they
need when they run: the tree itself must be there at once.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # before any import: litellm hangs without a network
os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect would say amid a command's output what it reports, and report it

import click

from flows.commands import backtest, compare, guard, learning, moments, prompts, replay, snapshot
from flows.commands.options import PLACE, Finite, json_option, time_option
from flows.commands.output import echo, emit, say, show
from tasks.core.errors import InputError, TradingError
from tasks.redaction import guard_logs, redacted
from tasks.settings import ROOT, Settings, load, settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="logs on stderr")
def cli(verbose: bool) -> None:
    """An LLM on the quarterdeck of a crypto trading system: the model asks, the guard disposes."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    logging.getLogger("quarterdeck").setLevel(logging.INFO if verbose else logging.WARNING)


for part in (snapshot, guard, backtest, compare, replay, moments, prompts, learning):
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
@click.option("--reset", is_flag=True, help="put back what was set in Prefect; added deployments stay")
def deploy(reset: bool) -> None:
    """Create or refresh the work pool and every deployment on the Prefect server; what was set there stays."""
    from deployments.up import deploy as refresh

    refresh(_installed(), reset=reset)


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
    """Serve Prometheus metrics of the store, and the desk; where HOME has a secret, to who knows it."""
    from prometheus_client import CollectorRegistry, make_asgi_app
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, RedirectResponse
    from starlette.routing import Mount, Route

    from infra.door import NEAR, PAGE, Door
    from infra.sandbox.server import listen, uvicorn_server
    from tasks import desk
    from tasks.adapters import secret
    from tasks.adapters.charts.comparison_report import page_of
    from tasks.adapters.metrics import Exporter

    async def show(_: Request) -> HTMLResponse:
        return HTMLResponse(page_of("desk.html.j2", desk=await desk.read(await desk.now())))

    now, registry = _installed(), CollectorRegistry()
    budgets = {each.strategy: each.budget for each in now.every()}
    registry.register(Exporter(now.store_url, budgets))
    listener, known = listen(port, host), secret.of_home(now.home)
    echo(f"http://{host}:{port}/desk and /metrics of strategy {', '.join(budgets)}; Ctrl-C stops it", err=True)
    if known:
        echo(f"a browser enters by http://{host}:{port}{PAGE}# followed by what {now.home}/secret holds", err=True)
    first = Route("/", lambda _: RedirectResponse("/desk"))  # where the page that takes the secret leads
    app = Starlette(routes=[first, Route("/desk", show), Mount("/", make_asgi_app(registry))])
    door = Door(app, secret=known, any_name=host not in NEAR)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        uvicorn_server(door).run(sockets=[listener])


@cli.command()
@json_option
def status(as_json: bool) -> None:
    """Show what runs, what was decided and what is open."""
    from deployments import in_force
    from deployments.status import shown
    from deployments.status import status as look

    os.chdir(ROOT)
    report = look(in_force.adopt())
    if as_json:
        emit(report, True)
    else:
        show(shown(report))


@cli.command()
@click.option("--trial", is_flag=True, help="On a demo: enter, move the stop, find the order and close, smallest size.")
@json_option
def doctor(trial: bool, as_json: bool) -> int:
    """Check everything `up` needs and say the remedy; exit 1 if something fails."""
    from deployments import doctor as doctors

    def tell(check: doctors.Diagnosis) -> None:
        if not as_json:
            show([check])

    if trial:
        checks = doctors.trial(_installed(), tell)
    else:
        from deployments import in_force

        os.chdir(ROOT)
        checks = doctors.diagnose(in_force.adopt())
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
@click.option("--symbol", required=True, help="the strategy is the one that has it")
@click.option("--decider", default="", help="rules, hold, llm:single, llm:single@v002, recorded:FILE")
@time_option("--as-of", help="ISO time; the 5m close the cycle is about")
@click.option("--dry-run", is_flag=True, help="go as far as the guard, send nothing")
@click.option("--reason", default="asked on the command line")
@json_option
def cycle(symbol: str, decider: str, as_json: bool, **options: Any) -> None:
    """One cycle here and now, no server needed."""
    from flows.clock import to_the_end
    from flows.cycle import Request
    from flows.trade import run_cycles
    from tasks.core.pages.decision import summary_line

    account = settings.account
    with settings.of(next((each for each in account.every() if symbol in each.symbols), account)) as chosen:
        request = Request(symbols=(symbol,), decider=decider or chosen.decider_name, **options)
        [record] = asyncio.run(to_the_end(run_cycles(request)))
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
    _by_hand(as_json, lambda by_hand, who: by_hand.halt(reason, flatten, who))


@cli.command()
@json_option
def resume(as_json: bool) -> None:
    """Lift every halt and say which; a file or variable that still says halt is named and halts again."""
    for switch in _by_hand(as_json, lambda by_hand, who: by_hand.resume(who))["still_halted_by"]:
        echo(f"still halted: {switch['who']} says {switch['reason']!r}; remove it and resume again", err=True)


@cli.command()
@click.argument("symbol")
@click.option("--share", default="100", help="percent of the position")
@json_option
def close(symbol: str, share: str, as_json: bool) -> None:
    """Close our position in SYMBOL at market, or a share of it; nothing else need run."""
    _by_hand(as_json, lambda by_hand, who: by_hand.close(symbol, share, who))


@cli.command()
@click.argument("cycle")
@click.option("--share", default="100", help="percent of an entry's size")
@click.option("--refuse", is_flag=True, help="send nothing")
@json_option
def approve(cycle: str, share: str, refuse: bool, as_json: bool) -> None:
    """Say that a proposed decision is sent, less of it, or nothing; `status` and the alert name the cycle."""
    from flows.approve import answer

    async def answered(by_hand: Any, who: str) -> dict[str, Any]:
        done = await answer(cycle, who, Decimal(0) if refuse else by_hand.number(share, "share"))
        return {name: getattr(done, name) for name in ("symbol", "cycle_id", "status", "approval", "orders", "error")}

    _by_hand(as_json, answered)


@cli.command("move-stop")
@click.argument("symbol")
@click.argument("to", metavar="PRICE|breakeven")
@json_option
def move_stop(symbol: str, to: str, as_json: bool) -> None:
    """Tighten the stop of our position in SYMBOL."""
    _by_hand(as_json, lambda by_hand, who: by_hand.move_stop(symbol, to, who))


@cli.command()
@click.argument("symbol")
@click.option("--minutes", type=int, default=60, show_default=True)
@json_option
def pause(symbol: str, minutes: int, as_json: bool) -> None:
    """Allow no new entries in SYMBOL for a while; exits and protection go on."""
    _by_hand(as_json, lambda by_hand, who: by_hand.pause(symbol, minutes, who))


@cli.command()
@json_option
def positions(as_json: bool) -> None:
    """Show what is open, what it is worth now, and why it was opened."""
    from deployments import in_force
    from flows.clock import to_the_end
    from tasks import desk
    from tasks.adapters.store import exists
    from tasks.core.pages.desk import positions_table

    s = in_force.adopt()
    about = in_force.named(s)
    if not exists(s.store_url):
        say(f"HOME {s.home}: there is no database, so nothing is open", as_json, positions=[], **about)
        return

    async def look() -> tuple[Any, datetime]:
        return await desk.positions(), await desk.now()

    open_now, at = asyncio.run(to_the_end(look()))
    if as_json:
        emit({"positions": [each.document(at) for each in open_now], **about}, True)
        return
    table = positions_table(open_now, at)
    echo("{profile}, strategy {strategy}, HOME {home}: {system}".format_map(about))
    links = [f"{each.position.symbol} {each.link}" for each in open_now if each.link]
    columns = zip(table.head, *table.rows, strict=True)
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    for row in (table.head, *table.rows) if open_now else (("no open positions",),):
        echo("  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip())
    for link in links:
        echo(link)


def _by_hand(as_json: bool, asked: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Carry out what this shell's user asks of the system there is, and print what was done, where and for whom."""
    from deployments import in_force
    from flows.clock import to_the_end
    from tasks import by_hand

    s = in_force.adopt_with_database()
    done = asked(by_hand, by_hand.asker())
    if asyncio.iscoroutine(done):
        done = asyncio.run(to_the_end(done))
    about = in_force.named(s)
    emit({**done, **about, "strategy": done.get("strategy", about["strategy"])}, as_json)
    return done


@cli.command()
def mcp() -> None:
    """Serve the read-only data tools of `llm:tools` to an MCP client, over stdio."""
    from flows.commands.mcp import serve

    asyncio.run(serve())


def main() -> None:
    """Run the command; every failure is one line. What it writes, and what it starts writes, is its owner's alone."""
    os.umask(0o077)
    gc.set_threshold(50_000, 20, 100)  # most of a command's time are imports, which leave no garbage
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
