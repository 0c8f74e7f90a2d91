"""What another user of the machine finds: closed folders and files, planted links that lead nowhere, no key."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from deployments import backup, services, up_state
from deployments.prefect_key import VARIABLE, prefect_key
from deployments.services import Service, answers
from deployments.supervisor import Supervisor
from deployments.warm.wire import endpoint
from tasks.core.errors import InputError, TradingError
from tasks.settings import ROOT, Settings, load

ANOTHER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that others reach; pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="quarterdeck-another-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_another(*command: str) -> subprocess.CompletedProcess[str]:
    setpriv = ("setpriv", f"--reuid={ANOTHER}", f"--regid={ANOTHER}", "--clear-groups")
    return subprocess.run([*setpriv, *command], capture_output=True, text=True, timeout=60)


# --- HOME


def test_a_home_that_stood_open_is_closed_and_a_new_one_is_made_closed(tmp_path):
    old, new = tmp_path / "old", tmp_path / "deep" / "new"
    old.mkdir(mode=0o755)
    (old / "quarterdeck.db").touch(mode=0o644)
    for home in (old, new):
        up_state.make_home(home)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_folder_of_other_things_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(InputError, match="not ours"):
        up_state.make_home(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@as_root
def test_a_home_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, ANOTHER, ANOTHER)
    with pytest.raises(InputError, match=f"belongs to user {ANOTHER}"):
        up_state.make_home(tmp_path)


def test_what_the_command_writes_is_its_owner_s_alone_under_any_umask(tmp_path):
    home = tmp_path / "home"
    env = os.environ | {"QUARTERDECK_HOME": str(home)}
    command = [sys.executable, "-m", "deployments.cli", "migrate"]
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=120, preexec_fn=lambda: os.umask(0o022))
    made = [home, *home.rglob("*")]
    assert home / "quarterdeck.db" in made
    assert [path for path in made if path.stat().st_mode & 0o077] == []


@as_root
def test_another_user_reads_nothing_of_a_home_of_the_last_release(shared):
    home = shared / "home"
    (home / "prefect").mkdir(parents=True)
    for name in ("quarterdeck.db", "prefect/prefect.db"):
        (home / name).write_text("everything")
        (home / name).chmod(0o644)
    for folder in (home, home / "prefect"):  # an earlier test may have left a umask that closes them
        folder.chmod(0o755)
    assert as_another("cat", str(home / "prefect" / "prefect.db")).stdout == "everything", "it stood open"
    up_state.make_home(home)
    for name in ("quarterdeck.db", "prefect/prefect.db"):
        done = as_another("cat", str(home / name))
        assert (done.stdout, "Permission denied" in done.stderr) == ("", True)


# --- the warm daemon's socket


@as_root
def test_a_socket_of_another_user_does_not_count_as_healthy(shared):
    shared.chmod(0o777)
    listen = f"import os, socket as k, sys; os.setuid({ANOTHER}); s = k.socket(k.AF_UNIX, k.SOCK_SEQPACKET);"
    listen += "s.bind(sys.argv[1]); s.listen(); os.chmod(sys.argv[1], 0o777); print(flush=True); sys.stdin.read()"
    where = str(shared / "warm.sock")
    with subprocess.Popen(
        [sys.executable, "-I", "-c", listen, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as theirs:
        assert theirs.stdout is not None
        assert theirs.stdout.readline() == "\n"
        assert not answers(f"unix:{where}")
        theirs.kill()


def test_a_socket_of_ours_counts_however_long_its_path_is(tmp_path):
    home = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6)
    home.mkdir(parents=True)
    path = services.warm_socket(load(home=home))
    assert (Path(path).parent, len(path) > 107) == (home, True)
    with endpoint() as listener:
        from deployments.warm.wire import reachable

        with reachable(path) as short:
            listener.bind(short)
        listener.listen()
        assert answers(f"unix:{path}")
    assert not answers(f"unix:{path}")
    assert not answers(f"unix:{tmp_path}/nowhere/warm.sock")


def test_what_lies_where_the_socket_should_be_does_not_stop_up(tmp_path, capsys):
    supervisor = Supervisor(load(home=tmp_path))
    up_state.make_home(tmp_path)
    socket = Path(services.warm_socket(supervisor.settings))
    socket.mkdir()
    bind = "import sys; from pathlib import Path; from deployments.warm.daemon import Daemon; Daemon(Path(sys.argv[1]))"
    warm = supervisor.plan["warm"]
    supervisor.plan["warm"] = Service("warm", (sys.executable, "-c", bind, str(socket)), health=warm.health)
    try:
        asyncio.run(supervisor._warmed())
    finally:
        supervisor.stop()
    assert "runs start cold until it is there" in capsys.readouterr().err


# --- backups


def test_a_backup_follows_no_planted_link(tmp_path):
    home, victim = tmp_path / "home", tmp_path / "victim"
    home.mkdir()
    (home / "sandbox.json").write_text("{}")
    victim.write_text("mine")
    archive = tmp_path / "all.tar.gz"
    (tmp_path / "all.tar.gz.partial").symlink_to(victim)
    assert backup.backup(Settings(home=home), archive) == ["sandbox.json"]
    assert (victim.read_text(), stat.S_IMODE(archive.stat().st_mode)) == ("mine", 0o600)
    led = tmp_path / "led.tar.gz"
    led.symlink_to(tmp_path / "not-there")
    with pytest.raises(InputError, match="exists already"):
        backup.backup(Settings(home=home), led)
    assert not (tmp_path / "not-there").exists()


def test_a_backtest_follows_no_planted_link(tmp_path):
    from flows.commands.backtest import _recorded

    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "run.partial").symlink_to(victim)
    with pytest.raises(InputError, match="is a link or another user's"), _recorded(tmp_path / "run"):
        pass
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize("url", [
    "postgresql://me:planted-0f@nowhere:5433/mine", "postgresql://nowhere/mine?user=me&password=planted-0f&port=5433",
    "postgresql+psycopg://me@nowhere/mine?port=5433&password=planted-0f&sslpassword=planted-1f",
])  # fmt: skip
def test_no_part_of_a_database_url_is_in_the_process_list(url, tmp_path, monkeypatch):
    tool, said = tmp_path / "pg_dump", tmp_path / "said"
    tool.write_text(f'#!/bin/sh\n{{ cat /proc/$$/cmdline; echo; cat "$PGSERVICEFILE"; }} >{said}; exit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(TradingError, match="pg_dump failed"):
        backup.backup(Settings(home=tmp_path, database_url=url), tmp_path / "all.tar.gz")
    arguments, *service = said.read_text().splitlines()
    assert "planted" not in arguments
    assert {"[quarterdeck]", "user=me", "host=nowhere", "port=5433", "dbname=mine", "password=planted-0f"} <= {*service}
    assert not list(tmp_path.glob("all*"))


# --- the key that Prefect encrypts with


def prefects(home: Path, key: str) -> Path:
    """Prefect's database as its own server leaves it, with its key and an alert block."""
    (home / "prefect").mkdir()
    file = home / "prefect" / "prefect.db"
    with sqlite3.connect(file) as made:
        made.execute("CREATE TABLE configuration (key TEXT, value JSON)")
        made.execute("CREATE TABLE block_document (name TEXT)")
        made.executemany("INSERT INTO block_document VALUES (?)", [("quarterdeck-alerts-1",), ("mine",)])
        if key:
            made.execute("INSERT INTO configuration VALUES (?, ?)", ("ENCRYPTION_KEY", f'{{"fernet_key": "{key}"}}'))
    made.close()
    return file


def blocks(file: Path) -> list[str]:
    with sqlite3.connect(file) as opened:
        return [name for (name,) in opened.execute("SELECT name FROM block_document")]


def test_the_key_is_made_once_closed_and_is_in_no_backup(tmp_path):
    settings = load(home=tmp_path)
    key = prefect_key(settings)
    Fernet(key)
    assert prefect_key(settings) == key
    assert stat.S_IMODE((tmp_path / "prefect.key").stat().st_mode) == 0o600
    (tmp_path / "sandbox.json").write_text("{}")
    assert backup.backup(settings, tmp_path / "all.tar.gz") == ["sandbox.json"]


def test_the_key_of_an_earlier_release_leaves_prefect_s_database_and_its_blocks_stay_readable(tmp_path):
    key = Fernet.generate_key().decode()
    file = prefects(tmp_path, key)
    assert key.encode() in file.read_bytes()
    assert prefect_key(load(home=tmp_path)) == key
    assert key.encode() not in b"".join(each.read_bytes() for each in file.parent.iterdir())
    assert blocks(file) == ["quarterdeck-alerts-1", "mine"]


def test_after_a_restore_without_the_key_our_blocks_go_and_others_wait_for_it(tmp_path):
    file = prefects(tmp_path, "")
    Fernet(prefect_key(load(home=tmp_path)))
    assert blocks(file) == ["mine"]


def test_a_planted_link_gets_no_key_and_the_operator_s_own_is_used(tmp_path, monkeypatch):
    (tmp_path / "prefect.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        prefect_key(load(home=tmp_path))
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setenv(VARIABLE, "my own")
    assert prefect_key(load(home=tmp_path)) == "my own"


def test_prefect_reads_the_variable_that_the_key_is_handed_over_in(monkeypatch):
    from prefect.server.utilities.encryption import _get_fernet_encryption

    key = Fernet.generate_key()
    monkeypatch.setenv(VARIABLE, key.decode())
    token = asyncio.run(_get_fernet_encryption(None)).encrypt(b"x")  # type: ignore[arg-type]  # no session: no database
    assert Fernet(key).decrypt(token) == b"x"
