"""The drill: everything saved while it is written to, brought back elsewhere, and found equal."""

import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine, text
from store_samples import AT, a_full_cycle, a_position

from deployments import up_state
from deployments.backup import LAYOUT, _unpack, backup, restore
from deployments.cli import cli
from tasks.adapters.store.database import parse_url
from tasks.adapters.store.store import Store
from tasks.core.errors import InputError
from tasks.core.types.promotion import Move
from tasks.settings import Settings


def at(home: Path, **databases: str) -> Settings:
    home.mkdir(exist_ok=True)
    return Settings(home=home, **databases)


def fill(url: str) -> None:
    """A cycle with its order, a position and a champion of our own."""
    store = Store(url)
    store.migrate()
    store.cycles.begin(a_full_cycle(), AT)
    store.cycles.save(a_full_cycle(), AT)
    store.positions.save(a_position())
    store.prompts.move(
        Move(at=AT, role="single", alias="champion", version="v001", sha256="ab" * 32, kind="pinned", who="me")
    )
    store.close()


def kept(url: str) -> tuple[Any, ...]:
    store = Store(url)
    try:
        return store.cycles.get("c1"), store.positions.open("default"), store.prompts.aliases(), store.counts()
    finally:
        store.close()


@pytest.fixture
def saved(tmp_path: Path) -> Settings:
    """A HOME with all there can be, on SQLite."""
    settings = at(tmp_path / "home")
    fill(settings.store_url)
    (settings.home / "sandbox.json").write_text(json.dumps({"cash": "10000"}))
    artifact = settings.home / "mlartifacts" / "1" / "page.md"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("# a page")
    (settings.home / "prefect").mkdir()
    for name in ("prefect/prefect.db", "mlflow.db"):
        with sqlite3.connect(settings.home / name) as made:
            made.execute("CREATE TABLE runs (name TEXT)")
            made.execute("INSERT INTO runs VALUES (?)", (name,))
    return settings


@pytest.fixture
def writer(saved: Settings) -> Iterator[threading.Event]:
    """Somebody who commits all the time; the event is set once the first line is there."""
    stop, began = threading.Event(), threading.Event()

    def write() -> None:
        store, count = Store(saved.store_url), 0
        while not stop.is_set():
            store.halts.add(f"writer {count}", "writer", AT)
            began.set()
            count += 1
        store.close()

    thread = threading.Thread(target=write)
    thread.start()
    assert began.wait(60)
    yield began
    stop.set()
    thread.join(60)


def test_what_was_saved_while_somebody_wrote_is_brought_back_elsewhere(saved, writer, tmp_path):
    archive = tmp_path / "all.tar.gz"
    names = backup(saved, archive)
    assert set(names) == {"mlflow.db", "prefect.db", "quarterdeck.db", "mlartifacts", "sandbox.json"}
    assert archive.stat().st_mode & 0o077 == 0, "an archive is its owner's alone"
    other = at(tmp_path / "other")
    assert set(restore(other, archive)) == set(names)
    theirs, ours = kept(saved.store_url), kept(other.store_url)
    assert ours[:3] == theirs[:3]
    assert ours[3] | {"halts": 0} == theirs[3] | {"halts": 0}
    assert 1 <= ours[3]["halts"] <= theirs[3]["halts"]
    for name in ("sandbox.json", "mlartifacts/1/page.md"):
        assert (other.home / name).read_bytes() == (saved.home / name).read_bytes()
    with sqlite3.connect(other.home / "prefect" / "prefect.db") as made:
        assert made.execute("SELECT name FROM runs").fetchall() == [("prefect/prefect.db",)]
    assert sorted(path.name for path in other.home.iterdir()) == [
        "mlartifacts", "mlflow.db", "prefect", "quarterdeck.db", "sandbox.json"
    ]  # fmt: skip


def inside(home: Path) -> list[str]:
    """What lies in a HOME but its empty folder for logs, which every command makes."""
    return [path.name for path in home.iterdir() if path.name != "logs"]


def in_home(home: Path, *command: str) -> tuple[int, str]:
    """Run the command as a user does, and return its exit code and its one line."""
    home.mkdir(exist_ok=True)
    try:
        done = CliRunner(env={"QUARTERDECK_HOME": str(home)}).invoke(cli, command, catch_exceptions=False)
    except InputError as e:
        return 2, str(e)
    return done.exit_code, done.output


def test_paths_are_the_users_wherever_the_command_reads_its_settings(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = in_home(saved.home, "backup", "all.tar.gz")
    assert (code, (tmp_path / "all.tar.gz").is_file()) == (0, True), said
    monkeypatch.chdir(tmp_path)
    assert in_home(tmp_path / "other", "restore", "all.tar.gz")[0] == 0
    assert "quarterdeck.db" in inside(tmp_path / "other")


def test_nothing_is_no_backup(tmp_path):
    code, said = in_home(tmp_path / "mistyped", "backup", str(tmp_path / "all.tar.gz"))
    assert (code, f"{tmp_path / 'mistyped'} has nothing to save" in said) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mistyped"]


def test_restore_never_writes_over_what_is_there(saved, tmp_path):
    archive = tmp_path / "all.tar.gz"
    backup(saved, archive)
    for name in ("quarterdeck.db", "sandbox.json", "mlartifacts"):
        home = tmp_path / f"with-{name}"
        home.mkdir()
        (home / name).write_text("mine")
        code, said = in_home(home, "restore", str(archive))
        assert (code, name in said) == (2, True)
        assert inside(home) == [name], "nothing was half written"
        assert (home / name).read_text() == "mine"
    with pytest.raises(InputError, match="exists already"):
        backup(saved, archive)


@pytest.mark.parametrize("said_so", [True, False], ids=["up", "only starting"])
def test_restore_is_refused_while_quarterdeck_runs_and_not_after(saved, tmp_path, said_so):
    archive, home = tmp_path / "all.tar.gz", tmp_path / "home-that-runs"
    names = backup(saved, archive)
    home.mkdir()
    with up_state.claim(home):
        if said_so:
            up = up_state.UpState(pid=os.getpid(), started_at=AT, profile="sandbox")
            up_state.write(home, up)
        code, said = in_home(home, "restore", str(archive))
        assert (code, f"quarterdeck runs with HOME {home}: `quarterdeck down` first" in said) == (2, True)
        assert set(inside(home)) <= {"up.lock", "up.json"}, "nothing was half written"
    assert in_home(home, "restore", str(archive))[0] == 0
    assert {name for name in names if name not in ("prefect.db",)} <= set(inside(home))


def test_a_running_system_is_saved_all_the_same(saved, tmp_path):
    with up_state.claim(saved.home):
        assert "quarterdeck.db" in backup(saved, tmp_path / "all.tar.gz")


def test_a_broken_archive_is_refused_whole(saved, tmp_path):
    archive = tmp_path / "all.tar.gz"
    backup(saved, archive)
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for number, bad in enumerate((whole[: len(whole) // 2], bytes(flipped), b"", b"no archive at all")):
        (tmp_path / "bad.tar.gz").write_bytes(bad)
        home = tmp_path / f"broken-{number}"
        code, said = in_home(home, "restore", str(tmp_path / "bad.tar.gz"))
        assert code == 2, said
        assert inside(home) == [], "nothing was half written"


@pytest.mark.parametrize("name", ["../escaped.db", "{elsewhere}/escaped.db", "quarterdeck.db/../../escaped.db"])
def test_names_that_lead_out_of_the_archive_are_refused(name, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    name = name.format(elsewhere=tmp_path / "elsewhere")
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for each in (LAYOUT, name):
            info = tarfile.TarInfo(each)
            info.size = 3 if each == name else 0
            tar.addfile(info, BytesIO(b"bad"))
    home = tmp_path / "home"
    assert in_home(home, "restore", str(archive))[0] == 2
    assert inside(home) == []
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("data_filter", [True, False])
def test_an_old_python_takes_the_same_archives_and_no_others(data_filter, tmp_path, monkeypatch):
    if not data_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    for name, fine in (("quarterdeck.db", True), ("quarterdeck.db/../../escaped.db", False)):
        archive, to = tmp_path / "one.tar.gz", tmp_path / f"to-{fine}"
        with tarfile.open(archive, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo(LAYOUT))
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, BytesIO(b"row"))
        if fine:
            _unpack(archive, to)
            assert (to / name).read_bytes() == b"row"
        else:
            with pytest.raises(InputError, match=r"escaped\.db"):
                _unpack(archive, to)
    assert not list(tmp_path.rglob("escaped*"))


def test_an_archive_of_something_else_is_refused(tmp_path):
    archive = tmp_path / "other.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("holiday.jpg"), BytesIO())
    assert "was not written by" in in_home(tmp_path / "home", "restore", str(archive))[1]


# --- PostgreSQL


@pytest.fixture
def databases(postgres_url: str) -> Iterator[list[str]]:
    """Two empty databases of a server that this machine has a pg_dump for."""
    if "QUARTERDECK_TEST_POSTGRES_URL" in os.environ and not shutil.which("pg_dump"):
        pytest.skip("no pg_dump for the server of QUARTERDECK_TEST_POSTGRES_URL")
    names = [f"quarterdeck_{uuid4().hex[:8]}" for _ in range(2)]
    server = create_engine(parse_url(postgres_url), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield [server.url.set(database=name).render_as_string(hide_password=False) for name in names]
        for name in names:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def test_postgresql_is_saved_and_brought_back_into_an_empty_database(databases, tmp_path):
    source, target = databases
    fill(source)
    archive = tmp_path / "all.tar.gz"
    assert backup(at(tmp_path / "home", database_url=source), archive) == ["quarterdeck.dump"]
    with pytest.raises(InputError, match=r"has tables"):
        restore(at(tmp_path / "home", database_url=source), archive)
    lite = at(tmp_path / "lite", database_url=f"sqlite:///{tmp_path / 'lite' / 'quarterdeck.db'}")
    with pytest.raises(InputError, match=r"is of PostgreSQL"):
        restore(lite, archive)
    assert list(lite.home.iterdir()) == []
    restore(at(tmp_path / "home", database_url=target), archive)
    assert kept(target) == kept(source)


def test_a_password_is_in_no_process_list(tmp_path, monkeypatch):
    seen: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no such host")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    with pytest.raises(Exception, match="no such host"):
        backup(at(tmp_path / "home", database_url="postgresql://me:hunter2@nowhere/mine"), tmp_path / "all.tar.gz")
    assert "hunter2" not in str(seen)
    assert not (tmp_path / "all.tar.gz").exists()
