"""Commands given in a shell that knows nothing act on the system there is, and never on a fresh, empty one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deployments import in_force, up_state
from deployments.cli import cli
from deployments.up_state import UpState
from tasks.adapters.store.store import Store
from tasks.core.errors import InputError
from tasks.settings import ROOT, settings


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two HOMEs, each with a database of another name and settings of its own; then a shell that knows neither."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
        monkeypatch.setenv("QUARTERDECK_HOME", str(home))
        monkeypatch.setenv("QUARTERDECK_STRATEGY", home.name)
        monkeypatch.setenv("QUARTERDECK_DATABASE_URL", f"sqlite:///{home / 'elsewhere.db'}")
        monkeypatch.setenv("QUARTERDECK_API_KEY", "not to be written down")
        Store(f"sqlite:///{home / 'elsewhere.db'}").close()
        in_force.write(home)
    for name in [name for name in os.environ if name.startswith("QUARTERDECK_")]:
        monkeypatch.delenv(name)
    settings.cache_clear()
    return homes


def running(monkeypatch: pytest.MonkeyPatch, *homes: Path) -> None:
    began = "2026-01-01T00:00:00Z"
    up = UpState(pid=os.getpid(), started_at=began, profile="sandbox", phase="up")
    monkeypatch.setattr(up_state, "state", lambda home: up if home in homes else None)


def said(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_shell_that_knows_nothing_halts_the_one_system_that_runs(systems, monkeypatch):
    running(monkeypatch, systems[1])
    told = said("halt", "--reason", "smoke")
    assert {name: told[name] for name in ("home", "strategy", "profile", "system")} == {
        "home": str(systems[1]), "strategy": "second", "profile": "sandbox", "system": "running",
    }  # fmt: skip
    kept = Store(f"sqlite:///{systems[1] / 'elsewhere.db'}")
    assert [halt.reason for halt in [kept.halts.newest()]] == ["smoke"]
    kept.close()
    assert not (systems[1] / "quarterdeck.db").exists()
    assert said("resume")["resumed"][0]["reason"] == "smoke"
    assert said("status")["strategy"] == "second"
    assert "not to be written" not in (systems[1] / in_force.FILE).read_text()
    assert (systems[1] / in_force.FILE).stat().st_mode & 0o077 == 0


def test_two_systems_are_told_apart_by_their_home(systems, monkeypatch):
    running(monkeypatch, *systems)
    with pytest.raises(InputError, match=r"2 systems run here: set QUARTERDECK_HOME to one of .*first, .*second"):
        said("halt")
    monkeypatch.setenv("QUARTERDECK_HOME", str(systems[0]))
    assert said("halt")["strategy"] == "first"


def test_after_a_crash_the_named_home_is_halted_and_said_not_to_run(systems, monkeypatch):
    running(monkeypatch)
    monkeypatch.setenv("QUARTERDECK_HOME", str(systems[0]))
    told = said("halt", "--flatten")
    assert (told["strategy"], told["system"], told["flatten"]) == ("first", "not running", True)
    assert said("status")["running"] is False


@pytest.mark.parametrize("command", ["halt", "resume"])
def test_a_home_without_a_database_is_refused_and_gets_none(tmp_path, command):
    home = tmp_path / "nothing"
    env = {name: value for name, value in os.environ.items() if not name.startswith("QUARTERDECK_")}
    asked = subprocess.run(
        [sys.executable, "-m", "deployments.cli", command], cwd=ROOT, capture_output=True, text=True,
        env={**env, "QUARTERDECK_HOME": str(home), "XDG_STATE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[-1].startswith(f"quarterdeck: HOME {home}: there is no database")
    assert not home.exists()
