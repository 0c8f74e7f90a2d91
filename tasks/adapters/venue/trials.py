"""What trials have proved with this HOME (`trials.json`), by venue: live arms on none without."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.adapters.venue.client import name_of
from tasks.core.errors import InputError
from tasks.settings import Settings


def keep(settings: Settings, at: datetime, proved: Mapping[str, str]) -> None:
    """Keep what a trial on the venue of `settings` proved, in place of what one before it did."""
    known = _known(settings) | {name_of(settings): {"at": at.isoformat(), "proved": dict(proved)}}
    _path(settings).write_text(json.dumps(known, indent=1), encoding="utf-8")


def require(settings: Settings) -> None:
    """Raise InputError, saying what to do, where no trial on the venue's demo passed with this HOME."""
    if name_of(settings.replace(profile="testnet")) not in _known(settings):
        raise InputError(
            f"profile live is not armed: no trial on {settings.venue} from HOME {settings.home}; run "
            "`quarterdeck doctor --trial` there with QUARTERDECK_PROFILE=testnet and the keys of a demo account"
        )


def _path(settings: Settings) -> Path:
    return settings.home / "trials.json"


def _known(settings: Settings) -> dict[str, Any]:
    path = _path(settings)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except ValueError as e:
        raise InputError(f"{path} is damaged ({e}): delete it and run `quarterdeck doctor --trial` again") from e
