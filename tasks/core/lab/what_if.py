"""What if the guard had had other limits: verdicts that would change, and what that would have earned or saved.

Each decision stands alone, on the account as it was: the model is not asked again, and what a changed verdict would
have meant for later ones is not followed. Both verdicts are scored over the day that followed by the one fill engine.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tasks.core.lab.recorded_replies import Replayable, replayable
from tasks.core.lab.replay import remake
from tasks.core.simulation.candle_history import History
from tasks.core.simulation.counterfactual import HORIZON_BARS, score
from tasks.core.trading.question import constraints, risk_view
from tasks.core.types import (
    Costs,
    CycleRecord,
    Dto,
    Exact,
    Json,
    OrderIntent,
    Question,
    Strategy,
    Utc,
    Verdict,
    duration,
    exact_sum,
)


class ChangedVerdict(Dto):
    """A decision that would have been judged otherwise; returns in percent of equity, None before a day has passed."""

    cycle_id: str
    symbol: str
    as_of: Utc
    action: str
    was: str
    would_be: str
    was_allowed: bool
    would_be_allowed: bool
    was_pct: Exact | None = None
    would_pct: Exact | None = None

    @property
    def difference(self) -> Decimal | None:
        return None if self.was_pct is None or self.would_pct is None else self.would_pct - self.was_pct

    def __str__(self) -> str:
        settled = "" if self.difference is None else f"  {self.was_pct:+.3f}% -> {self.would_pct:+.3f}%"
        at = f"{self.as_of:%Y-%m-%d %H:%M}"
        return f"{at} {self.symbol} {self.action:<10} {self.was} -> {self.would_be}{settled}"


def changed_verdict(
    cycle: CycleRecord, strategy: Strategy, limits: Mapping[str, Any], history: History
) -> ChangedVerdict | None:
    """Judge the record's decision under other limits; None where the orders would have been the same."""
    record = replayable(cycle)
    other = strategy.replace(limits=strategy.limits.model_copy(update=dict(limits)))
    before = record.inputs.state or record.state
    # the market in the snapshot stays, the room is what these limits leave
    mode = risk_view(before, other.limits, record.inputs.digest, record.as_of).risk_mode
    room = constraints(other, before, record.symbol, record.as_of, mode, record.reasons)
    risk = record.snapshot.risk.replace(risk_mode=mode)
    seen = record.snapshot.replace(constraints=room, risk=risk)
    made = remake(record, other, Question(snapshot=seen, reasons=record.reasons), record.decided)
    if made.intents == record.intents:
        return None
    was_pct, would_pct = (_earned_pct(record, sent, history, strategy.costs) for sent in (record.intents, made.intents))
    return ChangedVerdict.of(
        record,
        action=record.decided.decision.action,
        was=_text(record.verdict),
        would_be=_text(made.verdict),
        was_allowed=record.verdict.allowed,
        would_be_allowed=made.verdict.allowed,
        was_pct=was_pct,
        would_pct=would_pct,
    )


def _text(verdict: Verdict) -> str:
    word = f"{verdict.quantity:f}" if verdict.allowed else "denied"
    return f"{word} ({', '.join(verdict.codes)})" if verdict.codes else word


def _earned_pct(record: Replayable, intents: Sequence[OrderIntent], history: History, costs: Costs) -> Decimal | None:
    """Return what the orders earned over the day that followed; None where its candles are not all there."""
    five = history.frames["5m"]
    if five.empty or five.index[-1] < record.as_of + (HORIZON_BARS - 1) * duration("5m"):
        return None
    return score(record.state, record.symbol, intents, five.loc[record.as_of :], costs)


def total(changed: Sequence[ChangedVerdict]) -> Json:
    """Add up: how many verdicts changed, how many of those are settled, and the sum of the differences."""
    settled = [each.difference for each in changed if each.difference is not None]
    return {
        "changed": len(changed),
        "denied_now": sum(not each.would_be_allowed for each in changed),
        "allowed_now": sum(not each.was_allowed for each in changed),
        "settled": len(settled),
        "difference_pct": exact_sum(settled),
    }
