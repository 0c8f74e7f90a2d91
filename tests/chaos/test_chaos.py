"""The short form of `make chaos`: a few deaths of real processes, on both databases, and nothing that may not be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_doubled_naked_or_over_its_limit_where_processes_are_killed():
    command = [sys.executable, "-m", "tests.chaos", "--kills", "10", "--shards", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["breaches"] == [], done.stderr[-2000:]
    assert done.returncode == 0
    assert found["kills"] >= 10
    assert found["longest_unprotected_where_stops_attach_s"] == 0
