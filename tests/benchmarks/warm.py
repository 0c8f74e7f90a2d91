"""Warm runs beside stock ones on one machine started with `up`, events, cancellation, deaths; and a soak of forks."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from deployments.services import warm_socket
from deployments.warm.wire import VARIABLE as WARM_SOCKET
from tasks.adapters import secret
from tasks.settings import ROOT, load
from tests.adapters.free_ports import free_port

FORKED = "forked"  # a process pool whose runs are forked, as ours are
STOCK = "stock"  # a process pool as Prefect makes it, and a worker with Prefect's own settings
TRADE = {"decider": "hold", "dry_run": True, "reason": "a benchmark asks"}
# flow, its module or file, parameters, and how often it runs warm and stock
FLOWS: tuple[tuple[str, str, dict[str, Any], int, int], ...] = (
    ("heavy", "tests/benchmarks/heavy.py:heavy", {}, 5, 3),
    ("trade", "flows.trade.trade", TRADE, 5, 2),
)
FORKS = 300
SOAK = """
import sys, threading
from deployments.warm import daemon
def engine(request, files):
    import numpy, pandas, sqlite3, ssl
    pandas.Series(numpy.random.rand(500)).rolling(20).mean()
    numpy.linalg.svd(numpy.random.rand(60, 60))
    ssl.create_default_context()
    one = threading.Thread(target=lambda: sqlite3.connect(":memory:").execute("select 1"))
    one.start(); one.join()
    return 0
daemon._engine = engine
sys.exit(daemon.main())
"""


def main() -> None:
    """Print what each part took; about five minutes on two free cores."""
    soak()
    whole()


def whole() -> None:
    """Start everything in a fresh HOME and look at runs, events, cancellation and deaths."""
    with tempfile.TemporaryDirectory() as home, _receiver() as (alerts, address):
        env = _environment(Path(home)) | {"QUARTERDECK_ALERT_URLS": address}
        try:
            begun = time.perf_counter()
            up = _quarterdeck(env, "up", "--detach")
            print(f"up --detach: exit {up.returncode}, {time.perf_counter() - begun:.0f} s {up.stderr[-300:]}")
            machine = Machine(env, Path(home))
            machine.pause()
            print(f"idle: worker and daemon take {machine.idle():.3f} CPU seconds a second")
            runs(machine, env)
            events(machine)
            cancellation(machine)
            deaths(machine, alerts)
        finally:
            _quarterdeck(env, "down")


def soak() -> None:
    """Fork one small run after the other from a daemon with everything preloaded, four at a time."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/warm.sock"
        daemon = subprocess.Popen([sys.executable, "-c", SOAK, path], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            _until(lambda: Path(path).exists() or daemon.poll() is not None)
            threads = [Path(f"/proc/{daemon.pid}/task/{t}/comm").read_text().strip()
                       for t in os.listdir(f"/proc/{daemon.pid}/task")]  # fmt: skip
            before, begun = _rss(daemon.pid), time.perf_counter()
            env = os.environ | {"QUARTERDECK_WARM_SOCKET": path}
            command = [sys.executable, "-m", "deployments.warm.run"]
            codes: list[int] = []
            for _ in range(FORKS // 4):
                four = [subprocess.Popen(command, cwd=ROOT, env=env) for _ in range(4)]
                codes += [one.wait(120) for one in four]
            took = time.perf_counter() - begun
            print(f"soak: {len(codes)} forks, {sum(map(bool, codes))} failed, {took / len(codes):.3f} s each, "
                  f"daemon's threads {threads}, RSS {before:.0f} -> {_rss(daemon.pid):.0f} MB")  # fmt: skip
        finally:
            daemon.kill()
            print((daemon.communicate()[1] or "").strip())


class Machine:
    """What `up` started, through Prefect's API."""

    def __init__(self, env: dict[str, str], home: Path) -> None:
        self.home, self.resting = home, 0.0
        self.api = httpx.Client(base_url=env["QUARTERDECK_PREFECT_API_URL"] + "/", timeout=60, trust_env=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        for _ in range(5):
            answer = self.api.request(method, path, json=body, auth=secret.login(self.home))
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> str:
        return str(self.call("GET", f"deployments/name/{name}")["id"])

    def pause(self) -> None:
        for one in self.call("POST", "deployments/filter", {}):
            self.call("PATCH", f"deployments/{one['id']}", {"paused": True})
        time.sleep(20)

    def start(self, name: str, **body: Any) -> str:
        new = {"state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4()), **body}
        return str(self.call("POST", f"deployments/{self.deployment(name)}/create_flow_run", new)["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"flow_runs/{run_id}")
        return found

    def ended(self, run_id: str) -> dict[str, Any]:
        _until(lambda: self.run(run_id)["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        return self.run(run_id)

    def pids(self) -> dict[str, int]:
        services = json.loads((self.home / "up.json").read_text())["services"]
        return {name: service["pid"] for name, service in services.items()}

    def idle(self) -> float:
        """Measure what worker and daemon take while nothing runs; it is subtracted."""
        before, begun = self.cpu(), time.monotonic()
        time.sleep(20)
        self.resting = (self.cpu() - before) / (time.monotonic() - begun)
        return self.resting

    def cpu(self) -> float:
        return sum(_cpu(self.pids()[name]) for name in ("warm", "worker"))

    def deploy(self, flow: str, entrypoint: str, pool: str) -> str:
        """Deploy a flow as it lies here to a pool; returns its id."""
        wanted = {
            "name": f"{flow}-{pool}", "flow_id": self.call("POST", "flows/", {"name": flow})["id"],
            "work_pool_name": pool, "entrypoint": entrypoint, "path": str(ROOT),
            "job_variables": {"command": f"{sys.executable} -m deployments.warm.run"} if pool == FORKED else {},
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        }  # fmt: skip
        return str(self.call("POST", "deployments/", wanted)["id"])


def runs(machine: Machine, env: dict[str, str]) -> None:
    """From create_flow_run to the flow's start, and the CPU of worker, daemon and run together; warm beside stock."""
    with _worker(env, STOCK) as stock, _worker(env, FORKED, **_as_ours(env)) as ours:
        for flow, entrypoint, parameters, warm_runs, stock_runs in FLOWS:
            warm_one, stock_one = (machine.deploy(flow, entrypoint, pool) for pool in (FORKED, STOCK))
            asked = {"parameters": parameters}
            cpu = lambda: _cpu(ours) + _cpu(machine.pids()["warm"])  # noqa: E731
            warm = _figures(machine, f"{flow}, warm", warm_one, asked, warm_runs, cpu, machine.resting)
            cold = _figures(machine, f"{flow}, stock", stock_one, asked, stock_runs, lambda: _cpu(stock), 0.0)
            print(f"{flow}: start {cold[0] / warm[0]:.1f}x, CPU {cold[1] / warm[1]:.1f}x")


def _figures(
    machine: Machine, name: str, deployment: str, asked: Any, count: int, cpu: Callable[[], float], resting: float
) -> tuple[float, float]:
    """Run a deployment some times, after a first that does not count; returns the medians."""
    starts, taken, states = [], [], []
    for _ in range(count + 1):
        before, begun, at = cpu(), time.monotonic(), datetime.now(UTC)
        new = {"state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4()), **asked}
        done = machine.ended(machine.call("POST", f"deployments/{deployment}/create_flow_run", new)["id"])
        time.sleep(3)  # its process ships the last logs
        taken.append(cpu() - before - resting * (time.monotonic() - begun))
        starts.append((datetime.fromisoformat(done["start_time"]) - at).total_seconds())
        states.append(done["state"]["name"])
    start, used = statistics.median(starts[1:]), statistics.median(taken[1:])
    print(f"{name}: n={count} flow start median {start:.2f} s {[round(s, 2) for s in starts]}, "
          f"CPU median {used:.2f} s {[round(c, 2) for c in taken]} {sorted(set(states))}")  # fmt: skip
    return start, used


def _as_ours(env: dict[str, str]) -> dict[str, str]:
    """Return what our own worker has more than a stock one."""
    quick = {f"PREFECT_WORKER_{name}_SECONDS": "1" for name in ("QUERY", "PREFETCH")}
    return quick | {WARM_SOCKET: warm_socket(load(home=env["QUARTERDECK_HOME"]))}


@contextmanager
def _worker(env: dict[str, str], name: str, **more: str) -> Iterator[int]:
    """Run a stock worker of a pool of its own beside ours, which refuses these flows; yields its process id."""
    its = {"PREFECT_API_URL": env["QUARTERDECK_PREFECT_API_URL"], "PREFECT_HOME": f"{env['QUARTERDECK_HOME']}/stock"}
    its["PREFECT_API_AUTH_STRING"] = secret.read(Path(env["QUARTERDECK_HOME"]))
    prefect = [sys.executable, "-m", "prefect"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pool = (*prefect, "work-pool", "create", name, "--type", "process")
    subprocess.run(pool, env=env | its, cwd=ROOT, check=True, **quiet)
    worker = subprocess.Popen((*prefect, "worker", "start", "--pool", name), env=env | its | more, cwd=ROOT, **quiet)
    time.sleep(20)
    try:
        yield worker.pid
    finally:
        worker.terminate()
        worker.wait(60)


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process, its children and those of them that have ended."""
    root = psutil.Process(pid)
    return float(sum(sum(process.cpu_times()[:4]) for process in [root, *root.children(recursive=True)]))


def events(machine: Machine) -> None:
    """From an event's emission to the start of the flow it triggers."""
    deployment, took = machine.deployment("trade/trade-event"), []
    for n in range(4):
        symbol = ("BTC/USDT:USDT", "ETH/USDT:USDT")[n % 2]
        emitted = datetime.now(UTC)
        resource = {"prefect.resource.id": f"quarterdeck.symbol.{symbol}"}
        event = {"id": str(uuid4()), "occurred": emitted.isoformat(), "event": "quarterdeck.reasons",
                 "resource": resource, "payload": {"symbols": [symbol], "reasons": 1}, "related": []}  # fmt: skip
        machine.call("POST", "events", [event])
        wanted = {
            "flow_runs": {"deployment_id": {"any_": [deployment]}, "start_time": {"after_": emitted.isoformat()}}
        }  # it takes those that have not begun, too
        wanted["sort"] = "START_TIME_DESC"
        if not _until(lambda wanted=wanted: _begun(machine, wanted), 60):
            print("event: no run within 60 s")
            continue
        [run, *_] = _begun(machine, wanted)
        took.append((datetime.fromisoformat(run["start_time"]) - emitted).total_seconds())
        machine.ended(run["id"])
    print(f"event to flow start: median {statistics.median(took):.2f} s {[round(t, 2) for t in took]}")


def _begun(machine: Machine, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    after = wanted["flow_runs"]["start_time"]["after_"]
    found = machine.call("POST", "flow_runs/filter", wanted)
    return [run for run in found if run["start_time"] and datetime.fromisoformat(run["start_time"]).isoformat() > after]


def cancellation(machine: Machine) -> None:
    """From the cancellation to the state Cancelled, of a run whose venue hangs."""
    took = []
    sandbox = psutil.Process(machine.pids()["sandbox"]).children(recursive=True)
    for _ in range(2):
        for process in sandbox:
            process.send_signal(signal.SIGSTOP)
        run = machine.start("watch/watch")
        _until(lambda run=run: machine.run(run)["state"]["type"] == "RUNNING")
        time.sleep(1)
        begun = time.perf_counter()
        machine.call("POST", f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        done = machine.ended(run)
        took.append((round(time.perf_counter() - begun, 1), done["state"]["name"]))
        for process in sandbox:
            process.send_signal(signal.SIGCONT)
    print(f"cancelled after: {took}")


def deaths(machine: Machine, alerts: list[dict[str, Any]]) -> None:
    """Kill each child; each comes back and is alerted about once."""
    for name in ("warm", "worker", "sandbox", "mlflow", "prefect"):
        before, begun = machine.pids()[name], time.perf_counter()
        psutil.Process(before).kill()
        back = _until(lambda name=name, before=before: machine.pids().get(name, before) != before, 60)
        took = time.perf_counter() - begun
        _until(lambda name=name: any(f"{name} ended" in alert["message"] for alert in alerts), 60)
        told = [alert["message"] for alert in alerts if alert["message"].startswith(f"{name} ended")]
        print(f"killed {name}: {'back' if back else 'not back'} after {took:.1f} s, alerts: {told}")
    print(f"all alerts: {[alert['message'] for alert in alerts]}")


@contextmanager
def _receiver() -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Take what Apprise sends to a json:// address."""
    taken: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield taken, f"json://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def _environment(home: Path) -> dict[str, str]:
    left_out = ("QUARTERDECK_", "PREFECT_", "PYTHONDONTWRITEBYTECODE")  # as a user has it: modules compiled once
    own = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    ports = [free_port() for _ in range(3)]
    return own | {
        "QUARTERDECK_HOME": str(home), "QUARTERDECK_SANDBOX_URL": f"http://127.0.0.1:{ports[0]}",
        "QUARTERDECK_PREFECT_API_URL": f"http://127.0.0.1:{ports[1]}/api",
        "QUARTERDECK_MLFLOW_URL": f"http://127.0.0.1:{ports[2]}",
    }  # fmt: skip


def _quarterdeck(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def _until(condition: Callable[[], Any], seconds: float = 240) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def _rss(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / 1e6)
