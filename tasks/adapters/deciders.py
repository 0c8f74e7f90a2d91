"""Names of deciders -> deciders: adding one is one file in core/decision and one line here."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters.prompts import load_prompt
from tasks.core.decision.baselines import BuyAndHoldDecider, HoldDecider, RandomDecider, RecordedDecider
from tasks.core.decision.breaker import Breaker
from tasks.core.decision.budget import BudgetedModel, Tier
from tasks.core.decision.cache import CachedModel
from tasks.core.decision.ladder import Ladder, Terms
from tasks.core.decision.panel import PanelDecider
from tasks.core.decision.portfolio import PortfolioDecider
from tasks.core.decision.roles import REPLIES
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.single import SingleDecider
from tasks.core.errors import InputError
from tasks.core.market import lean
from tasks.core.ports import Decider, Model
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.adapters.store import Store


def _model(settings: Settings) -> Model:
    """Return the models behind budget and cache; what asks them must stand in a `Ladder`, see `build`."""
    from tasks.adapters.prices import LiteLLMPrices

    if not settings.model:
        raise InputError("this decider needs a model: set QUARTERDECK_MODEL, e.g. openai/gpt-4o")
    tiers = [Tier(_litellm(names, settings), names) for names in (settings.model, settings.cheap_model) if names]
    budgeted = BudgetedModel(tiers, LiteLLMPrices(settings.budget.usd_per_1k_tokens), settings.budget)
    return CachedModel(budgeted, settings.model + settings.cheap_model, timedelta(seconds=settings.cache_ttl_s))


def _litellm(names: tuple[str, ...], settings: Settings) -> Model:
    from tasks.adapters.model import LiteLLMModel

    return LiteLLMModel(
        names,
        settings.model_base_url,
        provider_timeout_s=settings.provider_timeout_s,
        deadline_s=settings.decision_deadline_s,
        max_reply_bytes=settings.max_reply_bytes,
    )


def _panel(settings: Settings) -> Decider:
    from tasks.adapters.model import prepare

    share = settings.panel_stage_s / max(1, len(settings.model))  # so that a failover fits into its stage
    model = _model(settings.model_copy(update={"provider_timeout_s": min(settings.provider_timeout_s, share)}))
    prompts = {role: load_prompt(role) for role in REPLIES}
    stage_s, deadline_s = settings.panel_stage_s, settings.decision_deadline_s
    return PanelDecider(model, prompts, lean.encode, stage_s, deadline_s, prepare)


def _tools(settings: Settings) -> Decider:
    from tasks.adapters.model import prepare
    from tasks.adapters.toolbox import tools_decider

    return tools_decider(settings, _model(settings), prepare)


BUILDERS: dict[str, Callable[[Settings], Decider]] = {
    "rules": lambda _: RulesDecider(),
    "hold": lambda _: HoldDecider(),
    "random": lambda _: RandomDecider(),
    "buy-and-hold": lambda _: BuyAndHoldDecider(),
    "llm:single": lambda s: SingleDecider(_model(s), load_prompt("single"), lean.encode),
    "llm:panel": _panel,
    "llm:tools": _tools,
    "llm:portfolio": lambda s: PortfolioDecider(_model(s), load_prompt("portfolio"), lean.encode),
}


def build(name: str, settings: Settings, store: "Store | None" = None) -> Decider:
    """Build the decider called `name`, one that asks models on its fallback ladder; store: by default the settings'.

    Raises InputError listing the deciders there are.
    """
    kind, _, argument = name.partition(":")
    if kind == "recorded" and argument:
        path = Path(argument)
        if not path.is_file():
            raise InputError(f"recorded:{argument}: no such file of replies")
        return RecordedDecider(path.read_text(encoding="utf-8", errors="replace").split("\n"))
    if kind == "random" and argument:
        return RandomDecider(argument)
    if name not in BUILDERS:
        raise InputError(f"decider {name!r} is unknown; there are {', '.join(BUILDERS)}, random:SEED and recorded:FILE")
    decider = BUILDERS[name](settings)
    return _ladder(decider, settings, store or _open(settings.store_url)) if kind == "llm" else decider


def _ladder(decider: Decider, settings: Settings, store: "Store") -> Decider:
    breaker = Breaker(settings.breaker_errors, timedelta(seconds=settings.breaker_cooldown_s))
    terms = Terms(
        strategy=settings.strategy, session=settings.budget.session, ttl=timedelta(seconds=settings.cache_ttl_s),
        max_distance=settings.cache_distance, breaker=breaker, may_open=settings.limits.fallback_may_open,
        together=decider.name == PortfolioDecider.name,
    )  # fmt: skip
    return Ladder(decider, RulesDecider(), store, terms, lambda: datetime.now(UTC))


@cache
def _open(url: str) -> "Store":
    from tasks.adapters.store import Store

    store = Store(url)
    store.migrate()
    return store
