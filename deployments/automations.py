"""Prefect automations that send our alert events, failed runs and a pool without workers to the configured addresses.

An address is a secret: it goes into a notification block, which Prefect encrypts, and nowhere else. Prefect has no
block for Apprise as such; its Slack block hands whatever URL it is given to Apprise, so it serves them all.
"""

from collections.abc import Sequence

from pydantic import SecretStr

from deployments.orchestrator import Orchestrator

BLOCK, SLUG = "quarterdeck-alerts", "slack-webhook"
REACTIVE = {"type": "event", "posture": "Reactive"}
# an automation, and the message it sends
ALERTS = (
    {
        "name": "quarterdeck: alerts",
        "description": "Each alert as it is raised; the store sees to it that each is raised once",
        "trigger": REACTIVE | {"expect": ["quarterdeck.alert.*"], "for_each": ["prefect.resource.id"]},
    },
    {
        "subject": "Quarterdeck: {{ event.payload.kind }}",
        "body": "{{ event.payload.text }} (strategy {{ event.payload.strategy }})",
    },
)
FAILURES = (
    {
        "name": "quarterdeck: failed runs",
        "description": "The first run of an hour that failed or crashed, or a pool that lost its workers",
        "trigger": REACTIVE
        | {
            "expect": ["prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.work-pool.not-ready"],
            "within": 3600,
        },
    },
    {
        "subject": "Quarterdeck: {{ event.event }}",
        "body": "{{ event.resource.name }}: {{ event.payload.validated_state.message or event.event }}; "
        "others like it within the hour are not sent",
    },
)


async def ensure(api: Orchestrator, urls: Sequence[SecretStr]) -> None:
    """Make blocks and automations anew, as the settings say; without an address there are none."""
    names = [automation["name"] for automation, _ in (ALERTS, FAILURES)]
    kind = (await api.call("GET", f"block_types/slug/{SLUG}"))["id"]
    of_kind = {"block_type_id": {"any_": [kind]}}
    for old in await api.call("POST", "automations/filter", {"automations": {"name": {"any_": names}}}):
        await api.call("DELETE", f"automations/{old['id']}")
    ours = of_kind | {"name": {"like_": f"{BLOCK}-"}}  # others may be of a key that is lost, which Prefect refuses
    for old in await api.call("POST", "block_documents/filter", {"block_documents": ours}):
        if old["name"].startswith(f"{BLOCK}-"):
            await api.call("DELETE", f"block_documents/{old['id']}")
    [schema, *_] = await api.call("POST", "block_schemas/filter", {"block_schemas": of_kind})
    blocks = []
    for n, url in enumerate(urls, 1):
        data = {"url": url.get_secret_value(), "notify_type": "warning"}
        new = {"name": f"{BLOCK}-{n}", "data": data, "block_type_id": kind, "block_schema_id": schema["id"]}
        blocks.append((await api.call("POST", "block_documents/", new))["id"])
    for automation, message in (ALERTS, FAILURES) if blocks else ():
        actions = [{"type": "send-notification", **message, "block_document_id": block} for block in blocks]
        await api.call("POST", "automations/", {**automation, "enabled": True, "actions": actions})
