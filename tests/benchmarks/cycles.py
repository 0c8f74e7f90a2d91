"""A whole 15m cycle of many symbols: wall and CPU seconds by stage, plainly, through Prefect, and on two workers.

The market is a stepped sandbox in a process of its own, whose CPU is told apart. The first cycle finds an empty store;
those after it find everything but the bars of the last 15 minutes. MLflow is off.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import psutil

from tasks.settings import ROOT
from tests.benchmarks.warm import Machine, _environment, _quarterdeck, _until
from tests.chaos.world import Databases

SIZES = (50, 200)
START = datetime.fromisoformat("2024-09-10T12:00:00+00:00")  # 250 days of each symbol fit into memory 200 times
CLOSES = 4  # the first is the cold one
STAGE_OF = {
    "fetch": "fetch", "validate": "validate", "features": "features", "detect": "detect", "decide": "decide",
    "shadow": "decide", "account": "guard", "guard": "guard", "execute": "execute", "book": "execute",
    "protect": "execute", "record": "record", "settle": "record",
}  # fmt: skip


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print what the cycles took; about ten minutes on two free cores."""
    for n in sizes:
        plain(n)
        through_prefect(n)
    two_workers(sizes[0])


# --- plainly ---------------------------------------------------------------------------------------------------


def plain(n: int) -> None:
    """Run the story in one process without Prefect, its database a SQLite file."""
    with market(n) as bench, bench.trader() as trader:
        for close in closes():
            bench.advance_to(close)
            before = bench.cpu()
            took = trader.cycle(close, bench.symbols)
            tell(f"plain {n}", close, took, n, bench.cpu() - before)


class Market:
    """A sandbox with many symbols, an empty database, and what a process needs to know of both."""

    def __init__(self, url: str, process: psutil.Process, symbols: tuple[str, ...], env: dict[str, str]) -> None:
        self.url, self.symbols, self.env, self._process = url, symbols, env, process

    def advance_to(self, close: datetime) -> None:
        """Move the clock to five seconds after a close."""
        now = datetime.fromisoformat(self._admin("clock")["clock"])
        self._admin("clock", {"advance_s": (close - now).total_seconds() + 5})

    def cpu(self) -> float:
        return float(sum(self._process.cpu_times()[:2]))

    @contextmanager
    def trader(self) -> Iterator["Trader"]:
        command = (sys.executable, "-m", "tests.benchmarks.cycles", "--trader")
        with subprocess.Popen(
            command, cwd=ROOT, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                yield Trader(process)
            finally:
                process.kill()

    def _admin(self, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/__admin/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        return document


class Trader:
    """A process that runs one cycle after the other when told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, close: datetime, symbols: tuple[str, ...]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"as_of": close.isoformat(), "symbols": symbols}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        took: dict[str, Any] = json.loads(self._process.stdout.readline())
        return took

    def cycle(self, close: datetime, symbols: tuple[str, ...]) -> dict[str, Any]:
        self.tell(close, symbols)
        return self.answer()


@contextmanager
def market(n: int, database: str = "") -> Iterator[Market]:
    """Start a market of `n` symbols; database: a URL, or empty for a SQLite file."""
    symbols = tuple(f"S{i:03d}/USDT:USDT" for i in range(n))
    with tempfile.TemporaryDirectory(prefix="quarterdeck-cycles-") as home:
        env = _environment(Path(home))
        url = env["QUARTERDECK_SANDBOX_URL"]
        command = (sys.executable, "-m", "infra.sandbox", "--port", url.rpartition(":")[2], "--stepped",
                   "--start", START.isoformat(), "--symbols", ",".join(symbols))  # fmt: skip
        began = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                if "url=" not in (line := process.stderr.readline()):
                    raise RuntimeError(f"the sandbox did not start: {line}")
                known = psutil.Process(process.pid)
                print(f"sandbox of {n} symbols: {time.perf_counter() - began:.1f} s to start, "
                      f"{known.memory_info().rss / 1e6:.0f} MB")  # fmt: skip
                env |= {"QUARTERDECK_SYMBOLS": ",".join(symbols), "QUARTERDECK_MLFLOW_URL": "",
                        "QUARTERDECK_DATABASE_URL": database, "QUARTERDECK_DECIDER": "rules"}  # fmt: skip
                yield Market(url, known, symbols, env)
            finally:
                process.kill()


def closes() -> Iterator[datetime]:
    for n in range(CLOSES):
        yield START + (n + 1) * timedelta(minutes=15)


def tell(what: str, close: datetime, took: dict[str, Any], n: int, sandbox_cpu: float) -> None:
    kind = "cold" if close == START + timedelta(minutes=15) else "steady"
    stages = " ".join(f"{name} {wall:.2f}/{cpu:.2f}" for name, (wall, cpu) in took["stages"].items())
    print(f"{what} {kind}: wall {took['wall']:.2f} s, CPU {took['cpu']:.2f} s = {took['cpu'] / n * 1000:.0f} ms a "
          f"symbol, sandbox's CPU {sandbox_cpu:.2f} s, {took['records']}; wall/CPU by stage: {stages}")  # fmt: skip


# --- in the trader's process -------------------------------------------------------------------------------------


class Stopwatch:
    """A way to call tasks that adds up what each stage takes."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    def __call__(self, task: Any, *args: Any) -> Any:
        stage = STAGE_OF.get(task.fn.__module__.rpartition(".")[2], "rest")

        @contextmanager
        def timed() -> Iterator[None]:
            wall, cpu = time.perf_counter(), time.process_time()
            yield
            self.wall[stage] += time.perf_counter() - wall
            self.cpu[stage] += time.process_time() - cpu

        async def waited() -> Any:
            with timed():
                return await task.fn(*args)

        if iscoroutinefunction(task.fn):
            return waited()
        with timed():
            return task.fn(*args)


def trade() -> None:
    """Take one line of JSON for each cycle, and answer with another."""
    from flows.clock import to_the_end
    from flows.cycle import Request
    from flows.trade import run_cycles
    from tasks.stage import Stage

    async def all_of_them() -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            watch, wall, cpu = Stopwatch(), time.perf_counter(), time.process_time()
            request = Request(symbols=tuple(asked["symbols"]), decider="rules", trigger="schedule",
                              as_of=datetime.fromisoformat(asked["as_of"]))  # fmt: skip
            Stage.__call__ = lambda task, *args, watch=watch: watch(task, *args)  # type: ignore[method-assign]
            records = await run_cycles(request)
            took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                    "records": dict(Counter(str(record.status) for record in records))}  # fmt: skip
            stages = {name: (watch.wall[name], watch.cpu[name]) for name in dict.fromkeys(STAGE_OF.values())}
            stages["rest"] = (took["wall"] - watch.wall.total(), took["cpu"] - watch.cpu.total())
            print(json.dumps(took | {"stages": stages}), flush=True)

    asyncio.run(to_the_end(all_of_them()))


# --- through Prefect -------------------------------------------------------------------------------------------


def through_prefect(n: int) -> None:
    """Run the deployment on one warm worker, beside a server of its own."""
    with market(n) as bench, served(bench.env) as (machine, server):
        for close in closes():
            bench.advance_to(close)
            parameters = {"trigger": "schedule", "as_of": close.isoformat()}
            before = machine.cpu(), server(), bench.cpu()
            began = time.monotonic()
            done = machine.ended(machine.start("trade/trade-adhoc", parameters=parameters))
            whole = time.monotonic() - began
            time.sleep(3)  # its process ships the last logs
            own = machine.cpu() - before[0]
            tasks = task_runs(machine, done["id"])
            stages: Counter[str] = Counter()
            for task in tasks:
                stages[task["name"].rsplit("-", 1)[0].partition("-S")[0]] += task["total_run_time"]
            said = " ".join(f"{name} {seconds:.2f}" for name, seconds in stages.most_common(12))
            print(f"Prefect {n} {'cold' if close == START + timedelta(minutes=15) else 'steady'}: "
                  f"{done['state']['name']} flow {done['total_run_time']:.2f} s, asked to ended {whole:.2f} s, "
                  f"{len(tasks)} task runs, CPU of worker and run {own:.2f} s = {own / n * 1000:.0f} ms a symbol, "
                  f"server's {server() - before[1]:.2f} s, sandbox's {bench.cpu() - before[2]:.2f} s; "
                  f"{said}")  # fmt: skip


def task_runs(machine: Machine, flow_run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := machine.call(
        "POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}, "offset": len(found), "limit": 200}
    ):
        found += page
    return found


@contextmanager
def served(env: dict[str, str]) -> Iterator[tuple[Machine, Callable[[], float]]]:
    """Start a Prefect server, deploy, and start a warm worker, as `quarterdeck worker` does it on any machine."""
    from deployments.services import environment
    from tasks.settings import load

    home = Path(env["QUARTERDECK_HOME"])
    api = env["QUARTERDECK_PREFECT_API_URL"]
    before = dict(os.environ)
    os.environ.update(env)
    try:
        whole = environment(load())
    finally:
        os.environ.clear()
        os.environ.update(before)
    port = api.rpartition(":")[2].partition("/")[0]
    with ExitStack() as stack:
        server = stack.enter_context(process(whole, "-m", "prefect", "server", "start", "--port", port))
        machine = Benched(env, home)
        _until(machine.answers)
        for command in ("migrate", "deploy"):
            done = _quarterdeck(env, command)
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stderr[-500:]}")
        for one in machine.call("POST", "deployments/filter", {}):
            machine.call("PATCH", f"deployments/{one['id']}", {"paused": True})
        machine.worker = stack.enter_context(process(env, "-m", "deployments.cli", "worker"))
        time.sleep(30)
        yield machine, lambda: cpu_of(server)


class Benched(Machine):
    """A machine of which only the worker is counted."""

    worker: psutil.Process

    def answers(self) -> bool:
        with suppress(Exception):
            return bool(self.api.get("health").is_success)
        return False

    def cpu(self) -> float:
        return cpu_of(self.worker)


def cpu_of(process: psutil.Process) -> float:
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:4])
    return total


@contextmanager
def process(env: dict[str, str], *arguments: str) -> Iterator[psutil.Process]:
    with subprocess.Popen(
        (sys.executable, *arguments), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        try:
            yield psutil.Process(started.pid)
        finally:
            started.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                started.wait(30)
            started.kill()


# --- two workers -------------------------------------------------------------------------------------------------


def two_workers(n: int, rounds: int = 4) -> None:
    """One process with all symbols and two with half each, in turns, on one PostgreSQL."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        databases = Databases(Path(folder), postgres=True)
        bench = stack.enter_context(market(n, databases.fresh(Path(folder), postgres=True)))
        one, other = stack.enter_context(bench.trader()), stack.enter_context(bench.trader())
        half = n // 2
        took: dict[str, list[float]] = {"one": [], "two": []}
        for turn in range(2 * rounds + 1):
            close = START + (turn + 1) * timedelta(minutes=15)
            bench.advance_to(close)
            if turn == 0:
                one.cycle(close, bench.symbols)
                other.cycle(close, bench.symbols)  # finds it done, and has everything open then
            elif turn % 2:
                took["one"].append(one.cycle(close, bench.symbols)["wall"])
            else:
                one.tell(close, bench.symbols[:half])
                other.tell(close, bench.symbols[half:])
                both = one.answer(), other.answer()
                took["two"].append(max(each["wall"] for each in both))
        single, double = statistics.median(took["one"]), statistics.median(took["two"])
        print(f"PostgreSQL {n}: one worker {single:.2f} s {[round(s, 2) for s in took['one']]}, two {double:.2f} s "
              f"{[round(s, 2) for s in took['two']]}: {single / double:.2f}x; {os.cpu_count()} cores, of which the "
              f"sandbox and PostgreSQL take their part")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["--trader"]:
        trade()
    else:
        main(tuple(map(int, sys.argv[1:])) or SIZES)
