"""What became of the decisions: an outcome for each closed position."""

from tasks import clock
from tasks.connections import log, store
from tasks.core.trading import ledger
from tasks.core.types import CycleRecord, Outcome
from tasks.settings import settings
from tasks.stage import stage


@stage
def settle_outcomes() -> list[tuple[CycleRecord | None, Outcome]]:
    """Hand on each outcome once, with the decision that opened its position."""
    kept, strategy = store(), settings().strategy
    for position in kept.positions.without_outcome(strategy):
        kept.outcomes.save(ledger.outcome(position))
    outcomes = kept.outcomes.unsettled(strategy)
    settled = [(kept.cycles.get(outcome.cycle_id), outcome) for outcome in outcomes]
    kept.outcomes.mark_settled(outcomes, clock.now())  # last: until then another try finds them all again
    for outcome in outcomes:
        log().info(
            "outcome symbol=%s cycle_id=%s pnl=%s outcome_r=%s hold_s=%d",
            outcome.symbol, outcome.cycle_id, outcome.pnl, outcome.outcome_r, outcome.hold_seconds,
        )  # fmt: skip
    return settled
