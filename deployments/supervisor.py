"""Everything `up` starts on this machine: brought up in parallel, looked after, and taken down without a trace."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import yaml

from deployments import automations, forms, in_force, kept, live_settings, open_positions, schedules, services, up_state
from deployments.orchestrator import FINAL, Orchestrator, PrefectError
from deployments.prefect_key import VARIABLE, prefect_key
from deployments.progress import Board
from deployments.services import Child, Service
from deployments.silence import silent
from deployments.system import SYSTEM, system_of
from deployments.up_state import FirstCycle, ServiceState, UpState
from tasks.adapters import alerts, certificates, heartbeat, secret
from tasks.adapters.files.private import write_new
from tasks.adapters.postgres import cluster
from tasks.adapters.store.store import Store
from tasks.core.pages.decision import summary_line
from tasks.core.types import Alert, AlertKind, InputError, TradingError
from tasks.settings import CLUSTER, Settings

START_S = 600.0  # a busy machine takes minutes for the imports of a server
FIRST_CYCLE_S = 600.0
LOOK_S = 0.2
SWEEP_S = 15.0  # between two looks for runs that are lost or too late
STEADY_S = 300.0  # a service that lived this long starts again at the shortest back-off
FIRST = "trade/trade-adhoc"
DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")


class StartError(TradingError):
    """A service did not come up: everything is stopped again; the message names its log."""


class Supervisor:
    """The services of one HOME. Children are started from the main thread only (see `Child._start`)."""

    def __init__(self, settings: Settings, *, only_workers: bool = False) -> None:
        self.settings, self.board, self._is_whole, self._system = settings, Board(), not only_workers, ""
        self.plan = services.working_plan(settings) if only_workers else services.plan(settings)
        self.logs = settings.home / "logs"
        self.state = UpState(pid=os.getpid(), started_at=datetime.now(UTC), profile=settings.profile)
        self._children: dict[str, Child] = {}
        self._silent = set[str]()  # deployments that stood still at the last look
        self._showing: asyncio.Task[None] | None = None
        self._live: live_settings.LiveSettings | None = None  # of a person's file; known from the start on
        self._api = Orchestrator(settings.prefect_api_url, settings.home)

    @cached_property
    def _env(self) -> dict[str, str]:
        """Return what children are started with; HOME is there by now, and with a server of its own has a secret."""
        if {"prefect", "mlflow"} & self.plan.keys():
            secret.make(self.settings.home)
        return services.environment(self.settings)

    @property
    def _workers(self) -> list[str]:
        return [name for name in self.plan if name.startswith("worker")]

    async def start(self) -> None:
        """Bring up what trades, begin with what shows it; raises InputError for a taken port, StartError naming a log.

        MLflow's seconds of imports would delay the first cycle, which needs it only at its end: see `shown`.
        """
        for name, service in [*self.plan.items()]:
            if await asyncio.to_thread(services.runs_already, self.settings, service):
                self.board.say(f"{name}: runs already at {service.url}, and is used")
                del self.plan[name]
            elif service.url:
                services.require_free(service)
        self._save()
        await self._stored()
        (self.settings.home / "prefect").mkdir(exist_ok=True)
        toml = Path(self._env["QUARTERDECK_TOML"])
        copy = self._frozen(toml)
        self._live = live_settings.LiveSettings(toml, copy, open_positions.refuse)
        self._env["QUARTERDECK_TOML"] = str(copy)
        in_force.write(self.settings.home)
        names = sorted(self.plan.keys() - {"prefect", "mlflow", CLUSTER, *self._workers})
        others = [self._warmed() if name == "warm" else self._healthy(self.plan[name]) for name in names]
        migrated = asyncio.ensure_future(self._migrated())
        if self._is_whole:
            await asyncio.gather(self._orchestrated(migrated), *others)
        else:  # runs may be waiting, and would start cold for minutes beside the imports of the warm daemon
            await asyncio.gather(migrated, *others)
            await self._api.refuse_another(self._system)
            await self._close_lost(workless=True)
            await self._working()
        if "mlflow" in self.plan:
            self._showing = asyncio.create_task(self._healthy(self.plan["mlflow"]))
        self.state.phase = "up"
        self._save()

    async def shown(self) -> None:
        """Wait until MLflow is up, where it is started here; raises StartError naming its log."""
        if self._showing is not None:
            await asyncio.shield(self._showing)
            self.state.seconds = self.board.seconds
            self._save()

    async def _stored(self) -> None:
        """Start what everything is kept in; a HOME with nothing in it yet gets it here."""
        if self._is_whole and (why := await asyncio.to_thread(cluster.make, self.settings)):
            self.board.say(why)
        self.plan |= (database := services.database_plan(self.settings))
        for service in database.values():
            await self._healthy(service)

    def _frozen(self, toml: Path) -> Path:
        """Copy the settings' file, for runs to read: what is written there later they have once it is known good."""
        copy = self.settings.home / in_force.TOML
        copy.unlink(missing_ok=True)
        write_new(copy, toml.read_text(encoding="utf-8") if toml.is_file() else "")
        return copy

    async def _orchestrated(self, migrated: Awaitable[None]) -> None:
        if own := self.plan.get("prefect"):
            await self._healthy(own)
        await migrated
        await self._api.ensure_pool(self._system, take=own is not None)  # where workers are looked for
        lost, missed = await self._api.close_lost(workless=True), await self._api.skip_late(whatever=True)
        if lost or missed:
            self.board.say(f"closed {lost} runs of an earlier life that never ended, {missed} that were missed")
        await asyncio.gather(self.deploy(), self._working())

    async def _migrated(self) -> None:
        with self.board.step("database"):
            await asyncio.to_thread(self._identify)

    def _identify(self) -> None:
        """Bring the store's tables up to this release, and tell the workers to come which system they are of."""
        self._system = self._env[SYSTEM] = system_of(self.settings)
        for text in open_positions.left_over(self.settings):
            self._tell(text, f"{text}; until then it is protected and nothing is added", AlertKind.SETTINGS)

    async def _healthy(self, service: Service) -> None:
        with self.board.step(service.name, service.url or "starting"):
            await self._started(service, lambda _: asyncio.to_thread(services.answers, service.health))

    async def _warmed(self) -> None:
        """Start the warm daemon; one that does not come up is looked after like one that ended: runs start cold."""
        try:
            await self._healthy(self.plan["warm"])
        except StartError as e:
            self.board.say(f"{e}; runs start cold until it is there")

    async def _working(self) -> None:
        since = datetime.now(UTC)
        with self.board.step("worker"):
            for name in self._workers:
                await self._started(self.plan[name], lambda _, name=name: self._api.worker_is_online(name, since))

    async def deploy(self, *, reset: bool = False) -> None:
        """Create or refresh the pool, deployments and automations on a server that runs; what a person set stays.

        reset: it goes.
        """
        told, api = list[str](), Orchestrator(self.settings.prefect_api_url, self.settings.home, START_S)
        with self.board.step("deploy"):
            if not self._system:
                await asyncio.to_thread(self._identify)
            await api.ensure_pool(self._system, take=reset)
            release = schedules.arranged(yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8")), self.settings)
            before, there = await kept.last(api, self.settings.home), await automations.existing(api)
            deployments, known = release["deployments"], forms.read(self.settings)
            await kept.write(api, deployments, known, before, told, reset=reset)
            wanted = await automations.released(api, self.settings.alert_urls, deployments)
            await automations.ensure(api, wanted, before, there, told, reset=reset)
            await kept.note(api, before, {each["name"]: each for each in deployments} | wanted)
        for line in told:
            self.board.say(f"put back: {line}" if reset else line)
        if told and not reset:
            self.board.say(kept.REMEDY)

    async def _started(self, service: Service, ready: Callable[[Child], Awaitable[bool]]) -> None:
        """Start a service and wait until it is ready; one that ends instead, or takes too long, is a StartError."""
        env = self._env | {VARIABLE: prefect_key(self.settings)} if service.name == "prefect" else self._env
        child = self._children[service.name] = Child(service, env, self.logs)
        self._save()
        while True:
            code = child.exit_code
            if await ready(child):
                return
            if code is not None:
                failure = f"ended with code {code}: {child.last_line()}"
            elif time.monotonic() - child.started > START_S:
                failure = f"did not come up within {START_S:.0f} s"
            else:
                await asyncio.sleep(LOOK_S)
                continue
            raise StartError(f"{service.name} {failure}; its log: {child.log}")

    async def first_cycle(self) -> FirstCycle:
        """Run one trade through Prefect at once and say what it did."""
        with self.board.step("first cycle", "asking for a run") as show:
            run = await self._api.start_run(FIRST, {"reason": "first cycle after start", "trigger": "adhoc"})
            deadline = time.monotonic() + FIRST_CYCLE_S
            while (state := run["state"])["type"] not in FINAL and time.monotonic() < deadline:
                show(state["name"])
                await asyncio.sleep(LOOK_S)
                with suppress(PrefectError):  # its server may just be starting again
                    run = await self._api.call("GET", f"flow_runs/{run['id']}")
            done = FirstCycle(state=state["name"], message=state["message"] or "")
            if state["type"] not in FINAL:
                done = FirstCycle(state="TimedOut", message=f"still {state['name']} after {FIRST_CYCLE_S:.0f} s")
        if done.ok:
            with closing(Store(self.settings.store_url)) as store:
                newest = [store.cycles.last(self.settings.strategy, symbol) for symbol in self.settings.symbols]
            done.cycles = [summary_line(record) for record in newest if record is not None]
        self.state.first_cycle, self.state.seconds = done, self.board.seconds
        self._save()
        return done

    async def watch_over(self) -> None:
        """Start again what dies, and close the runs that are lost or too late, for ever."""
        early = [child for name, child in self._children.items() if name != "mlflow"]
        await asyncio.gather(self._sweep(), self._tend_mlflow(), *map(self._tend, early))

    async def _tend_mlflow(self) -> None:
        await self.shown()
        if "mlflow" in self._children:
            await self._tend(self._children["mlflow"])

    async def _sweep(self) -> None:
        while True:
            await self._close_lost(patiently=True)
            await asyncio.to_thread(self._listen)
            await self._take_settings()
            with suppress(OSError):  # a full disk; without the file no run reaches Prefect
                certificates.first_alone(self.settings.home)
            await asyncio.sleep(SWEEP_S)

    async def _take_settings(self) -> None:
        """Let the next runs have what a person has written into the settings' file, or tell why they do not."""
        if self._live is None:
            return
        try:
            for line in await asyncio.to_thread(self._live.take):
                self.board.say(f"in force from the next run: {line}")
            now = self._live.in_force()
            if self._is_whole and _deployed_for(now) != _deployed_for(self.settings):
                self.settings, before = now, self.settings
                try:
                    await self.deploy()
                except PrefectError:
                    self.settings = before  # the next sweep's
                    raise
        except PrefectError as e:
            self.board.say(f"deployments are not what the settings say yet: {e}")
        except InputError as e:
            self._tell(str(e), str(e), AlertKind.SETTINGS)  # each mistake is told

    def _listen(self) -> None:
        """Tell people of what must run each minute and has not for three."""
        _, long = heartbeat.SAID[self.settings.watch_every_s]
        still = set(silent(self.settings)) if self._is_whole else set()
        for name in sorted(still - self._silent):
            text = f"{name} has had no completed run for {long}: `quarterdeck doctor`, and its runs in Prefect"
            self.board.say(text)
            self._tell(name, text)
        self._silent = still

    async def _tend(self, child: Child) -> None:
        """Start a service again whenever it ends, after 1 s doubling to 60, and tell people."""
        name, delay = child.service.name, 0.5
        while True:
            while child.exit_code is None:
                await asyncio.sleep(LOOK_S)
            delay = 1.0 if time.monotonic() - child.started > STEADY_S else min(60.0, 2 * delay)
            text = f"{name} ended by itself with code {child.exit_code} and starts again in {delay:.0f} s"
            self.board.say(f"{text}: {child.last_line()}; its log: {child.log}")
            alert = asyncio.create_task(asyncio.to_thread(self._tell, name, text))
            await asyncio.sleep(delay)
            if name in self._workers:
                await self._close_lost(workless=len(self._workers) == 1)
            child.restart()
            self._save()
            await asyncio.wait([alert])

    async def _close_lost(self, *, patiently: bool = False, workless: bool = False) -> None:
        """End the runs that are lost or too late: they hold slots. What a Prefect that is down does not hear, waits."""
        with suppress(PrefectError):
            await self._api.skip_late()
            await self._api.close_lost(patiently=patiently, workless=workless)

    def _tell(self, name: str, text: str, kind: AlertKind = AlertKind.DEAD) -> None:
        """Alert, once while it lasts; directly, as Prefect's server may be what died."""
        alert = Alert(kind=kind, key=f"{socket.gethostname()}:{name}", text=text)
        try:
            with closing(Store(self.settings.store_url)) as store:
                if not store.alerts.note(alert, datetime.now(UTC)):
                    return
        except TradingError as e:
            self.board.say(f"the alert could not be noted, it is sent all the same: {e}")
        if kind is not AlertKind.DEAD:
            self.board.say(text)
        if failed := alerts.send(self.settings.alert_urls, f"Quarterdeck: {kind}", text):
            self.board.say(f"{failed} of {len(self.settings.alert_urls)} addresses did not take the alert")

    def stop(self) -> None:
        """End the worker and its runs, which may still report to the others; then these; last what they keep it in."""
        others = self._children.keys() - {*self._workers, CLUSTER}
        for names in (self._workers, others, (CLUSTER,)):
            group = [self._children[name] for name in names if name in self._children]
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
        up_state.write(self.settings.home, self.state)


def _deployed_for(settings: Settings) -> tuple[object, ...]:
    """Return what deployments and their forms are made of, beside what takes a restart."""
    return settings.symbols, [(each.strategy, each.symbols) for each in settings.every()]


def migrate(settings: Settings) -> None:
    """Bring the store's tables up to this release."""
    with closing(Store(settings.store_url)) as store:
        store.migrate()
