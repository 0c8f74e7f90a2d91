"""What a person set in Prefect survives a deploy, against Prefect's own server; `--reset` takes it back."""

from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from deployments import kept
from deployments.orchestrator import Orchestrator
from deployments.supervisor import Supervisor
from tasks.settings import load

HOURLY = {"schedule": {"cron": "0 * * * *", "timezone": "Europe/Berlin"}, "active": True, "slug": "hourly"}
EACH_15M = {"schedule": {"interval": 900, "anchor_date": "2024-01-01T00:00:10Z"}, "active": False, "slug": "usual"}
DOORBELL, ALERTS, FAILED = "trade-event__automation_1", "quarterdeck: alerts", "quarterdeck: failed runs"
URLS = {"alert_urls": [SecretStr("json://127.0.0.1:1/secret")]}


async def state_of(api: Orchestrator) -> dict[str, Any]:
    """Return what the server has, without ids and times."""
    deployments = {each["name"]: each for each in await api.listed("deployments/filter", {})}
    return {
        name: [
            there["paused"], there["parameters"], list(there["job_variables"]), there["description"],
            (there["global_concurrency_limit"] or {}).get("limit"),
            [(each["schedule"], each["active"], each["slug"]) for each in there["schedules"]],
        ]
        for name, there in deployments.items()
    } | {
        each["name"]: [each["enabled"], each["trigger"]["threshold"], len(each["actions"])]
        for each in await api.listed("automations/filter", {})
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_a_person_set_stays_is_named_and_goes_with_reset(prefect_server, home, capsys):
    settings = load(prefect_api_url=PREFECT_API_URL.value(), **URLS)
    api = Orchestrator(settings.prefect_api_url, home)
    (home / "logs").mkdir()

    async def deploy(reset: bool = False, **changed: Any) -> list[str]:
        await Supervisor(settings.model_copy(update=changed), only_workers=True).deploy(reset=reset)
        said = [line[9:] for line in capsys.readouterr().err.splitlines()]
        return [line for line in said if not line.startswith("deploy: ")]

    async def change(name: str, **values: Any) -> None:
        await api.call("PATCH", f"deployments/{ids[name]['id']}", values)

    assert await deploy() == []
    released = await state_of(api)
    assert (await deploy()) == []
    assert await state_of(api) == released

    ids = {each["name"]: each for each in await api.listed("deployments/filter", {})}
    await change("trade-15m", schedules=[HOURLY, EACH_15M])
    await change("settle", schedules=[], job_variables={"env": {"API_KEY": "sesame"}})
    await change("trade-adhoc", schedules=[HOURLY], parameters={"trigger": "adhoc", "symbols": ["ETH/USDT:USDT"]})
    await api.call("POST", f"deployments/{ids['trade-1h']['id']}/pause_deployment")
    await api.call("DELETE", f"deployments/{ids['export']['id']}")
    added = {"name": "trade-eth", "flow_id": ids["trade-15m"]["flow_id"], "work_pool_name": "quarterdeck"}
    await api.call("POST", "deployments/", added | {"schedules": [HOURLY], "concurrency_limit": 1})
    automations = {each["name"]: each for each in await api.listed("automations/filter", {})}
    for name in (DOORBELL, ALERTS):
        await api.call("PATCH", f"automations/{automations[name]['id']}", {"enabled": False})
    wanted = {key: value for key, value in automations[FAILED].items() if key not in ("id", "created", "updated")}
    wanted["trigger"]["threshold"] = 5
    await api.call("PUT", f"automations/{automations[FAILED]['id']}", wanted)
    set_there = await state_of(api)
    set_there["settle"][2] = ["command"]

    expected = [
        "trade-eth is not of the release, and left alone",
        "settle has its pool and job variables back",
        "trade-15m schedules as set in Prefect: ",
        "trade-1h paused as set in Prefect: true instead of none",
        'trade-adhoc symbols as set in Prefect: ["ETH/USDT:USDT"] instead of none',
        "trade-adhoc schedules as set in Prefect: ",
        "settle schedules as set in Prefect: [] instead of ",
        "export had been deleted and is there again: pause it instead",
        f"{DOORBELL} enabled as set in Prefect: false instead of none",
        f"{ALERTS} enabled as set in Prefect: false instead of none",
        f"{FAILED} trigger threshold as set in Prefect",
        kept.REMEDY,
    ]
    told = await deploy()
    assert len(told) == len(expected), told
    missing = [line for line in expected if not any(each.startswith(line) for each in told)]
    assert missing == [], told
    assert await state_of(api) == set_there | {"export": released["export"]}

    await deploy(close_offset_s=20)  # as a new release would
    moved = await state_of(api)
    assert moved["watch"][5][0][0]["anchor_date"] == "2024-01-01T00:00:20Z"
    assert {name: moved[name] for name in ("trade-15m", "settle")} == {
        name: set_there[name] for name in ("trade-15m", "settle")
    }
    await deploy()

    schema = ids["protect"]["parameter_openapi_schema"]
    await change("report", parameters={"gone": 1}, parameter_openapi_schema=schema)
    assert "report gone is no parameter any more" in await deploy()
    assert (await state_of(api))["report"] == released["report"]
    await change("protect", parameter_openapi_schema={"type": "object", "properties": {"max_age_s": {}}})
    await change("protect", parameters={"max_age_s": "soon"})  # as of a release where it was text
    told = await deploy()
    assert any(line.startswith("protect has the release's parameters again") for line in told), told
    now = await state_of(api)
    assert (now["protect"], now["trade-15m"]) == (released["protect"], set_there["trade-15m"])

    told = await deploy(reset=True)
    assert told
    assert all(line.startswith("put back: ") for line in told), told
    assert await state_of(api) == released | {"trade-eth": set_there["trade-eth"]}


@pytest.mark.parametrize(
    ("before", "now", "there", "shall", "named"),
    [
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, 0),  # the release moved on
        ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 3}, 1),
        ({"a": 1}, {"a": 2}, {"a": 2}, {"a": 2}, 0),  # a deploy that was cut off
        ({"a": 1}, {"a": 1}, {}, {}, 1),  # taken away
        ({}, {"a": 1}, {}, {"a": 1}, 0),  # new in the release
        ({"a": 1}, {}, {"a": 1}, {}, 0),  # gone from the release
        ({"a": {"b": 1}}, {}, {"a": {"b": 1, "c": []}}, {}, 0),
        (None, {"a": 1}, {"a": 2}, {"a": 2}, 1),
        ({}, {}, {"parameters": {"a": False}}, {"parameters": {"a": False}}, 1),
        ({}, {"expect": ["a", "b"], "within": 0}, {"expect": ["b", "a"]}, {"expect": ["a", "b"], "within": 0}, 0),
        ({}, {"parameters": {"a": True}}, {"parameters": {"a": False}}, {"parameters": {"a": False}}, 1),
    ],
)  # fmt: skip
def test_what_the_server_has_and_no_deploy_wanted_is_a_person_s(before, now, there, shall, named):
    told: list[str] = []
    assert kept.agreed("trade", before, now, there, told) == shall
    assert len(told) == named
