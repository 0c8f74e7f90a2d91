"""Run one command so that nothing of it can outlive whoever started it.

`python nanny.py PARENT_PID GRACE_S COMMAND ...` starts COMMAND, waits, and exits with its code. When it is told to
stop, when its parent dies (even by SIGKILL) or when COMMAND ends by itself, every descendant is told to end and after
GRACE_S killed. A process group would not do: Prefect's worker may start runs in sessions of their own, and on SIGTERM
it waits for them. Descendants that lose their parent come to the nanny, so none gets away.
On systems without prctl (macOS) an abrupt death of the parent is noticed by polling.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_S = 0.05
LOOK_S = 1

ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    parent, grace = int(arguments[0]), float(arguments[1])
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)
    try:
        die = partial(prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
        child = subprocess.Popen(arguments[2:], preexec_fn=die)  # noqa: S603  (the supervisor's own list)
        ended = [os.pidfd_open(child.pid)] if sys.platform == "linux" else []
        while os.getppid() == parent:
            select.select(ended, [], [], LOOK_S)  # Popen.wait with a time would poll twenty times a second
            with suppress(subprocess.TimeoutExpired):
                return child.wait(0)
        return 0
    except KeyboardInterrupt:  # told to stop
        return 0
    except OSError as e:
        print(f"{arguments[2]} could not be started: {e}", file=sys.stderr)
        return 1
    finally:
        _end_family(grace)


def _end_family(grace: float) -> None:
    """Tell every descendant to end, also those that appear meanwhile; after `grace` seconds kill them."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    deadline, warned = time.monotonic() + grace, set[psutil.Process]()
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        family = set(psutil.Process().children(recursive=True))
        if not family:
            return
        late = time.monotonic() > deadline
        for process in family if late else family - warned:
            with suppress(psutil.NoSuchProcess):
                process.kill() if late else process.terminate()
        warned |= family
        time.sleep(POLL_S)


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
