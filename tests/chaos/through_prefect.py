"""The same deaths through Prefect: a real server, the worker and warm daemon of `up`, and runs that kill themselves.

A run learns where to die from the environment in its job variables. What comes after a death is what comes in
service: the watchdog's next run, and a new run of the same bar. Prefect's store is a PostgreSQL of our own where there
is one to start: on SQLite its server stands still for a minute now and then when a run is killed. Our ledger is on
SQLite with an even seed, on PostgreSQL with an odd one.
"""

import asyncio
import itertools
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from deployments.orchestrator import FINAL, PrefectError
from deployments.supervisor import Supervisor
from tasks.connections import store
from tasks.crash_points import KILL_AT, STEPS
from tasks.settings import settings
from tests.adapters.free_ports import free_port
from tests.chaos import invariants, report
from tests.chaos.bars import DEATHS, FAULTS, SCENES, Bars, Plan, Tally
from tests.chaos.fork import Story, end_leases, fork, warm_up
from tests.chaos.world import Databases, World, world
from tests.drills.cluster import NEWEST, Cluster

TRADE, PROTECT = "trade/trade-adhoc", "protect/protect"
OF_PROTECT = STEPS[STEPS.index("protect_begun") :]
OF_TRADE = STEPS[: STEPS.index("protect_begun")]
RUN_S = 180.0  # on a busy machine
POLL_S = 0.1


def main(kills: int, seed: int, seconds: float) -> int:
    """Kill that many runs; the table and what it took go to stdout."""
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="quarterdeck-chaos-"))
    os.environ["QUARTERDECK_PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
    total, cluster = Tally(), Cluster(folder / "prefect", free_port()) if NEWEST else None
    if cluster:
        os.environ["QUARTERDECK_PREFECT_DATABASE_URL"] = cluster.url("prefect")
    try:
        databases = Databases(folder, postgres=bool(seed % 2))
        with world(databases, seed, bool(seed % 2)) as here, asyncio.Runner() as runner:
            os.environ["QUARTERDECK_DECIDER"] = f"recorded:{here.home / 'replies.jsonl'}"
            settings.cache_clear()
            warm_up()
            _kill(here, runner, total, kills, seed, began + seconds)
    finally:
        if cluster:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(report.table(total))
    print(f"wall_s={time.monotonic() - began:.0f} cpu_s={sum(t.ru_utime + t.ru_stime for t in times):.0f}")
    return 1 if total.breaches else 0


def _kill(here: World, runner: asyncio.Runner, total: Tally, kills: int, seed: int, until: float) -> None:
    machine = Supervisor(settings())
    machine.plan.pop("sandbox")  # a stepped one runs already
    python, m, _, *start = machine.plan["worker"].command  # ours would not let a run say where it dies
    machine.plan["worker"] = replace(machine.plan["worker"], command=(python, m, "prefect", *start))
    machine.logs.mkdir(parents=True, exist_ok=True)
    try:
        runner.run(machine.start())
        runner.run(_pause(machine))
        bars = PrefectBars(here, total, random.Random(seed), "prefect", machine, runner)
        kinds = itertools.cycle(random.Random(seed).sample(sorted(FAULTS), len(FAULTS)))
        while sum(total.kills.values()) < kills and time.monotonic() < until:
            bars.bar(next(kinds))
    finally:
        machine.stop()


class PrefectBars(Bars):
    """Bars whose every story is a flow run of a deployment."""

    def __init__(
        self, here: World, tally: Tally, luck: random.Random, name: str, machine: Supervisor, runner: asyncio.Runner
    ) -> None:
        super().__init__(here, tally, luck, name)
        self.machine, self.runner = machine, runner
        self.aimed: Counter[str] = Counter()

    def _until_done(self, story: Callable[[bool], Story], kind: str, scene: str) -> None:
        """Trade to the end, then watch over it; each dies on its way as often as it is told to."""
        trading = {"symbols": [json.loads(self.lines[-1])["symbol"]], "reason": "chaos asks"}
        if scene not in ("halted", "restored"):  # there the trade is done, and only the watchdog dies
            self._die_over(TRADE, trading, kind, scene)
        if scene == "halted":
            fork(_halt)
        self._die_over(PROTECT, {}, kind, scene)
        if scene == "halted":
            fork(_resume)

    def _die_over(self, deployment: str, asked: dict[str, Any], kind: str, scene: str) -> None:
        for _ in range(DEATHS):
            plan = self._aim(deployment, kind, scene)
            if not self._flow(deployment, asked, plan, kind):
                break
            self.world.advance(invariants.WATCHDOG_S)
            self._note(kind, f"a minute after {plan.step}")
            fork(_leases_run_out)
        else:
            self._flow(deployment, asked, Plan(), kind)

    def _aim(self, deployment: str, kind: str, scene: str) -> Plan:
        """Draw where to die: a run costs seconds here, so rather where one is come to, and where few died before."""
        steps = OF_PROTECT if deployment == PROTECT else OF_TRADE
        if (rare := set(SCENES[scene]) & set(steps)) and self.luck.random() < 0.5:
            steps = sorted(rare)
        odds = [self._hits(step) ** 2 / (1 + sum(self.tally.kills[step, kind] for kind in FAULTS)) for step in steps]
        step = self.luck.choices(steps, odds)[0]
        self.aimed[step] += 1
        return Plan(step)

    def _hits(self, step: str) -> float:
        return (self.tally.reached[step] + 1) / (self.aimed[step] + 1)

    def _flow(self, deployment: str, asked: dict[str, Any], plan: Plan, kind: str) -> bool:
        """Run a deployment to its end, whichever it is; says whether it died as planned."""
        begun = time.monotonic()
        state = self.runner.run(self._followed(deployment, asked, plan))
        print(f"{deployment} {plan.step or '-'} {kind}: {state} in {time.monotonic() - begun:.1f} s", file=sys.stderr)
        self.tally.runs += 1
        died = state == "CRASHED"
        if died and plan.step:
            self.tally.kills[plan.step, kind] += 1
            self.tally.reached[plan.step] += 1
        elif state != "COMPLETED":
            self.tally.failed += 1
        return died

    async def _followed(self, deployment: str, asked: dict[str, Any], plan: Plan) -> str:
        api = self.machine._api
        found = await api.call("GET", f"deployments/name/{deployment}")
        body: dict[str, Any] = {"parameters": asked, "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4())}
        if plan.step:
            body["job_variables"] = {"env": {KILL_AT: f"{plan.step}:{plan.n}"}}
        run, deadline = None, time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            with suppress(PrefectError):  # its server is busy too
                run = run or await api.call("POST", f"deployments/{found['id']}/create_flow_run", body)
                if (state := (await api.call("GET", f"flow_runs/{run['id']}"))["state"])["type"] in FINAL:
                    return str(state["type"])
            await asyncio.sleep(POLL_S)
        self.tally.breaches.append(f"{deployment} {plan} did not end within {RUN_S:.0f} s")
        return "HUNG"


async def _pause(machine: Supervisor) -> None:
    """Let the schedules rest: time here goes from one story to the next."""
    for deployment in await machine._api.call("POST", "deployments/filter", {}):
        await machine._api.call("PATCH", f"deployments/{deployment['id']}", {"paused": True})


async def _leases_run_out() -> None:
    end_leases()


async def _halt() -> None:
    store().halts.add("chaos halts", "chaos", datetime.now(UTC))


async def _resume() -> None:
    store().halts.resume("chaos", datetime.now(UTC))
