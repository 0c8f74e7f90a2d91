"""MLflow as a mirror: prompts, decisions with their outcomes, and each day as a run. What it has not seen waits."""

from datetime import date, datetime, timedelta

from tasks.adapters.files.prompts import list_prompts
from tasks.connections import log, store, tracker
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.types import day_start
from tasks.report import read_day
from tasks.settings import settings
from tasks.stage import is_tried_again, stage


@stage
def show_mlflow(at: datetime) -> dict[str, int]:
    """Register prompt files, trace decisions and their outcomes, and log the day; returns how many prompts and traces.

    Whatever MLflow has already is left alone; while it is away, the rest waits for the next run.
    """
    mirror, kept, s, shown = tracker(), store(), settings(), {"prompts": 0, "tracked": 0}
    if mirror is None:
        return shown
    midnight = day_start(at)
    try:
        try:
            for prompt in list_prompts():
                mirror.register_prompt(prompt)
                shown["prompts"] += 1
        except InputError as e:
            log().error("prompts not synced error=%s", e)
        for record in kept.decisions.untracked(50):
            kept.decisions.mark_tracked(record.cycle_id, mirror.track_decision(record, s.profile))
            shown["tracked"] += 1
        for trace_id, outcome in kept.outcomes.untracked(100):
            mirror.attach_outcome(trace_id, outcome)
            kept.outcomes.mark_tracked(outcome.position_id)
        mirror.log_session(
            s.strategy, s.profile, midnight.date(), session_metrics(midnight.date()),
            step=int((at - midnight) / timedelta(minutes=5)),
            params={"decider": s.decider_name, "models": ",".join(s.model), "symbols": ",".join(s.symbols)},
        )  # fmt: skip
    except TrackingUnavailable as e:
        if is_tried_again(e):
            raise
        log().warning("mlflow unavailable, the rest waits shown=%s error=%s", shown, e)
    return shown


def session_metrics(day: date) -> dict[str, float]:
    """Return the day's numbers so far."""
    today = read_day(day)
    metrics = {
        "cycles": sum(today.statuses.values()),
        "decisions": len(today.decided),
        "model_calls": sum(len(answer.calls) for _, answer in today.decided),
        "cost_usd": float(sum(today.costs.values())),
        "closed_trades": len(today.outcomes),
        "realized_pnl": float(today.pnl),
    }
    known_r = [float(o.outcome_r) for o in today.outcomes if o.outcome_r is not None]
    if known_r:
        metrics["mean_r"] = sum(known_r) / len(known_r)
    if today.points:
        metrics["equity"] = float(today.points[-1].equity)
    if today.drawdown_pct is not None:
        metrics["drawdown_pct"] = float(today.drawdown_pct)
    metrics |= {f"action.{name}": n for name, n in today.actions.items()}
    return metrics | {f"status.{name}": n for name, n in today.statuses.items()}
