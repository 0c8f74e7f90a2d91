"""What a drill takes something away from: the processes of `up`, the sandbox's own state, and Prefect's API."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from deployments.orchestrator import FINAL, Orchestrator
from deployments.supervisor import Supervisor
from tasks.core.types.bars import floor_time
from tasks.settings import settings
from tests.adapters.free_ports import free_port
from tests.chaos import invariants
from tests.chaos.fork import ledger
from tests.chaos.world import OFTEN, SYMBOLS
from tests.drills.seen import Seen, until

TRADE, WATCH, PROTECT = "trade/trade-15m", "watch/watch", "protect/protect"
ADHOC, EVENT = "trade/trade-adhoc", "trade/trade-event"
BAR = timedelta(minutes=5)
UNDER_WAY = ("PENDING", "RUNNING", "CANCELLING")
# one close after the other; what the position does not allow is denied
PLAY: tuple[dict[str, Any], ...] = (
    {"action": "OPEN_LONG", "size_pct": 10, "entry": {"type": "market"}, "stop_atr": 3, "tp_atr": 6},
    {"action": "ADD", "size_pct": 3, "entry": {"type": "market"}, "stop_atr": 3, "tp_atr": 6},
    {"action": "TRIM", "size_pct": 20},
)


def prepare(folder: Path, host: str = "127.0.0.1", **more: str) -> None:
    """Make this process's environment that of a user with a HOME of his own in `folder` and free ports."""
    for name in [name for name in os.environ if name.startswith(("QUARTERDECK_", "PREFECT_"))]:
        if name != "QUARTERDECK_NO_MODEL_CALLS":
            del os.environ[name]
    os.environ.update({
        "QUARTERDECK_HOME": str(folder / "home"), "QUARTERDECK_TOML": str(folder / "none.toml"),
        "QUARTERDECK_SANDBOX_URL": f"http://{host}:{free_port(host)}", "QUARTERDECK_MLFLOW_URL": "",
        "QUARTERDECK_PREFECT_API_URL": f"http://{host}:{free_port(host)}/api",
        "QUARTERDECK_SYMBOLS": ",".join(SYMBOLS), "QUARTERDECK_HISTORY_BARS": "300",
        **{f"QUARTERDECK_LIMITS__{name.upper()}": value for name, value in OFTEN.items()}, **more,
    })  # fmt: skip
    (folder / "home" / "logs").mkdir(parents=True, exist_ok=True)
    settings.cache_clear()


def write_play(path: Path, symbols: Iterable[str], begin: datetime, hours: int = 12) -> str:
    """Write a reply for every close around `begin`, each symbol in its turn; returns the decider that reads them."""
    first = floor_time(begin, "5m") - BAR * 12
    lines = []
    for n in range(hours * 12):
        for m, symbol in enumerate(symbols):
            reply = {"symbol": symbol, "confidence": 0.9, "comment": "a drill", **PLAY[(n + m) % len(PLAY)]}
            lines.append({"as_of": (first + n * BAR).isoformat(), "symbol": symbol, "reply": json.dumps(reply)})
    path.write_text("\n".join(map(json.dumps, lines)))
    return f"recorded:{path}"


class Exchange:
    """The sandbox's own page."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/__admin/", timeout=60, trust_env=False)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get("state").raise_for_status().json()
        return found

    @property
    def now(self) -> datetime:
        return datetime.fromisoformat(self.state()["clock"])

    def ids(self) -> set[str]:
        return {order["orderLinkId"] for order in self.state()["orders"] if invariants.ours(order)}

    def naked_s(self) -> float:
        """Return for how long, in all, any position was without its stop."""
        return max(self.state()["unprotected_s"].values())

    def hold(self, path: str, seconds: float, times: int = 1, *, kind: str = "latency") -> None:
        """Let the next request whose path has `path` in it, or the answer to it, wait at the venue."""
        fault = {"kind": kind, "path": path, "seconds": seconds, "times": times}
        self._http.post("faults", json=fault).raise_for_status()

    async def holds(self, seconds: float = 120) -> None:
        """Wait until the request it was told to hold has come."""
        await until(lambda: not self._faults(), "the request to be held", seconds)

    async def holds_some(self, times: int, seconds: float = 120) -> None:
        """Wait until the first of several requests has come."""
        await until(lambda: sum(fault["times"] for fault in self._faults()) < times, "a request to be held", seconds)

    def _faults(self) -> list[Any]:
        found: list[Any] = self._http.get("faults").raise_for_status().json()["faults"]
        return found

    def advance(self, seconds: float) -> None:
        """Let the market's time go on, where it is stepped."""
        self._http.post("clock", json={"advance_s": seconds}).raise_for_status()


class Runs:
    """Prefect's runs, as its API has them."""

    def __init__(self, api: Orchestrator) -> None:
        self.api = api

    async def healthy(self) -> bool:
        return bool(await self.api.call("GET", "health"))

    async def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.api.call("GET", f"deployments/name/{name}")
        return found

    async def start(self, name: str, due: datetime | None = None, **parameters: Any) -> str:
        """Create a run that is due now, or was at some time before."""
        state: dict[str, Any] = {"type": "SCHEDULED", "state_details": {}}
        if due is not None:
            state["state_details"] = {"scheduled_time": due.isoformat()}
        body = {"parameters": parameters, "state": state, "idempotency_key": str(uuid4())}
        found = await self.deployment(name)
        return str((await self.api.call("POST", f"deployments/{found['id']}/create_flow_run", body))["id"])

    async def of(self, name: str = "", **wanted: Any) -> list[dict[str, Any]]:
        """Return the runs of a deployment, or of all, the earliest first."""
        if name:
            wanted["deployment_id"] = {"any_": [(await self.deployment(name))["id"]]}
        asked = {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        found: list[dict[str, Any]] = await self.api.call("POST", "flow_runs/filter", asked)
        return found

    async def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.api.call("GET", f"flow_runs/{run_id}")
        return found

    async def ended(self, run_id: str, seconds: float = 180) -> str:
        """Wait for a run's end; returns its state's name."""

        async def final() -> bool:
            return (await self.run(run_id))["state"]["type"] in FINAL

        await until(final, f"the end of run {run_id}", seconds)
        return str((await self.run(run_id))["state"]["name"])

    async def completed_after(self, name: str, moment: datetime, seconds: float = 240) -> float:
        """Wait for the first run that began after `moment` to be Completed; returns how long after `moment` it was."""
        first: list[datetime] = []

        async def one() -> bool:
            for run in await self.of(name, state={"name": {"any_": ["Completed"]}}):
                if datetime.fromisoformat(run["start_time"]) > moment:
                    first.append(datetime.fromisoformat(run["end_time"]))
            return bool(first)

        await until(one, f"a run of {name} that is Completed", seconds)
        return (min(first) - moment).total_seconds()

    async def every(self, name: str, seconds: int) -> None:
        """Let a deployment's schedule start a run each so many seconds."""
        found = await self.deployment(name)
        for old in found["schedules"]:
            new = {"schedule": {"interval": seconds, "anchor_date": "2024-01-01T00:00:05+00:00"}, "active": True}
            await self.api.call("PATCH", f"deployments/{found['id']}/schedules/{old['id']}", new)

    async def pause(self) -> None:
        """Let no schedule start anything more, and wait for what runs."""
        for one in await self.api.call("POST", "deployments/filter", {}):
            await self.api.call("PATCH", f"deployments/{one['id']}", {"paused": True})
        await until(self._idle, "the end of every run", 180)

    async def _idle(self) -> bool:
        return not await self.of(state={"type": {"any_": list(UNDER_WAY)}})

    async def tally(self, name: str, since: datetime, until_: datetime) -> str:
        """Say how the runs ended that were due between two moments."""
        due = {"after_": since.isoformat(), "before_": until_.isoformat()}
        return told(Counter(run["state_name"] for run in await self.of(name, expected_start_time=due)))


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"


class System:
    """One Quarterdeck that runs."""

    def __init__(self, machine: Supervisor, seen: Seen) -> None:
        self.machine, self.seen = machine, seen
        self.exchange, self.runs = Exchange(settings().sandbox_url), Runs(machine._api)

    def pids(self) -> dict[str, int]:
        return {name: service.pid for name, service in self.machine.state.services.items()}

    async def must_agree(self) -> None:
        """Let the watchdog look with nothing else going on, and hold the ledger against the venue."""
        await self.runs.pause()
        await agree(self.exchange, self.runs, self.seen)


async def agree(exchange: Exchange, runs: Runs, seen: Seen) -> None:
    breaches: list[str] = []
    for _ in range(3):  # its clock goes on: a stop may fill between the two looks
        how = await runs.ended(await runs.start(PROTECT))
        state = exchange.state()
        breaches = list(invariants.reconciled(state, ledger())) + ([] if how == "Completed" else [f"protect {how}"])
        if not breaches:
            break
    orders, fills = len(exchange.ids()), len(state["fills"])
    seen.must(
        not breaches, f"ledger equals venue over {orders} orders and {fills} fills {'; '.join(breaches)}".rstrip()
    )
    seen.must(exchange.naked_s() == 0, f"no position was ever without its stop ({exchange.naked_s():.0f} s)")


@asynccontextmanager
async def up(seen: Seen, *sandbox: str, works: bool = True) -> AsyncIterator[System]:
    """Do what `up` does with the settings of the environment, and stop everything at the end.

    sandbox: more arguments for it. works: also carry out runs; otherwise only the servers run.
    """
    machine = Supervisor(settings())
    machine.plan["sandbox"] = replace(machine.plan["sandbox"], command=(*machine.plan["sandbox"].command, *sandbox))
    if not works:
        del machine.plan["worker"], machine.plan["warm"]
    watching: asyncio.Task[None] | None = None
    try:
        await machine.start()
        watching = asyncio.create_task(machine.watch_over())
        if works:
            first = await machine.first_cycle()
            seen.must(first.ok, f"up, first cycle {first.state}, seconds {machine.board.seconds}")
        yield System(machine, seen)
        seen.must(not watching.done(), "the supervisor watches on")
    finally:
        if watching:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        machine.stop()


def now() -> datetime:
    return datetime.now(UTC)
