"""HOME/up.json and HOME/up.lock: what `up` runs, for `status`, `down` and the next `up`.

The lock, held for a lifetime and freed by the kernel, says whether one runs; the file says what. A file without a
lock is left over from a machine that went down.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tasks.core.errors import InputError
from tasks.settings import CLUSTER

OURS = {"logs", "runs", "prefect", "quarterdeck.db", "mlflow.db", "mlartifacts", "up.lock", "sandbox.json", CLUSTER}


class ServiceState(BaseModel):
    pid: int
    url: str
    health: str
    log: str


class FirstCycle(BaseModel):
    """How the first cycle after start went; `cycles` has one line per symbol."""

    state: str
    message: str = ""
    cycles: list[str] = []

    @property
    def ok(self) -> bool:
        return self.state == "Completed"


class UpState(BaseModel):
    pid: int
    started_at: datetime
    profile: str
    phase: Literal["starting", "up"] = "starting"
    services: dict[str, ServiceState] = {}
    first_cycle: FirstCycle | None = None
    seconds: dict[str, float] = {}


def make_home(home: Path) -> None:
    """Create HOME and its folder of logs, its owner's alone; raises InputError. One that stood open is closed."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(home)
        (home / "logs").mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(f"QUARTERDECK_HOME={home} cannot be created: {e.strerror}") from e


def _close_to_others(home: Path) -> None:
    """Take HOME from others; a folder of root's (a cluster's volume) stays as it is, what is shared is refused."""
    found, names = home.stat(), {path.name for path in home.iterdir()}
    if found.st_uid not in (os.getuid(), 0):
        raise InputError(f"QUARTERDECK_HOME={home} belongs to user {found.st_uid}: give a folder of your own")
    if found.st_uid == os.getuid() and found.st_mode & 0o077:
        if names and not names & OURS:
            raise InputError(f"QUARTERDECK_HOME={home} is open to others and not ours: give a folder of its own")
        home.chmod(0o700)


def read(home: Path) -> UpState | None:
    """Return what the file says, whether or not it still runs; None without a readable file."""
    try:
        return UpState.model_validate_json(_file(home).read_bytes())
    except (OSError, ValidationError):
        return None


def write(home: Path, now: UpState) -> None:
    """Replace the file in one step."""
    new = _file(home).with_suffix(f".{os.getpid()}")
    new.write_text(now.model_dump_json(indent=1))
    new.replace(_file(home))


def state(home: Path) -> UpState | None:
    """Return the state of the `up` that runs with this HOME; None if none does, or it has not said yet."""
    return read(home) if claimed(home) else None


def claimed(home: Path) -> bool:
    """Return whether an `up` has this HOME, also one that is only starting."""
    lock = FileLock(home / "up.lock", timeout=0.3)  # another look at the same moment lets go at once
    if not Path(lock.lock_file).exists():
        return False
    with suppress(Timeout), lock:
        return False
    return True


@contextmanager
def claim(home: Path) -> Iterator[None]:
    """Be the only `up` with this HOME, which is made; raises InputError naming the other one."""
    make_home(home)
    try:
        claimed = FileLock(home / "up.lock", timeout=1).acquire()  # as long as a `status` that looks may hold it
    except Timeout:
        other = read(home)
        raise InputError(
            f"quarterdeck is up already with HOME {home}" + (f" (pid {other.pid})" if other else "") + ": "
            "`quarterdeck status` shows it, `quarterdeck down` stops it, another needs its own HOME and addresses"
        ) from None
    with claimed:
        _bury(home)
        try:
            yield
        finally:
            _file(home).unlink(missing_ok=True)


def _bury(home: Path) -> None:
    """Wait for what an `up` that was killed left behind: its nannies end it within their grace."""
    before, left = read(home), []
    for service in before.services.values() if before else ():
        with suppress(psutil.Error):
            process = psutil.Process(service.pid)
            if "nanny.py" in str(process.cmdline()):
                left.append(process)
    psutil.wait_procs(left, timeout=20)


def _file(home: Path) -> Path:
    return home / "up.json"
