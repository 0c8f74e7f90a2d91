"""Names of deciders -> deciders. One that asks a model is a line in `core.decision.kinds`, another one here too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, cast

from tasks import clock
from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision import kinds
from tasks.core.decision.baselines import BuyAndHoldDecider, HoldDecider, RandomDecider, RecordedDecider
from tasks.core.decision.budget import BudgetedModel, Prices, Tier
from tasks.core.decision.cache import CachedModel
from tasks.core.decision.ensemble import Judge, PickDecider, TimedDecider, VoteDecider
from tasks.core.decision.kinds import Kind, Means
from tasks.core.decision.ladder import Breaker, Ladder, Shared
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.decision.rules import RulesDecider, Sizes
from tasks.core.decision.votes import SampledModel, VotedDecider
from tasks.core.errors import InputError
from tasks.core.ports import Decider, Model
from tasks.core.types import Json, PromptRef
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.adapters.model.litellm_model import LiteLLMModel
    from tasks.adapters.store.store import Store

Versions = dict[str, str]  # prompt role -> version or alias


def _model(settings: Settings) -> Model:
    """Return the models behind budget and cache; what asks them must stand in a `Ladder`, see `build`."""
    if not settings.model:
        raise InputError("this decider needs a model: set QUARTERDECK_MODEL, e.g. openai/gpt-4o")
    tiers = [Tier(failover_of(names, settings), names) for names in (settings.model, settings.cheap_model) if names]
    budgeted = BudgetedModel(tiers, prices_of(settings), settings.budget)
    return CachedModel(budgeted, settings.model + settings.cheap_model, timedelta(seconds=settings.cache_ttl_s))


def failover_of(names: tuple[str, ...], settings: Settings, patient: bool = True) -> "LiteLLMModel":
    """Return these models, each asked where those before it fail: no budget or cache around them."""
    from tasks.adapters.model.litellm_model import LiteLLMModel
    from tasks.adapters.model.request_form import forms_in

    return LiteLLMModel(
        names, settings.model_base_url, settings.provider_timeout_s, settings.decision_deadline_s,
        settings.max_reply_bytes, settings.reasoning_effort, settings.reasoning_tokens, forms_in(settings.home),
        patient,
    )  # fmt: skip


def parameters_of(settings: Settings, prompt: PromptRef) -> Json:
    """Return temperature and `max_tokens` that a prompt is sent with, as the first model takes them."""
    if settings.model:
        return failover_of(settings.model, settings).parameters(prompt)
    return prompt.model_dump(include={"temperature", "max_tokens"})


def prices_of(settings: Settings) -> Prices:
    """Return what models cost, and what is assumed where that is not known; one served on this machine is free.

    A price in the settings counts there, too: what listens on this machine may be a way to a provider.
    """
    from tasks.adapters.model.litellm_model import is_local
    from tasks.adapters.model.prices import USD_PER_1K_TOKENS, LiteLLMPrices

    given = settings.budget.usd_per_1k_tokens
    return LiteLLMPrices(
        USD_PER_1K_TOKENS if given is None else given,
        lambda model: failover_of((model,), settings).thinking(model),
        free=given is None and is_local(settings.model_base_url),
    )


def _recorded(argument: str) -> Decider:
    path = Path(argument)
    if not path.is_file():
        raise InputError(f"recorded:{argument}: no such file of replies")
    return RecordedDecider(path.read_text(encoding="utf-8", errors="replace").split("\n"))


PLAIN: dict[str, Callable[[str], Decider]] = {  # those that ask no model, each by what its name says after the kind
    "rules": lambda text: RulesDecider(_sizes(text) if text else None),
    "hold": lambda _: HoldDecider(),
    "random": lambda seed: RandomDecider(seed or "0"),
    "buy-and-hold": lambda _: BuyAndHoldDecider(),
    "recorded": _recorded,
    "model": lambda path: resolve_name("tasks.adapters.model.onnx_policy:OnnxDecider")(Path(path)),
}
ENSEMBLES = (
    "ensemble:llm:single+model:FILE.onnx", "ensemble:vote:rules=1,model:FILE.onnx=2",
    "ensemble:pick:model:FILE.onnx,rules,llm:single",
)  # fmt: skip


def build(
    name: str,
    settings: Settings,
    store: "Store | None" = None,
    model: Model | None = None,
    prompts: Mapping[str, Prompt] = {},
    samples: Sequence[int] = (0,),
) -> Decider:
    """Build the decider called `name`, one that asks models on its fallback ladder; store: by default the settings'.

    `llm:single@v002`, `llm:portfolio@challenger` and `llm:panel@risk/v002+trend/v003` name prompt versions. With
    `model` that one is asked, and no ladder stands around it: a replay must not answer from what is known now.
    prompts: instead of those of the files, by role. samples: which askings of each question; the first decides, see
    `core.decision.votes`; who asks no model, and an ensemble, is asked once. Raises InputError listing the deciders
    there are.
    """
    if kinds.members(name):
        return _ensemble(name, lambda member: build(member, settings, store, model))
    named = kinds.read(name)
    kind = kinds.KINDS.get(named.kind)
    if kind is None or (kind.file and not named.argument):
        alone = [each for each, kind in kinds.KINDS.items() if not kind.file]
        taking = (f"{each}:{kind.argument}" for each, kind in kinds.KINDS.items() if kind.argument)
        raise InputError(f"decider {name!r} is unknown; there are {', '.join([*alone, *taking, *ENSEMBLES])}")
    if not kind.maker:
        return PLAIN[named.kind](named.argument)
    versions = _versions(name, named.versions, kind)
    prompts = {role: prompts.get(role) or load_prompt(role, versions.get(role)) for role in kind.roles}
    deciders = [_asking(kind, settings, model, prompts, sample) for sample in samples]
    decider = VotedDecider(deciders) if len(deciders) > 1 else deciders[0]
    return decider if model is not None else _ladder(decider, settings, store)


def _asking(kind: Kind, settings: Settings, model: Model | None, prompts: Mapping[str, Prompt], sample: int) -> Decider:
    from tasks.adapters.model.litellm_model import prepare

    means = Means(settings.decision_deadline_s, prepare, panel=settings.panel)
    if kind.looks_up and model is None:
        from tasks.adapters.model.toolbox import desk_of

        means = replace(means, tools=partial(desk_of, settings))
    elif kind.looks_up:
        from tasks.core.decision.llm.tools import DESK

        means = replace(means, tools=lambda question: DESK.get()(question))
    if kind.staged:  # each model has its share of a stage, so that a failover fits into it
        stage, share = settings.panel_stage_s, settings.panel_stage_s / max(1, len(settings.model))
        settings = settings.replace(
            provider_timeout_s=min(settings.provider_timeout_s, share),
            decision_deadline_s=min(settings.decision_deadline_s, stage),
        )
    asked = model or _model(settings)
    return kind.make(SampledModel(asked, sample) if sample else asked, prompts, means)


def _versions(name: str, wanted: str, kind: Kind) -> Versions:
    """Read `v002`, an alias, or `role/v002` joined by +, into role -> version."""
    parts = [part.rpartition("/") for part in wanted.split("+") if part]
    alone = kind.roles[0] if len(kind.roles) == 1 else ""
    versions = {role or alone: version for role, _, version in parts}
    if unknown := sorted(set(versions) - set(kind.roles)):
        raise InputError(f"{name}: no role {unknown[0] or wanted}; name one of {', '.join(sorted(kind.roles))}")
    return versions


def _ensemble(name: str, member: Callable[[str], Decider]) -> Decider:
    """Build `CHOOSER+TIMER`, `vote:A=1,B=2` or `pick:JUDGE,A,B`, its members deciders but no ensembles."""
    parts = kinds.members(name)
    names, weights = [each for each, _ in parts], [weight for _, weight in parts if weight is not None]
    if len(names) < 2 or not all(names) or any(map(kinds.members, names)):
        raise InputError(f"{name}: write CHOOSER+TIMER, vote:A=1,B=2 or pick:JUDGE,A,B, e.g. {', '.join(ENSEMBLES)}")
    if name.startswith("ensemble:pick:"):
        if kinds.read(names[0]).kind != "model" or len(names) < 3:
            raise InputError(f"{name}: a policy picks among two or more, e.g. {ENSEMBLES[2]}")
        judge, *picked = map(member, names)
        return PickDecider(cast(Judge, judge), picked)
    if not weights:
        return TimedDecider(member(names[0]), member(names[1]))
    try:
        exact = [Decimal(weight) for weight in weights]
    except ArithmeticError as e:
        raise InputError(f"{name}: a weight is no number; write e.g. {ENSEMBLES[1]}") from e
    if not all(weight.is_finite() and weight > 0 for weight in exact):
        raise InputError(f"{name}: every weight must be above 0")
    return VoteDecider(list(zip(map(member, names), exact, strict=True)))


def _sizes(text: str) -> Sizes:
    """Read `stop_atr=3,tp_atr=6`."""
    try:
        return Sizes(**{key.strip(): Decimal(value) for key, _, value in (p.partition("=") for p in text.split(","))})
    except (ArithmeticError, ValueError) as e:
        raise InputError(f"rules:{text}: write e.g. rules:size_pct=10,stop_atr=3,tp_atr=6, all above 0") from e


def _ladder(decider: Decider, settings: Settings, store: "Store | None") -> Decider:
    if store is None:
        from tasks.adapters.store.store import opened

        store = opened(settings.store_url)
    breaker = Breaker(settings.breaker_errors, timedelta(seconds=settings.breaker_cooldown_s))
    shared = Shared(store.budget, store.replies, store.breakers, store.memory)
    return Ladder(
        decider, RulesDecider(), shared, clock.now, settings.strategy, breaker,
        ttl=timedelta(seconds=settings.cache_ttl_s), max_distance=settings.cache_distance,
        session=settings.budget.session, may_open=settings.limits.fallback_may_open,
    )  # fmt: skip
