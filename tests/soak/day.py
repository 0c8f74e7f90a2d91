"""Through Prefect: the stories as flow runs of the real server, worker and warm daemon of `up`, in their order.

Runs are asked for by the API as fast as they end; the deployments' own schedules are paused, the event that `watch`
emits starts its run as in service. Each quarter of an hour has its trade run and `protect` after it, each hour the
review beside `settle`, `watch` beside `protect` at a 5m close in between, and `protect` once more with no fault in the
way. In service `watch` and `protect` come each minute: growth there is what a run adds times 3,025 runs a day.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import psutil

from deployments.orchestrator import FINAL, PrefectError
from deployments.supervisor import Supervisor
from tasks import detect
from tasks.settings import settings
from tests.adapters.free_ports import free_port
from tests.chaos import invariants
from tests.chaos.fork import ledger
from tests.chaos.world import World
from tests.closing import close_stores
from tests.soak import growth, holds
from tests.soak.draws import BAR, Draws
from tests.soak.week import Soaked

RUN_S = 300.0  # on a busy machine
BELL_S = 60.0  # from an event to its run's end; a lost one costs nothing, as the next `watch` rings again
POLL_S = 0.3
MINUTE = timedelta(minutes=1)
DEPLOYED = {
    "watch": "watch/watch", "trade": "trade/trade-15m", "review": "trade/trade-1h", "event": "trade/trade-event",
    "protect": "protect/protect", "settle": "settle/settle", "report": "report/report",
}  # fmt: skip
UNDER_WAY = {"state": {"type": {"any_": ["PENDING", "RUNNING", "SCHEDULED", "CANCELLING", "PAUSED"]}}}


class Day:
    """Simulated time, a quarter of an hour after the other."""

    def __init__(self, world: World, machine: Supervisor, seed: int, faults: Sequence[str]) -> None:
        self.world, self.machine, self.api = world, machine, machine._api
        self.draws, self.seen = Draws(seed, world, faults), Soaked()
        self.now = self.begin = datetime.fromisoformat(world.state()["clock"])
        self.down: set[datetime] = set()
        self.ids: dict[str, str] = {}
        self.sandbox = next(p for p in psutil.Process().children() if "infra.sandbox" in p.cmdline())

    async def run(self, hours: float, until: float) -> Soaked:
        for name, deployment in DEPLOYED.items():
            self.ids[name] = str((await self.api.call("GET", f"deployments/name/{deployment}"))["id"])
        await self._pause()
        end, quarter = self.begin + timedelta(hours=hours), self.begin
        while quarter < end and time.monotonic() < until:
            quarter += BAR
            await self._quarter(quarter)
            if quarter.minute == 0:
                await self._hour(quarter)
        end = quarter
        last = max(close for close in self._closes(end) if close not in self.down)
        self.down = {close for close in self.down if close < last}
        self.seen.tell(holds.look(self.begin + BAR, last, self.down, self.seen.closes), end)
        return self.seen

    def _closes(self, end: datetime) -> list[datetime]:
        return [self.begin + n * BAR for n in range(1, int((end - self.begin) / BAR) + 1)]

    async def _pause(self) -> None:
        """Let no schedule start a run: it would be about the wall's time."""
        for one in await self.api.call("POST", "deployments/filter", {}):
            await self.api.call("PATCH", f"deployments/{one['id']}", {"paused": True})
        await self._until_idle(RUN_S)

    async def _quarter(self, close: datetime) -> None:
        """Trade at the close and protect a minute later; on the hour everything else that is due in it."""
        self._go_to(close + timedelta(seconds=10))
        self.seen.faults[self.draws.order_faults()] += 1
        if self.draws.is_down(close):
            self.down.add(close)
        else:
            await self._flow("trade", as_of=close.isoformat(), decider=self.draws.decider(close))
        self._go_to(close + MINUTE)
        await self._protect(close)
        if close.minute == 0:
            self._go_to(close + 2 * MINUTE)
            if close in self.down:
                await self._flow("settle")
            else:
                await asyncio.gather(self._flow("settle"), self._flow("review", as_of=close.isoformat()))
                await self._between(close + self.draws.luck.choice((5, 10)) * MINUTE)
        if (close.hour, close.minute) == (0, 0):
            await self._flow("report")

    async def _between(self, close: datetime) -> None:
        """Watch and protect at once; what rings is answered before time moves on."""
        self._go_to(close + MINUTE)  # `watch` has its 5m close from the time it was due, before its process began
        await asyncio.gather(self._flow("watch"), self._protect(close))
        await self._bells(close)

    async def _bells(self, close: datetime) -> None:
        """Wait for the runs that events start, before time moves on."""
        deadline = time.monotonic() + BELL_S
        while any(detect.claimable(symbol, close) for symbol in settings().symbols) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        if time.monotonic() >= deadline:
            self.seen.failed["bell"] += 1
        await self._until_idle(RUN_S)

    async def _protect(self, at: datetime) -> None:
        before = self.draws.state()
        self.draws.held = {position["symbol"] for position in before["positions"]}
        self.seen.naked_s = max(self.seen.naked_s, invariants.naked_s(before))
        self.seen.tell(invariants.at_the_venue(before), at)
        done = await self._flow("protect")
        if done == "COMPLETED" and any(not p["stopLoss"] for p in self.draws.state()["positions"]):
            self.seen.tell(iter(["naked: after protect"]), at)

    # -- runs --------------------------------------------------------------------------------------------------

    async def _flow(self, name: str, **parameters: Any) -> str:
        """Run a deployment to its end; returns the type of its last state."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4())}
        run = await self.api.call("POST", f"deployments/{self.ids[name]}/create_flow_run", body)
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            with suppress(PrefectError):  # its server is busy too
                if (state := (await self.api.call("GET", f"flow_runs/{run['id']}"))["state"])["type"] in FINAL:
                    self.seen.stories[name] += 1
                    if state["type"] != "COMPLETED":
                        self.seen.failed[f"{name}/{state['name']}"] += 1
                    return str(state["type"])
            await asyncio.sleep(POLL_S)
        self.seen.tell(iter([f"hung: {name} did not end within {RUN_S:.0f} s"]), self.now)
        return "HUNG"

    async def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(PrefectError):
                if not await self.api.call("POST", "flow_runs/filter", {"flow_runs": UNDER_WAY, "limit": 1}):
                    return
            await asyncio.sleep(POLL_S)
        self.seen.tell(iter([f"hung: runs are under way after {seconds:.0f} s"]), self.now)

    # -- what is looked at -------------------------------------------------------------------------------------

    async def _hour(self, hour: datetime) -> None:
        """With no fault in the way venue and ledger must agree; every process still lives and is measured."""
        self.draws.wrongs += self.draws.calm()
        self.seen.tell(iter(self.draws.wrongs), hour)
        if (ended := await self._flow("protect")) != "COMPLETED":
            self.seen.tell(iter([f"protect {ended} without a fault"]), hour)
        self.seen.compare(self.world.state(), ledger(), hour)
        events = {"flow_runs": {"deployment_id": {"any_": [self.ids["event"]]}}}
        self.seen.stories["event"] = await self.api.call("POST", "flow_runs/count", events)
        self._weigh((hour - self.begin) / timedelta(hours=1), hour)

    def _weigh(self, since: float, hour: datetime) -> None:
        self.seen.memory.note("sandbox", since, growth.resident(self.sandbox))
        for name, child in self.machine._children.items():
            if child.exit_code is not None:
                self.seen.tell(iter([f"died: {name} ended with {child.exit_code}: {child.last_line()}"]), hour)
                continue
            [own] = psutil.Process(child.pid).children()  # of its nanny, which is no part of it
            # what worker and daemon have started beside themselves is the last run's, about to end
            self.seen.memory.note(name, since, growth.resident(own, alone=name in ("warm", "worker")))
        if since == 1 or since % 6 == 0:
            self.weigh_files(since)
        sizes = {name: round(sizes[-1]) for name, sizes in self.seen.memory.megabytes.items()}
        print(f"{hour:%m-%d %H:%M} runs={self.seen.stories.total()} {sizes} breaches={len(self.seen.breaches)}",
              file=sys.stderr, flush=True)  # fmt: skip

    def weigh_files(self, since: float) -> None:
        for name, url in settings().databases.items():
            self.seen.files.setdefault(name, growth.Files()).note(since, url)

    def _go_to(self, instant: datetime) -> None:
        self.world.advance(max(0.0, (instant - self.now).total_seconds()))
        self.now = max(self.now, instant)


def soak(world: World, hours: float, seed: int, until: float, faults: Sequence[str] = ()) -> Soaked:
    """Start everything but the exchange, which runs stepped, and go through so many hours."""
    for name, path in (("PREFECT_API", "/api"), ("MLFLOW", "")):
        os.environ[f"QUARTERDECK_{name}_URL"] = f"http://127.0.0.1:{free_port()}{path}"
    settings.cache_clear()
    machine = Supervisor(settings())
    machine.plan.pop("sandbox")
    machine.logs.mkdir(parents=True, exist_ok=True)
    try:
        with asyncio.Runner() as runner:
            runner.run(machine.start())
            return runner.run(Day(world, machine, seed, faults).run(hours, until))
    finally:
        machine.stop()
        close_stores()
