"""A run has the command, the environment and the flow of its worker; what asks for others is refused, and told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse

from deployments import services
from deployments.confined import COMMAND, FLOW, Confined, ConfinedWorker, RunRefused
from tasks import alerts
from tasks.connections import store
from tasks.settings import ROOT, load, settings

DEPLOYED = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
OURS = DEPLOYED["deployments"][0]["work_pool"]["job_variables"]
NOBODY: Any = object()  # nothing is looked up in a Prefect
BEFORE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OMP_NUM_THREADS": "1"}  # deployed by earlier releases


@pytest.fixture(autouse=True)
def rung(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The alerts that are sent on, in a worker with the environment that `up` gives it."""
    told: list[str] = []
    monkeypatch.setattr(alerts, "emit_event", lambda event, payload, **_: told.append(payload["text"]))
    settings.cache_clear()
    store().migrate()
    for name, value in services.environment(load()).items():
        monkeypatch.setenv(name, value)
    return told


async def prepared(variables: dict[str, Any], template: dict[str, Any] | None = None, **deployed: Any) -> Confined:
    """Prepare a run as a worker does, whose job variables and deployment are these."""
    template = ConfinedWorker.get_default_base_job_template() | {} if template is None else template
    job = await Confined.from_template_and_values(template, variables, client=NOBODY)
    its = {"entrypoint": "flows.trade.trade", "name": "trade-adhoc", "flow_id": uuid4(), "id": uuid4()} | deployed
    run = FlowRun(flow_id=its["flow_id"], deployment_id=its["id"], name="evil-eel")
    job.prepare_for_flow_run(run, DeploymentResponse(**its) if its["name"] else None)
    return job


def others_than_prefect_s(env: dict[str, Any]) -> dict[str, Any]:
    """Return the environment without what Prefect's engine is told of its run and its worker's own settings."""
    return {name: value for name, value in env.items() if not name.startswith("PREFECT_")}


@pytest.mark.parametrize("variables", [OURS, {}, OURS | {"env": BEFORE}, OURS | {"working_dir": "/"}])
async def test_a_run_of_ours_has_all_from_its_worker(variables, rung):
    job = await prepared(variables)
    assert job.command == COMMAND
    assert job._command_configured
    assert job.working_dir == Path.cwd()
    assert others_than_prefect_s(job.env) == others_than_prefect_s(dict(os.environ))
    assert rung == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"command": "touch /tmp/owned"}, "command"),
        ({"command": f"{COMMAND}; touch /tmp/owned"}, "command"),
        ({"env": {"QUARTERDECK_PROFILE": "live"}}, "QUARTERDECK_PROFILE"),
        ({"env": {"QUARTERDECK_LIVE_ACCOUNT": "1"}}, "QUARTERDECK_LIVE_ACCOUNT"),
        ({"env": {"QUARTERDECK_DATABASE_URL": "sqlite:////tmp/other.db"}}, "QUARTERDECK_DATABASE_URL"),
        ({"env": {"QUARTERDECK_HOME": "/tmp"}}, "QUARTERDECK_HOME"),
        ({"env": {"QUARTERDECK_LIMITS__LEVERAGE": "50"}}, "QUARTERDECK_LIMITS__LEVERAGE"),
        ({"env": {"PREFECT_API_URL": "http://127.0.0.1:9/api"}}, "PREFECT_API_URL"),
        ({"env": {"PYTHONPATH": "/tmp"}}, "PYTHONPATH"),
        ({"env": {"LD_PRELOAD": "/tmp/evil.so"}}, "LD_PRELOAD"),
        ({"env": {"HTTPS_PROXY": "http://planted-0f"}}, "HTTPS_PROXY"),
    ],
)
async def test_a_run_that_asks_for_anything_else_is_refused_and_told_once(asked, why, rung):
    for _ in range(2):
        with pytest.raises(RunRefused, match=why) as caught:
            await prepared(OURS | asked)
    assert "planted" not in str(caught.value)
    [told] = rung
    assert "evil-eel" in told
    assert why in told


@pytest.mark.parametrize(
    "deployed",
    [
        {"entrypoint": "os.system"},
        {"entrypoint": "flows.py:evil"},
        {"entrypoint": "flows..evil"},
        {"entrypoint": "flows.report.sys"},
        {"entrypoint": None},
        {"name": ""},
        {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}]},
    ],
)
async def test_a_deployment_that_is_not_ours_is_refused(deployed, rung):
    with pytest.raises(RunRefused):
        await prepared(OURS, **deployed)
    assert len(rung) == 1


async def test_a_pool_whose_template_was_changed_starts_nothing(rung):
    template = ConfinedWorker.get_default_base_job_template()
    template["job_configuration"]["command"] = "touch /tmp/owned"
    with pytest.raises(RunRefused, match="command"):
        await prepared(OURS, template)
    assert len(rung) == 1


async def test_people_are_told_of_a_refused_run_when_the_store_does_not_answer(rung, monkeypatch):
    from tasks.core.errors import StoreError

    def down() -> None:
        raise StoreError("down")

    monkeypatch.setattr(alerts, "store", down)
    with pytest.raises(RunRefused):
        await prepared({"command": "evil"})
    assert len(rung) == 1


def test_what_up_starts_is_this_worker():
    assert services.working_plan(load())["worker"].command[1:3] == ("-m", "deployments.worker")
    assert ConfinedWorker.type == "process"


def test_every_flow_we_deploy_is_one_that_the_worker_carries_out():
    assert [each["entrypoint"] for each in DEPLOYED["deployments"] if not FLOW.fullmatch(each["entrypoint"])] == []


def test_a_worker_needs_nothing_of_the_folder_that_all_users_share(home, tmp_path, monkeypatch):
    """Prefect's runner keeps flows in /tmp/runner_storage, which the first user of a machine owns."""
    (tmp_path / "runner_storage").touch()
    asked = "from prefect.runner import Runner as R; import prefect.cli as c; c.app = lambda: print(R()._tmp_dir); "
    code = asked + "import runpy; runpy.run_module('deployments.worker', run_name='__main__')"
    env = os.environ | {"TMPDIR": str(tmp_path), "PREFECT_HOME": str(home)}
    said = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(said.stdout.strip()).parent == home / "runner_storage"


def test_runs_have_the_settings_file_as_it_was_when_their_worker_was_started(home, tmp_path, monkeypatch):
    from deployments.supervisor import Supervisor

    toml = tmp_path / "mine.toml"
    toml.write_text("watch_every_s = 300\n")
    frozen = Supervisor(load())._frozen(toml)
    toml.write_text("watch_every_s = 60\n")
    assert frozen.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("QUARTERDECK_TOML", str(frozen))
    assert load().watch_every_s == 300
