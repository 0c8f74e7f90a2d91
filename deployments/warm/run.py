"""`python -m deployments.warm.run`: run one Prefect flow run in a process forked from the warm daemon.

The worker's command for every run. It hands its environment, directory and output to the daemon, passes signals on,
and ends as the run ended, so that Prefect sees the states, logs, cancellation and crashes it would see of its own
process. Without a daemon it becomes the engine itself: a cold start, said on stderr. HOME/runs keeps a file with its
process id for each run that has not ended well, so that the supervisor knows which of Prefect's runs were lost here:
their process died, or could not tell a Prefect that was down how it ended.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deployments.warm.wire import STARTED, VARIABLE, endpoint, peer_uid, reachable, stamp

ANSWER_S = 60.0  # a daemon that has not forked by then does not
LOST = 70  # the daemon went away in the middle of a run: Prefect marks the run as crashed
PASSED = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Write down who carries out this run; a cold start keeps the process and so the note, until the next start."""
    run = os.environ.get("PREFECT__FLOW_RUN_ID", "")
    note = note_taken(run, str(os.getpid()))
    code = _run(os.environ.get(VARIABLE, ""))
    if note and not code:
        with suppress(OSError):
            note.unlink()
    return code


def note_taken(run: str, pid: str = "") -> Path | None:
    """Note in HOME/runs that this machine has a run, and which process; the note, None where there is no HOME."""
    home = os.environ.get("QUARTERDECK_HOME", "")
    if not (home and run):
        return None
    note = Path(home, "runs", run)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(pid)
    except OSError as e:
        print(f"WARNING {note} could not be written: {e.strerror}", file=sys.stderr)
    return note


def _run(path: str) -> int:
    if not path:
        _become_engine()
    daemon, answer = endpoint(), b""
    daemon.settimeout(ANSWER_S)
    try:
        with reachable(path) as short:
            daemon.connect(short)
    except OSError:
        _become_engine(f"no warm daemon at {path}")
    if peer_uid(daemon) != os.getuid():  # it is handed our whole environment
        _become_engine(f"{path} is another user's")
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)  # until there is a run to pass them on to
    with suppress(OSError):
        request = {"env": dict(os.environ), "cwd": os.getcwd(), "stamp": stamp()}
        socket.send_fds(daemon, [json.dumps(request).encode()], [0, 1, 2])
        answer = daemon.recv(1)
    if answer != STARTED:
        _become_engine("the warm daemon " + ("is of an earlier installation" if answer else "did not answer"))

    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(OSError):
            daemon.send(bytes([number]))

    daemon.settimeout(None)
    for number in PASSED:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED)
    with suppress(ConnectionError):
        if outcome := daemon.recv(16):
            return _ended_like(int(outcome))
    print("the warm daemon went away: the run went with it", file=sys.stderr)
    return LOST


def _ended_like(code: int) -> int:
    if code < 0:
        with suppress(OSError):  # SIGKILL needs no default
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _become_engine(why: str = "") -> NoReturn:
    if why:
        print(f"WARNING {why}: this run starts cold", file=sys.stderr, flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED)
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])  # noqa: S606  (our own interpreter)


if __name__ == "__main__":
    sys.exit(main())
