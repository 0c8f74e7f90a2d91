"""`quarterdeck up`, `down`, `status` and `doctor` as a user runs them: real processes, free ports, own HOME."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from filelock import FileLock
from free_ports import free_port

from deployments import services, up_state
from deployments.up_state import UpState
from tasks.settings import ROOT, load, settings

NANNY = ROOT / "deployments" / "nanny.py"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose HOME is `tmp_path` and whose ports are free."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("QUARTERDECK_", "PREFECT_"))}
    return own | {
        "QUARTERDECK_HOME": str(tmp_path / "home"),
        "QUARTERDECK_TOML": str(tmp_path / "none.toml"),
        "QUARTERDECK_SANDBOX_URL": f"http://127.0.0.1:{free_port()}",
        "QUARTERDECK_PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "QUARTERDECK_MLFLOW_URL": f"http://127.0.0.1:{free_port()}",
    }


def quarterdeck(*arguments: str, env: dict[str, str], timeout: float = 170) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def processes_of(env: dict[str, str]) -> list[str]:
    """Every process that was started with this HOME, whoever its parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("QUARTERDECK_HOME") == env["QUARTERDECK_HOME"]:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


def wait_until(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def deafened(shell: psutil.Process) -> bool:
    """Say whether some descendant ignores SIGTERM by now, as /proc tells."""
    term = 1 << (signal.SIGTERM - 1)
    for process in shell.children(recursive=True):
        status = Path(f"/proc/{process.pid}/status").read_text()
        ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
        if int(ignored.split()[1], 16) & term and "python" in process.name():
            return True
    return False


# --- the nanny


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A nanny over a shell whose grandchild has a session of its own and is deaf to SIGTERM."""
    deaf = "import os,signal,time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    script = f"{sys.executable} -c '{deaf}' & sleep 600 & wait"
    nanny = subprocess.Popen([sys.executable, "-I", str(NANNY), str(os.getpid()), "1", "sh", "-c", script])
    here = psutil.Process(nanny.pid)
    assert wait_until(lambda: len(here.children(recursive=True)) == 3, 60)
    assert wait_until(lambda: deafened(here), 60)
    members = here.children(recursive=True)
    yield nanny, members
    for process in members:
        if process.is_running():
            process.kill()
    nanny.kill()
    nanny.wait()


def test_nanny_that_is_told_to_stop_leaves_no_descendant(family):
    nanny, members = family
    nanny.send_signal(signal.SIGTERM)
    assert nanny.wait(60) == 0
    assert not [process for process in members if process.is_running()]


def test_nanny_ends_the_rest_when_its_command_is_killed(family):
    nanny, members = family
    next(process for process in members if process.name() == "sh").kill()
    assert nanny.wait(60) != 0
    assert not [process for process in members if process.is_running()]


@pytest.mark.parametrize("then", ["restart", "wait"])
def test_what_a_killed_nanny_left_behind_holds_no_port_of_the_next(tmp_path, then):
    command = (sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '612'])")
    child = services.Child(services.Service("sleeper", command), os.environ, tmp_path)
    nanny = psutil.Process(child.pid)
    assert wait_until(lambda: any(p.name() == "sleep" for p in nanny.children(recursive=True)), 60)
    members = nanny.children(recursive=True)
    nanny.kill()
    assert wait_until(lambda: child.exit_code is not None, 60)
    try:
        getattr(child, then)()
        assert wait_until(lambda: not [p for p in members if p.is_running() and p.status() != "zombie"], 60)
    finally:
        child.stop()
        child.wait()


def test_everything_ends_when_the_nanny_s_parent_is_killed(tmp_path):
    script = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-I", {str(NANNY)!r}, str(os.getpid()), "1", "sh", "-c", "sleep 610 & sleep 610"])
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert wait_until(lambda: len(psutil.Process(parent.pid).children(recursive=True)) == 4, 60)
    members = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not [process for process in members if process.is_running()], 60)


# --- what `up` refuses


def test_taken_port_exits_2_and_names_the_port_and_its_setting(env):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = quarterdeck("up", "--once", env=env | {"QUARTERDECK_MLFLOW_URL": f"http://127.0.0.1:{port}"})
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("quarterdeck:")]
    assert f"port {port}" in line
    assert "QUARTERDECK_MLFLOW_URL" in line
    assert processes_of(env) == []


def test_second_up_with_the_same_home_exits_2_and_says_so(env):
    home = Path(env["QUARTERDECK_HOME"])
    home.mkdir()
    with up_state.claim(home):
        done = quarterdeck("up", "--once", env=env)
    assert done.returncode == 2
    assert f"up already with HOME {home}" in done.stderr


def test_wrong_setting_exits_2_with_one_line(env):
    for command in (("up", "--profile", "casino"), ("doctor",), ("status",)):
        done = quarterdeck(*command, env=env | {"QUARTERDECK_PROFILE": "casino"})
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "QUARTERDECK_PROFILE='casino'" in done.stderr


def test_once_and_detach_exclude_each_other(env):
    assert quarterdeck("up", "--once", "--detach", env=env).returncode == 2


# --- when nothing runs


def test_status_and_doctor_and_down_work_when_nothing_runs(env):
    status = json.loads(quarterdeck("status", "--json", env=env).stdout)
    assert (status["running"], status["cycles"]["total"], status["open_positions"]) == (False, 0, [])
    doctor = quarterdeck("doctor", "--json", env=env)
    assert doctor.returncode == 0, doctor.stdout
    assert {check["result"] for check in json.loads(doctor.stdout)["checks"]} <= {"ok", "warn"}
    down = quarterdeck("down", env=env)
    assert (down.returncode, down.stdout.count("\n")) == (0, 1)
    assert not Path(env["QUARTERDECK_HOME"]).exists()


def test_doctor_exits_1_for_a_port_that_is_taken(env):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        done = quarterdeck("doctor", "--json", env=env | {"QUARTERDECK_SANDBOX_URL": url})
    failed = [check["name"] for check in json.loads(done.stdout)["checks"] if check["result"] == "fail"]
    assert (done.returncode, failed) == (1, ["sandbox"])


def test_file_of_a_machine_that_went_down_is_not_taken_for_a_running_one(tmp_path):
    stale = {"pid": os.getpid(), "started_at": "2026-01-01T00:00:00Z", "profile": "sandbox"}
    up_state.write(tmp_path, UpState.model_validate(stale))
    assert up_state.state(tmp_path) is None
    with up_state.claim(tmp_path):
        assert up_state.state(tmp_path) is not None
    assert up_state.read(tmp_path) is None


# --- the whole thing


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_once_completes_a_cycle_and_leaves_no_process(env):
    done = quarterdeck("up", "--once", "--json", env=env, timeout=380)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["first_cycle"]["state"] == "Completed"
    assert len(report["first_cycle"]["cycles"]) == 2
    started = {"postgresql", "database", "sandbox", "prefect", "mlflow", "deploy", "warm", "worker", "first cycle"}
    assert set(report["seconds"]) == started
    assert processes_of(env) == []
    status = json.loads(quarterdeck("status", "--json", env=env).stdout)
    assert (status["running"], status["cycles"]["total"]) == (False, 2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_detached_up_survives_a_dead_service_and_a_killed_supervisor_leaves_nothing(env):
    home = Path(env["QUARTERDECK_HOME"])
    up = quarterdeck("up", "--detach", env=env, timeout=380)
    try:
        assert up.returncode == 0, up.stderr
        assert up.stderr.endswith("`quarterdeck down` stops it\n")
        assert "Ctrl-C" not in up.stderr
        before = json.loads(quarterdeck("status", "--json", env=env).stdout)
        assert before["running"]
        assert all(service["healthy"] for service in before["services"].values())
        assert quarterdeck("up", "--once", env=env).returncode == 2
        _nobody_else_comes_in(env, home)
        _the_secret_is_shown_once(up.stdout, up.stderr, home)
        _a_run_with_a_command_of_its_own_starts_nothing(env, home)

        for name in ("worker", "postgresql"):
            os.kill(before["services"][name]["pid"], signal.SIGKILL)
        for name in ("worker", "postgresql"):
            assert wait_until(lambda name=name: _pid(home, name) != before["services"][name]["pid"], 30)
        halted = json.loads(quarterdeck("halt", "--json", env=env).stdout)
        assert (halted["home"], halted["system"]) == (str(home), "running")

        now = up_state.state(home)
        assert now
        os.kill(now.pid, signal.SIGKILL)
        again = json.loads(quarterdeck("resume", "--json", env=env).stdout)
        assert (len(again["resumed"]), again["system"]) == (1, "not running")
        assert wait_until(lambda: processes_of(env) == [], 30), processes_of(env)
        assert up_state.state(home) is None
        assert not list(home.rglob("*.db"))
    finally:
        quarterdeck("down", env=env, timeout=90)
    assert processes_of(env) == []


def _nobody_else_comes_in(env: dict[str, str], home: Path) -> None:
    """Ask all servers as another user of the machine, where this test may become one; else without the secret."""
    other = os.getuid() == 0 and shutil.which("setpriv") and shutil.which("curl")
    become = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups") if other else ()
    prefect, mlflow = env["QUARTERDECK_PREFECT_API_URL"], env["QUARTERDECK_MLFLOW_URL"]
    for url, *options in (
        (f"{prefect}/deployments/filter", "-XPOST", "-d{}"),
        (f"{prefect}/block_documents/filter", "-XPOST", '-d{"include_secrets": true}'),
        (f"{prefect}/events", "-XPOST", "-d[]"),
        (f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=5",),
        (f"{mlflow}/get-artifact?path=x",),
        (f"{mlflow}/graphql", "-XPOST", "-d{}"),
    ):
        ask = ("curl", "-s", "-o/dev/null", "-w%{http_code}", "-HContent-Type: application/json", *options, url)
        assert subprocess.run((*become, *ask), capture_output=True, text=True, cwd="/").stdout == "401", url
    if other:
        assert subprocess.run((*become, "cat", str(home / "secret")), capture_output=True).returncode != 0


def _the_secret_is_shown_once(stdout: str, stderr: str, home: Path) -> None:
    """In the addresses that were printed, and in no log, state file, database or list of processes."""
    secret = (home / "secret").read_text().strip()
    addresses = [line.split()[1] for line in stdout.splitlines() if line.startswith(("prefect ", "mlflow "))]
    assert [address.partition("/quarterdeck#")[2] for address in addresses] == [secret, secret]
    assert secret not in stderr
    password = secret.partition(":")[2].encode()
    kept = [path for path in home.rglob("*") if path.is_file() and password in path.read_bytes()]
    assert kept == [home / "secret"]
    assert not any(password.decode() in str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"]))


def _a_run_with_a_command_of_its_own_starts_nothing(env: dict[str, str], home: Path) -> None:
    """Not even for who knows the secret."""
    from deployments.orchestrator import Orchestrator

    async def attacked() -> dict[str, Any]:
        api = Orchestrator(env["QUARTERDECK_PREFECT_API_URL"], home)
        found = await api.call("GET", "deployments/name/export/export")
        asked = {"state": {"type": "SCHEDULED"}, "job_variables": {"command": f"touch {home}/owned"}}
        run = await api.call("POST", f"deployments/{found['id']}/create_flow_run", asked)
        while run["state"]["type"] not in ("CRASHED", "COMPLETED", "FAILED"):
            await asyncio.sleep(0.5)
            run = await api.call("GET", f"flow_runs/{run['id']}")
        return dict(run["state"])

    state = asyncio.run(asyncio.wait_for(attacked(), 120))
    assert (state["type"], (home / "owned").exists()) == ("CRASHED", False)
    assert "its command is not ours" in state["message"]


def _pid(home: Path, name: str) -> int:
    now = up_state.read(home)
    return now.services[name].pid if now and name in now.services else 0


async def test_the_supervisor_goes_on_looking_for_lost_runs_when_prefect_was_down(tmp_path, monkeypatch):
    from deployments import supervisor
    from deployments.orchestrator import PrefectError

    looks = asyncio.Event()
    answers: list[Exception | int] = [PrefectError("500"), 1]

    async def close_lost(*, patiently: bool, workless: bool) -> int:
        if isinstance(said := answers.pop(0), Exception):
            raise said
        looks.set()
        await asyncio.Event().wait()
        return said

    monkeypatch.setattr(supervisor, "SWEEP_S", 0.0)
    one = supervisor.Supervisor(load(home=tmp_path))
    monkeypatch.setattr(one._api, "close_lost", close_lost)
    monkeypatch.setattr(one._api, "skip_late", lambda: asyncio.sleep(0))
    watching = asyncio.create_task(one.watch_over())
    await asyncio.wait_for(looks.wait(), 60)
    assert (tmp_path / "plain-http.pem").exists(), "somebody may have removed it"
    watching.cancel()


async def test_deploy_beside_an_up_leaves_its_state_as_it_is(tmp_path, monkeypatch):
    from deployments import automations, kept, supervisor

    async def nothing(*_: object, **__: object) -> dict[str, Any]:
        return {}

    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))
    monkeypatch.setattr(supervisor.Orchestrator, "ensure_pool", nothing)
    for name in ("last", "write", "note"):
        monkeypatch.setattr(kept, name, nothing)
    for name in ("existing", "released", "ensure"):
        monkeypatch.setattr(automations, name, nothing)
    (tmp_path / "logs").mkdir()
    running = UpState(pid=os.getppid(), started_at=datetime.now(UTC), profile="sandbox")
    up_state.write(tmp_path, running)
    await supervisor.Supervisor(load(), only_workers=True).deploy()
    assert up_state.read(tmp_path) == running


def test_two_looks_at_once_do_not_take_each_other_for_a_running_up(tmp_path):
    """A `down` beside a `status` would end whatever has the number of a process that is long gone."""
    with FileLock(tmp_path / "up.lock", thread_local=False) as looking:
        Timer(0.1, lambda: looking.release(force=True)).start()
        assert not up_state.claimed(tmp_path)
    with up_state.claim(tmp_path):
        assert up_state.claimed(tmp_path)


def test_what_must_complete_each_minute_and_does_not_is_told_and_fails_the_doctor(home, monkeypatch):
    from deployments import doctor, silence, status, supervisor
    from deployments.up_state import UpState
    from flows import clock
    from tasks.connections import store

    async def done() -> str:
        return "done"

    began = datetime.now(UTC) - timedelta(minutes=5)
    up = UpState(pid=1, started_at=began, profile="sandbox", phase="up")
    monkeypatch.setattr("deployments.up_state.state", lambda _: up)
    one = supervisor.Supervisor(load())
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(one, "_tell", lambda *said: told.append(said))
    assert silence.silent(load()) == []  # nothing was ever kept: there is no database
    store().leases.get("")
    assert asyncio.run(clock.to_the_end(done(), beat="watch")) == "done"
    assert silence.silent(load()) == status.status(load())["silent"] == ["protect"]
    one._listen()
    assert [name for name, _ in told] == ["protect"]
    assert "no completed run for three minutes" in told[0][1]
    results = {each.name: each for each in doctor.diagnose(load()) if each.name in ("watch", "protect")}
    assert [results[name].result for name in ("watch", "protect")] == ["ok", "fail"]
    asyncio.run(clock.to_the_end(done(), beat="protect"))
    assert silence.silent(load()) == []
    monkeypatch.setattr("tasks.adapters.heartbeat.MISSED", 0)
    asyncio.run(clock.to_the_end(done(), beat="watch"))  # three minutes ago, so to speak
    assert silence.silent(load()) == ["watch"]


def test_what_is_due_each_five_minutes_stands_still_after_fifteen(home, monkeypatch):
    from deployments import doctor, silence, supervisor
    from flows import clock
    from tasks.connections import store

    monkeypatch.setenv("QUARTERDECK_WATCH_EVERY_S", "300")
    settings.cache_clear()
    kept = Mock(wraps=store().leases.acquire)
    monkeypatch.setattr(store().leases, "acquire", kept)
    asyncio.run(clock.to_the_end(asyncio.sleep(0), beat="watch"))
    kept.assert_called_once_with("default: watch", "watch", timedelta(minutes=15))
    for minutes, still in ((15, []), (17, ["protect"])):
        began = datetime.now(UTC) - timedelta(minutes=minutes)
        up = UpState(pid=1, started_at=began, profile="sandbox", phase="up")
        monkeypatch.setattr("deployments.up_state.state", lambda _, up=up: up)
        assert silence.silent(load()) == still
    told: list[tuple[str, str]] = []
    one = supervisor.Supervisor(load())
    monkeypatch.setattr(one, "_tell", lambda *said: told.append(said))
    one._listen()
    assert "no completed run for fifteen minutes" in told[0][1]
    details = {each.name: each.detail for each in doctor.diagnose(load())}
    assert details["watch"] == "a run completes each five minutes"
    assert details["protect"] == "no completed run for fifteen minutes"


def test_status_shows_a_person_what_is_wrong_what_is_held_and_what_it_is_worth(home, capsys, monkeypatch):
    import pandas as pd
    from store_samples import BTC, a_full_cycle, a_position

    from deployments import status
    from flows.commands.output import show
    from tasks.connections import store

    close = pd.Timestamp("2026-11-20T12:10Z")
    bar = pd.DataFrame([[65000.0, 66000.0, 64900.0, 65500.25, 7.0]], pd.DatetimeIndex([close], name="open_time"))
    bar.columns = ["open", "high", "low", "close", "volume"]
    kept = store()
    kept.candles.save("bybit-sandbox", {(BTC, "5m"): bar}, datetime.now(UTC))
    kept.positions.save(a_position())
    kept.cycles.save(a_full_cycle(), datetime.now(UTC), first=True)
    kept.halts.add("news \x1b[31m", "a person", datetime(2026, 11, 20, 12, tzinfo=UTC))
    monkeypatch.setattr(status, "silent", lambda _: ["protect"])
    report = status.status(load())
    show(status.shown(report))
    told = capsys.readouterr().out
    assert "protect: no completed run for three minutes" in told
    assert "halted by a person since 2026-11-20 12:00 UTC: news \\x1b[31m" in told
    row = next(line for line in told.splitlines() if line.startswith(BTC))
    assert row.split("  ")[0] == BTC
    for cell in ("0.012", "65,000.1", "65,500.25", "20 12:15", "+6.00 USDT", "+0.50", "64,000"):
        assert f" {cell} " in row, cell
    assert f"last: {BTC} 2026-11-20 12:00 UTC: OPEN_LONG, executed" in told
    red = [each for each in status.shown(report) if getattr(each, "style", "") == "red"]
    assert len(red) == 2
