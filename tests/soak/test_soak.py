"""The short form of `make soak`: hours in one process, under faults or with a talkative model, and nothing wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hours_under_faults_miss_and_double_no_bar_and_leave_ledger_and_venue_equal():
    assert "15m closes due: 12," in soaked("--hours", "1.5", "--seed", "3")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_word_of_a_model_that_says_everything_is_lost():
    said = soaked("--words", "--hours", "0.75", "--seed", "3")
    assert "said and without an end: 0" in said
    assert '"differ": 0' in said


def soaked(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.soak", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.stdout, done.stderr[-2000:]
    assert "breaches: 0" in done.stdout, done.stdout
    assert done.returncode == 0
    return done.stdout
