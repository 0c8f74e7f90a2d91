"""Prefect automations: what starts trade-event, and what sends alerts, failed runs and a pool without workers on.

An address is a secret: it goes into a notification block, which Prefect encrypts, and nowhere else. Prefect has no
block for Apprise as such; its Slack block hands whatever URL it is given to Apprise, so it serves them all.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import SecretStr

from deployments import kept
from deployments.orchestrator import Json, Orchestrator

BLOCK, SLUG = "quarterdeck-alerts", "slack-webhook"
FILE = Path(__file__).with_name("automations.yaml")
ADDED = ("id", "name", "created", "updated")


async def existing(api: Orchestrator) -> dict[str, Json]:
    """Return every automation by name."""
    return {each["name"]: each for each in await api.listed("automations/filter", {})}


async def released(api: Orchestrator, urls: Sequence[SecretStr], deployments: Sequence[Json]) -> dict[str, Json]:
    """Return the automations that a release wants, by name; without an address none sends a message."""
    wanted = {}
    for deployment in deployments:  # as `prefect deploy` makes and names them; it would undo what a person set
        for n, trigger in enumerate(deployment.get("triggers", ()), 1):
            flow, name = deployment["entrypoint"].rpartition(".")[2], deployment["name"]
            run = {"type": "run-deployment", "source": "selected", "parameters": trigger["parameters"]}
            run["deployment_id"] = (await api.call("GET", f"deployments/name/{flow}/{name}"))["id"]
            event = {"posture": "Reactive", **{key: value for key, value in trigger.items() if key != "parameters"}}
            wanted[f"{name}__automation_{n}"] = {"trigger": event, "actions": [run]}
    blocks = await _blocks(api, urls)
    for automation in yaml.safe_load(FILE.read_text(encoding="utf-8")) if blocks else ():
        name, message = automation.pop("name"), {"type": "send-notification", **automation.pop("message")}
        wanted[name] = {**automation, "actions": [{**message, "block_document_id": block} for block in blocks]}
    return wanted


async def ensure(
    api: Orchestrator, wanted: Json, before: Json, there: dict[str, Json], told: list[str], *, reset: bool = False
) -> None:
    """Make the automations as they are wanted, but for what a person set.

    before: what the last deploy wanted; there: what the server had before this one; told: see `kept.agreed`.
    """
    ids = {name: each["id"] for name, each in (await existing(api)).items()}
    for name in dict.fromkeys((*wanted, *(name for name in before if "trigger" in before[name]))):
        now, has = wanted.get(name), _as_written(there.get(name))
        if has is None and name in before and now:
            told.append(f"{name} had been deleted and is there again: disable it instead")
        shall = now if has is None else kept.agreed(name, before.get(name, now), now, has, told)
        shall = now if reset else shall and (has if now is None else shall)
        if not shall:
            if name in ids:
                await api.call("DELETE", f"automations/{ids[name]}")
        elif name not in ids:
            await api.call("POST", "automations/", {"name": name, **shall})
        elif not kept.same(shall, has):
            await api.call("PUT", f"automations/{ids[name]}", {"name": name, "enabled": True, **shall})


def _as_written(there: Json | None) -> Json | None:
    """Return an automation without what the server adds."""
    if there is None:
        return None
    trigger = {key: value for key, value in there["trigger"].items() if key != "id"}
    return {key: value for key, value in there.items() if key not in ADDED} | {"trigger": trigger}


async def _blocks(api: Orchestrator, urls: Sequence[SecretStr]) -> list[str]:
    """Keep a block for each address, with the id it has: automations of a person may use it. Returns the ids."""
    kind = (await api.call("GET", f"block_types/slug/{SLUG}"))["id"]
    of_kind = {"block_type_id": {"any_": [kind]}}
    ours = of_kind | {"name": {"like_": f"{BLOCK}-"}}  # others may be of a key that is lost, which Prefect refuses
    found = await api.call("POST", "block_documents/filter", {"block_documents": ours})
    there = {block["name"]: block["id"] for block in found if block["name"].startswith(f"{BLOCK}-")}
    [schema, *_] = await api.call("POST", "block_schemas/filter", {"block_schemas": of_kind})
    blocks = []
    for n, url in enumerate(urls, 1):
        data = {"url": url.get_secret_value(), "notify_type": "warning"}
        if block := there.pop(name := f"{BLOCK}-{n}", None):
            await api.call("PATCH", f"block_documents/{block}", {"data": data})
        else:
            new = {"name": name, "data": data, "block_type_id": kind, "block_schema_id": schema["id"]}
            block = (await api.call("POST", "block_documents/", new))["id"]
        blocks.append(block)
    for block in there.values():
        await api.call("DELETE", f"block_documents/{block}")
    return blocks
