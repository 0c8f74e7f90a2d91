"""Everything `up` starts on this machine: brought up in parallel, looked after, and taken down without a trace."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from deployments import alerting, running, schedules, services
from deployments.orchestrator import Orchestrator, PrefectError, RunState
from deployments.progress import Board
from deployments.running import FirstCycle, ServiceState, UpState
from deployments.services import Child, Service
from tasks.core.errors import TradingError
from tasks.settings import Settings

START_S = 240.0
FIRST_CYCLE_S = 600.0
LOOK_S = 0.2
SWEEP_S = 15.0  # between two looks for runs that are lost or too late
STEADY_S = 300.0  # a service that lived this long starts again at the shortest back-off
FIRST = "trade/trade-adhoc"


class StartError(TradingError):
    """A service did not come up: everything is stopped again; the message names its log."""


class Supervisor:
    """The services of one HOME. Children are started from the main thread only (see `Child.start`)."""

    def __init__(self, settings: Settings, board: Board, *, only_workers: bool = False) -> None:
        self.settings, self.board = settings, board
        self.plan = services.working_plan(settings) if only_workers else services.plan(settings)
        self.logs = settings.home / "logs"
        self.state = UpState(
            pid=os.getpid(), started_at=datetime.now(UTC), profile=settings.profile, strategy=settings.strategy
        )
        self._workers = [name for name in self.plan if name.startswith("worker")]
        self._env = services.environment(settings)
        self._children: dict[str, Child] = {}
        self._api = Orchestrator(settings.prefect_api_url, settings.home)

    async def start(self) -> None:
        """Bring everything up; raises InputError for a taken port and StartError naming a log."""
        for service in self.plan.values():
            if service.url:
                services.require_free(service)
        self._save()
        (self.settings.home / "prefect").mkdir(exist_ok=True)
        own = "prefect" in self.plan
        first = [self._healthy(service) for name, service in self.plan.items() if name != "prefect" and service.health]
        await asyncio.gather(*([self._orchestrated()] if own else []), self._migrated(), *first)
        if not own:  # runs may be waiting, and would start cold for minutes beside the imports of the warm daemon
            await self._close_lost()
            await self._working()
        self.state.phase = "up"
        self._save()

    async def _orchestrated(self) -> None:
        await self._healthy(self.plan["prefect"])
        lost, missed = await self._api.close_lost(), await self._api.close_missed()
        if lost or missed:
            self.board.say(f"closed {lost} runs of an earlier life that never ended, {missed} that were missed")
        await self._api.ensure_pool(Path.cwd())  # a worker would make one of its own
        await asyncio.gather(self.deploy(), self._working())

    async def _migrated(self) -> None:
        with self.board.step("database"):
            await asyncio.to_thread(migrate, self.settings)

    async def _healthy(self, service: Service) -> None:
        """Start a service and wait until it answers."""
        with self.board.step(service.name, service.url):
            child = self._spawn(service)
            while not await asyncio.to_thread(services.answers, service.health):
                await self._patience(child)

    async def _working(self) -> None:
        since = datetime.now(UTC)
        with self.board.step("worker"):
            for name in self._workers:
                child = self._spawn(self.plan[name])
                while not await self._api.worker_is_online(name, since):
                    await self._patience(child)

    async def deploy(self) -> None:
        """Create or refresh the pool and every deployment, on a server that runs."""
        with self.board.step("deploy"):
            await self._api.ensure_pool(Path.cwd())
            child = self._spawn(Service("deploy", services.deploy_command(schedules.write(self.settings))))
            while child.exit_code is None:
                await self._patience(child, may_end=True)
            del self._children["deploy"]
            if child.exit_code:
                raise _ended(child)
            await alerting.ensure(self._api, self.settings.alert_urls)

    def _spawn(self, service: Service) -> Child:
        child = self._children[service.name] = Child(service, self._env, self.logs)
        self._save()
        return child

    async def _patience(self, child: Child, *, may_end: bool = False) -> None:
        if child.exit_code is not None and not may_end:
            raise _ended(child)
        if time.monotonic() - child.started > START_S:
            raise StartError(f"{child.service.name} did not come up within {START_S:.0f} s; its log: {child.log}")
        await asyncio.sleep(LOOK_S)

    async def first_cycle(self) -> FirstCycle:
        """Run one trade through Prefect at once and say what it did."""
        with self.board.step("first cycle", "asking for a run") as show:
            run_id = await self._api.start_run(FIRST, {"reason": "first cycle after start", "trigger": "adhoc"})
            done = await self._followed(run_id, show)
        if done.ok:
            done.cycles = await asyncio.to_thread(_summaries, self.settings)
        self.state.first_cycle, self.state.seconds = done, self.board.seconds
        self._save()
        return done

    async def _followed(self, run_id: str, show: Callable[[str], None]) -> FirstCycle:
        now, deadline = RunState("", "Unknown", ""), time.monotonic() + FIRST_CYCLE_S
        while not now.is_final:
            if time.monotonic() > deadline:
                return FirstCycle(state="TimedOut", message=f"still {now.name} after {FIRST_CYCLE_S:.0f} s")
            with suppress(PrefectError):  # its server may just be starting again
                now = await self._api.run_state(run_id)
            show(now.name)
            await asyncio.sleep(LOOK_S)
        return FirstCycle(state=now.name, message=now.message)

    async def watch_over(self) -> None:
        """Start again what dies, and close the runs that are lost or too late, for ever."""
        await asyncio.gather(self._sweep(), *map(self._tend, list(self._children.values())))

    async def _sweep(self) -> None:
        while True:
            with suppress(PrefectError):  # it is down: what it did not hear meanwhile is closed when it is back
                await self._api.skip_late()
                await self._api.close_lost(patiently=True)
            await asyncio.sleep(SWEEP_S)

    async def _tend(self, child: Child) -> None:
        """Start a service again whenever it ends, after 1 s doubling to 60, and tell people."""
        name, delay = child.service.name, 0.5
        while True:
            while child.exit_code is None:
                await asyncio.sleep(LOOK_S)
            lived = time.monotonic() - child.started
            delay = 1.0 if lived > STEADY_S else min(60.0, 2 * delay)
            self.board.say(
                f"{name} ended after {lived:.0f} s with code {child.exit_code}: {child.last_line()}; "
                f"it starts again in {delay:.0f} s, its log: {child.log}"
            )
            text = f"{name} ended by itself with code {child.exit_code} and starts again in {delay:.0f} s"
            alert = asyncio.create_task(asyncio.to_thread(_tell, self.settings, name, text, self.board))
            await asyncio.sleep(delay)
            if name in self._workers:
                await self._close_lost()
            child.restart()
            self._save()
            await asyncio.wait([alert])

    async def _close_lost(self) -> None:
        """The worker's runs ended with it: free their slots. Prefect itself may be down too: then `_sweep` does it."""
        try:
            await self._api.skip_late()
            await self._api.close_lost()
        except PrefectError as e:
            self.board.say(f"runs of the lost worker could not be closed now: {e}")

    def stop(self) -> None:
        """End the worker and its runs, which may still report to the others; then the others."""
        workers = [self._children.pop(name) for name in self._workers if name in self._children]
        for group in (workers, list(self._children.values())):
            for child in group:
                child.stop()
            for child in group:
                child.wait()

    def _save(self) -> None:
        self.state.services = {
            name: ServiceState(pid=child.pid, url=child.service.url, health=child.service.health, log=str(child.log))
            for name, child in self._children.items()
            if name in self.plan
        }
        running.write(self.settings.home, self.state)


def _ended(child: Child) -> StartError:
    name = child.service.name
    return StartError(f"{name} ended with code {child.exit_code}: {child.last_line()}; its log: {child.log}")


def _tell(settings: Settings, name: str, text: str, board: Board) -> None:
    """Alert about a process that died, once an hour for each; directly, as Prefect's server may be the one."""
    from tasks.adapters import alerts
    from tasks.adapters.store.store import Store
    from tasks.core.types.alert import Alert, AlertKind

    alert = Alert(kind=AlertKind.DEAD, key=f"{socket.gethostname()}:{name}", text=text)
    try:
        with closing(Store(settings.store_url)) as store:
            if not store.alerts.note(alert, datetime.now(UTC)):
                return
    except TradingError as e:
        board.say(f"the alert could not be noted, it is sent all the same: {e}")
    if failed := alerts.send(settings.alert_urls, "Quarterdeck: dead", text):
        board.say(f"{failed} of {len(settings.alert_urls)} addresses did not take the alert")


def migrate(settings: Settings) -> None:
    """Bring the store's tables up to this release."""
    from tasks.adapters.store.store import Store

    with closing(Store(settings.store_url)) as store:
        store.migrate()


def _summaries(settings: Settings) -> list[str]:
    """Return the newest cycle of each symbol as one line."""
    from tasks.adapters.store.store import Store
    from tasks.core.pages.decision import summary_line

    with closing(Store(settings.store_url)) as store:
        newest = [store.cycles.last(settings.strategy, symbol) for symbol in settings.symbols]
    return [summary_line(record) for record in newest if record is not None]
