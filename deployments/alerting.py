"""Prefect automations that send our alert events, failed runs and a pool without workers to the configured addresses.

An address is a secret: it goes into a notification block, which Prefect encrypts, and nowhere else. Prefect has no
block for Apprise as such; its Slack block hands whatever URL it is given to Apprise, so it serves them all.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from deployments.orchestrator import Orchestrator

BLOCK, SLUG = "quarterdeck-alerts", "slack-webhook"
ALERTS = {
    "name": "quarterdeck: alerts",
    "description": "Each alert as it is raised; the store sees to it that each is raised once",
    "trigger": {"expect": ["quarterdeck.alert.*"], "threshold": 1, "within": 0, "for_each": ["prefect.resource.id"]},
    "subject": "Quarterdeck: {{ event.payload.kind }}",
    "body": "{{ event.payload.text }} (strategy {{ event.payload.strategy }})",
}
FAILURES = {
    "name": "quarterdeck: failed runs",
    "description": "The first run of an hour that failed or crashed, or a pool that lost its workers",
    "trigger": {
        "expect": ["prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.work-pool.not-ready"],
        "threshold": 1, "within": 3600,
    },
    "subject": "Quarterdeck: {{ event.event }}",
    "body": "{{ event.resource.name }}: {{ event.payload.validated_state.message or event.event }}; "
            "others like it within the hour are not sent",
}  # fmt: skip


async def ensure(api: Orchestrator, urls: Sequence[SecretStr]) -> None:
    """Make blocks and automations what the settings say; without an address there are none."""
    blocks = await _blocks(api, urls)
    for wanted in (ALERTS, FAILURES):
        named = {"automations": {"name": {"any_": [wanted["name"]]}}}
        for old in await api.call("POST", "automations/filter", named):
            await api.call("DELETE", f"automations/{old['id']}")
        if blocks:
            await api.call("POST", "automations/", _automation(wanted, blocks))


def _automation(wanted: dict[str, Any], blocks: Sequence[str]) -> dict[str, Any]:
    told = {"type": "send-notification", "subject": wanted["subject"], "body": wanted["body"]}
    trigger = {"type": "event", "posture": "Reactive", "match": {}, "after": []} | wanted["trigger"]
    actions = [told | {"block_document_id": block} for block in blocks]
    return {"name": wanted["name"], "description": wanted["description"], "enabled": True, "trigger": trigger,
            "actions": actions}  # fmt: skip


async def _blocks(api: Orchestrator, urls: Sequence[SecretStr]) -> list[str]:
    """Write one block for each address, remove those of addresses that are gone, and return their ids."""
    kind = await api.call("GET", f"block_types/slug/{SLUG}")
    of_kind = {"block_type_id": {"any_": [kind["id"]]}}
    [schema, *_] = await api.call("POST", "block_schemas/filter", {"block_schemas": of_kind})
    found = await api.call("POST", "block_documents/filter", {"block_documents": of_kind})
    old = {block["name"]: block["id"] for block in found if block["name"].startswith(f"{BLOCK}-")}
    kept = []
    for n, url in enumerate(urls, 1):
        data, name = {"url": url.get_secret_value(), "notify_type": "warning"}, f"{BLOCK}-{n}"
        if (block := old.pop(name, "")) != "":
            await api.call("PATCH", f"block_documents/{block}", {"data": data})
        else:
            new = {"name": name, "data": data, "block_type_id": kind["id"], "block_schema_id": schema["id"]}
            block = (await api.call("POST", "block_documents/", new))["id"]
        kept.append(block)
    for block in old.values():
        await api.call("DELETE", f"block_documents/{block}")
    return kept
