"""Two workers on machines of their own; one is cut off in the midst of an order that it holds the symbol's lease for.

Both work for one PostgreSQL, one Prefect and one exchange. The other takes the symbol over when the lease has run out,
and is still busy with the order when the first one is back, which then may not send.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from deployments import services
from deployments.orchestrator import Orchestrator
from deployments.services import Child, Service
from deployments.supervisor import Supervisor, migrate
from tasks.connections import store
from tasks.core.types.bars import floor_time
from tasks.core.types.record import Lease
from tasks.settings import ROOT, settings
from tests.chaos.world import SYMBOLS
from tests.drills.cluster import Cluster
from tests.drills.network import Network
from tests.drills.seen import Seen, until
from tests.drills.system import ADHOC, EVENT, Exchange, Runs, agree, free_port, now, prepare, write_play
from tests.drills.worker import stop

CUT_S = 60.0
START = "2025-03-10T12:01:00+00:00"
SYMBOL = SYMBOLS[0]
HELD_S = 9.0  # less than the client's patience with the venue
HELD_TIMES = 4  # of the five attempts at an order
ORDER = "order/create"
Worker = subprocess.Popen[bytes]


async def drill(seen: Seen, folder: Path) -> None:
    network = Network(("a", "b"))
    workers: dict[str, Worker] = {}
    cluster: Cluster | None = None
    try:
        cluster = Cluster(folder / "postgres", free_port(network.host), network.host)
        prepare(folder, network.host, **cluster.environment())
        os.environ["QUARTERDECK_DECIDER"] = write_play(
            folder / "replies.jsonl", (SYMBOL,), datetime.fromisoformat(START) + timedelta(hours=1)
        )
        settings.cache_clear()
        with _servers(folder / "home" / "logs", network.host) as (exchange, runs):
            await _deployed(exchange, runs)
            since = now()
            for name in network.spaces:
                workers[name] = _worker(network, name, folder / name)
            for space in network.spaces.values():
                await until(lambda space=space: _online(runs, space, since), f"the worker on {space}", 200)
            seen.say(f"two workers are online, at {network.host} are the database, Prefect and the exchange")
            cycle = _Cut(seen, network, workers, exchange, runs)
            await cycle.drill()
            await agree(exchange, runs, seen)
    finally:
        for worker in workers.values():
            stop(worker)
        if cluster:
            cluster.stop()
        network.remove()


@contextmanager
def _servers(logs: Path, host: str) -> Iterator[tuple[Exchange, Runs]]:
    s = settings()
    migrate(s)
    (s.home / "prefect").mkdir(exist_ok=True)
    env, port = services.environment(s), str(urlsplit(s.prefect_api_url).port)
    prefect = ("-m", "prefect", "server", "start", "--host", host, "--port", port)
    market = ("-m", "infra.sandbox", "--host", host, "--port", s.sandbox_url.rpartition(":")[2], "--stepped",
              "--start", START, "--symbols", ",".join(s.symbols))  # fmt: skip
    named = {"prefect": prefect, "sandbox": market}
    children = [Child(Service(name, (sys.executable, *command)), env, logs) for name, command in named.items()]
    try:
        yield Exchange(s.sandbox_url), Runs(Orchestrator(s.prefect_api_url, s.home))
    finally:
        for child in children:
            child.stop()
        for child in children:
            child.wait()


async def _deployed(exchange: Exchange, runs: Runs) -> None:
    """Register what `quarterdeck deploy` does, and let nothing start by itself."""
    await until(exchange.state, "the exchange to answer")
    await until(runs.healthy, "Prefect to answer", 240)
    await Supervisor(settings(), only_workers=True).deploy()
    await runs.pause()


def _worker(network: Network, name: str, home: Path) -> Worker:
    home.mkdir(mode=0o700)
    command = network.command(name, sys.executable, "-m", "deployments.cli", "worker")
    with (home / "worker.log").open("ab") as log:
        env = os.environ | {"QUARTERDECK_HOME": str(home)}
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=env, start_new_session=True)


async def _online(runs: Runs, space: str, since: datetime) -> bool:
    found = await runs.api.call("POST", f"work_pools/{services.POOL}/workers/filter", {})
    beats = [worker["last_heartbeat_time"] for worker in found if worker["name"] == f"worker@{space}"]
    return any(beat and datetime.fromisoformat(beat) >= since for beat in beats)


@contextmanager
def _frozen(worker: Worker) -> Iterator[None]:
    """Let a worker take no run meanwhile; those it has go on."""
    polls = [p for p in psutil.Process(worker.pid).children(recursive=True) if p.cmdline()[1:3] == ["-m", "prefect"]]
    for process in polls:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in polls:
            process.send_signal(signal.SIGCONT)


class _Cut:
    """One cut, from the order to the return."""

    def __init__(
        self, seen: Seen, network: Network, workers: dict[str, Worker], exchange: Exchange, runs: Runs
    ) -> None:
        self.seen, self.network, self.workers, self.exchange, self.runs = seen, network, workers, exchange, runs
        self.close = floor_time(exchange.now, "5m")

    async def drill(self) -> None:
        seen = self.seen
        first = await self._a_is_in_the_midst_of_an_order()
        held = self._lease()
        self.network.cut("a")
        cut = now()
        seen.say(f"a is cut off; it has the lease of {SYMBOL}, token {held.token}, and an order that has no answer")
        self.exchange.hold(ORDER, HELD_S, HELD_TIMES, kind="drop")
        second = await self.runs.start(EVENT, **self._asked())
        took = await until(lambda: self._lease().token > held.token, "b to take the lease over", 150)
        seen.say(f"b took the lease over after {took:.0f} s: {self._lease().holder.partition('@')[2]}")
        await self.exchange.holds_some(HELD_TIMES)
        self._must_be_fenced(held)
        await asyncio.sleep(max(0.0, CUT_S - (now() - cut).total_seconds()))
        self.network.mend("a")
        back = now()
        seen.say(f"a is back after {(back - cut).total_seconds():.0f} s, while b is still busy with the order")
        ends = [await self.runs.ended(run, 240) for run in (second, first)]
        seen.say(f"the run of b is {ends[0]}, that of a {ends[1]}, {(now() - back).total_seconds():.0f} s later")
        self._must_be_one_order(held)
        await self._a_goes_on()

    async def _a_is_in_the_midst_of_an_order(self) -> str:
        with _frozen(self.workers["b"]):
            self.exchange.hold(ORDER, HELD_S, kind="drop")
            run = await self.runs.start(ADHOC, **self._asked())
            await self.exchange.holds()
        return run

    def _asked(self) -> dict[str, object]:
        return {"symbols": [SYMBOL], "trigger": "adhoc", "reason": "a drill", "as_of": self.close.isoformat()}

    def _lease(self) -> Lease:
        lease = store().leases.get(f"symbol:bybit-sandbox:-:{SYMBOL}")
        assert lease is not None
        return lease

    def _must_be_fenced(self, held: Lease) -> None:
        """Ask in the name of a, while the order may still be sent under the newer lease."""
        sending = [(own.intent.client_order_id, own.state) for own in store().intents.open(settings().strategy)]
        refused = [not store().intents.begin_sending(name, held) for name, _ in sending]
        said = ", ".join(f"{name} is {state}" for name, state in sending)
        self.seen.must(refused and all(refused), f"nothing can be sent under the lease that a had: {said}")

    def _must_be_one_order(self, held: Lease) -> None:
        records = [
            record for record in store().cycles.newest(settings().strategy, SYMBOL) if record.as_of == self.close
        ]
        said = ", ".join(f"{record.status.value} {record.error}".strip() for record in records)
        self.seen.must(len(records) == 1, f"one decision about the bar: {said}")
        orders = [order["orderLinkId"] for order in self.exchange.state()["orders"]]
        self.seen.must(len(orders) == 1, f"one order for the symbol and bar: {', '.join(orders) or 'none'}")
        log = (settings().home.parent / "a" / "logs" / "worker.log").read_text()
        refused = [line for line in log.splitlines() if "was not sent" in line or "is lost:" in line]
        self.seen.say("a tried it under its old lease: " + (refused[0][-110:] if refused else "no, it found b's order"))
        self.seen.must(self._lease().token > held.token, f"the lease's token is {self._lease().token} now")

    async def _a_goes_on(self) -> None:
        self.exchange.advance(300)
        self.close += timedelta(minutes=5)
        began = now()
        with _frozen(self.workers["b"]):
            run = await self.runs.start(EVENT, **self._asked())
            how = await self.runs.ended(run)
        took = (now() - began).total_seconds()
        self.seen.must(how == "Completed", f"a carries out runs again by itself: {how} after {took:.0f} s")
