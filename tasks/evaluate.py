"""Replay variants, put them beside each other, and keep what was comparison."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from tasks.adapters import parallel_backtests, variants
from tasks.adapters.charts import comparison_report
from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import list_prompts
from tasks.adapters.parallel_backtests import Job
from tasks.connections import log, store, tracker
from tasks.core.decision.kinds import kind_of
from tasks.core.decision.llm.tools import ToolDesk
from tasks.core.errors import TrackingUnavailable
from tasks.core.lab import compare, moments
from tasks.core.lab.compare import BacktestWindow, Comparison, Trial, Variant
from tasks.core.lab.differences import Explanation
from tasks.core.lab.moments import Evaluated, Moment
from tasks.core.simulation.paid_replies import Spending
from tasks.core.simulation.sharpe import daily_sharpe
from tasks.core.types import Dto, Exact, Json, Question, Strategy, Texts, Utc, hash_of
from tasks.moments import lab_server
from tasks.settings import settings, strategy_of
from tasks.stage import stage


class ComparisonRequest(Dto):
    """What to compare, over which candles (symbol -> file), or over which kept moments (NAME or NAME@VERSION)."""

    candles: dict[str, str] = {}
    moments: str = ""
    funding: dict[str, str] = {}
    news: str = ""
    instruments: str = ""
    deciders: Texts = ("rules",)
    models: Texts = ()
    start: Utc | None = None
    end: Utc | None = None
    windows: int = 1
    window_days: float = 0
    mask: bool | str | None = None  # or its key, of which "strong" adds the masked and perturbed replay
    perturb: bool = False
    quiet: int | None = None
    events: int | None = None
    seeds: int = 200
    cutoffs: dict[str, Utc] = {}
    max_cost: Exact | None = None
    dask: str = ""
    title: str = ""


@dataclass(frozen=True)
class Work:
    """A request made out into replays: those that are free, and those that ask models."""

    request: ComparisonRequest
    variants: list[Variant]
    windows: tuple[BacktestWindow, ...]
    free: list[Job]
    paid: list[tuple[Variant, Job]]
    quiet: int  # closes of each kind that become moments, per symbol
    events: int
    instruments: dict[str, Json]
    gaps: Json

    @property
    def whole(self) -> BacktestWindow:
        """Return all windows as one."""
        return BacktestWindow(start=self.windows[0].start, end=self.windows[-1].end)

    @property
    def job(self) -> Job:
        """Return one of its replays: they have the candles and the limits in common."""
        return [*self.free, *(job for _, job in self.paid)][0]


@stage(task_run_name="replay-{job.label}-{job.window.index}-{job.treatment}", retries=0)
def replay_trial(job: Job) -> Trial:
    """Replay one variant over one window, on a Dask worker."""
    trial = parallel_backtests.run_job(job)
    log().info("replay variant=%s window=%d trades=%d", job.label, job.window.index, len(trial.trades))
    return trial


@stage(retries=0)
def replay_trials(jobs: Sequence[Job], dask: str, done: Callable[[Trial], None]) -> list[Trial]:
    """Replay every job that asks no model, in as many processes as there are cores; on Dask as tasks of this run."""
    trials, work = [], replay_trial if flow_run.id else parallel_backtests.run_job
    for trial in parallel_backtests.run_all(jobs, dask, work=work):
        trials.append(trial)
        done(trial)
    return trials


@stage(retries=0)
def replay_paid(jobs: Sequence[tuple[Variant, Job]], spending: Spending, done: Callable[[Trial], None]) -> list[Trial]:
    """Replay what asks models: kept replies first, then paid ones up to the cap."""
    pairs = [(job, variants.paid_decider(variant, settings(), store(), spending)) for variant, job in jobs]
    trials = asyncio.run(parallel_backtests.run_paid(pairs, spending, done))
    log().info("models asked=%d reused=%d usd=%s", spending.asked, spending.reused, spending.spent_usd)
    return trials


@stage(retries=0)
def make_moments(work: Work) -> list[Moment]:
    """Choose moments of the windows, the same for every variant."""
    base = (work.paid[0][1] if work.paid else work.job).replace(window=work.whole, treatment="raw")
    chosen = (work.quiet, work.events)
    return [
        one for market in base.seen.markets.values()
        for one in moments.of_candles(market, base.shown, base.world, *chosen)
    ]  # fmt: skip


@stage(retries=0)
def evaluate_moments(work: Work, chosen: Sequence[Moment], spending: Spending) -> dict[str, list[Evaluated]]:
    """Put the same moments to every variant; returns what came of them by its label, those without an answer too."""
    jobs = {job.label: job for job in (*work.free, *(job for _, job in work.paid)) if job.treatment == "raw"}

    def answers(variant: Variant) -> Awaitable[list[Evaluated]]:
        job = jobs[variant.label].replace(window=work.whole)
        markets, strategy, world = job.seen.markets, job.shown, job.world

        def desk_of(moment: Moment) -> Callable[[Question], ToolDesk]:
            return partial(moments.flat_desk, markets[moment.symbol], moment.account, strategy, world)

        return _put(variant, chosen, strategy, spending, desk_of)

    return asyncio.run(_put_all(work.variants if chosen else [], answers))


@stage(retries=0)
def evaluate_set(
    compared: Sequence[Variant], chosen: Sequence[Moment], spending: Spending
) -> dict[str, list[Evaluated]]:
    """Put kept moments to every variant, as `evaluate_moments` does."""

    def answers(variant: Variant) -> Awaitable[list[Evaluated]]:
        return _put(variant, chosen, strategy_over(chosen, variant), spending)

    return asyncio.run(_put_all(compared, answers))


def strategy_over(chosen: Sequence[Moment], variant: Variant) -> Strategy:
    """Return what a variant trades kept moments by: their instruments, and the settings' limits and costs."""
    s, instruments = settings(), {each.symbol: each.account.instrument for each in chosen if each.account.instrument}
    models = (variant.model,) if variant.model else s.model
    terms = {"symbols": tuple(instruments), "instruments": instruments}
    return strategy_of(s, variant.decider, **terms).replace(models=models)


async def _put(
    variant: Variant,
    chosen: Sequence[Moment],
    strategy: Strategy,
    spending: Spending,
    desk_of: Callable[[Moment], Callable[[Question], ToolDesk]] | None = None,
) -> list[Evaluated]:
    s, asks = settings(), kind_of(variant.decider).asks_model
    decider = variants.paid_decider(variant, s, store(), spending) if asks else build(variant.decider, s)
    return await moments.evaluate(chosen, decider, strategy, desk_of)


async def _put_all(
    compared: Sequence[Variant], answers: Callable[[Variant], Awaitable[list[Evaluated]]]
) -> dict[str, list[Evaluated]]:
    kinds = ((each, kind_of(each.decider)) for each in compared)
    sighted = [each for each, kind in kinds if kind.sees_market or kind.by_time]
    found = await asyncio.gather(*map(answers, sighted))
    return {each.label: one for each, one in zip(sighted, found, strict=True)}


@stage(retries=0)
def compare_trials(work: Work, trials: Sequence[Trial], evaluated: Mapping[str, Sequence[Evaluated]]) -> Comparison:
    """Count these variants as tried on this data, and put them beside each other."""
    seen, strategy, kept = work.job.seen, work.job.strategy, store().trials
    data = parallel_backtests.data_hash(seen)
    days = parallel_backtests.day_hashes(market.bars["5m"] for market in seen.markets.values())
    kept.add(days, variants.tried_before(settings().home, data) | _tried(work, trials))
    tried = compare.VariantsTried.of(kept.sharpes(days))
    known = (parallel_backtests.bars_of(seen), tried, data, float(strategy.capital), strategy.costs)
    return compare.compare(work.variants, work.windows, trials, *known, work.request.seeds, evaluated)


def _tried(work: Work, trials: Sequence[Trial]) -> dict[str, float | None]:
    """Return the daily Sharpe ratio of each variant that traded, by the hash of all it consists of but names."""
    strategy, mine = work.job.strategy, {v.label: compare.series(compare.of(trials, v.label)) for v in work.variants}
    common = strategy.model_dump(mode="json", include={"limits", "costs", "thresholds", "capital"}) | {
        "instruments": [each.model_dump(mode="json", exclude={"symbol"}) for each in strategy.instruments.values()],
        "windows": [[window.start.isoformat(), window.end.isoformat()] for window in work.windows],
        "latency_s": work.job.latency_s,
        "funding": bool(work.job.files.funding),
    }
    return {
        hash_of(common | {"variant": v.label, "prompt": v.prompt_sha256}): daily_sharpe(mine[v.label].to_numpy())
        for v in work.variants
        if mine[v.label].any()
    }


@stage(retries=0)
def write_report(
    work: Work,
    trials: Sequence[Trial],
    comparison: Comparison,
    explained: Explanation,
    notes: Mapping[str, str],
    out: Path,
) -> Path:
    """Write the report, and each variant's charts and tables, into a folder; returns the report."""
    paths = parallel_backtests.bars_of(work.job.seen)
    page = comparison_report.page(comparison, explained, work.variants, trials, paths, notes)
    comparison_report.write(out, {"report.html": page.encode()})
    for row in comparison.rows:
        files = comparison_report.variant_files(row, trials)
        comparison_report.write(out / comparison_report.file_name(row.label), files)
    return out / "report.html"


@stage(retries=0)
def track_comparison(
    work: Work,
    comparison: Comparison,
    verdict: str,
    notes: Mapping[str, str],
    folder: Path,
    evaluated: Mapping[str, list[Evaluated]],
) -> Json:
    """Log the comparison to MLflow from the report's folder; returns its runs, none where tracking is off or away."""
    from tasks.adapters.mlflow import datasets
    from tasks.adapters.mlflow.comparison import log_comparison

    runs: Json = {"mlflow_run": "", "moments": "", "evaluations": {}}
    if not settings().mlflow_url:
        return runs
    tags = {"data_sha256": comparison.data_sha256, "git_commit": notes["commit"], "mask": notes["mask"]}
    tags["signature"] = notes["signature"]
    params = {
        "symbols": ", ".join(work.request.candles),
        "windows": str(len(work.windows)),
        "start": work.windows[0].start.isoformat(),
        "end": work.windows[-1].end.isoformat(),
        "seeds": str(work.request.seeds),
        "instruments": notes["instruments"],
    }
    try:
        server = lab_server()
        runs["mlflow_run"] = log_comparison(
            server, comparison, verdict, work.variants, notes["title"], params, tags, folder
        )
        named = [each for each in work.variants if each.decider in work.request.deciders]
        if asked := {each.label: evaluated[each.label] for each in named if evaluated.get(each.label)}:
            chosen = [each.moment for each in max(asked.values(), key=len)]
            source = f"{params['symbols']}, {params['start'][:10]} to {params['end'][:10]}"
            name = "-".join(("compare", *map(_plain, work.request.candles), params["start"][:10], params["end"][:10]))
            dataset = datasets.create(server, name, chosen, {"source": source})
            runs |= track_evaluations(dataset, named, asked, tags | {"comparison": runs["mlflow_run"]})
    except TrackingUnavailable as e:
        log().warning("the comparison is not all in MLflow: %s", e)
    return runs


def _plain(symbol: str) -> str:
    return "".join(c for c in symbol.partition(":")[0] if c.isalnum())


def track_evaluations(
    dataset: Any, compared: Sequence[Variant], evaluated: Mapping[str, Sequence[Evaluated]], tags: Mapping[str, str]
) -> Json:
    """Log an evaluation run per variant over one dataset; returns the dataset's name and the runs by label."""
    from tasks.adapters.mlflow import evaluation
    from tasks.adapters.mlflow.comparison import variant_tags

    mirror, server = tracker(), lab_server()
    versions = dict[str, Any]()
    if mirror and (roles := {ref.name for each in compared for ref in each.prompts}):
        mirror.prompts.sync([prompt for prompt in list_prompts() if prompt.name in roles])
        versions = mirror.prompts.by_sha256(roles)
    scorer = evaluation.own_scorer(settings().scorer)
    runs = {
        each.label: evaluation.log_evaluation(
            server, f"{each.label} on {dataset.name}", {**tags, **variant_tags(each), "variant": each.label}, dataset,
            evaluated[each.label], lambda ref: versions.get(ref.sha256), scorer,
        )
        for each in compared
        if evaluated.get(each.label)
    }  # fmt: skip
    return {"moments": dataset.name, "evaluations": runs}
