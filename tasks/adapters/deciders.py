"""Names of deciders -> deciders: adding one is one file in core/decision and one line here."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.prompts import load_prompt
from tasks.core.decision.baselines import BuyAndHoldDecider, HoldDecider, RandomDecider, RecordedDecider
from tasks.core.decision.breaker import Breaker
from tasks.core.decision.budget import BudgetedModel, Tier
from tasks.core.decision.cache import CachedModel
from tasks.core.decision.ensemble import TimedDecider, VoteDecider
from tasks.core.decision.ladder import Ladder, Terms
from tasks.core.decision.panel import PanelDecider
from tasks.core.decision.portfolio import PortfolioDecider
from tasks.core.decision.roles import REPLIES
from tasks.core.decision.rules import RulesDecider, Sizes
from tasks.core.decision.single import SingleDecider
from tasks.core.errors import InputError
from tasks.core.market import lean
from tasks.core.ports import Decider, Model
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.adapters.store import Store

Versions = dict[str, str]  # prompt role -> version or alias


def _model(settings: Settings) -> Model:
    """Return the models behind budget and cache; what asks them must stand in a `Ladder`, see `build`."""
    from tasks.adapters.prices import LiteLLMPrices

    if not settings.model:
        raise InputError("this decider needs a model: set QUARTERDECK_MODEL, e.g. openai/gpt-4o")
    tiers = [Tier(_litellm(names, settings), names) for names in (settings.model, settings.cheap_model) if names]
    budgeted = BudgetedModel(tiers, LiteLLMPrices(settings.budget.usd_per_1k_tokens), settings.budget)
    return CachedModel(budgeted, settings.model + settings.cheap_model, timedelta(seconds=settings.cache_ttl_s))


def one_model(name: str, settings: Settings) -> Model:
    """Return one model alone: no failover, budget or cache around it."""
    return _litellm((name,), settings)


def _litellm(names: tuple[str, ...], settings: Settings) -> Model:
    from tasks.adapters.model import LiteLLMModel

    return LiteLLMModel(
        names,
        settings.model_base_url,
        provider_timeout_s=settings.provider_timeout_s,
        deadline_s=settings.decision_deadline_s,
        max_reply_bytes=settings.max_reply_bytes,
    )


def _panel(settings: Settings, model: Model | None, versions: Versions) -> Decider:
    from tasks.adapters.model import prepare

    share = settings.panel_stage_s / max(1, len(settings.model))  # so that a failover fits into its stage
    own = settings.model_copy(update={"provider_timeout_s": min(settings.provider_timeout_s, share)})
    model = model or _model(own)
    prompts = {role: load_prompt(role, versions.get(role)) for role in REPLIES}
    stage_s, deadline_s = settings.panel_stage_s, settings.decision_deadline_s
    return PanelDecider(model, prompts, lean.encode, stage_s, deadline_s, prepare)


def _tools(settings: Settings, model: Model | None, versions: Versions) -> Decider:
    from tasks.adapters.model import prepare
    from tasks.adapters.toolbox import tools_decider

    if model is not None:
        raise InputError("llm:tools asks the venue for what is true now: it cannot be replayed over candle files")
    if versions:
        raise InputError("llm:tools takes no prompt version: promote the planner's with `quarterdeck prompts promote`")
    return tools_decider(settings, _model(settings), prepare)


BUILDERS: dict[str, Callable[[Settings, Model | None, Versions], Decider]] = {
    "rules": lambda *_: RulesDecider(),
    "hold": lambda *_: HoldDecider(),
    "random": lambda *_: RandomDecider(),
    "buy-and-hold": lambda *_: BuyAndHoldDecider(),
    "llm:single": lambda s, m, v: SingleDecider(m or _model(s), load_prompt("single", v.get("single")), lean.encode),
    "llm:panel": _panel,
    "llm:tools": _tools,
    "llm:portfolio": lambda s, m, v: PortfolioDecider(
        m or _model(s), load_prompt("portfolio", v.get("portfolio")), lean.encode
    ),
}


ENSEMBLES = ("ensemble:llm:single+model:FILE.onnx", "ensemble:vote:rules=1,model:FILE.onnx=2")
WITH_ARGUMENT = ("random:SEED", "rules:stop_atr=3", "recorded:FILE", "model:FILE.onnx", *ENSEMBLES)


def build(name: str, settings: Settings, store: "Store | None" = None, model: Model | None = None) -> Decider:
    """Build the decider called `name`, one that asks models on its fallback ladder; store: by default the settings'.

    `llm:single@v002`, `llm:portfolio@challenger` and `llm:panel@risk/v002+trend/v003` name prompt versions. With
    `model` that one is asked, and no ladder stands around it: a replay must not answer from what is known now.
    Raises InputError listing the deciders there are.
    """
    name, _, wanted = name.partition("@") if name.startswith("llm:") else (name, "", "")
    kind, _, argument = name.partition(":")
    if kind == "recorded" and argument:
        path = Path(argument)
        if not path.is_file():
            raise InputError(f"recorded:{argument}: no such file of replies")
        return RecordedDecider(path.read_text(encoding="utf-8", errors="replace").split("\n"))
    if kind == "random" and argument:
        return RandomDecider(argument)
    if kind == "rules" and argument:
        return RulesDecider(_sizes(argument))
    if kind == "model" and argument:
        from tasks.adapters.onnx_policy import OnnxDecider

        return OnnxDecider(Path(argument))
    if kind == "ensemble" and argument:
        return _ensemble(argument, lambda member: build(member, settings, store, model))
    if name not in BUILDERS:
        raise InputError(f"decider {name!r} is unknown; there are {', '.join(BUILDERS)}, {', '.join(WITH_ARGUMENT)}")
    decider = BUILDERS[name](settings, model, _versions(argument, wanted))
    alone = kind != "llm" or model is not None
    return decider if alone else _ladder(decider, settings, store or _open(settings.store_url))


def _versions(kind: str, wanted: str) -> Versions:
    """Read `v002`, an alias, or `role/v002` joined by +, into role -> version."""
    parts = [part.rpartition("/") for part in wanted.split("+") if part]
    versions = {role or kind: version for role, _, version in parts}
    known = set(REPLIES) if kind == "panel" else {kind}
    if unknown := sorted(set(versions) - known):
        raise InputError(f"llm:{kind}@{wanted}: no role {unknown[0]}; name one of {', '.join(sorted(known))}")
    return versions


def _ensemble(text: str, member: Callable[[str], Decider]) -> Decider:
    """Read `CHOOSER+TIMER` (parted at the last +) or `vote:A=1,B=2`, its members deciders but no ensembles."""
    votes = [part.rpartition("=") for part in text.removeprefix("vote:").split(",")]
    names = [name for name, _, _ in votes] if text.startswith("vote:") else [*text.rpartition("+")[::2]]
    if len(names) < 2 or not all(names) or any(name.startswith("ensemble") for name in names):
        raise InputError(f"ensemble:{text}: write CHOOSER+TIMER or vote:A=1,B=2, e.g. {', '.join(ENSEMBLES)}")
    if not text.startswith("vote:"):
        return TimedDecider(member(names[0]), member(names[1]))
    try:
        weights = [Decimal(weight) for _, _, weight in votes]
    except ArithmeticError as e:
        raise InputError(f"ensemble:{text}: a weight is no number; write e.g. {ENSEMBLES[1]}") from e
    if not all(weight.is_finite() and weight > 0 for weight in weights):
        raise InputError(f"ensemble:{text}: every weight must be above 0")
    return VoteDecider(list(zip(map(member, names), weights, strict=True)))


def _sizes(text: str) -> Sizes:
    """Read `stop_atr=3,tp_atr=6`."""
    try:
        return Sizes(**{key.strip(): Decimal(value) for key, _, value in (p.partition("=") for p in text.split(","))})
    except (ArithmeticError, ValueError) as e:
        raise InputError(f"rules:{text}: write e.g. rules:size_pct=10,stop_atr=3,tp_atr=6, all above 0") from e


def _ladder(decider: Decider, settings: Settings, store: "Store") -> Decider:
    breaker = Breaker(settings.breaker_errors, timedelta(seconds=settings.breaker_cooldown_s))
    terms = Terms(
        strategy=settings.strategy, session=settings.budget.session, ttl=timedelta(seconds=settings.cache_ttl_s),
        max_distance=settings.cache_distance, breaker=breaker, may_open=settings.limits.fallback_may_open,
        together=decider.name == PortfolioDecider.name,
    )  # fmt: skip
    return Ladder(decider, RulesDecider(), store, terms, lambda: datetime.now(UTC))


def _open(url: str) -> "Store":
    from tasks.adapters.store import opened

    return opened(url)
