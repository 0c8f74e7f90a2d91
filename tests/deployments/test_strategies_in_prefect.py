"""Strategies and systems on a real Prefect: whose runs, events and workers; and one that runs already."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from free_ports import free_port
from mlflow_server import running_mlflow
from prefect.settings import PREFECT_API_URL

from deployments.live_settings import LiveSettings
from deployments.open_positions import refuse
from deployments.orchestrator import Orchestrator
from deployments.services import POOL
from deployments.supervisor import Supervisor
from tasks.adapters.store import BEGINNING
from tasks.connections import store
from tasks.settings import ROOT, load, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
TABLE = f'symbols = ["{BTC}"]\n[strategies.trend]\nsymbols = ["{ETH}"]\ndecider = "hold"\n'


@pytest.fixture
def api(prefect_server: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    """A Prefect that nobody has deployed to, and a HOME with a table whose system is about to."""
    url = PREFECT_API_URL.value()
    assert url is not None
    emptied(url)
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", url)
    monkeypatch.setenv("QUARTERDECK_TOML", str(home / "quarterdeck.toml"))
    (home / "quarterdeck.toml").write_text(TABLE)
    (home / "logs").mkdir()
    settings.cache_clear()
    yield Orchestrator(url, home)
    emptied(url)


def emptied(url: str) -> None:
    """Take away what deploys have left, as other tests share the server."""
    httpx.delete(f"{url}/work_pools/{POOL}")
    for kind in ("deployments", "automations", "artifacts"):
        for each in httpx.post(f"{url}/{kind}/filter", json={}).json():
            httpx.delete(f"{url}/{kind}/{each['id']}")


async def deploy(capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    await Supervisor(load(), only_workers=True).deploy(**options)
    said = [line[9:] for line in capsys.readouterr().err.splitlines()]
    return [line for line in said if not line.startswith("deploy: ")]


async def deployed(api: Orchestrator) -> dict[str, Any]:
    return {each["name"]: each for each in await api.listed("deployments/filter", {})}


async def runs_of(api: Orchestrator, deployment: Any) -> list[Any]:
    asked = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
    return await api.listed("flow_runs/filter", asked)


async def test_what_a_person_set_for_a_strategy_stays_and_all_of_it_goes_with_its_table(api, home, capsys):
    assert await deploy(capsys) == []
    before = await deployed(api)
    own = before["trend-trade-15m"]
    assert own["parameters"]["strategy"] == "trend"
    await api.call("PATCH", f"deployments/{own['id']}", {"paused": True})
    [told, _] = await deploy(capsys)
    assert told == "trend-trade-15m paused as set in Prefect: true instead of none"
    assert (await deployed(api))["trend-trade-15m"]["paused"]
    (home / "quarterdeck.toml").write_text(f'symbols = ["{BTC}"]\n')
    told = await deploy(capsys)
    assert sorted(told[:4]) == [
        f"trend-trade-{of} is gone, as is its strategy" for of in ("15m", "1h", "adhoc", "event")
    ]
    assert before.keys() - (await deployed(api)).keys() == {name for name in before if name.startswith("trend-")}
    assert [each["name"] for each in await api.listed("automations/filter", {})] == ["trade-event__automation_1"]
    (home / "quarterdeck.toml").write_text(TABLE)
    assert await deploy(capsys) == []
    assert not (await deployed(api))["trend-trade-15m"]["paused"]


async def test_a_table_that_comes_while_up_runs_has_its_deployments_by_the_next_sweep(api, home, capsys):
    alone = f'symbols = ["{BTC}", "{ETH}"]\n'
    (home / "quarterdeck.toml").write_text(alone)
    (home / "started.toml").write_text(alone)
    up = Supervisor(load())
    up._live = LiveSettings(home / "quarterdeck.toml", home / "started.toml", refuse)
    await up.deploy()
    (home / "quarterdeck.toml").write_text(TABLE.replace(ETH, BTC))  # the same symbol twice
    for _ in range(2):
        await up._take_settings()
    assert "trend-trade-15m" not in await deployed(api)
    (home / "quarterdeck.toml").write_text(TABLE)
    for _ in range(2):
        await up._take_settings()
    assert [kind for _, kind, text in store().alerts.since(BEGINNING) if BTC in text] == ["settings"]
    there = await deployed(api)
    assert there["trend-trade-15m"]["parameters"]["strategy"] == "trend"
    form = there["trade-15m"]["parameter_openapi_schema"]["properties"]["strategy"]
    assert form["enum"] == ["", "default", "trend"]
    assert "in force from the next run: strategy trend is there now" in capsys.readouterr().err


async def test_an_event_starts_its_own_strategy_s_run_and_no_other(api, capsys):
    await deploy(capsys)
    there = await deployed(api)
    for strategy, symbol in (("trend", ETH), ("default", BTC), ("another system's", BTC)):
        resource = {"prefect.resource.id": f"quarterdeck.symbol.{symbol}", "quarterdeck.strategy": strategy}
        event = {"id": str(uuid4()), "occurred": "2026-01-01T00:00:00Z", "event": "quarterdeck.reasons"}
        payload = {"symbols": [symbol], "reasons": 1}
        await api.call("POST", "events", [event | {"resource": resource, "payload": payload}])
    found: dict[str, list[Any]] = {}
    for _ in range(120):
        found = {name: await runs_of(api, there[name]) for name in ("trade-event", "trend-trade-event")}
        if all(found.values()):
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)
    found = {name: await runs_of(api, there[name]) for name in found}
    [top], [own] = found["trade-event"], found["trend-trade-event"]
    assert (top["parameters"]["symbols"], top["parameters"].get("strategy")) == ([BTC], None)
    assert (own["parameters"]["symbols"], own["parameters"]["strategy"]) == ([ETH], "trend")


def worker(name: str, home: Path) -> subprocess.Popen[str]:
    """Start a worker as somebody does by hand whose HOME this is."""
    env = {**os.environ, "QUARTERDECK_HOME": str(home), "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    env |= {"PREFECT_HOME": str(home / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    start = ("-m", "deployments.worker", "worker", "start", "--pool", POOL, "--type", "process", "--name", name)
    return subprocess.Popen([sys.executable, *start], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)


async def test_a_worker_of_another_system_is_turned_away_before_it_takes_a_run(api, home, tmp_path, capsys):
    await deploy(capsys)
    run = await api.start_run("protect/protect", {})
    (tmp_path / "other" / "prefect").mkdir(parents=True)
    foreign = worker("foreign", tmp_path / "other")
    assert foreign.wait(120) == 2
    [line] = [line for line in foreign.stderr.read().splitlines() if "another system" in line]
    assert line.startswith("this Prefect carries out the runs of another system, ")
    assert line.endswith("or hand that one over with `quarterdeck deploy --reset`")
    assert (await api.call("GET", f"flow_runs/{run['id']}"))["state"]["type"] == "SCHEDULED"
    await api.call("DELETE", f"flow_runs/{run['id']}")
    (home / "prefect").mkdir()
    ours, stay = worker("ours", home), time.monotonic() + 60
    try:
        while "ours" not in {each["name"] for each in await api.call("POST", f"work_pools/{POOL}/workers/filter", {})}:
            assert ours.poll() is None
            assert time.monotonic() < stay
            await asyncio.sleep(0.5)
        await asyncio.sleep(3)
        assert ours.poll() is None
    finally:
        ours.terminate()
        ours.wait(60)


async def test_deploy_of_another_system_is_refused_unless_it_is_to_take_over(api, home, capsys, monkeypatch):
    await deploy(capsys)
    monkeypatch.setenv("QUARTERDECK_PROFILE", "paper")
    done = await asyncio.to_thread(quarterdeck, "deploy")
    assert done.returncode == 2
    assert "another system" in done.stderr.splitlines()[-1]
    assert "/paper/default" in done.stderr
    done = await asyncio.to_thread(quarterdeck, "deploy", "--reset")
    assert done.returncode == 0, done.stderr
    [pool] = await api.call("POST", "work_pools/filter", {})
    assert "/paper/default)" in pool["description"]


def quarterdeck(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(command, env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=400)


async def test_up_uses_a_prefect_and_an_mlflow_that_run_already_and_leaves_them_running(
    api, home, tmp_path, monkeypatch
):
    (tmp_path / "mlflow").mkdir()
    with running_mlflow(tmp_path / "mlflow") as mlflow:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", mlflow)
        done = await asyncio.to_thread(quarterdeck, "up", "--once", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["first_cycle"]["state"] == "Completed", told
        assert told["urls"].keys() == {"sandbox"}
        assert f"mlflow: runs already at {mlflow}, and is used" in done.stderr
        assert "prefect: runs already at " in done.stderr
        assert httpx.get(f"{mlflow}/health").status_code == 200
    assert "trend-trade-15m" in await deployed(api)
