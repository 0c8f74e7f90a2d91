"""Worlds from seeds: each is lived twice the same, keeps every invariant, and a broken one is found."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core.trading import ledger
from tests.simulation import mutations
from tests.simulation.luck import Luck
from tests.simulation.many import end_with
from tests.simulation.shrink import shrunk
from tests.simulation.world import lived

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PLAIN = (1, 2, 6)


@pytest.mark.parametrize("seed", PLAIN)
def test_a_world_keeps_every_invariant(seed):
    told = lived(seed, days=2)
    assert told.breaches == []
    assert told.kills.total() > 5
    assert told.orders > 0


def test_a_seed_is_the_same_world_in_every_process():
    """Two hash seeds, as this process has one of its own, and one world after another in the same process."""
    code = "from tests.simulation.world import lived; print(lived(6, 0.5).sha256)"
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": other, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == lived(6, 0.5).sha256


def test_a_fault_left_out_leaves_the_others_what_they_were():
    names = [f"{n}a.trade.0/submit#1" for n in range(200)]
    every = Luck(3)
    struck = {name: every.fault(name, {"busy": 1.0, "late": 2.0}, 0.3) for name in names}
    some = frozenset(name for name in names if struck[name])
    fewer = Luck(3, some - {min(some)})
    assert 20 < len(some) < 100
    assert {name: fewer.fault(name, {"busy": 1.0, "late": 2.0}, 0.3) for name in names} == struck | {min(some): ""}


@pytest.mark.parametrize(
    ("name", "seed", "breach"),
    [
        ("flattened_on_busy", 1, "flattened"),
        ("fill_booked_twice", 1, "halt"),
        ("lease_skipped", 2, "duplicate"),
        ("followup_forgotten", 2, "follow-up"),
        ("no_look_up", 6, "duplicate"),
    ],
)
def test_a_seed_fails_where_what_keeps_its_invariant_is_broken(name, seed, breach):
    """A new kind of event draws other worlds: then `--break NAME` says which seed finds it."""
    assert seed in PLAIN
    with mutations.ALL[name]():
        assert lived(seed, days=2).breaches[0].startswith(breach)


def test_what_breaks_without_a_fault_is_shrunk_to_none(monkeypatch):
    """Each fill is booked twice."""
    real = ledger.apply_fill
    monkeypatch.setattr(ledger, "apply_fill", lambda held, *of, **more: real(real(held, *of, **more), *of, **more))
    told = shrunk(13, 1.0)
    assert told.breaches[0].startswith(("mismatch", "halt", "follow-up", "money", "day", "limit", "books"))
    assert told.faults == {}


def test_a_worker_ends_with_its_parent():
    """One that is killed outright shuts no pool down; the worker holds a pipe open as long as it lives."""
    lives, held = os.pipe()
    parent = os.fork()
    if not parent:
        if not os.fork():
            end_with(os.getppid())
            os.write(held, b".")
        time.sleep(60)
        os._exit(0)
    os.close(held)
    with open(lives, "rb", buffering=0) as pipe:
        assert pipe.read(1) == b"."
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert select.select([pipe], [], [], 20)[0]
        assert pipe.read(1) == b""
