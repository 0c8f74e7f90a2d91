"""Every step boundary has a name, and no name is without its boundary."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import crash_points
from tasks.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def call_sites() -> set[str]:
    found = set()
    for file in (*(ROOT / "tasks").glob("*.py"), *(ROOT / "flows").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached":
                assert isinstance(node.args[0], ast.Constant), f"{file}: a step is a literal"
                found.add(node.args[0].value)
    return found


def test_every_step_that_is_reached_is_listed_and_every_listed_one_is_reached():
    assert call_sites() == set(crash_points.STEPS)


def killed(profile: str) -> int:
    code = "from tasks.crash_points import reached as at; at('sent'); at('sent'); print('lives'); at('sent')"
    env = {**os.environ, "QUARTERDECK_KILL_AT": "sent:3", "QUARTERDECK_PROFILE": profile}
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, check=False).returncode


def test_a_process_dies_where_it_is_told_to_on_the_sandbox_only():
    assert killed("sandbox") == -signal.SIGKILL
    assert killed("paper") == 0


@pytest.mark.parametrize("wrong", ["nowhere:1", "sent:soon"])
def test_a_step_that_does_not_exist_is_named(monkeypatch, wrong):
    monkeypatch.setenv(crash_points.KILL_AT, wrong)
    with pytest.raises(InputError, match=wrong):
        crash_points.reached("sent")
