"""`quarterdeck up`, `down`, `status` and `doctor`: everything on this machine with one command.

Exit codes: 0 done, 2 the user's input was wrong (one line says what), 1 the system failed.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import psutil

from deployments import state
from deployments.machine import Machine
from deployments.progress import Board
from deployments.state import UpState
from flows.output import emit
from tasks.core.errors import InputError, TradingError
from tasks.settings import Settings, load

STOP_S = 60.0
json_option = click.option("--json", "as_json", is_flag=True, help="print one JSON document on stdout")


@click.group()
def cli() -> None:
    """Run everything on this machine."""


@cli.command()
@click.option("--profile", help="sandbox, paper, testnet or live; default: QUARTERDECK_PROFILE")
@click.option("--once", is_flag=True, help="stop after the first cycle; exit 0 if it completed")
@click.option("--detach", is_flag=True, help="come back when it is up, and leave it running")
@click.option("--yes-live", is_flag=True, envvar="QUARTERDECK_YES_LIVE", help="profile live: confirm it beforehand")
@json_option
def up(profile: str | None, once: bool, detach: bool, yes_live: bool, as_json: bool) -> int:
    """Start the services and run a first cycle; Ctrl-C stops everything."""
    if once and detach:
        raise InputError("--once and --detach: one stops after the first cycle, the other keeps running; choose one")
    if profile:
        os.environ["QUARTERDECK_PROFILE"] = profile
    settings = load()
    _arm(settings, yes_live)
    _make_home(settings)
    if detach:
        return _detached(settings, as_json)
    with state.claim(settings.home):
        return asyncio.run(_up(settings, once=once, as_json=as_json))


def _arm(settings: Settings, yes_live: bool) -> None:
    """Profile live: say whose account it is and what may be lost, and start nothing that was not confirmed."""
    if settings.profile != "live":
        return
    from tasks.adapters.venue import arming

    lines = [f"LIVE, with real money: {asyncio.run(arming.examine(settings))}", *arming.terms(settings)]
    click.echo("\n".join(lines), err=True)
    if yes_live:
        return
    if not sys.stdin.isatty():
        raise InputError("profile live asks before it starts: run `up` in a terminal, or add --yes-live")
    click.confirm("Trade on this account?", abort=True, err=True)


def _make_home(settings: Settings) -> None:
    try:
        (settings.home / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"QUARTERDECK_HOME={settings.home} cannot be created: {e.strerror}") from e


async def _up(settings: Settings, *, once: bool, as_json: bool) -> int:
    board = Board()
    machine = Machine(settings, board)
    _cancel_on_signals()
    try:
        with board.live():
            await machine.start()
            watch = asyncio.create_task(machine.watch_over())
            done = await machine.first_cycle()
        _report(settings, machine.state, as_json)
        if once:
            watch.cancel()
            return 0 if done.ok else 1
        board.say("Ctrl-C or `quarterdeck down` stops it")
        await watch
    except asyncio.CancelledError:
        return 0 if machine.state.first_cycle and not once else 1
    finally:
        board.say("stopping")
        machine.stop()
        board.say("stopped")
    return 0


def _cancel_on_signals() -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel if task else loop.stop)


def _report(settings: Settings, now: UpState, as_json: bool) -> None:
    """Say where everything is, what the first cycle did and where the time went."""
    urls = {name: service.url for name, service in now.services.items() if service.url}
    if as_json:
        emit({"home": settings.home, "profile": now.profile, "urls": urls, "first_cycle": now.first_cycle,
              "seconds": now.seconds}, True)  # fmt: skip
        return
    first = now.first_cycle
    lines = [f"{name:<8} {url}" for name, url in urls.items()]
    if first:
        said = f": {first.message}" if first.message and not first.ok else ""
        lines.append(f"first cycle {first.state}{said}")
        lines += first.cycles
        lines += [] if first.ok else [f"its log: {now.services['worker'].log}"]
    lines.append("seconds  " + "  ".join(f"{name} {seconds}" for name, seconds in now.seconds.items()))
    click.echo("\n".join(lines))


def _detached(settings: Settings, as_json: bool) -> int:
    """Start `up` in a session of its own, show its lines until it is up, and leave it there."""
    if state.running(settings.home):
        with state.claim(settings.home):  # raises, saying who runs
            pass
    log = settings.home / "logs" / "supervisor.log"
    flags = (*(("--json",) if as_json else ()), *(("--yes-live",) if settings.profile == "live" else ()))
    command = (sys.executable, "-m", "deployments.supervisor", "up", *flags)
    with log.open("ab") as out:
        start = out.tell()
        child = subprocess.Popen(  # noqa: S603  (our own module)
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    while child.poll() is None:
        start = _show(log, start)
        now = state.read(settings.home)
        if now and now.pid == child.pid and now.first_cycle:
            _show(log, start)
            if as_json:
                _report(settings, now, as_json)
            return 0 if now.first_cycle.ok else 1
        time.sleep(0.2)
    _show(log, start)
    return child.returncode or 1


def _show(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        new = file.read()
    click.echo(new.decode(errors="replace"), nl=False, err=True)
    return start + len(new)


@cli.command()
def down() -> int:
    """Stop what `up` started with this HOME."""
    home = load().home
    now = state.running(home)
    if now is None:
        if home.exists():
            with state.claim(home):  # waits for what an `up` that was killed left behind
                pass
        click.echo(f"nothing runs with HOME {home}")
        return 0
    process = psutil.Process(now.pid)
    process.terminate()
    try:
        process.wait(STOP_S)
    except psutil.TimeoutExpired:
        process.kill()
    click.echo(f"stopped quarterdeck (pid {now.pid}, up since {now.started_at:%Y-%m-%d %H:%M:%S} UTC)")
    return 0


@cli.command()
def worker() -> int:
    """Carry out runs of a Prefect server that runs elsewhere: a warm daemon and QUARTERDECK_WORKERS workers."""
    settings = load()
    _make_home(settings)
    with state.claim(settings.home):
        return asyncio.run(_work(settings))


async def _work(settings: Settings) -> int:
    board = Board()
    machine = Machine(settings, board, only_workers=True)
    _cancel_on_signals()
    try:
        with board.live():
            await machine.start()
        board.say(f"works for {settings.prefect_api_url}; Ctrl-C stops it")
        await machine.watch_over()
    except asyncio.CancelledError:
        return 0
    finally:
        machine.stop()
        board.say("stopped")
    return 0


@cli.command()
def migrate() -> int:
    """Bring the store's tables up to this release; every other command waits for nothing else."""
    from tasks.adapters.store.store import Store

    store = Store(load().store_url)
    try:
        store.migrate()
    finally:
        store.close()
    click.echo("the store is of this release")
    return 0


@cli.command()
def deploy() -> int:
    """Create or refresh the work pool and every deployment on the Prefect server."""
    settings = load()
    _make_home(settings)
    board = Board()

    async def once() -> None:
        with board.live():
            await Machine(settings, board, only_workers=True).deploy()

    asyncio.run(once())
    return 0


@cli.command()
@click.argument("archive", type=click.Path(path_type=Path))
def backup(archive: Path) -> int:
    """Save all state to ARCHIVE (.tar.gz); the system may be running."""
    from deployments.backup import backup as save

    click.echo(f"{archive}: {', '.join(save(load(), archive.absolute()))}")
    return 0


@cli.command()
@click.argument("archive", type=click.Path(path_type=Path))
def restore(archive: Path) -> int:
    """Bring back what `backup` saved, into an empty HOME and empty databases."""
    from deployments.backup import restore as bring_back

    settings = load()
    _make_home(settings)
    click.echo(f"{settings.home}: {', '.join(bring_back(settings, archive))}")
    return 0


@cli.command()
@click.option("--host", default="127.0.0.1", help="0.0.0.0 only where a network keeps others out: there is no login")
@click.option("--port", type=click.IntRange(1, 65535), default=9464)
def metrics(host: str, port: int) -> int:
    """Serve Prometheus metrics of the store."""
    from prometheus_client import CollectorRegistry, start_http_server

    from tasks.adapters.metrics import Exporter

    settings, registry = load(), CollectorRegistry()
    registry.register(Exporter(settings.store_url, settings.strategy, settings.budget))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as e:
        raise InputError(f"--host {host} --port {port}: {e.strerror}; give another port") from e
    click.echo(f"http://{host}:{port}/metrics of strategy {settings.strategy}; Ctrl-C stops it", err=True)
    signal.signal(signal.SIGTERM, lambda *_: server.shutdown())
    with suppress(KeyboardInterrupt):
        thread.join()
    return 0


@cli.command("status")
@json_option
def show_status(as_json: bool) -> int:
    """Say what runs, what was decided and what is open."""
    from deployments.status import status

    found = status(load())
    if not as_json and found["last_cycle"]:
        found["last_cycle"] = found["last_cycle"]["summary"]
    emit(found, as_json)
    return 0


@cli.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check everything `up` needs and say the remedy; exit 1 if something fails."""
    from deployments.doctor import examine

    found = examine(load())
    if as_json:
        emit({"ok": not any(check.failed for check in found), "checks": found}, True)
    else:
        for check in found:
            click.echo(
                f"{check.result:<5} {check.name:<14} {check.detail}" + (f"; {check.remedy}" if check.remedy else "")
            )
    return 1 if any(check.failed for check in found) else 0


def main() -> None:
    try:
        code = cli(prog_name="quarterdeck", standalone_mode=False)
    except click.ClickException as e:
        e.show()
        code = 2
    except InputError as e:
        click.echo(f"quarterdeck: {e}", err=True)
        code = 2
    except TradingError as e:
        click.echo(f"quarterdeck: {e}", err=True)
        code = 1
    except (click.Abort, KeyboardInterrupt):
        code = 1
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
