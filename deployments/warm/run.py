"""`python -m deployments.warm.run`: run one Prefect flow run in a process forked from the warm daemon.

The worker's command for every run. It hands its environment, directory and output to the daemon, passes signals on,
and ends as the run ended, so that Prefect sees the states, logs, cancellation and crashes it would see of its own
process. Without a daemon it becomes the engine itself: a cold start, said on stderr. HOME/runs keeps a file with its
process id for each run that has not ended well, so that the supervisor knows which of Prefect's runs were lost here:
their process died, or could not tell a Prefect that was down how it ended.
"""

import array
import json
import os
import signal
import socket
import sys
from contextlib import suppress

from deployments.warm.wire import EXIT, LENGTH, REFUSED, VARIABLE, peer_uid, stamp

ANSWER_S = 60.0  # a daemon that has not forked by then does not
LOST = 70  # the daemon went away in the middle of a run: Prefect marks the run as crashed


def main() -> int:
    note = _noted()
    code = _run()
    if note and not code:
        with suppress(OSError):
            os.unlink(note)
    return code


def _noted() -> str:
    """Write down who carries out this run; a cold start keeps the process and so the note, until the next start."""
    home, run = os.environ.get("QUARTERDECK_HOME"), os.environ.get("PREFECT__FLOW_RUN_ID")
    if not home or not run:
        return ""
    path = os.path.join(home, "runs", run)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except OSError as e:
        print(f"WARNING {path} could not be written: {e.strerror}", file=sys.stderr)
        return ""
    return path


def _run() -> int:
    path = os.environ.get(VARIABLE, "")
    daemon = _connected(path) if path else None
    if daemon is None:
        return _cold(f"no warm daemon at {path}" if path else "")
    passed = [signal.SIGTERM, signal.SIGINT]
    signal.pthread_sigmask(signal.SIG_BLOCK, passed)  # until there is a run to pass them on to
    try:
        daemon.settimeout(ANSWER_S)
        _ask(daemon)
        answer = daemon.recv(1)
    except OSError:
        answer = b""
    if answer in (REFUSED, b""):
        daemon.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
        return _cold("the warm daemon is of an earlier installation" if answer else "the warm daemon did not answer")
    daemon.settimeout(None)
    for number in passed:
        signal.signal(number, lambda n, _frame: _pass_on(daemon, n))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed)
    return _outcome(daemon)


def _connected(path: str) -> socket.socket | None:
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(OSError):  # nobody listens: `_run` says so, and the run starts cold
        daemon.connect(path)
        if peer_uid(daemon) == os.getuid():  # it is handed our whole environment
            return daemon
        print(f"WARNING {path} is another user's", file=sys.stderr)
    daemon.close()
    return None


def _ask(daemon: socket.socket) -> None:
    body = json.dumps({"env": dict(os.environ), "cwd": os.getcwd(), "stamp": stamp()}).encode()
    files = array.array("i", [0, 1, 2])
    daemon.sendmsg([LENGTH.pack(len(body))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    daemon.sendall(body)


def _pass_on(daemon: socket.socket, number: int) -> None:
    try:
        daemon.send(bytes([number]))
    except OSError:
        os._exit(LOST)


def _outcome(daemon: socket.socket) -> int:
    """Wait for the run's end and end the same way."""
    told = b""
    while len(told) < EXIT.size:
        part = daemon.recv(EXIT.size - len(told))
        if not part:
            print("the warm daemon went away: the run went with it", file=sys.stderr)
            return LOST
        told += part
    code: int = EXIT.unpack(told)[0]
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


def _cold(why: str) -> int:
    if why:
        print(f"WARNING {why}: this run starts cold", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])  # noqa: S606  (our own interpreter)


if __name__ == "__main__":
    sys.exit(main())
