"""`python -m deployments.warm.daemon SOCKET [PACKAGE...]`: a process that has imported heavy packages, and forks runs.

A flow run pays 15-25 s of imports for a second of work; forked from here it pays none. A daemon older than the
installed packages or than a module of ours refuses (the run starts cold) and ends, to be started again. A named PACKAGE
is left out: a run that wants it all the same imports it itself.

One thread, also natively (BLAS and Arrow are held to one): what forks must not hold another thread's lock. A run dies
with the daemon (PR_SET_PDEATHSIG) and with its client, so none is left behind to send orders that nobody watches; what
it had sent is looked up by its id in the next cycle.

The standard library's forkserver serves only descendants of the process that started it, which Prefect's runs are not;
its children leave by os._exit, without the exit in which Prefect ships the last logs, and outlive a killed client.
"""

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
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from deployments.nanny import PR_SET_PDEATHSIG, prctl
from deployments.spared import importing, spare_prefect
from deployments.warm.wire import REFUSED, STARTED, endpoint, peer_uid, reachable, stamp

PRELOADED = (
    "numpy", "pandas", "pyarrow", "talib", "pandas_ta_classic.overlap", "pandas_ta_classic.trend",
    "pandas_ta_classic.volatility", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "alembic.command", "psycopg", "pydantic_settings", "ccxt.async_support", "aiohttp",
    "deployments.warm.expectations", "litellm", "mlflow", "mlflow.tracking", "prefect", "prefect.flow_engine",
    "prefect.task_engine", "prefect.flow_runs", "prefect.events", "prefect.artifacts", "prefect.runtime", "feedparser",
    "icalendar", "matplotlib.figure", "prometheus_client", "prefect.utilities.visualization",
    "anyio._backends._asyncio", "tasks.adapters.venue", "tasks.adapters.quality.suite", "flows.watch", "flows.protect",
    "flows.trade", "flows.settle", "deployments.warm.ready",
)  # fmt: skip
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")} | {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
REQUEST_S = 5.0  # a client says what it wants at once
MOST = 1 << 20


class Daemon:
    """Accepts clients, forks their runs and tells them how they ended."""

    def __init__(self, path: Path) -> None:
        self._stamp, self._pid = stamp(), os.getpid()
        self._selector = selectors.DefaultSelector()
        self._listener = endpoint()
        path.unlink(missing_ok=True)
        umask = os.umask(0o077)  # nobody else may connect
        with reachable(str(path)) as short:
            self._listener.bind(short)
        os.umask(umask)
        self._listener.listen(128)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def serve(self) -> None:
        """Serve until the packages change; the last runs end first."""
        while len(self._selector.get_map()) > 1 or stamp() == self._stamp:
            for key, _ in self._selector.select(timeout=5)[:1]:  # one: it may take another's socket away
                key.data()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.settimeout(REQUEST_S)
        started, files = False, list[int]()
        try:
            request, files, _, _ = socket.recv_fds(client, MOST, 3)
            if request and peer_uid(client) == os.getuid():  # nothing: somebody only looked whether we are here
                started = self._start(json.loads(request), files, client)
        except (OSError, ValueError, KeyError, TypeError) as e:
            print(f"warm: a client was not understood: {e!r}", file=sys.stderr, flush=True)
        for file in files:
            os.close(file)
        if not started:
            client.close()

    def _start(self, request: dict[str, Any], files: list[int], client: socket.socket) -> bool:
        if request["stamp"] != self._stamp or stamp() != self._stamp:
            client.send(REFUSED)
            return False
        client.setblocking(False)
        with suppress(BlockingIOError):
            if not client.recv(1, socket.MSG_PEEK):  # it did not wait and may have started cold: no run starts twice
                return False
        pid = os.fork()
        if pid == 0:
            self._become(request, files)
        pidfd = os.pidfd_open(pid)
        self._selector.register(pidfd, selectors.EVENT_READ, partial(self._ended, pid, pidfd, client))
        self._selector.register(client, selectors.EVENT_READ, partial(self._signalled, pid, client))
        with suppress(OSError):  # a client that is gone by now is noticed as any later
            client.send(STARTED)
        return True

    def _become(self, request: dict[str, Any], files: list[int]) -> None:
        """In the child: take over the client's place, run the engine and leave as any interpreter does.

        An ordinary exit matters: Prefect ships the last logs and task states in it.
        """
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(1)
        try:
            os.setsid()
            _engine(request, files)
        except Exception:  # noqa: BLE001  (whatever it was, this process must not go on as a second daemon)
            traceback.print_exc()
            sys.exit(1)
        sys.exit()

    def _signalled(self, pid: int, client: socket.socket) -> None:
        """Pass a signal on; a client that is gone was killed, and its run is to end with it."""
        try:
            numbers = client.recv(16)
        except OSError:
            numbers = b""
        with suppress(ProcessLookupError):
            for number in numbers or [signal.SIGKILL]:
                os.kill(pid, number)
        if not numbers:
            self._selector.unregister(client)
            client.close()

    def _ended(self, pid: int, pidfd: int, client: socket.socket) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._selector.unregister(pidfd)
        os.close(pidfd)
        if client.fileno() >= 0:
            self._selector.unregister(client)
            with suppress(OSError):
                client.send(str(code).encode())
            client.close()


def _engine(request: dict[str, Any], files: list[int]) -> None:
    """Run Prefect's engine as `python -m prefect.engine` would in the client's place."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import numpy as np
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    np.random.seed()  # the legacy generator's state was copied by the fork
    time.tzset()
    refresh_global_settings_context()
    setup_logging()
    sys.argv = ["prefect.engine"]
    runpy.run_module("prefect.engine", run_name="__main__")


def main() -> int:
    began = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.environ.update(ONE_THREAD)
    spare_prefect()
    with importing():  # the children share these pages as long as the collector leaves them alone
        for name in (name for name in PRELOADED if name not in sys.argv[2:]):
            try:
                importlib.import_module(name)
            except ImportError as e:
                print(f"warm: not preloaded {name}: {e}", file=sys.stderr)
    if threading.active_count() != 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        print(f"warm: these threads would not survive a fork, and may hold locks: {names}", file=sys.stderr)
        return 1
    native = sorted(task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm"))
    # jemalloc's own thread knows about forks; one is ours
    if foreign := [name for name in native if not name.startswith("jemalloc")][1:]:
        print(f"warm: libraries run threads that a fork leaves behind: {', '.join(foreign)}", file=sys.stderr)
    daemon = Daemon(Path(sys.argv[1]))
    print(f"warm: ready after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    daemon.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
