"""HOME's own PostgreSQL: made once, reached by every command whoever runs it, and left running by nobody."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import up_state
from deployments.backup import backup, restore
from deployments.services import Child, database_plan
from tasks.adapters.postgres import cluster, serve
from tasks.adapters.store.store import Store
from tasks.core.errors import InputError, StoreError
from tasks.settings import CLUSTER, ROOT, Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # commands import for minutes on a busy machine
QUARTERDECK = (sys.executable, "-m", "deployments.cli")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Settings]:
    """A HOME with a cluster and nothing that runs."""
    system = made(tmp_path / "home")
    yield system
    assert gone(system), "nobody uses it, and it runs"


def made(home: Path) -> Settings:
    up_state.make_home(home)
    system = Settings(home=home)
    assert cluster.make(system) == ""
    with closing(Store(system.store_url)) as store:
        store.migrate()
    cluster.leave(home / CLUSTER)
    return system


def gone(system: Settings) -> bool:
    return waited(lambda: not serve.is_held(system.home / CLUSTER / serve.SERVER))


def waited(condition: Any, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(condition())


def command(system: Settings, *arguments: str) -> "subprocess.Popen[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("QUARTERDECK_")}
    env = own | {"QUARTERDECK_HOME": str(system.home), "QUARTERDECK_MLFLOW_URL": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen((*QUARTERDECK, *arguments, "--json"), env=env, cwd=ROOT, text=True, **pipes)


def said(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def halts(system: Settings) -> list[str]:
    with closing(Store(system.store_url)) as store:
        kept = [halt.reason for halt in store.halts.active()]
    cluster.leave(system.home / CLUSTER)
    return kept


def up(system: Settings) -> Child:
    """What `up` runs of it, beside an `up` that is there."""
    return Child(database_plan(system)[CLUSTER], os.environ, system.home / "logs")


def answers(system: Settings) -> bool:
    return serve.answers(system.home / CLUSTER)


def test_commands_at_once_start_it_once_use_one_ledger_and_leave_nothing(system):
    both = [command(system, "halt", "--reason", f"by {n}") for n in range(2)]
    assert [said(process)["home"] for process in both] == [str(system.home)] * 2
    assert gone(system)
    assert (system.home / "logs" / "postgresql.log").read_text().count("starting PostgreSQL") == 2  # `made` was one
    assert sorted(halts(system)) == ["by 0", "by 1"]
    assert not (system.home / "quarterdeck.db").exists()
    assert str(system.home / CLUSTER) in said(command(system, "status"))["database"]


def test_a_halt_reaches_the_ledger_after_everything_was_killed(system):
    with up_state.claim(system.home):
        child = up(system)
        assert waited(lambda: answers(system))
    postmaster = psutil.Process(child.pid).children()[0]
    notes = [system.home / CLUSTER / name for name in (f"{serve.DATA}/postmaster.pid", ".s.PGSQL.5432.lock")]
    for process in (psutil.Process(child.pid), postmaster):
        process.kill()
    child.wait()
    assert gone(system)
    with subprocess.Popen(
        ["sleep", "600"], user=notes[0].stat().st_uid
    ) as other:  # its number is another process's now
        for note in notes:
            note.write_text("\n".join([str(other.pid), *note.read_text().split("\n")[1:]]))
        said(command(system, "halt", "--reason", "after a crash"))
        other.kill()
    assert halts(system) == ["after a crash"]


def test_a_command_waits_for_the_up_that_starts_it(system):
    with up_state.claim(system.home):
        early = command(system, "halt", "--reason", "early")
        time.sleep(3)
        assert not answers(system), "an `up` is there: it starts it"
        child = up(system)
        said(early)
        child.stop()
        child.wait()
    assert gone(system)
    assert halts(system) == ["early"]


def test_an_up_takes_over_from_a_command_that_stays_and_that_goes_on(system):
    with closing(Store(system.store_url)) as store:  # as `metrics` does
        with up_state.claim(system.home):
            child = up(system)
            assert waited(lambda: answers(system) and served_by(system) in pids(child))
            assert store.counts()["halts"] == 0
            child.stop()
            child.wait()
        assert gone(system)
        assert store.counts()["halts"] == 0, "started again for it"
    cluster.leave(system.home / CLUSTER)


def pids(child: Child) -> list[int]:
    return [process.pid for process in psutil.Process(child.pid).children()]


def served_by(system: Settings) -> int:
    return int((system.home / CLUSTER / serve.DATA / "postmaster.pid").read_text().split()[0])


def test_a_home_whose_path_is_too_long_for_a_socket(tmp_path):
    system = made(tmp_path / ("deep" * 30) / "home")
    assert len(str(system.home)) > 120
    said(command(system, "halt", "--reason", "deep"))
    assert halts(system) == ["deep"]
    assert gone(system)


def test_what_a_home_has_in_sqlite_stays_there(tmp_path):
    up_state.make_home(tmp_path)
    old = Settings(home=tmp_path)
    for name in ("quarterdeck.db", "mlflow.db", "prefect/prefect.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = old.databases
    assert "quarterdeck, prefect, mlflow in SQLite" in cluster.make(old)
    assert old.databases == before
    (tmp_path / "prefect" / "prefect.db").unlink()
    assert "quarterdeck, mlflow in SQLite" in cluster.make(old)
    assert old.databases["prefect"].startswith("postgresql:")
    assert old.store_url == before["quarterdeck"]


def test_without_its_programs_a_new_home_is_sqlite_and_one_that_has_it_begins_nothing_beside_it(
    system, tmp_path, monkeypatch
):
    monkeypatch.setattr(serve, "programs", lambda: None)
    assert "quarterdeck, prefect, mlflow in SQLite: " in cluster.make(Settings(home=tmp_path))
    assert Settings(home=tmp_path).store_url.startswith("sqlite:")
    with pytest.raises(StoreError, match="is not installed"):
        Store(system.store_url)
    assert not (system.home / "quarterdeck.db").exists()
    cluster.leave(system.home / CLUSTER)
    (system.home / CLUSTER / "databases").write_text("")
    with pytest.raises(InputError, match="is empty"):
        system.databases  # noqa: B018


def test_it_is_saved_and_brought_back_into_an_empty_home_or_not_at_all(system, tmp_path):
    said(command(system, "halt", "--reason", "kept"))
    archive = tmp_path / "all.tar.gz"
    assert backup(system, archive) == ["mlflow.dump", "prefect.dump", "quarterdeck.dump"]
    with pytest.raises(InputError, match="has tables"):
        restore(system, archive)
    cluster.leave(system.home / CLUSTER)
    other = Settings(home=tmp_path / "other")
    up_state.make_home(other.home)
    assert set(restore(other, archive)) == {"mlflow.dump", "prefect.dump", "quarterdeck.dump"}
    assert halts(other) == ["kept"]
    assert gone(other)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_has_its_own_and_reaches_nobody_else_s(system, tmp_path):
    with closing(Store(system.store_url)):
        there = system.home / CLUSTER
        assert there.stat().st_mode & 0o077 == 0
        assert (there / serve.DATA).stat().st_uid != 0, "PostgreSQL refuses root"
        home = tmp_path / "theirs"
        home.mkdir(mode=0o700)
        os.chown(home, 1000, 1000)
        way = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # to the interpreter
        become = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *way)
        script = f"""
from pathlib import Path
from deployments import up_state
from tasks.adapters.postgres import cluster
from tasks.adapters.store.store import Store
from tasks.settings import Settings
up_state.make_home(Path({str(home)!r}))
theirs = Settings(home={str(home)!r})
print(cluster.make(theirs) or "made")
store = Store(theirs.store_url)
store.migrate()
print(store.counts()["halts"])
"""
        done = subprocess.run((*become, sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.split() == ["made", "0"], done.stderr
        assert (home / CLUSTER / serve.DATA).stat().st_uid == 1000
        assert gone(Settings(home=home))
        plain = become[:4]
        psql = (str(serve.programs() / "psql"), "-h", str(there), "-U", serve.USER, "-c", "SELECT 1", "quarterdeck")
        assert "Permission denied" in subprocess.run((*plain, *psql), capture_output=True, text=True).stderr
    cluster.leave(there)
