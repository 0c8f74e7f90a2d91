"""What became of the decisions: outcomes, the digest, and the session's run in MLflow."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from tasks.adapters.files.prompts import list_prompts
from tasks.connections import log, store, tracker
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.trading import ledger
from tasks.core.types.bars import floor_time
from tasks.core.types.record import CycleRecord, Outcome
from tasks.retries import is_tried_again, stage
from tasks.settings import settings


@stage
def settle_outcomes() -> list[tuple[CycleRecord | None, Outcome]]:
    """Hand on each outcome once, with the decision that opened its position."""
    kept, strategy = store(), settings().strategy
    for position in kept.positions.without_outcome(strategy):
        kept.outcomes.save(ledger.outcome(position))
    outcomes = kept.outcomes.unsettled(strategy)
    settled = [(kept.cycles.get(outcome.cycle_id), outcome) for outcome in outcomes]
    kept.outcomes.mark_settled(outcomes, datetime.now(UTC))  # last: until then another try finds them all again
    for outcome in outcomes:
        log().info(
            "outcome symbol=%s cycle_id=%s pnl=%s r_multiple=%s hold_s=%d",
            outcome.symbol, outcome.cycle_id, outcome.pnl, outcome.r_multiple, outcome.hold_seconds,
        )  # fmt: skip
    return settled


@stage
def sync_prompts() -> int:
    """Register every prompt file as a version in MLflow, in order; what is there already is left alone."""
    mirror = tracker()
    if mirror is None:
        return 0
    prompts = list_prompts()
    try:
        for prompt in prompts:
            mirror.register_prompt(prompt)
    except (TrackingUnavailable, InputError) as e:
        if is_tried_again(e):
            raise
        log().error("prompts not synced error=%s", e)
        return 0
    return len(prompts)


@stage
def track_session(at: datetime) -> None:
    """Log the session's run (one per strategy and UTC day): equity, decisions, calls, cost; outcomes onto traces."""
    mirror, kept, s = tracker(), store(), settings()
    if mirror is None:
        return
    midnight = floor_time(at, "1d")
    try:
        for trace_id, outcome in kept.outcomes.untracked(100):
            mirror.attach_outcome(trace_id, outcome)
            kept.outcomes.mark_tracked(outcome.position_id)
        metrics = session_metrics(midnight)
        mirror.log_session(
            s.strategy, s.profile, midnight.date(), metrics, step=int((at - midnight) / timedelta(minutes=5)),
            params={"decider": s.decider_name, "models": ",".join(s.model), "symbols": ",".join(s.symbols)},
        )  # fmt: skip
    except TrackingUnavailable as e:
        if is_tried_again(e):
            raise
        log().warning("mlflow unavailable, the session waits error=%s", e)


def session_metrics(midnight: datetime) -> dict[str, float]:
    """Return the day's numbers so far."""
    kept, strategy = store(), settings().strategy
    points = kept.equity.since(strategy, midnight)
    cycles, answers = kept.cycles.by_status(strategy, midnight), kept.decisions.between(strategy, midnight)
    outcomes = kept.outcomes.newest(strategy, since=midnight, limit=None)
    metrics: dict[str, float] = {
        "cycles": sum(cycles.values()),
        "decisions": len(answers),
        "model_calls": sum(len(answer.calls) for _, answer in answers),
        "cost_usd": float(sum(answer.cost_usd for _, answer in answers)),
        "closed_trades": len(outcomes),
        "realized_pnl": float(sum(o.pnl for o in outcomes)),
    }
    known_r = [float(o.r_multiple) for o in outcomes if o.r_multiple is not None]
    if known_r:
        metrics["mean_r"] = sum(known_r) / len(known_r)
    if points:
        metrics["equity"] = float(points[-1].equity)
        metrics["drawdown_pct"] = float((1 - points[-1].equity / points[-1].peak) * 100)
    metrics |= {f"action.{name}": n for name, n in Counter(answer.decision.action for _, answer in answers).items()}
    metrics |= {f"status.{name}": n for name, n in cycles.items()}
    return metrics
