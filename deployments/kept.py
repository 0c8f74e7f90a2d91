"""What a person set in Prefect stays: a deploy changes what the last one left as it was, and names the rest.

Three are compared, value by value: what the last deploy wanted (kept on the server itself, as any machine may deploy),
what this release wants, and what the server has. What it has and no deploy wanted is a person's. Where the last deploy
is unknown, so is everything that differs. What was deleted comes back, and that is said: alerts must not end unseen.
Pool and job variables are the release's: workers refuse others.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments.forms import FlowForm
from deployments.orchestrator import Json, Orchestrator, PrefectError
from deployments.services import POOL
from tasks.core.errors import InputError

NOTE = "quarterdeck-release"
REMEDY = "`quarterdeck deploy --reset` puts back what the release has"
USUAL = {
    "active": True, "day_or": True, "enabled": True, "posture": "Reactive", "source": "selected",
    "threshold": 1, "timezone": "UTC", "type": "event", "work_queue_name": "default",
}  # fmt: skip
UNORDERED = {"after", "expect", "for_each", "schedules", "tags"}
OF_SCHEDULES = ("active", "max_scheduled_runs", "parameters", "slug")  # beside when it is
UNTOLD = {"actions", "trigger"}  # say nothing to a reader


async def last(api: Orchestrator, home: Path) -> Json:
    """Return the deployments and automations that the last deploy wanted, by name; {} where that is not known."""
    for found in await api.call("POST", "artifacts/latest/filter", {"artifacts": {"key": {"any_": [NOTE]}}}):
        return dict(found["data"])
    file = home / "prefect.yaml"  # where an earlier release wrote it
    return {each["name"]: each for each in yaml.safe_load(file.read_text())["deployments"]} if file.exists() else {}


async def note(api: Orchestrator, before: Json, wanted: Json) -> None:
    """Keep what was wanted, for the next deploy."""
    if wanted != before:
        text = "What the last deploy wanted: the next one takes what differs from it for a person's."
        await api.call("POST", "artifacts/", {"key": NOTE, "type": "json", "description": text, "data": wanted})


def agreed(name: str, before: Any, now: Any, there: Any, kept: list[str], *, literal: bool = False) -> Any:
    """Return what shall be, and name in `kept` what is a person's.

    Dicts are compared key by key, None stands for what is missing. literal: the values of parameters, where an empty
    one is not a missing one.
    """
    if dict in (kinds := {type(now), type(there)}) and kinds <= {dict, type(None)}:
        unwanted, now, there = now is None, now or {}, there or {}
        before = before if isinstance(before, dict) else {}
        parts = {
            key: agreed(f"{name} {key}", before.get(key), now.get(key), there.get(key), kept, literal=literal)
            if key != "parameters"
            else agreed(name, before.get(key), now.get(key), there.get(key), kept, literal=True)
            for key in now | there
        }
        shall = {key: part for key, part in parts.items() if part is not None}
        return None if unwanted and not shall else shall
    key = "" if literal else name.rpartition(" ")[2]
    has, wants, wanted = (each if literal else _essential({key: each}) for each in (there, now, before))
    if has in (wants, wanted):
        return now
    told = "" if UNTOLD & {*name.split()} else f": {_told(there)} instead of {_told(now)}"
    kept.append(f"{name} as set in Prefect{told}")
    return there


def same(one: Any, other: Any) -> bool:
    """Return whether two mean the same, however they are written."""
    return bool(_essential(one) == _essential(other))


def _told(value: Any) -> str:
    return "none" if value is None else json.dumps(_essential(value), ensure_ascii=False)


def _essential(value: Any, key: str = "") -> Any:
    """Return a value without what goes without saying, so that two ways to write it are equal."""
    if isinstance(value, dict):
        parts = {each: _essential(part, each) for each, part in value.items()}
        return {
            each: part
            for each, part in parts.items()
            if part not in (None, USUAL.get(each)) and (each in USUAL or part)
        }
    if isinstance(value, list):
        parts = [_essential(each) for each in value]
        return sorted(parts, key=str) if key in UNORDERED else parts
    return value.replace("Z", "+00:00") if key == "anchor_date" else value


# --- deployments


async def write(
    api: Orchestrator, release: list[Json], forms: Mapping[str, FlowForm], before: Json, kept: list[str], *, reset: bool
) -> None:
    """Write the release's deployments to the server, with what a person set or without it."""
    names = {each["name"] for each in release}
    servers = {each["name"]: each for each in await api.listed("deployments/filter", {})}
    for name, there in servers.items():
        if name in names or there["work_pool_name"] != POOL:
            continue
        if before.get(name, {}).get("parameters", {}).get("strategy"):
            await api.call("DELETE", f"deployments/{there['id']}")
            kept.append(f"{name} is gone, as is its strategy")
        elif not reset:
            kept.append(f"{name} is not of the release, and left alone")
    for wanted in release:
        now = {key: value for key, value in wanted.items() if key != "triggers"}  # they are automations
        if (form := forms.get(now["entrypoint"])) is None:
            raise InputError(f"{now['entrypoint']} has no form yet: run `.venv/bin/python docs/generate.py`")
        if has := servers.get(name := now["name"]):
            await _write_over(api, has, now, form, before.get(name, now), kept, reset=reset)
            continue
        if name in before:
            kept.append(f"{name} had been deleted and is there again: pause it instead")
        flow = await api.call("POST", "flows/", {"name": form.flow})
        await api.call("POST", "deployments/", _body(now, form) | {"name": name, "flow_id": flow["id"]})


async def _write_over(
    api: Orchestrator, there: Json, now: Json, form: FlowForm, before: Json, kept: list[str], *, reset: bool
) -> None:
    """Change a deployment that is there. Schedules that stay are left out, as Prefect would make them anew.

    Set parameters that the flow no longer has go: Prefect takes them, and no run would start.
    """
    name, path, has = now["name"], f"deployments/{there['id']}", _as_written(there, now)
    shall = agreed(name, before, now, has, kept)
    shall = now if reset else shall
    body, usual = _body(shall, form), now.get("parameters", {})
    if gone := sorted(body["parameters"].keys() - form.schema["properties"].keys()):
        kept += [f"{name} {key} is no parameter any more" for key in gone]
        body["parameters"] = {key: value for key, value in body["parameters"].items() if key not in gone}
    if (there["work_pool_name"], there["job_variables"]) != (POOL, now["work_pool"]["job_variables"]):
        kept.append(f"{name} has its pool and job variables back: workers refuse others")
    if same({"schedules": shall.get("schedules")}, {"schedules": has["schedules"]}):
        del body["schedules"]
    elif all(each["slug"] for each in has["schedules"]):
        for each in there["schedules"]:  # a person's with slugs would be left beside the release's
            await api.call("DELETE", f"{path}/schedules/{each['id']}")
    try:
        await api.call("PATCH", path, body)
    except PrefectError as e:
        if body["parameters"] == usual:
            raise
        kept.append(f"{name} has the release's parameters again, as what was set failed: {e}")
        await api.call("PATCH", path, body | {"parameters": usual})


def _body(deployment: Json, form: FlowForm) -> Json:
    """Return a deployment of prefect.yaml in the words of the API."""
    limit = deployment.get("concurrency_limit")
    return {
        **{key: deployment[key] for key in ("description", "entrypoint")},
        "paused": deployment.get("paused", False),
        "tags": deployment.get("tags", []),
        "parameters": deployment.get("parameters", {}),
        "schedules": [
            {key: each[key] for key in OF_SCHEDULES if key in each}
            | {"schedule": {key: value for key, value in each.items() if key not in OF_SCHEDULES}}
            for each in deployment.get("schedules") or ()
        ],
        "concurrency_limit": limit and limit["limit"],
        "concurrency_options": limit and {key: value for key, value in limit.items() if key != "limit"},
        "work_pool_name": deployment["work_pool"]["name"],
        "job_variables": deployment["work_pool"]["job_variables"],
        "pull_steps": [],
        "parameter_openapi_schema": form.schema,
        "enforce_parameter_schema": True,
    }


def _as_written(there: Json, now: Json) -> Json:
    """Return what the server has in the form of prefect.yaml; what only the release says is taken from `now`."""
    limit, options = there["global_concurrency_limit"], there["concurrency_options"] or {}
    return {
        **{key: there[key] for key in ("description", "tags", "paused", "parameters")},
        **{key: now[key] for key in ("name", "entrypoint", "work_pool")},
        "schedules": [each["schedule"] | {key: each[key] for key in OF_SCHEDULES} for each in there["schedules"]],
        "concurrency_limit": limit and {"limit": limit["limit"], **options},
    }
