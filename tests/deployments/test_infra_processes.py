"""compose.yaml's processes with their own commands and settings, on this machine: PostgreSQL, server, worker, one run.

What differs from the containers: hosts are 127.0.0.1 and ports free ones, one Prefect API without Redis (the broker's
variables are left out, and with them `prefect-services`, which would share it), one worker instead of two, no MLflow.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from composed import INFRA, OURS, environment, filled
from cryptography.fernet import Fernet
from free_ports import free_port

from deployments.orchestrator import FINAL, Orchestrator
from tasks.adapters.store.store import Store
from tasks.settings import ROOT

NEWEST = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
BROKER = ("PREFECT_MESSAGING_", "PREFECT_SERVER_EVENTS_CAUSAL", "PREFECT_SERVER_CONCURRENCY_LEASE", "PREFECT_REDIS_")


@pytest.fixture
def password() -> str:
    return secrets.token_hex(12)


@pytest.fixture
def postgres(password: str) -> Iterator[int]:
    """A cluster of our own from the system's PostgreSQL, set up by the composed init script; its port."""
    if NEWEST is None:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql: Prefect's store needs one with pg_trgm")
    root = Path(tempfile.mkdtemp(prefix="quarterdeck-composed-"))  # pytest's own folder is closed to other users
    owner = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    (root / "password").write_text(password)
    if owner:
        for path in (root, root / "password"):
            shutil.chown(path, owner)
    port, tools, data = free_port(), NEWEST.parent, root / "data"

    def tool(name: str, *arguments: object) -> None:
        command = [str(tools / name), *map(str, arguments)]
        logins = dict.fromkeys(("STORE_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD"), password)
        env = {"PGPASSWORD": password, "PATH": os.defpath, "LC_ALL": "C.UTF-8", **logins}
        done = subprocess.run(
            command, user=owner, cwd="/", env=env, stdout=(root / "log").open("ab"), stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, (root / "log").read_text()[-2000:]

    tool("initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", root / "password", "-E", "UTF8")
    where = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={root} -c fsync=off"
    tool("pg_ctl", "-D", data, "-w", "-l", root / "server.log", "-o", where, "start")
    try:
        login = ("-h", "127.0.0.1", "-p", port, "-U", "postgres", "-v", "ON_ERROR_STOP=1")
        tool("psql", *login, "-d", "postgres", "-f", INFRA / "postgres" / "databases.sql")
        yield port
    finally:
        tool("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(root, ignore_errors=True)


class Composed:
    """Services of compose.yaml as processes of this machine."""

    def __init__(self, postgres: int, password: str, home: Path) -> None:
        names = ("STORE_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "MLFLOW_PASSWORD", "REDIS_PASSWORD")
        key = Fernet.generate_key().decode()
        self.given = dict.fromkeys(names, password) | {
            "PREFECT_AUTH": f"admin:{password}", "PREFECT_ENCRYPTION_KEY": key,
        }  # fmt: skip
        self.home, self.prefect, self.sandbox = home, free_port(), free_port()
        self.moved = {
            "@postgres/": f"@127.0.0.1:{postgres}/", "//prefect:4200": f"//127.0.0.1:{self.prefect}",
            "//sandbox:8891": f"//127.0.0.1:{self.sandbox}", "/var/lib/quarterdeck": str(home),
            "/tmp/prefect": str(home / "server"), "0.0.0.0": "127.0.0.1", "http://mlflow:5000": "",
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        service = OURS[name]
        program = service.get("entrypoint", ["deployments.cli"])[-1]
        ports = {"4200": str(self.prefect), "8891": str(self.sandbox)}
        arguments = [ports.get(each, each) for each in self._here(filled(service["command"], self.given))]
        own = {k: v for k, v in os.environ.items() if not k.startswith(("QUARTERDECK_", "PREFECT_", "MLFLOW_"))}
        composed = filled(environment(service), self.given)
        env = own | {k: v for k, v in zip(composed, self._here(list(composed.values())), strict=True) if not broker(k)}
        env |= {"QUARTERDECK_HOME": str(self.home / name), "QUARTERDECK_TOML": str(self.home / "none.toml")}
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", program, *arguments], env=env, cwd=ROOT, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def finish(self, name: str) -> None:
        assert self.start(name).wait(200) == 0, self.log(name)

    def stop(self) -> None:
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()[-3000:]

    def _here(self, values: list[str]) -> list[str]:
        for theirs, ours in self.moved.items():
            values = [value.replace(theirs, ours) for value in values]
        return values


def broker(variable: str) -> bool:
    return variable.startswith(BROKER)


def answers(url: str, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.3)
    pytest.fail(f"{url} does not answer")


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("QUARTERDECK_COMPOSED" not in os.environ, reason="a minute of CPU: `make composed` runs it")
async def test_the_composed_processes_complete_a_run_on_postgresql_behind_a_password(
    postgres, password, tmp_path, monkeypatch
):
    composed = Composed(postgres, password, tmp_path)
    api = f"http://127.0.0.1:{composed.prefect}/api"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", f"admin:{password}")
    try:
        composed.start("sandbox"), composed.start("prefect")
        composed.finish("migrate")
        answers(f"http://127.0.0.1:{composed.sandbox}/v5/market/time")
        answers(f"{api}/health")
        assert httpx.get(f"{api}/admin/version", trust_env=False).status_code == 401
        since = datetime.now(UTC)
        composed.finish("deploy")
        composed.start("worker")
        prefect = Orchestrator(api, tmp_path)
        await until(lambda: prefect.worker_is_online("worker", since))
        run = (await prefect.start_run("trade/trade-adhoc", {"reason": "a test asks", "trigger": "adhoc"}))["id"]

        async def ended() -> bool:
            return (await prefect.call("GET", f"flow_runs/{run}"))["state"]["type"] in FINAL

        await until(ended)
        state = (await prefect.call("GET", f"flow_runs/{run}"))["state"]
        assert state["name"] == "Completed", f"{state['message']} {composed.log('worker')}"
    finally:
        composed.stop()
    store = Store(f"postgresql://quarterdeck:{password}@127.0.0.1:{postgres}/quarterdeck")
    try:
        assert store.counts()["cycles"] == 2
    finally:
        store.close()
    for name in ("sandbox", "prefect", "migrate", "deploy", "worker"):
        assert password not in (tmp_path / f"{name}.log").read_text()
