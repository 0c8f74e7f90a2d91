"""What a system takes that nobody uses: memory between runs and processor time, by service."""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from deployments import up_state
from tests.adapters.free_ports import free_port

SETTLES_S, WATCHED_S, LOOK_S = 60, 180, 4
QUARTER_S, CALM_S = 900, 420  # so long after a close only watch and protect run


def main() -> None:
    """Start everything in a fresh HOME on free ports, leave it alone, and print MB (PSS) and cores by service."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("SANDBOX_URL", "PREFECT_API_URL", "MLFLOW_URL")
        env = {f"QUARTERDECK_{name}": f"http://127.0.0.1:{free_port()}{'/api' * ('API' in name)}" for name in names}
        command = [sys.executable, "-m", "deployments.cli", "up"]
        running = subprocess.Popen(
            command, env=os.environ | env | {"QUARTERDECK_HOME": folder}, stdout=subprocess.DEVNULL
        )
        try:
            _measure(Path(folder), running)
        finally:
            running.terminate()
            running.wait()


def _measure(home: Path, running: "subprocess.Popen[bytes]") -> None:
    while not ((now := up_state.read(home)) and now.first_cycle):
        if running.poll() is not None:
            sys.exit(f"`up` ended with code {running.returncode}")
        time.sleep(1)
    time.sleep(SETTLES_S)
    while not CALM_S <= time.time() % QUARTER_S <= QUARTER_S - WATCHED_S:
        time.sleep(1)
    parts = {"supervisor": now.pid, **{name: service.pid for name, service in now.services.items()}}
    before, began = _cpu(parts), time.monotonic()
    looks = []
    while time.monotonic() - began < WATCHED_S:
        looks.append(_memory(parts))
        time.sleep(LOOK_S)
    used, took = _cpu(parts), time.monotonic() - began
    least = min(looks, key=lambda look: sum(look.values()))
    for name in parts:
        print(f"{name}: {least[name]:.0f} MB, {(used[name] - before[name]) / took:.3f} cores")
    print(f"all: {sum(least.values()):.0f} MB between runs, {(used.total() - before.total()) / took:.3f} cores")


def _family(name: str, pid: int) -> list[psutil.Process]:
    """A service's processes; of the supervisor its own alone, as all others are its children."""
    root = psutil.Process(pid)
    return [root] if name == "supervisor" else [root, *root.children(recursive=True)]


def _memory(parts: dict[str, int]) -> Counter[str]:
    """MB by service, what processes share divided among them."""
    used = Counter[str]()
    for name, pid in parts.items():
        for process in _family(name, pid):
            try:
                used[name] += process.memory_full_info().pss / 1e6
            except psutil.NoSuchProcess:  # a run that has ended meanwhile
                continue
    return used


def _cpu(parts: dict[str, int]) -> Counter[str]:
    """CPU seconds by service so far, those of ended runs among them."""
    used = Counter[str]()
    for name, pid in parts.items():
        for process in _family(name, pid):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            ended = 0.0 if name == "supervisor" else times.children_user + times.children_system
            used[name] += times.user + times.system + ended
    return used


if __name__ == "__main__":
    main()
