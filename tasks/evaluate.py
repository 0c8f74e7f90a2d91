"""Replay variants, put them beside each other, and keep what was comparison."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect.runtime import flow_run

from tasks.adapters import parallel_backtests, variants
from tasks.adapters.charts import comparison_report
from tasks.adapters.parallel_backtests import Job
from tasks.connections import log, store
from tasks.core.errors import TrackingUnavailable
from tasks.core.lab import compare
from tasks.core.lab.compare import BacktestWindow, Comparison, Trial, Variant
from tasks.core.simulation.paid_replies import Spending
from tasks.core.simulation.sharpe import daily_sharpe
from tasks.core.types import Dto, Exact, Json, Texts, Utc, hash_of
from tasks.settings import settings
from tasks.stage import stage


class ComparisonRequest(Dto):
    """What to compare, over which candles (symbol -> file)."""

    candles: dict[str, str] = {}
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
    instruments: dict[str, Json]
    gaps: Json

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
def compare_trials(work: Work, trials: Sequence[Trial]) -> Comparison:
    """Count these variants as tried on this data, and put them beside each other."""
    seen, strategy, kept = work.job.seen, work.job.strategy, store().trials
    data, days = parallel_backtests.data_hash(seen), parallel_backtests.day_hashes(seen)
    kept.add(days, variants.tried_before(settings().home, data) | _tried(work, trials))
    tried = compare.VariantsTried.of(kept.sharpes(days))
    known = (parallel_backtests.bars_of(seen), tried, data, float(strategy.capital), strategy.costs)
    return compare.compare(work.variants, work.windows, trials, *known, work.request.seeds)


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
    work: Work, trials: Sequence[Trial], comparison: Comparison, notes: Mapping[str, str], out: Path
) -> Path:
    """Write the report, and each variant's charts and tables, into a folder; returns the report."""
    comparison_report.write(
        out, {"report.html": comparison_report.page(comparison, work.variants, trials, notes).encode()}
    )
    paths = parallel_backtests.bars_of(work.job.seen)
    for row in comparison.rows:
        files = comparison_report.variant_files(row, trials, paths)
        comparison_report.write(out / comparison_report.file_name(row.label), files)
    return out / "report.html"


@stage(retries=0)
def track_comparison(work: Work, comparison: Comparison, notes: Mapping[str, str], folder: Path) -> str:
    """Log the comparison to MLflow from the report's folder; empty where tracking is off or not there."""
    from tasks.adapters.mlflow.comparison import log_comparison, server_of

    if not settings().mlflow_url:
        return ""
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
        return log_comparison(
            server_of(settings().mlflow_url), comparison, work.variants, notes["title"], params, tags, folder
        )
    except TrackingUnavailable as e:
        log().warning("the comparison is not in MLflow: %s", e)
        return ""
