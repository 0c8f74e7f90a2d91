"""From an answer to orders: the guard and the plan behind it, one way for live, shadow, replay and gate sampling."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.core.trading import orders
from tasks.core.trading.guard import guard
from tasks.core.types import (
    FIRST_RULES,
    AccountState,
    Answer,
    CycleStatus,
    OrderIntent,
    Question,
    Reason,
    Strategy,
    Verdict,
)

BREAKOUTS = frozenset({"RangeBreak", "BreakHold"})


class Judgement(NamedTuple):
    """What the guard said, and the orders that carry it out; their ids derive from the cycle's."""

    cycle_id: str
    verdict: Verdict
    intents: tuple[OrderIntent, ...]


def judged(
    question: Question, answer: Answer, account: AccountState, strategy: Strategy, now: datetime | None = None
) -> Judgement:
    """Guard, clamp, size and plan an answer: the only caller of the guard.

    account: as it is by now. now: the clock at the guard; None where lateness does not count. The cycle's id derives
    from the strategy's name, so that no other strategy's orders are these.
    """
    snapshot = question.snapshot
    verdict = guard.judge(
        answer.decision, snapshot, account, strategy, now=now, fallback=answer.is_fallback,
        breakouts=_breakouts(question.reasons, strategy),
    )  # fmt: skip
    cycle_id = orders.cycle_id(strategy.name, snapshot.pair, snapshot.as_of)
    return Judgement(cycle_id, verdict, orders.plan(verdict, cycle_id, account, snapshot.as_of, strategy))


def _breakouts(reasons: Sequence[Reason], strategy: Strategy) -> frozenset[int]:
    """Return the ways in which the market broke out; under the first rules one way excused the other too."""
    ways = frozenset(reason.way for reason in reasons if reason.rule in BREAKOUTS)
    return frozenset({1, -1}) if ways and strategy.rules == FIRST_RULES else ways


def status_of(judgement: Judgement, dry_run: bool = False) -> CycleStatus:
    """Return how a judged cycle ends; failures: what the venue refused of its orders."""
    if not judgement.verdict.allowed:
        return CycleStatus.DENIED
    if dry_run:
        return CycleStatus.DRY_RUN
    return CycleStatus.EXECUTED if judgement.intents else CycleStatus.HELD
