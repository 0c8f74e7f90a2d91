"""prefect.yaml of this installation: how long after a close runs start, how often watch and protect run, for whom."""

from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

from tasks.settings import Settings

TRADE = "flows.trade.trade"
NAMED = "quarterdeck.strategy"  # in what `watch` tells of: whose event it is
OFFSET_S = 5  # what the file itself says: the first run is so long after a close


def arranged(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Move every schedule by the offset, and give those of a minute the wanted interval; a run of the next is late."""
    document["deployments"] += [
        _of_strategy(deployment, name)
        for name in settings.strategies
        for deployment in document["deployments"]
        if deployment["entrypoint"] == TRADE
    ]
    later = timedelta(seconds=settings.close_offset_s - OFFSET_S)
    for deployment in document["deployments"]:
        for schedule in deployment.get("schedules", ()):
            schedule["anchor_date"] = (datetime.fromisoformat(schedule["anchor_date"]) + later).isoformat()
            if schedule["interval"] == 60:
                schedule["interval"] = settings.watch_every_s
                deployment["parameters"] = {"max_age_s": settings.watch_every_s}
        for trigger in deployment.get("triggers", ()) if settings.strategies else ():
            trigger["match"] = {NAMED: deployment["parameters"].get("strategy", settings.strategy)}
    return document


def _of_strategy(deployment: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a strategy's own deployment, beside the top level's."""
    own = deepcopy(deployment)
    own |= {"name": f"{name}-{own['name']}", "description": f"{name}: {own['description']}"}
    for each in (own, *own.get("triggers", ())):
        each["parameters"] |= {"strategy": name}
    return own
