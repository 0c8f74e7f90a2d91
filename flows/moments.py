"""Keep moments as an evaluation dataset of MLflow, and put kept ones to deciders: from a form, or from a shell."""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.clock import run_name
from flows.commands.output import plain
from flows.forms import StrategyName
from tasks import clock
from tasks import evaluate as stage
from tasks import moments as gathering
from tasks.adapters.files.prompts import load_prompt
from tasks.adapters.mlflow import datasets
from tasks.adapters.mlflow.comparison import git_commit
from tasks.adapters.variants import estimate_moments, variants
from tasks.core.decision.kinds import KINDS
from tasks.core.lab.compare import Variant
from tasks.core.lab.differences import Competitor, explain, paired
from tasks.core.lab.moments import Evaluated, Moment
from tasks.core.lab.promotion_criteria import regressions
from tasks.core.pages import inert
from tasks.core.pages.markdown import table
from tasks.core.simulation.paid_replies import Spending
from tasks.core.types import InputError, Json, Texts
from tasks.moments import MomentsRequest
from tasks.settings import settings


def create(request: MomentsRequest) -> Json:
    """Choose moments and keep them; returns what `moments create --json` prints. Raises InputError."""
    gathering.lab_server()
    chosen = gathering.gather(request, clock.now())
    name = gathering.keep(request, chosen)
    kinds = {kind: sum(each.kind == kind for each in chosen) for kind in ("event", "quiet")}
    return {"moments": name, "count": len(chosen), **kinds, "masked": bool(request.mask)}


@flow(name="moments", flow_run_name=run_name)
def moments(request: MomentsRequest, strategy: StrategyName = "") -> Json:
    """Keep moments under a name, to put them to deciders and prompt versions again and again.

    Args:
        request: which moments, and what they are called.
        strategy: whose symbols, limits and decisions; empty: the top level's.
    """
    with settings.of(settings.named(strategy)):
        kept = create(request)
    create_markdown_artifact(
        key="moments",
        markdown=table(("moments", "count", "with an event", "quiet", "masked"), [tuple(map(str, kept.values()))]),
        description=inert.markdown(kept["moments"]),
    )
    return kept


def check(role: str, version: str, name: str, models: Texts, agreed: Callable[[int, Decimal], Decimal]) -> Json:
    """Put kept moments to a prompt version and to the one in use; returns the criteria, and whether all are met."""
    candidate, champion = load_prompt(role, version), load_prompt(role)
    if candidate.sha256 == champion.sha256:
        raise InputError(f"{role}/{candidate.version} is the version in use: there is nothing to check it against")
    kind = next(name for name, kind in KINDS.items() if role in kind.roles)
    deciders = tuple(f"{kind}@{role}/{each.version}" for each in (candidate, champion))
    compared, chosen, found, document = put(name, deciders, models[:1], agreed)
    if not document["complete"]:
        raise InputError("--max-cost: reached before all moments were answered, so nothing is known")
    both = paired(*(found[each.label] for each in compared))
    if 2 * len(both) < len(chosen):
        raise InputError(
            f"--model: both versions were answered at {len(both)} of {len(chosen)} moments "
            f"({document['first_error']}), so nothing is known: try again when it answers"
        )
    criteria = regressions(*map(list, zip(*both, strict=True)), settings().promotion)
    if unknown := next((each for each in criteria if each.unknown), None):
        few = f"{len(both)} moments are too few to judge {unknown.name} by"
        raise InputError(f"--moments {name}: {few}; keep more with `moments create --events N`")
    return {
        "role": role, "version": candidate.version, "against": champion.version,
        "passed": all(each.passed for each in criteria), "criteria": criteria, **document,
    }  # fmt: skip


def compare(name: str, deciders: Texts, models: Texts, agreed: Callable[[int, Decimal], Decimal]) -> Json:
    """Put kept moments to deciders and say which is better: no account is replayed."""
    compared, chosen, found, document = put(name, deciders, models, agreed)
    named = [Competitor(each.label, each.baseline, document["complete"]) for each in compared]
    explained = explain(named, found)
    net_r = {each.label: each.net_r for each in explained.moments_by_variant}
    return {"count": len(chosen), "net_r": net_r, **document, **plain(dict(explained))}


def put(
    name: str, deciders: Texts, models: Texts, agreed: Callable[[int, Decimal], Decimal], tags: Mapping[str, str] = {}
) -> tuple[list[Variant], list[Moment], dict[str, list[Evaluated]], Json]:
    """Put kept moments to deciders and log an evaluation each; agreed: gets calls and cost, returns the cap in USD."""
    server, s = gathering.lab_server(), settings()
    dataset, chosen = datasets.read(server, name)
    compared = [each for each in variants(deciders, models, {}, s) if each.decider in deciders]
    calls, usd = asyncio.run(estimate_moments(compared, chosen, s))
    spending = Spending(agreed(calls, usd) if calls else None)
    asked = stage.evaluate_set(compared, chosen, spending)
    found = {label: [each for each in of if each.is_answered] for label, of in asked.items()}
    errors = [each.answer.errors[0] for of in asked.values() for each in of if not each.is_answered]
    if errors and not any(found.values()):
        raise InputError(f"--model: none answered any of the {len(chosen)} moments ({errors[0]}); is its key right?")
    runs = stage.track_evaluations(dataset, compared, found, {"git_commit": git_commit(), **tags})
    answered = {label: len(of) for label, of in found.items()}
    done = {"answered": answered, "first_error": errors[0] if errors else None, "complete": not spending.reached}
    return compared, chosen, found, {**runs, **done, "spent": spending.summary()}
