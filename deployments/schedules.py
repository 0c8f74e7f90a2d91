"""prefect.yaml of this installation: where runs start, how long after a close, how often watch and protect run."""

from datetime import datetime, timedelta
from typing import Any

from tasks.settings import Settings

OFFSET_S = 5  # what the file itself says: the first run is so long after a close


def arranged(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Move every schedule by the offset, and give those of a minute the wanted interval; a run of the next is late."""
    later = timedelta(seconds=settings.close_offset_s - OFFSET_S)
    for deployment in document["deployments"]:
        for schedule in deployment.get("schedules", ()):
            schedule["anchor_date"] = (datetime.fromisoformat(schedule["anchor_date"]) + later).isoformat()
            if schedule["interval"] == 60:
                schedule["interval"] = settings.watch_every_s
                deployment["parameters"] = {"max_age_s": settings.watch_every_s}
    return document
