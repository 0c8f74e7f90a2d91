"""Names of deciders -> deciders: adding one is one file in core/decision and one line here."""

from collections.abc import Callable
from pathlib import Path

from tasks.adapters.prompts import load_prompt
from tasks.core.decision.baselines import HoldDecider, RecordedDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.single import SingleDecider
from tasks.core.errors import InputError
from tasks.core.market import lean
from tasks.core.ports import Decider, Model
from tasks.settings import Settings


def _model(settings: Settings) -> Model:
    from tasks.adapters.model import LiteLLMModel

    if not settings.model:
        raise InputError("this decider needs a model: set QUARTERDECK_MODEL, e.g. openai/gpt-4o")
    return LiteLLMModel(
        settings.model,
        settings.model_base_url,
        provider_timeout_s=settings.provider_timeout_s,
        deadline_s=settings.decision_deadline_s,
        max_reply_bytes=settings.max_reply_bytes,
    )


BUILDERS: dict[str, Callable[[Settings], Decider]] = {
    "rules": lambda _: RulesDecider(),
    "hold": lambda _: HoldDecider(),
    "llm:single": lambda s: SingleDecider(_model(s), load_prompt("single"), lean.encode),
}


def build(name: str, settings: Settings) -> Decider:
    """Build the decider called `name`; raises InputError listing those there are."""
    kind, _, argument = name.partition(":")
    if kind == "recorded" and argument:
        path = Path(argument)
        if not path.is_file():
            raise InputError(f"recorded:{argument}: no such file of replies")
        return RecordedDecider(path.read_text(encoding="utf-8", errors="replace").split("\n"))
    if name not in BUILDERS:
        raise InputError(f"decider {name!r} is unknown; there are {', '.join(BUILDERS)} and recorded:FILE")
    return BUILDERS[name](settings)
