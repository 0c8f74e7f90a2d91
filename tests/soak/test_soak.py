"""The short form of `make soak`: some hours in one process, under faults, and nothing that may not be."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hours_under_faults_miss_and_double_no_bar_and_leave_ledger_and_venue_equal():
    command = [sys.executable, "-m", "tests.soak", "--hours", "1.5", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.stdout, done.stderr[-2000:]
    assert "breaches: 0" in done.stdout, done.stdout
    assert "15m closes due: 12," in done.stdout
    assert done.returncode == 0
