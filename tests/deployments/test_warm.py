"""Warm runs: the daemon and its client as two processes, with a stand-in for Prefect's engine; once with the engine.

The stand-in is a package called `prefect` in front of the real one, so the code under test is what runs in service.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.services import answers
from deployments.warm import run as client
from deployments.warm import wire
from deployments.warm.wire import REFUSED, VARIABLE, endpoint, stamp
from tasks.settings import ROOT

ENGINE = """
import json, os, signal, sys, time
told = {"pid": os.getpid(), "parent": os.getppid(), "cwd": os.getcwd(), "mark": os.environ["MARK"]}
if os.environ["DO"] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
with open(os.environ["SAYS"] + ".new", "w") as file:
    json.dump(told, file)
os.rename(file.name, os.environ["SAYS"])
print("said by the run")
if os.environ["DO"] == "wait":
    time.sleep(600)
if os.environ["DO"] == "kill":
    os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(int(os.environ["DO"]))
"""
DAEMON = """
import sys
from deployments.warm import daemon
daemon.PRELOADED = tuple(sys.argv.pop(1).split(","))
sys.exit(daemon.main())
"""


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found
    return found


class Warm:
    """A daemon's socket, and clients that run there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "warm.sock"
        self.processes: list[subprocess.Popen[str]] = []
        package = folder / "prefect"
        for name, text in (("engine", ENGINE), ("context", "def refresh_global_settings_context(): pass"),
                           ("logging/configuration", "def setup_logging(): pass")):  # fmt: skip
            file = package / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent / "__init__.py").touch()
            file.write_text(text)
        own = {"PYTHONPATH": f"{folder}:{ROOT}", VARIABLE: str(self.socket), "MARK": "from the client"}
        self.env = os.environ | own

    def started(self, preloaded: str = "json", **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DAEMON, preloaded, str(self.socket)]
        daemon = self._process(command, self.env | env)
        until(lambda: answers(f"unix:{self.socket}"))  # it is there a moment before it listens
        return daemon

    def client(self, do: object, name: str = "run", **env: str) -> subprocess.Popen[str]:
        env = {"DO": str(do), "SAYS": str(self.folder / name), **env}
        return self._process([sys.executable, "-m", "deployments.warm.run"], self.env | env)

    def said(self, name: str = "run") -> dict[str, Any]:
        path = self.folder / name
        until(path.exists)
        return json.loads(path.read_text())

    def _process(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    one = Warm(tmp_path)
    yield one
    one.end()


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_run_is_forked_with_the_client_s_place_in_the_world_and_its_code_comes_back(warm):
    daemon = warm.started()
    code, out, err = outcome(warm.client(3))
    told = warm.said()
    assert (code, out, err) == (3, "said by the run\n", "")
    assert told["parent"] == daemon.pid
    assert (told["cwd"], told["mark"]) == (str(warm.folder), "from the client")


def test_one_daemon_serves_many_runs_at_once(warm):
    warm.started()
    clients = [warm.client(code, f"run-{code}") for code in range(6)]
    assert [outcome(one)[0] for one in clients] == list(range(6))


def test_run_that_ends_by_a_signal_ends_the_client_by_the_same(warm):
    warm.started()
    assert outcome(warm.client("kill"))[0] == -signal.SIGUSR1


def test_without_a_daemon_the_run_starts_cold_with_a_warning(warm):
    cold = warm.client(4)
    code, _, err = outcome(cold)
    assert code == 4
    assert warm.said()["pid"] == cold.pid
    assert err == f"WARNING no warm daemon at {warm.socket}: this run starts cold\n"


def test_daemon_that_is_killed_takes_its_runs_along_and_the_client_says_so(warm):
    daemon, waiting = warm.started(), warm.client("wait")
    child = psutil.Process(warm.said()["pid"])
    daemon.kill()
    code, _, err = outcome(waiting)
    assert (code, err) == (client.LOST, "the warm daemon went away: the run went with it\n")
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_client_that_is_killed_takes_its_run_along_and_the_daemon_stays(warm):
    daemon, waiting = warm.started(), warm.client("wait")
    child = psutil.Process(warm.said()["pid"])
    waiting.kill()
    until(lambda: not child.is_running())  # reaped by the daemon
    assert daemon.poll() is None
    assert outcome(warm.client(0, "next"))[0] == 0


def test_only_a_run_that_ended_well_takes_its_note_away(warm):
    warm.started()
    home = {"QUARTERDECK_HOME": str(warm.folder)}
    for code in (0, 1):  # 1: the engine could not tell Prefect how the run ended, for one
        assert outcome(warm.client(code, f"run-{code}", PREFECT__FLOW_RUN_ID=f"id-{code}", **home))[0] == code
    assert [note.name for note in (warm.folder / "runs").iterdir()] == ["id-1"]


def test_sigterm_is_passed_on_to_the_run(warm):
    warm.started()
    waiting = warm.client("wait")
    warm.said()
    waiting.terminate()
    assert outcome(waiting)[0] == 9


def test_daemon_refuses_a_client_of_another_installation(warm):
    warm.started()
    with endpoint() as other:
        other.settimeout(60)
        other.connect(str(warm.socket))
        body = json.dumps({"env": {}, "cwd": "/", "stamp": "another"}).encode()
        socket.send_fds(other, [body], [0, 1, 2])
        assert other.recv(1) == REFUSED


def test_a_module_of_ours_that_is_written_added_or_removed_makes_another_stamp(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "ROOT", tmp_path)
    for name in ("flows", "tasks/core", "deployments", "tests"):
        (tmp_path / name).mkdir(parents=True)
    old, new = tmp_path / "tasks" / "core" / "old.py", tmp_path / "flows" / "new.py"
    old.touch()
    stamps = [stamp()]
    os.utime(old, ns=(1, 1))
    stamps.append(stamp())
    new.touch()
    stamps.append(stamp())
    old.unlink()
    stamps.append(stamp())
    assert len(set(stamps)) == 4
    (tmp_path / "tests" / "test_new.py").touch()
    (tmp_path / "flows" / "new.pyc").touch()
    assert stamp() == stamps[-1]


def test_nonsense_does_not_end_the_daemon(warm):
    warm.started()
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"{}", b"[]", b"\0"):
        with endpoint() as other:
            other.connect(str(warm.socket))
            other.sendall(nonsense)
    assert outcome(warm.client(0))[0] == 0


def test_refused_run_starts_cold_with_a_warning(warm):
    with endpoint() as daemon:
        daemon.bind(str(warm.socket))
        daemon.listen()
        daemon.settimeout(60)
        cold = warm.client(4)
        accepted, _ = daemon.accept()
        accepted.recv(1)
        accepted.sendall(REFUSED)
        code, _, err = outcome(cold)
        accepted.close()
    assert code == 4
    assert err == "WARNING the warm daemon is of an earlier installation: this run starts cold\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_environment_is_not_handed_to_another_user_s_socket(warm, request):
    warm.folder.chmod(0o777)
    listen = "import os, socket as k, sys, time; os.setuid(65534); s = k.socket(k.AF_UNIX, k.SOCK_SEQPACKET);"
    listen += "s.bind(sys.argv[1]);"
    listen += "s.listen(); os.chmod(sys.argv[1], 0o777); print(flush=True); a, _ = s.accept(); print(len(a.recv(99)))"
    theirs_too = Path(tempfile.mkdtemp(prefix="quarterdeck-another-"))  # pytest's own folder is closed to other users
    request.addfinalizer(lambda: shutil.rmtree(theirs_too))
    theirs_too.chmod(0o777)
    where = str(theirs_too / "warm.sock")
    theirs = warm._process([sys.executable, "-I", "-c", listen, where], {})
    assert theirs.stdout.readline() == "\n"
    code, _, err = outcome(warm.client(4, **{VARIABLE: where}))
    assert code == 4
    assert f"WARNING {where} is another user's: this run starts cold\n" in err
    assert outcome(theirs)[1] == "0\n"


def test_daemon_does_not_start_the_run_of_a_client_that_did_not_wait(warm):
    daemon = warm.started()
    daemon.send_signal(signal.SIGSTOP)
    with endpoint() as hasty:
        hasty.connect(str(warm.socket))
        env = warm.env | {"DO": "0", "SAYS": str(warm.folder / "run")}
        body = json.dumps({"env": env, "cwd": "/", "stamp": stamp()}).encode()
        socket.send_fds(hasty, [body], [0, 1, 2])
    daemon.send_signal(signal.SIGCONT)
    assert outcome(warm.client(0, "next"))[0] == 0
    assert not (warm.folder / "run").exists()


# --- with Prefect's own engine


@pytest.mark.slow
def test_engine_completes_a_forked_run_whose_logs_and_states_reach_the_server(prefect_server, tmp_path):
    from prefect import get_client
    from prefect.settings import get_current_settings

    (tmp_path / "warm_story.py").write_text(
        "from prefect import flow\n@flow(name='warm-story')\ndef story(n: int):\n    return n + 1\n"
    )
    warm = Warm(tmp_path / "daemon")
    server = get_current_settings().to_environment_variables(exclude_unset=True)
    warm.env |= server | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    warm.folder = tmp_path
    sys.path.insert(0, str(tmp_path))
    try:
        from warm_story import story

        with get_client(sync_client=True) as api:
            flow_id = api.create_flow(story)
            deployment = api.create_deployment(flow_id, "warm", entrypoint="warm_story.story", pull_steps=[], path=".")
            created = api.create_flow_run_from_deployment(deployment, parameters={"n": 1})
            daemon = warm.started("prefect.engine,prefect.flow_engine")
            code, out, err = outcome(warm.client(0, PREFECT__FLOW_RUN_ID=str(created.id)))
            assert code == 0, out + err
            assert daemon.poll() is None
            assert api.read_flow_run(created.id).state.is_completed()
    finally:
        sys.path.remove(str(tmp_path))
        warm.end()
