"""Deciders x prompt versions x models x windows, replayed and put beside each other: `quarterdeck compare`."""

import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.clock import run_name
from flows.commands.options import name_gaps
from flows.commands.output import plain, stopwatch
from tasks import evaluate as stage
from tasks.adapters import parallel_backtests, variants
from tasks.adapters.mlflow.comparison import git_commit
from tasks.adapters.mlflow.evidence import signature
from tasks.adapters.parallel_backtests import Job, ReplayFiles
from tasks.connections import log
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.core.lab import compare, differences
from tasks.core.lab.compare import BacktestWindow, Treatment, Trial, Variant
from tasks.core.lab.masking import LOOK_UP, STRONG
from tasks.core.lab.promotion_criteria import Measured
from tasks.core.pages import inert, numbers
from tasks.core.pages.markdown import table
from tasks.core.pages.numbers import PRICED, fixed, interval, percent
from tasks.core.simulation.paid_replies import Spending
from tasks.core.simulation.symbol_backtest import make_grid
from tasks.core.types import Json, Texts
from tasks.evaluate import ComparisonRequest, Work
from tasks.settings import settings

MOMENTS, ASKED = 200, 25  # closes of each kind that become moments, per symbol: where asking is free, with a model


def plan_work(request: ComparisonRequest) -> Work:
    """Make a request out into variants, windows and jobs; raises InputError for what cannot be compared."""
    if not request.candles:
        raise InputError("nothing to compare over: give candles as {symbol: file}")
    if strangers := sorted(request.funding.keys() - request.candles.keys()):
        raise InputError(f"funding of {strangers[0]}: give it for symbols of the candles: {', '.join(request.candles)}")
    if request.mask and request.news:
        log().warning("--news: headlines name coins and dates, so masked replays are told none of them")
    s, chosen = settings(), variants.variants(request.deciders, request.models, request.cutoffs, settings())
    files = ReplayFiles.of(
        request,
        candles=sorted(request.candles.items()),
        funding=request.funding.items(),
        calendar=str(s.calendar or ""),
    )
    seen = parallel_backtests.treated(files.candles, "raw", None, s.events)
    gaps = name_gaps(seen.markets)
    grid = make_grid(seen.markets, request.start, request.end)
    windows = compare.split(grid.closes_at(-1), grid.closes_at(grid.n - 1), request.windows, request.window_days)
    whole = BacktestWindow(start=windows[0].start, end=windows[-1].end)
    strategy, sources = parallel_backtests.replayed(s, "", files, whole)
    free, paid = [], []
    for variant in chosen:
        kind = kind_of(variant.decider)
        asked = parallel_backtests.told_of(s, variant.decider, strategy.symbols)
        asked["models"] = (variant.model,) if variant.model else strategy.models
        mine = strategy.called(strategy.name, variant.decider).model_copy(update=asked)
        for window, treatment in product(windows, _treatments(request, variant)):
            job = Job(
                label=variant.label,
                strategy=mine,
                window=window,
                treatment=treatment,
                mask_key=request.mask if isinstance(request.mask, str) else "",
                files=files,
                latency_s=s.decision_latency_s,
            )
            paid.append((variant, job)) if kind.asks_model else free.append(job)
    quiet, events = (0, ASKED) if paid else (MOMENTS, MOMENTS)
    quiet = quiet if request.quiet is None else request.quiet
    events = events if request.events is None else request.events
    terms = parallel_backtests.terms_of(strategy, sources)
    return Work(request, chosen, windows, free, paid, quiet, events, terms, gaps)


def _treatments(request: ComparisonRequest, variant: Variant) -> list[Treatment]:
    """Return how a variant is shown the market; what holds whatever it sees has nothing to leak."""
    others = {"masked": request.mask, "strong": request.mask == STRONG, "perturbed": request.perturb}
    sees = kind_of(variant.decider).sees_market
    return ["raw", *(treatment for treatment, asked in others.items() if asked and sees)]


def carry_out(
    work: Work, cap: Decimal | None, out: Path | None, done: Callable[[Trial], None] = lambda _: None
) -> Json:
    """Replay, compare, write the report into `out`, and log it; returns the document that `compare --json` prints.

    out: None for no report but MLflow's.
    """
    took, spending = stopwatch(), Spending(cap)
    trials = stage.replay_trials(work.free, work.request.dask, done)
    if work.paid:
        trials = [*trials, *stage.replay_paid(work.paid, spending, done)]
    put = stage.evaluate_moments(work, stage.make_moments(work), spending)
    evaluated = {label: [each for each in found if each.is_answered] for label, found in put.items()}
    compared, commit = stage.compare_trials(work, trials, evaluated), git_commit()
    asked = {  # the others are the gate's
        label: [each for each in found if each.moment.kind == "event"] for label, found in evaluated.items()
    }
    explained = differences.explain(compared.rows, asked, compared.pairs)
    masked = {leak.label: leak.masked_sharpe for leak in compared.leakage}
    measured = [Measured.of(variant, masked_sharpe=masked.get(variant.label)) for variant in work.variants]
    spent = spending.summary() | {"pricing": sorted({v.pricing for v in work.variants if v.pricing})}
    notes = {
        "title": work.request.title or f"{', '.join(compared.symbols)}: {len(work.variants)} variants",
        "command": f"quarterdeck {shlex.join(sys.argv[1:])}",
        "commit": commit,
        "signature": signature(compared.data_sha256, commit, measured),
        "mask": "+".join(_treatments(work.request, work.variants[0])),
        "look_up": LOOK_UP if work.request.mask else "",
        "instruments": "; ".join(
            f"{symbol} {terms['kind']}, tick {terms['tick']:f}, step {terms['step']:f}, "
            f"least order {terms['min_notional']} quote ({terms['source']})"
            for symbol, terms in work.instruments.items()
        ),
        "spent": spent_text(spent),
    }
    page, runs = None, {"mlflow_run": "", "moments": "", "evaluations": {}}
    with nullcontext(out) if out or not settings().mlflow_url else TemporaryDirectory() as folder:
        if folder is not None:
            page = stage.write_report(work, trials, compared, explained, notes, Path(folder))
            runs = stage.track_comparison(work, compared, explained.verdict.sentence, notes, Path(folder), asked)
    return plain(
        {
            **dict(compared),
            **dict(explained),
            "variants": work.variants,
            "git_commit": notes["commit"],
            "signature": notes["signature"],
            "mask": notes["mask"],
            "look_up": notes["look_up"],
            "instruments": work.instruments,
            "gaps": work.gaps,
            "spent": spent,
            "report": page if out else None,
            **runs,
            **took(),
        }
    )


@flow(name="evaluate", flow_run_name=run_name)
def evaluate(request: ComparisonRequest = ComparisonRequest()) -> Json:  # noqa: B008  (frozen)
    """Compare and leave the report as an artifact of this run; models need `max_cost`."""
    if request.moments:
        return _over_moments(request)
    work = plan_work(request)
    if work.paid and request.max_cost is None:
        raise InputError("max_cost: a comparison that asks models must say what it may cost, in USD")
    out = settings().home / "evaluations" / time.strftime("%Y-%m-%d_%H%M%S", time.gmtime())
    document = carry_out(work, request.max_cost, out)
    create_markdown_artifact(
        key="comparison",
        markdown="\n\n".join(
            (inert.markdown(document["verdict"]["sentence"]), *differing(document), table(COLUMNS, rows(document)))
        ),
        description=inert.markdown(request.title or "comparison"),
    )
    create_link_artifact(key="comparison-report", link=Path(document["report"]).as_uri(), link_text="report.html")
    return {"report": document["report"], "mlflow_run": document["mlflow_run"], "complete": document["complete"]}


def _over_moments(request: ComparisonRequest) -> Json:
    """Put kept moments to the deciders, as `compare --moments` does: no account is replayed."""
    from flows.moments import compare as over

    if request.max_cost is None:
        raise InputError("max_cost: a comparison over moments must say what it may cost, in USD; 0 without a model")
    cap = request.max_cost
    document = over(request.moments, request.deciders, request.models, lambda *_: cap)
    verdict = document["verdict"]["sentence"]
    create_markdown_artifact(
        key="comparison",
        markdown="\n\n".join((inert.markdown(verdict), *differing(document))),
        description=inert.markdown(request.title or document["moments"]),
    )
    return {"verdict": verdict, **{name: document[name] for name in ("moments", "evaluations", "complete")}}


def differing(document: Json) -> Texts:
    """Return the table of the moments that made the difference as Markdown; nothing where there are none."""
    names = [inert.markdown(document["verdict"][which]) for which in "ab"]
    found = [
        (
            f"{each['as_of'][:16].replace('T', ' ')} {each['symbol']}", ", ".join(each["reasons"]),
            *(f"{answer['action']} {fixed(answer['net_r'], sign=True)} R" for answer in each["answers"]),
            fixed(each["difference_r"], sign=True),
        )
        for each in document["differences"]
    ]  # fmt: skip
    return (table(("moment", "asked for", *names, "difference, R"), found),) if found else ()


COLUMNS = (
    "variant", "return %", "day, bps [95 %]", "Sharpe", "max DD %", "trades", "exp. R [95 %]", "PSR", "DSR",
    "beats random", "Brier", "fees", "USD when asked",
)  # fmt: skip


def spent_text(spent: Json) -> str:
    """Say what models were asked now and cost now; what a variant's answers cost when they were asked is in its row."""
    usd, marks = numbers.plain(Decimal(str(spent["usd"]))), ", ".join(PRICED[each] for each in spent["pricing"])
    return (
        f"{spent['asked']} asked now, {usd} USD spent now{f' ({marks})' if marks else ''}, {spent['reused']} answered "
        f"from kept replies, {spent['errors']} failed"
    )


def rows(document: Json) -> list[Texts]:
    """Return the table of variants as text."""
    return [
        (
            row["label"] + ("" if row["complete"] else " (partial)"), fixed(row["return_pct"], sign=True),
            interval(row["daily_bps"]), fixed(row["sharpe"]), fixed(row["max_drawdown_pct"]), str(row["trades"]),
            interval(row["expectancy_r"], 3), fixed(row["psr"], 3), fixed(row["dsr"], 3),
            percent(row["chance"] and row["chance"]["beaten"]),
            fixed(row["calibration"] and row["calibration"]["brier"], 3), fixed(row["fees_quote"], 0),
            f"{numbers.plain(row['llm_cost_usd'])} {PRICED[row['pricing']]}".strip(),
        )
        for row in sorted(document["rows"], key=lambda row: not row["complete"])
    ]  # fmt: skip
