"""compose.yaml, its services, and their settings as Compose fills them in."""

import re
from typing import Any

import yaml

from tasks.settings import ROOT

INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("quarterdeck:")}
GIVEN = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


def filled(value: Any, given: dict[str, str]) -> Any:
    """Return `value` with its ${variables} as Compose would fill them in; KeyError for one that must be given."""
    if isinstance(value, dict):
        return {key: filled(item, given) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, given) for item in value]
    if not isinstance(value, str):
        return value
    return GIVEN.sub(lambda m: given.get(m[1]) or (m[3] if m[2] == ":-" else given[m[1]]), value)


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}
