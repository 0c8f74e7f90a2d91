"""What a comparison is asked to compare: names into variants, the models behind them, and what asking will cost."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

from tasks import clock
from tasks.adapters.deciders import build, failover_of, prices_of
from tasks.adapters.parallel_backtests import Job
from tasks.adapters.store.store import Store
from tasks.core.decision import kinds
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.decision.llm.tools import DESK
from tasks.core.errors import InputError
from tasks.core.lab.compare import Variant
from tasks.core.lab.moments import Moment, closes, flat_account, flat_desk, flat_question
from tasks.core.market.bars import epoch_s
from tasks.core.market.position_events import reviewed_at
from tasks.core.ports import Decider
from tasks.core.simulation.paid_replies import KeptModel, Probe, Spending
from tasks.core.types import SECONDS, PromptRef, exact_sum, hash_of
from tasks.settings import Settings

BASELINES = ("hold", "buy-and-hold", "rules")


def variants(
    deciders: Sequence[str], models: Sequence[str], cutoffs: Mapping[str, datetime], settings: Settings
) -> list[Variant]:
    """Return one variant for each decider, or decider and model, with the baselines among them."""
    names = [*deciders, *(name for name in BASELINES if name not in deciders)]
    listed = [_variant(name, model, cutoffs, settings) for name in names for model in _models(name, models, settings)]
    labels = [variant.label for variant in listed]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"--decider {twice[0]}: named twice")
    if unknown := sorted(set(cutoffs) - {variant.model for variant in listed}):
        raise InputError(f"--cutoff {unknown[0]}: no variant asks that model")
    return listed


def _models(name: str, models: Sequence[str], settings: Settings) -> Sequence[str]:
    if not kinds.kind_of(name).asks_model:
        return ("",)
    chosen = tuple(models) or settings.model[:1]
    if not chosen:
        raise InputError(f"--decider {name}: name a model with --model, e.g. --model openai/gpt-4o")
    return chosen


def _variant(name: str, model: str, cutoffs: Mapping[str, datetime], settings: Settings) -> Variant:
    decider = build(name, settings, model=Probe() if model else None)
    prompts = decider.prompts
    label = " ".join(part for part in (_labelled(name, prompts), model) if part)
    pricing = prices_of(settings).pricing(model) if model else ""
    return Variant(
        label=label, decider=name, model=model, pricing=pricing, cutoff=cutoffs.get(model), baseline=name in BASELINES,
        prompt="+".join(f"{prompt.name}/{prompt.version}" for prompt in prompts),
        prompt_sha256="+".join(prompt.sha256 for prompt in prompts), prompts=prompts,
    )  # fmt: skip


def _labelled(name: str, prompts: Sequence[PromptRef]) -> str:
    """Name the version where one prompt is sent, also when an alias or nothing named it."""
    alone = len(prompts) == 1 and kinds.kind_of(name).asks_model and not kinds.members(name)
    return f"{kinds.read(name).kind}@{prompts[0].version}" if alone else name


def paid_decider(
    variant: Variant, settings: Settings, store: Store, spending: Spending, prompts: Mapping[str, Prompt] = {},
    votes: int = 1,
) -> Decider:  # fmt: skip
    """Build a variant's decider on its one model, every reply of which is kept; prompts: as `build` takes them.

    votes: how often it is asked about one question.
    """
    asked = kept_model(variant.model, settings, store, spending)
    return build(variant.decider, settings, model=asked, prompts=prompts, samples=range(votes))


def kept_model(name: str, settings: Settings, store: Store, spending: Spending) -> KeptModel:
    """Return one model, every reply of which is kept."""
    return KeptModel(
        failover_of((name,), settings, patient=False), name,
        " ".join(filter(None, (settings.model_base_url, settings.reasoning_effort))), store.replies,
        prices_of(settings), spending, clock.now,
    )  # fmt: skip


async def estimate(
    paid: Sequence[tuple[Variant, Job]], settings: Settings, moments: int = 0, votes: int = 1
) -> tuple[int, Decimal]:
    """Return how often models will be asked at most, and what that costs in USD if every reply is as long as allowed.

    Every market event is one decision, every review one as if a position were always held. moments: put to each variant
    besides, per symbol. votes: how often about each. Kept replies are not deducted.
    """
    prices, calls, usd = prices_of(settings), 0, Decimal(0)
    for variant in {variant.label: variant for variant, _ in paid}.values():
        probe, jobs = Probe(), [job for asker, job in paid if asker is variant]
        for name in kinds.askers(variant.decider):  # each by itself: an ensemble's timer may wait at that event
            await _middle_question(build(name, settings, model=probe), jobs[0])
        besides = moments * len(jobs[0].files.candles)
        asked = (sum(map(_decisions, jobs)) + besides) * len(kinds.kind_of(variant.decider).roles) * votes
        worst = exact_sum(prices.worst((variant.model,), question) for question in probe.asked)
        calls += asked
        usd += asked * worst / max(1, len(probe.asked))
    return calls, usd.quantize(Decimal("0.0001"))


async def estimate_moments(
    compared: Sequence[Variant], chosen: Sequence[Moment], settings: Settings, prompts: Mapping[str, Prompt] = {}
) -> tuple[int, Decimal]:
    """Return how often models will be asked about moments at most, and what that costs in USD, as `estimate` does.

    prompts: as `build` takes them.
    """
    prices, calls, usd = prices_of(settings), 0, Decimal(0)
    for variant in compared:
        if not (kind := kinds.kind_of(variant.decider)).asks_model:
            continue
        if kind.looks_up:
            raise InputError(
                f"--decider {variant.decider}: looks things up in candles, which kept moments do not hold: compare it "
                "with --candles"
            )
        probe = Probe()
        await build(variant.decider, settings, model=probe, prompts=prompts).decide([chosen[len(chosen) // 2].question])
        asked = len(chosen) * len(kind.roles)
        calls += asked
        usd += (
            asked * exact_sum(prices.worst((variant.model,), each) for each in probe.asked) / max(1, len(probe.asked))
        )
    return calls, usd.quantize(Decimal("0.0001"))


def _decisions(job: Job) -> int:
    start, end, count = job.window.start, job.window.end, 0
    for market in job.seen.markets.values():
        at_s = epoch_s(market.bars["5m"].index) + SECONDS["5m"]
        inside = (start.timestamp() < at_s) & (at_s <= end.timestamp())
        reviews = inside & reviewed_at(at_s, job.shown.thresholds.review_bars)
        count += len(closes(market, start, end)) + int(reviews.sum())
    return count


async def _middle_question(decider: Decider, job: Job) -> None:
    """Put the middle event of a job to a decider that notes what it would ask."""
    market, strategy = next(iter(job.seen.markets.values())), job.shown
    if events := closes(market, job.window.start, job.window.end):
        when = events[len(events) // 2]
        account, reasons = flat_account(market, strategy, when), market.reasons(when, when)
        DESK.set(partial(flat_desk, market, account, strategy, job.world))
        await decider.decide([flat_question(market, account, strategy, job.world, when, reasons)])


def tried_before(home: Path, data_sha256: str) -> dict[str, float | None]:
    """Return what an earlier release wrote down in HOME of these very candles: variant -> Sharpe ratio per day."""
    path = home / "evaluations" / "tried.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    return {hash_of(row["variant"]): row["sharpe"] for row in map(json.loads, lines) if row["data"] == data_sha256}
