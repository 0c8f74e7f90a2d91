"""prefect.yaml of this installation: where runs start, how long after a close, how often watch and protect run."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tasks.settings import Settings

FILE = Path(__file__).with_name("prefect.yaml")
OFFSET_S = 5  # what the file itself says: the first run is so long after a close


def write(settings: Settings) -> Path:
    """Write HOME/prefect.yaml and return its path."""
    path, document = settings.home / "prefect.yaml", arranged(yaml.safe_load(FILE.read_text()), settings)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


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
