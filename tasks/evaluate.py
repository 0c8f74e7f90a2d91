"""Replay variants, put them beside each other, and keep what was comparison."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.adapters import parallel_replays, variants
from tasks.adapters.charts import report
from tasks.adapters.parallel_replays import Job
from tasks.connections import log, store
from tasks.core.errors import TrackingUnavailable
from tasks.core.lab import compare
from tasks.core.lab.compare import Comparison, ReplayWindow, Trial, Variant
from tasks.core.simulation.paid_replies import Spending
from tasks.retries import stage
from tasks.settings import settings


@stage(task_run_name="replay-{job.label}-{job.window.index}-{job.treatment}", retries=0)
def replay_trial(job: Job) -> Trial:
    """Replay one variant over one window, here or on a Dask worker."""
    trial = parallel_replays.run_job(job)
    log().info("replay variant=%s window=%d trades=%d", job.label, job.window.index, len(trial.trades))
    return trial


@stage(retries=0)
def replay_trials(jobs: Sequence[Job], dask: str, done: Callable[[Trial], None]) -> list[Trial]:
    """Replay every job that asks no model, in as many processes as there are cores."""
    trials = []
    for trial in parallel_replays.run_all(jobs, dask):
        trials.append(trial)
        done(trial)
    return trials


@stage(retries=0)
def replay_paid(jobs: Sequence[tuple[Variant, Job]], spending: Spending, done: Callable[[Trial], None]) -> list[Trial]:
    """Replay what asks models: kept replies first, then paid ones up to the cap."""
    pairs = [(job, variants.paid_decider(variant, settings(), store(), spending)) for variant, job in jobs]
    trials = asyncio.run(parallel_replays.run_paid(pairs, spending, done))
    log().info("models asked=%d reused=%d usd=%s", spending.asked, spending.reused, spending.spent_usd)
    return trials


@stage(retries=0)
def compare_trials(
    chosen: Sequence[Variant], windows: Sequence[ReplayWindow], trials: Sequence[Trial], job: Job, seeds: int
) -> Comparison:
    """Count these variants as tried on this data, and put them beside each other."""
    seen = parallel_replays.treated_for(job)
    data, tally = parallel_replays.data_hash(seen), variants.Tally(settings().home)
    limits, now = job.strategy.limits.model_dump_json(), datetime.now(UTC)
    sharpes = {
        f"{v.label} {v.prompt_sha256} {limits}": compare.daily_sharpe(compare.of(trials, v.label)) for v in chosen
    }
    tally.add(data, {name: sharpe for name, sharpe in sharpes.items() if sharpe is not None}, now)
    bars, cash, costs = parallel_replays.bars_of(seen), float(job.strategy.capital), job.strategy.costs
    return compare.compare(chosen, windows, trials, bars, tally.tried(data), data, cash, costs, seeds)


@stage(retries=0)
def write_report(
    comparison: Comparison,
    chosen: Sequence[Variant],
    trials: Sequence[Trial],
    job: Job,
    notes: Mapping[str, Any],
    out: Path,
) -> Path:
    """Write the report, and each variant's charts and tables, into a folder; returns the report."""
    report.write(out, {"report.html": report.page(comparison, chosen, trials, notes).encode()})
    paths = parallel_replays.bars_of(parallel_replays.treated_for(job))
    for variant in chosen:
        files = report.variant_files(variant, trials, paths)
        report.write(out / report.file_name(variant.label), files)
    return out / "report.html"


@stage(retries=0)
def track_comparison(
    comparison: Comparison, chosen: Sequence[Variant], notes: Mapping[str, Any], params: Mapping[str, str], folder: Path
) -> str:
    """Log the comparison to MLflow from the report's folder; empty where tracking is off or not there."""
    from tasks.adapters.mlflow.comparison import log_comparison, server_of

    if not settings().mlflow_url:
        return ""
    tags = {"data_sha256": comparison.data_sha256, "git_commit": notes["commit"], "mask": notes["mask"]}
    tags = {key: value for key, value in tags.items() if value}
    try:
        return log_comparison(
            server_of(settings().mlflow_url), comparison, chosen, notes["title"], params, tags, folder
        )
    except TrackingUnavailable as e:
        log().warning("the comparison is not in MLflow: %s", e)
        return ""
