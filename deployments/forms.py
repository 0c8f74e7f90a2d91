"""What Prefect knows of each flow: its name and the schema of its parameters, which its form is drawn from.

Both are in forms.json, as importing every flow would cost a deploy 8 s of CPU: `python docs/generate.py` writes it, and
a test says when to.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flows.forms import OFFERED
from tasks.adapters.files.prompts import list_prompts
from tasks.core.types import TIMEFRAMES
from tasks.settings import Settings

FILE = Path(__file__).with_name("forms.json")
Json = dict[str, Any]


class FlowForm(NamedTuple):
    """flow: its name. schema: JSON schema of its parameters, with what there is to choose from."""

    flow: str
    schema: Json


def read(settings: Settings) -> dict[str, FlowForm]:
    """Return the form of each entrypoint."""
    offers = {
        "symbols": list(settings.all_symbols),
        "strategies": ["", *(each.strategy for each in settings.every())],
        "timeframes": list(TIMEFRAMES),
        "prompts": [f"{prompt.name}@{prompt.version}" for prompt in list_prompts()],
    }

    def chosen(part: Json) -> Json:
        return part | {"enum": offers[part.pop(OFFERED)]} if OFFERED in part else part

    forms = json.loads(FILE.read_text(encoding="utf-8"), object_hook=chosen)
    return {entrypoint: FlowForm(**form) for entrypoint, form in forms.items()}
