"""Worlds from seeds: each is lived twice the same, keeps every invariant, and a broken one is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.trading import ledger
from tests.simulation.luck import Luck
from tests.simulation.shrink import shrunk
from tests.simulation.world import lived

ROOT = Path(__file__).resolve().parents[2]
PLAIN = (2, 4)


@pytest.mark.parametrize("seed", PLAIN)
def test_a_world_keeps_every_invariant(seed):
    told = lived(seed, days=2)
    assert told.breaches == []
    assert told.kills.total() > 5
    assert told.orders > 0


def test_a_seed_is_the_same_world_in_every_process():
    """Two hash seeds, and one world after another in the same process."""
    code = "from tests.simulation.world import lived; print(lived(7, 1.0).sha256)"
    prints = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": n, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        for n in ("1", "2")
    ]  # fmt: skip
    assert prints[0] == prints[1] == lived(7, 1.0).sha256


def test_a_fault_left_out_leaves_the_others_what_they_were():
    names = [f"{n}a.trade.0/submit#1" for n in range(200)]
    every = Luck(3)
    struck = {name: every.fault(name, {"busy": 1.0, "late": 2.0}, 0.3) for name in names}
    some = frozenset(name for name in names if struck[name])
    fewer = Luck(3, some - {min(some)})
    assert 20 < len(some) < 100
    assert {name: fewer.fault(name, {"busy": 1.0, "late": 2.0}, 0.3) for name in names} == struck | {min(some): ""}


def test_what_breaks_without_a_fault_is_shrunk_to_none(monkeypatch):
    """Each fill is booked twice."""
    real = ledger.apply_fill
    monkeypatch.setattr(ledger, "apply_fill", lambda held, *of, **more: real(real(held, *of, **more), *of, **more))
    told = shrunk(6, 1.0)
    assert told.breaches[0].startswith(("mismatch", "halt", "follow-up", "money", "day", "limit"))
    assert told.faults == {}
