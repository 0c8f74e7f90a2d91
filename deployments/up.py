"""`quarterdeck up`, `down`, `worker` and `deploy`: everything on this machine with one command."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import psutil

from deployments import up_state
from deployments.supervisor import Supervisor
from deployments.up_state import FirstCycle, UpState
from flows.commands.output import echo, emit
from infra.door import PAGE
from tasks.adapters import secret
from tasks.core.errors import InputError, VenueUnavailable
from tasks.settings import Settings

STOP_S = 60.0


def up(settings: Settings, *, once: bool, detach: bool, yes_live: bool, as_json: bool) -> int:
    """Start the services, run a first cycle, and stay until told to stop; returns the exit code."""
    if once and detach:
        raise InputError("--once and --detach: one stops after the first cycle, the other keeps running; choose one")
    if settings.profile == "live":
        _arm(settings, yes_live)
    elif settings.profile == "paper":
        asyncio.run(_look_up(settings))
    if detach:
        return _detached(settings, as_json)
    supervisor = Supervisor(settings)
    ended = _carried_out(supervisor, lambda: _up(supervisor, once, as_json))
    return int(once or not supervisor.state.first_cycle) if ended is None else ended


def down(home: Path) -> str:
    """Stop what runs with this HOME; returns what there was to stop."""
    now = up_state.state(home)
    if now is None:
        if home.exists():
            with up_state.claim(home):  # waits for what an `up` that was killed left behind
                pass
        return f"nothing runs with HOME {home}"
    process = psutil.Process(now.pid)
    process.terminate()
    for late in psutil.wait_procs([process], STOP_S)[1]:
        late.kill()
    return f"stopped quarterdeck (pid {now.pid}, up since {now.started_at:%Y-%m-%d %H:%M:%S} UTC)"


def work(settings: Settings) -> None:
    """Carry out runs of a server that runs elsewhere, until told to stop."""
    supervisor = Supervisor(settings, only_workers=True)
    _carried_out(supervisor, lambda: _work(supervisor))


def deploy(settings: Settings, *, reset: bool) -> None:
    """Create or refresh pool, deployments and automations on a server that runs already."""
    up_state.make_home(settings.home)
    supervisor = Supervisor(settings, only_workers=True)
    asyncio.run(supervisor.deploy(reset=reset))


def _arm(settings: Settings, yes_live: bool) -> None:
    """Show whose account it is and what may be lost; start nothing that was not confirmed."""
    from tasks.adapters.venue import arming

    lines = [f"LIVE, with real money: {asyncio.run(arming.examine(settings))}", *arming.terms(settings)]
    echo("\n".join(lines), err=True)
    if yes_live:
        return
    if not sys.stdin.isatty():
        raise InputError("profile live asks before it starts: run `up` in a terminal, or add --yes-live")
    if not click.confirm("Trade on this account?", err=True):
        raise click.exceptions.Exit(1)


async def _look_up(settings: Settings) -> None:
    """Start nothing for symbols that the venue does not list; one that does not answer now may do so later."""
    from tasks.adapters.venue.ccxt_venue import connect

    venue = connect(settings)
    try:
        with suppress(VenueUnavailable):
            for symbol in settings.all_symbols:
                await venue.instrument(symbol)
    finally:
        await venue.close()


def _carried_out(supervisor: Supervisor, story: Callable[[], Coroutine[Any, Any, int | None]]) -> int | None:
    """Be the one `up` of this HOME until the story ends or a signal comes, and leave none of it; None after one."""

    async def to_the_end() -> int | None:
        task = asyncio.ensure_future(story())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            with suppress(asyncio.CancelledError):
                return await task
            return None
        finally:
            supervisor.board.say("stopping")
            supervisor.stop()
            supervisor.board.say("stopped")

    with up_state.claim(supervisor.settings.home):
        return asyncio.run(to_the_end())


async def _up(supervisor: Supervisor, once: bool, as_json: bool) -> int | None:
    await supervisor.start()
    watch = asyncio.create_task(supervisor.watch_over())
    done = await supervisor.first_cycle()
    await supervisor.shown()
    _report(supervisor.settings, supervisor.state, done, as_json)
    if once:
        watch.cancel()
        return int(not done.ok)
    if sys.stdin.isatty():  # where there is a Ctrl to press
        supervisor.board.say("Ctrl-C or `quarterdeck down` stops it")
    await watch
    return 0


async def _work(supervisor: Supervisor) -> None:
    await supervisor.start()
    supervisor.board.say(f"works for {supervisor.settings.prefect_api_url}; Ctrl-C stops it")
    await supervisor.watch_over()


def _report(settings: Settings, now: UpState, first: FirstCycle, as_json: bool) -> None:
    """Print the addresses (of pages with the secret that opens them), what the first cycle did and what took the time.

    JSON goes where it may be kept: its addresses are bare.
    """
    urls = {name: service.url for name, service in now.services.items() if service.url}
    if as_json:
        facts = {"home": settings.home, "profile": now.profile, "urls": urls}
        emit(facts | {"first_cycle": first, "seconds": now.seconds}, True)
        return
    key = f"{PAGE}#{quote(secret.read(settings.home), safe=':')}"
    shown = {name: url + key * (name in ("prefect", "mlflow")) for name, url in urls.items()}
    lines = [*(f"{name:<8} {url}" for name, url in shown.items()), f"first cycle {first.state} {first.message}".strip()]
    lines += first.cycles if first.ok else [f"its log: {now.services['worker'].log}"]
    seconds = "  ".join(f"{name} {took}" for name, took in now.seconds.items())
    echo("\n".join([*lines, f"seconds  {seconds}"]))


def _detached(settings: Settings, as_json: bool) -> int:
    """Start `up` in a session of its own, show its lines until it is up, and leave it there."""
    with up_state.claim(settings.home):  # raises, saying who runs
        pass
    log = settings.home / "logs" / "supervisor.log"
    command = [sys.executable, "-m", "deployments.cli", "up", *["--yes-live"] * (settings.profile == "live")]
    with log.open("ab") as out, log.open(errors="replace") as lines:
        lines.seek(0, os.SEEK_END)
        child = subprocess.Popen(  # noqa: S603  (our own module)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out, start_new_session=True
        )
        while True:
            code, now = child.poll(), up_state.read(settings.home)
            click.echo(lines.read(), nl=False, err=True)
            if code is not None:
                return code or 1
            if now and now.pid == child.pid and now.first_cycle:
                _report(settings, now, now.first_cycle, as_json)  # the log is not told the secret
                echo("`quarterdeck down` stops it", err=True)
                return int(not now.first_cycle.ok)
            time.sleep(0.2)
