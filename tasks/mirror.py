"""MLflow as a mirror: prompts, decisions with their outcomes, and each day as a run. What it has not seen waits."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

from tasks.adapters.files.prompts import list_prompts
from tasks.adapters.store.shadow import CHAMPION
from tasks.connections import artifacts_url, log, store, tracker
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.pages.numbers import pricing_of
from tasks.core.types import Answer, CycleRecord, CycleStatus, day_start, exact_sum
from tasks.desk import read_day
from tasks.settings import settings
from tasks.stage import is_tried_again, stage

if TYPE_CHECKING:
    from tasks.adapters.mlflow.tracking import Tracker

TOGETHER = 100  # of each kind, in one run


@stage
def trace_links(records: Sequence[CycleRecord]) -> dict[str, str]:
    """Return where each cycle's trace is or will be seen, by cycle; none while MLflow is away."""
    try:
        return mirror.trace_links(records, settings().profile) if records and (mirror := tracker()) else {}
    except TrackingUnavailable as e:
        log().warning("mlflow unavailable, the pages name no trace error=%s", e)
        return {}


@stage
def show_mlflow(at: datetime) -> dict[str, int]:
    """Register prompt files, trace decisions and their outcomes, and log the day; returns how many prompts and traces.

    Whatever MLflow has already is left alone; while it is away, the rest waits for the next run.
    """
    mirror, shown = tracker(), {"prompts": 0, "tracked": 0}
    if mirror is None:
        return shown
    try:
        try:
            standings = mirror.prompts.sync(list_prompts())
            shown["prompts"] = sum(each.state.known for each in standings)
            for standing in standings:
                if not standing.state.known:
                    log().warning("prompt %s", standing)
        except InputError as e:
            log().error("prompts not synced error=%s", e)
        shown["tracked"] = _trace_answers(mirror)
        _log_sessions(mirror, at, _attach(mirror))
    except TrackingUnavailable as e:
        if is_tried_again(e):
            raise
        log().warning("mlflow unavailable, the rest waits shown=%s error=%s", shown, e)
    return shown


def _trace_answers(mirror: "Tracker") -> int:
    """Write the traces of champions and challengers that wait; returns how many."""
    kept, s = store(), settings()
    decided, shadows = kept.decisions.untracked(TOGETHER), kept.shadow.untracked(s.strategy, TOGETHER)
    records = [*decided, *(shadow.in_place_of(champion) for shadow, champion in shadows)]
    pages = kept.decisions.pages([record.cycle_id for record in records])
    links = {cycle: f"{artifacts_url()}/{page}" for cycle, page in pages.items()}
    traces = iter(mirror.track(records, s.profile, links))
    for record in decided:
        kept.decisions.mark_tracked(record.cycle_id, next(traces), pages.get(record.cycle_id))
    for shadow, _ in shadows:
        kept.shadow.mark_tracked(shadow, trace_id=next(traces))
    return len(records)


def _attach(mirror: "Tracker") -> set[tuple[str, date]]:
    """Attach what became of decisions; returns the days, by decider, of which more scores are known."""
    kept, scored = store(), set()
    for trace_id, outcome in kept.outcomes.untracked(TOGETHER):
        mirror.attach_outcome(trace_id, outcome)
        kept.outcomes.mark_tracked(outcome.position_id)
    for trace_id, shadow, return_pct in kept.shadow.untracked_scores(settings().strategy, TOGETHER):
        known = {"net_pct": return_pct, "net_r": shadow.in_r(return_pct)}
        scores = {name: float(value) for name, value in known.items() if value is not None}
        kept.shadow.mark_tracked(shadow, assessment_id=mirror.attach_score(trace_id, scores))
        scored.add((shadow.decider, shadow.as_of.date()))
    return scored


def _log_sessions(mirror: "Tracker", at: datetime, scored: set[tuple[str, date]]) -> None:
    """Log the runs of this day, the champion's and each challenger's, and of those days that were scored since."""
    s, today = settings(), day_start(at).date()
    for decider, day in sorted({*scored, *((name, today) for name in (CHAMPION, *s.shadow))}):
        metrics, answers = session_metrics(day) if decider == CHAMPION else challenger_metrics(day, decider)
        strategy, name = (s.strategy, s.decider_name) if decider == CHAMPION else (f"{s.strategy}/{decider}", decider)
        in_force = {"decider": name, "models": ",".join(s.model), "symbols": ",".join(s.symbols)}
        in_force["pricing"] = pricing_of([call for answer in answers for call in answer.calls])
        mirror.log_session(
            strategy, s.profile, day, metrics, step=int((at - _midnight(day)) / timedelta(minutes=5)),
            params=in_force if day == today else {}, prompts=chain.from_iterable(each.prompts for each in answers),
        )  # fmt: skip


def session_metrics(day: date) -> tuple[dict[str, float], list[Answer]]:
    """Return the champion's numbers of a day so far, and its answers."""
    today = read_day(day)
    answers = [answer for _, answer in today.decided]
    metrics = {
        **_metrics(day, CHAMPION, answers, today.statuses.get(CycleStatus.DENIED, 0)),
        "model_calls": sum(use.calls for use in today.models),
        "model_tokens": sum(use.tokens_in + use.tokens_out for use in today.models),
        "cost_usd": float(exact_sum(use.cost_usd for use in today.models)),
        "cycles": sum(today.statuses.values()),
        "closed_trades": len(today.outcomes),
        "realized_pnl": float(today.pnl),
    }
    known_r = [float(o.outcome_r) for o in today.outcomes if o.outcome_r is not None]
    if known_r:
        metrics["mean_r"] = fmean(known_r)
    if today.points:
        metrics["equity"] = float(today.points[-1].equity)
    if today.drawdown_pct is not None:
        metrics["drawdown_pct"] = float(today.drawdown_pct)
    return metrics | {f"status.{name}": n for name, n in today.statuses.items()}, answers


def challenger_metrics(day: date, decider: str) -> tuple[dict[str, float], list[Answer]]:
    """Return a challenger's numbers of a day so far, and its answers."""
    begin = _midnight(day) - timedelta.resolution
    mine = store().shadow.between(settings().strategy, decider, begin, begin + timedelta(days=1))
    answers = [shadow.decided for shadow in mine]
    return _metrics(day, decider, answers, sum(not shadow.verdict.allowed for shadow in mine)), answers


def _metrics(day: date, decider: str, answers: Sequence[Answer], denied: int) -> dict[str, float]:
    """Return what champion and challengers are compared by; net: what answers would have earned within a day."""
    scored = store().shadow.scored(settings().strategy, _midnight(day), _midnight(day) + timedelta(days=1), decider)
    in_r = [r for shadow, return_pct in scored if (r := shadow.in_r(return_pct)) is not None]
    means = {"mean_net_pct": [return_pct for _, return_pct in scored], "mean_net_r": in_r}
    return {
        "decisions": len(answers),
        "invalid": sum(answer.is_invalid for answer in answers),
        "denied": denied,
        "model_calls": sum(len(answer.calls) for answer in answers),
        "cost_usd": float(sum(call.cost_usd for answer in answers for call in answer.calls)),
        "scored": len(scored),
        **{name: fmean(map(float, values)) for name, values in means.items() if values},
        **{f"action.{name}": n for name, n in Counter(answer.decision.action for answer in answers).items()},
    }


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
