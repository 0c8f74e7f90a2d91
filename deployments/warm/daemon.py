"""`python -m deployments.warm.daemon SOCKET`: a process that has imported the heavy packages, and forks runs.

A flow run pays 15-25 s of imports for a second of work; forked from here it pays none. Only third-party packages are
imported: our own modules load afresh in every run, so that a new release is picked up at once, and a daemon older than
the installed packages refuses (the run starts cold) and ends, to be started again.

One thread, also natively (BLAS and Arrow are held to one): what forks must not hold another thread's lock. A run dies
with the daemon (PR_SET_PDEATHSIG) and with its client, so none is left behind to send orders that nobody watches; what
it had sent is looked up by its id in the next cycle.
"""

import array
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.nanny import PR_SET_PDEATHSIG, prctl
from deployments.warm.wire import EXIT, LENGTH, REFUSED, STARTED, peer_uid, stamp

PRELOADED = (
    "numpy", "pandas", "pyarrow", "talib", "pandas_ta_classic.overlap", "pandas_ta_classic.trend",
    "pandas_ta_classic.volatility", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "alembic.command", "psycopg", "pydantic_settings", "ccxt.async_support", "aiohttp",
    "great_expectations", "litellm", "mlflow", "mlflow.tracking", "prefect", "prefect.flow_engine",
    "prefect.task_engine", "prefect.flow_runs", "prefect.events", "prefect.artifacts", "prefect.runtime", "feedparser",
    "icalendar", "matplotlib.figure", "prometheus_client",
)  # fmt: skip
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}  # fmt: skip
REQUEST_S = 5.0  # a client says what it wants at once
MOST = 64 * 1024 * 1024


@dataclass
class Run:
    """One forked run: its process, a descriptor that tells its end, and the client that waits for it."""

    pid: int
    pidfd: int
    client: socket.socket


class Daemon:
    """Accepts clients, forks their runs and tells them how they ended."""

    def __init__(self, path: Path) -> None:
        self._stamp, self._pid = stamp(), os.getpid()
        self._runs: dict[int, Run] = {}
        self._selector = selectors.DefaultSelector()
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _private():
            self._listener.bind(str(path))
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> None:
        """Serve until the packages change; the last runs end first."""
        while self._runs or stamp() == self._stamp:
            for key, _ in self._selector.select(timeout=5):
                key.data()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(REQUEST_S)
        try:
            if client.recv(1, socket.MSG_PEEK):  # nothing: somebody only looked whether we are here
                self._start(client)
            else:
                client.close()
        except (OSError, ValueError, KeyError) as e:
            print(f"warm: a client was not understood: {e!r}", file=sys.stderr, flush=True)
            client.close()

    def _start(self, client: socket.socket) -> None:
        if peer_uid(client) != os.getuid():
            raise OSError("it is another user's")
        request, files = _request(client)
        try:
            pid = self._forked(request, files, client)
        finally:
            _close(files)
        if not pid:
            client.close()
            return
        client.settimeout(None)
        run = Run(pid, os.pidfd_open(pid), client)
        self._runs[pid] = run
        self._selector.register(run.pidfd, selectors.EVENT_READ, lambda: self._ended(run))
        self._selector.register(client, selectors.EVENT_READ, lambda: self._told(run))
        with suppress(OSError):  # a client that is gone by now is noticed as any later
            client.sendall(STARTED)

    def _forked(self, request: dict[str, Any], files: list[int], client: socket.socket) -> int:
        """Return the run's process id; 0 where none was started, and the client has been told or is gone."""
        if request["stamp"] != self._stamp or stamp() != self._stamp:
            client.sendall(REFUSED)
            return 0
        if _is_gone(client):  # it did not wait and may have started cold: no run starts twice
            return 0
        pid = os.fork()
        if pid == 0:
            self._become(request, files)
        return pid

    def _become(self, request: dict[str, Any], files: list[int]) -> None:
        """In the child: take over the client's place, run the engine and leave as any interpreter does.

        An ordinary exit matters: Prefect ships the last logs and task states in it.
        """
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(1)
        try:
            os.setsid()
            self._selector.close()
            self._listener.close()
            for run in self._runs.values():
                run.client.close()
            code = _engine(request, files)
        except BaseException:  # noqa: BLE001  (whatever it was, this process must not go on as a second daemon)
            traceback.print_exc()
            code = 1
        sys.exit(code)

    def _told(self, run: Run) -> None:
        """Pass a signal on; a client that is gone was killed, and its run is to end with it."""
        try:
            said = run.client.recv(16)
        except OSError:
            said = b""
        with suppress(ProcessLookupError):
            for number in said or [signal.SIGKILL]:
                os.kill(run.pid, number)
        if not said:
            self._selector.unregister(run.client)
            run.client.close()

    def _ended(self, run: Run) -> None:
        _, status = os.waitpid(run.pid, 0)
        del self._runs[run.pid]
        self._selector.unregister(run.pidfd)
        os.close(run.pidfd)
        if run.client.fileno() >= 0:
            self._selector.unregister(run.client)
            with suppress(OSError):
                run.client.sendall(EXIT.pack(os.waitstatus_to_exitcode(status)))
            run.client.close()


@contextmanager
def _private() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _is_gone(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        client.settimeout(REQUEST_S)


def _request(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Read one request and the client's three files."""
    head, ancillary, _, _ = client.recvmsg(LENGTH.size, socket.CMSG_SPACE(12))
    files = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    try:
        length = LENGTH.unpack(head + _exactly(client, LENGTH.size - len(head)))[0]
        if length > MOST or len(files) != 3:
            raise ValueError(f"{length} bytes and {len(files)} files")
        return json.loads(_exactly(client, length)), list(files)
    except (OSError, ValueError):
        _close(list(files))
        raise


def _exactly(client: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(min(65_536, size - len(parts)))
        if not part:
            raise OSError("it broke off")
        parts += part
    return bytes(parts)


def _close(files: list[int]) -> None:
    while files:  # once each: a run's own exit comes by here too
        os.close(files.pop())


def _engine(request: dict[str, Any], files: list[int]) -> int:
    """Run Prefect's engine as `python -m prefect.engine` would in the client's place; returns the exit code."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    _close(files)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    import numpy as np
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    np.random.seed()  # the legacy generator's state was copied by the fork
    time.tzset()
    refresh_global_settings_context()
    setup_logging()
    sys.argv = ["prefect.engine"]
    try:
        runpy.run_module("prefect.engine", run_name="__main__")
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def preload() -> list[str]:
    """Import what is heavy; returns what this installation lacks."""
    os.environ.update(ONE_THREAD)
    missing = []
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as e:
            missing.append(f"{name}: {e}")
    gc.collect()
    gc.freeze()  # the children share these pages as long as the collector leaves them alone
    return missing


def native_threads() -> list[str]:
    """Return the names of threads besides ours and jemalloc's own, which knows about forks."""
    names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    return sorted(name for name in names if not name.startswith("jemalloc"))[1:]


def main() -> int:
    began = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    for line in preload():
        print(f"warm: not preloaded {line}", file=sys.stderr)
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        print(f"warm: these threads would not survive a fork, and may hold locks: {names}", file=sys.stderr)
        return 1
    if foreign := native_threads():
        print(f"warm: libraries run threads that a fork leaves behind: {', '.join(foreign)}", file=sys.stderr)
    daemon = Daemon(Path(sys.argv[1]))
    print(f"warm: ready after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    daemon.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
