"""Deciders x prompt versions x models x windows, replayed and put beside each other: `quarterdeck compare`."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.clock import Call, plainly, through_prefect
from flows.output import plain
from tasks import evaluate as stage
from tasks.adapters import parallel_replays, variants
from tasks.adapters.mlflow.comparison import git_commit
from tasks.adapters.parallel_replays import Job
from tasks.connections import log
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.core.lab import compare, statistics
from tasks.core.lab.comparison import Treatment, Trial, Variant, Window
from tasks.core.pages.numbers import fixed, interval, percent
from tasks.core.simulation.paid_replies import Spending
from tasks.core.types.base import Dto, Exact, Utc
from tasks.core.types.strategy import Strategy
from tasks.settings import settings

QUIET = 200  # bars of each kind sampled per symbol, where asking is free


class Request(Dto):
    """What to compare, over which candles (symbol -> file)."""

    candles: dict[str, str] = {}
    funding: dict[str, str] = {}
    news: str = ""
    instruments: str = ""
    deciders: tuple[str, ...] = ("rules",)
    models: tuple[str, ...] = ()
    start: Utc | None = None
    end: Utc | None = None
    windows: int = 1
    window_days: float = 0
    mask: bool = False
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

    request: Request
    variants: list[Variant]
    windows: tuple[Window, ...]
    free: list[Job]
    paid: list[tuple[Variant, Job]]
    instruments: dict[str, dict[str, Any]]


def plan_work(request: Request) -> Work:
    """Make a request out into variants, windows and jobs; raises InputError for what cannot be compared."""
    if not request.candles:
        raise InputError("nothing to compare over: give candles as {symbol: file}")
    if request.mask and request.news:
        log().warning("--news: headlines name coins and dates, so masked replays are told none of them")
    chosen = variants.variants(request.deciders, request.models, request.cutoffs, settings())
    windows = _windows(request)
    files = parallel_replays.Files(
        candles=tuple(sorted(request.candles.items())), instruments=request.instruments,
        calendar=str(settings().calendar or ""),
    )  # fmt: skip
    whole = Window(index=0, start=windows[0].start, end=windows[-1].end)
    strategy, sources = parallel_replays.replayed(settings(), "", files, whole, memory=True)
    jobs = [
        (variant, _job(request, strategy, variant, window, treatment, len(windows)))
        for variant in chosen
        for window in windows
        for treatment in _treatments(request, variant)
    ]
    paid = [(variant, job) for variant, job in jobs if kind_of(variant.decider).asks_model]
    free = [job for each, job in jobs if (each, job) not in paid]
    return Work(request, chosen, windows, free, paid, parallel_replays.terms_of(strategy, sources))


def _job(
    request: Request, strategy: Strategy, variant: Variant, window: Window, treatment: Treatment, windows: int
) -> Job:
    s, sampled, kind = settings(), request.quiet, kind_of(variant.decider)
    if sampled is None:
        sampled = 0 if kind.asks_model else QUIET
    gated = treatment == "raw" and kind.sees_market
    asked = {
        "told": strategy.told.model_copy(update={"memory": kind.asks_model}),
        "models": (variant.model,) if variant.model else strategy.models,
    }
    return Job(
        label=variant.label, window=window, treatment=treatment,
        strategy=strategy.called(strategy.name, variant.decider).model_copy(update=asked),
        quiet=-(-sampled // windows) if gated else 0, candles=tuple(sorted(request.candles.items())),
        funding=tuple(sorted(request.funding.items())), news=request.news, latency_s=s.decision_latency_s,
        calendar=str(s.calendar or ""),
    )  # fmt: skip


def _windows(request: Request) -> tuple[Window, ...]:
    """Cut the time that the candles and the request have in common."""
    seen = parallel_replays.treated(tuple(sorted(request.candles.items())), "raw", None, settings().events)
    opens = [market.bars["5m"].index for market in seen.markets.values()]
    first, last = (edge.to_pydatetime() for edge in (min(i[0] for i in opens), max(i[-1] for i in opens)))
    start = max(first, request.start or first)
    end = min(last + timedelta(minutes=5), request.end or datetime.max.replace(tzinfo=UTC))
    return compare.split(start, end, request.windows, request.window_days)


def _treatments(request: Request, variant: Variant) -> list[Treatment]:
    """Return how a variant is shown the market; what holds whatever it sees has nothing to leak."""
    if not kind_of(variant.decider).sees_market:
        return ["raw"]
    return ["raw", *(["masked"] if request.mask else []), *(["perturbed"] if request.perturb else [])]


def carry_out(
    work: Work, cap: Decimal | None, out: Path | None, call: Call = plainly,
    done: Callable[[Trial], None] | None = None, trials: Sequence[Trial] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Replay, compare, write the report into `out`, and log it; returns the document that `compare --json` prints.

    out: None for no report but MLflow's. trials: the free ones, where they were replayed elsewhere.
    """
    began, cpu, spending = time.perf_counter(), time.process_time(), Spending(cap)
    found = list(trials) if trials is not None else call(stage.replay_trials)(work.free, work.request.dask, done)
    if work.paid:
        found += call(stage.replay_paid)(work.paid, spending, done)
    job = (work.free or [job for _, job in work.paid])[0]
    compared = call(stage.compare_trials)(work.variants, work.windows, found, job, work.request.seeds)
    paid = {"asked": spending.asked, "reused": spending.reused, "errors": spending.errors, "usd": spending.spent_usd}
    notes = {
        "title": work.request.title or f"{', '.join(compared.symbols)}: {len(work.variants)} variants",
        "command": f"quarterdeck {shlex.join(sys.argv[1:])}", "commit": git_commit(), "draws": statistics.DRAWS,
        "mask": "+".join(_treatments(work.request, work.variants[0])),
        "instruments": _terms(work),
        "spent": "{asked} asked, {reused} answered from kept replies, {errors} failed, {usd:.4f} USD".format(**paid),
    }  # fmt: skip
    page, run = None, ""
    with nullcontext(out) if out or not settings().mlflow_url else TemporaryDirectory() as folder:
        if folder is not None:
            page = call(stage.write_report)(compared, work.variants, found, job, notes, Path(folder))
            run = call(stage.track_comparison)(compared, work.variants, notes, _params(work), Path(folder))
    took = {"wall_s": round(time.perf_counter() - began, 2), "cpu_s": round(time.process_time() - cpu, 2)}
    by = {"variants": plain(work.variants), "git_commit": notes["commit"], "mask": notes["mask"]}
    return {
        **plain(compared),
        **by,
        "instruments": plain(work.instruments),
        "spent": plain(paid),
        "report": str(page) if out else None,
        "mlflow_run": run,
        **took,
    }


def _params(work: Work) -> dict[str, str]:
    return {
        "symbols": ", ".join(work.request.candles), "windows": str(len(work.windows)),
        "start": work.windows[0].start.isoformat(), "end": work.windows[-1].end.isoformat(),
        "seeds": str(work.request.seeds), "instruments": _terms(work),
    }  # fmt: skip


def _terms(work: Work) -> str:
    return "; ".join(
        f"{symbol} {terms['kind']}, tick {terms['tick']:f}, step {terms['step']:f}, "
        f"least order {terms['min_notional']} quote ({terms['source']})"
        for symbol, terms in work.instruments.items()
    )


@flow(name="sweep")
def sweep(jobs: list[Job]) -> list[Trial]:
    """Replay jobs as tasks of whatever runner this flow was given."""
    return [future.result() for future in [stage.replay_trial.submit(job) for job in jobs]]


@flow(name="evaluate")
def evaluate(request: Request = Request()) -> dict[str, Any]:  # noqa: B008  (frozen)
    """Compare and leave the report as an artifact of this run; models need `max_cost`."""
    work = plan_work(request)
    if work.paid and request.max_cost is None:
        raise InputError("max_cost: a comparison that asks models must say what it may cost, in USD")
    out = settings().home / "evaluations" / time.strftime("%Y-%m-%d_%H%M%S", time.gmtime())
    trials = _on_dask(work.free, request.dask) if request.dask else None
    found = carry_out(work, request.max_cost, out, through_prefect, trials=trials)
    create_markdown_artifact(key="comparison", markdown=markdown(found), description=request.title or "comparison")
    create_link_artifact(key="comparison-report", link=Path(found["report"]).as_uri(), link_text="report.html")
    return {"report": found["report"], "mlflow_run": found["mlflow_run"], "complete": found["complete"]}


def _on_dask(jobs: list[Job], address: str) -> list[Trial]:
    from prefect_dask import DaskTaskRunner

    return sweep.with_options(task_runner=DaskTaskRunner(address=address))(jobs)  # type: ignore[no-any-return]  # untyped runner


COLUMNS = (
    "variant", "return %", "day, bps [95 %]", "Sharpe", "max DD %", "trades", "exp. R [95 %]", "PSR", "DSR",
    "beats random", "fees", "USD",
)  # fmt: skip


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table of variants as text."""
    return [
        (
            row["label"] + ("" if row["complete"] else " (partial)"), fixed(row["return_pct"], sign=True),
            interval(row["daily_bps"]), fixed(row["sharpe"]), fixed(row["max_drawdown_pct"]), str(row["trades"]),
            interval(row["expectancy_r"], 3), fixed(row["psr"], 3), fixed(row["dsr"], 3),
            percent(row["chance"] and row["chance"]["beaten"]), fixed(row["fees_quote"], 0),
            fixed(row["llm_cost_usd"], 4),
        )
        for row in found["rows"]
    ]  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """Return the table of variants as Markdown."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *rows(found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
