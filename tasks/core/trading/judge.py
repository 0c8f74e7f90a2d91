"""From an answer to orders: the guard and the plan behind it, one way for live, shadow, replay and gate sampling."""

from collections.abc import Callable
from datetime import datetime
from decimal import ROUND_CEILING, localcontext
from typing import NamedTuple

from tasks.core.trading import followups, orders
from tasks.core.trading.guard import guard
from tasks.core.types import (
    ENTRIES,
    FIRST_RULES,
    MANAGES,
    AccountState,
    Answer,
    Approval,
    ApprovalPolicy,
    Code,
    CycleStatus,
    OrderIntent,
    Question,
    Snapshot,
    Strategy,
    Verdict,
)

BREAKOUTS = frozenset({"RangeBreak", "BreakHold"})
NAMES_UNREAD = 5  # the first rules of a strategy by which a verdict names the follow-ups that nobody can read


class Judgement(NamedTuple):
    """What the guard said, and the orders that carry it out; their ids derive from the cycle's."""

    cycle_id: str
    verdict: Verdict
    intents: tuple[OrderIntent, ...]


Judge = Callable[[Answer], Judgement]


def judged(
    question: Question, answer: Answer, account: AccountState, strategy: Strategy, now: datetime | None = None
) -> Judgement:
    """Guard, clamp, size and plan an answer: the only caller of the guard.

    account: as it is by now. now: the clock at the guard; None where lateness does not count. The cycle's id derives
    from the strategy's name, so that no other strategy's orders are these.
    """
    breakouts = frozenset(reason.way for reason in question.reasons if reason.rule in BREAKOUTS)
    if breakouts and strategy.rules == FIRST_RULES:  # one way excused the other too
        breakouts = frozenset({1, -1})
    verdict = guard.judge(
        answer.decision, question.snapshot, account, strategy, now=now, fallback=answer.is_fallback,
        breakouts=breakouts,
    )  # fmt: skip
    if strategy.rules >= NAMES_UNREAD and isinstance(answer.decision, ENTRIES + MANAGES):
        verdict = verdict.replace(unread=followups.unread(answer.decision.followups))
    return planned(verdict, question.snapshot, account, strategy)


def planned(verdict: Verdict, snapshot: Snapshot, account: AccountState, strategy: Strategy) -> Judgement:
    """Return a verdict with the cycle it is of and the orders that carry it out."""
    cycle_id = orders.cycle_id(strategy.name, snapshot.pair, snapshot.as_of)
    return Judgement(cycle_id, verdict, orders.plan(verdict, cycle_id, account, snapshot.as_of, strategy))


def waits(judgement: Judgement, approve: ApprovalPolicy) -> bool:
    """Return whether a person is asked before this is sent."""
    adds = any(not intent.reduce_only for intent in judgement.intents)
    return bool(judgement.intents) and (approve == "all" or (approve == "entries" and adds))


def judged_as_said(judge: Judge, answer: Answer, approval: Approval | None) -> Judgement:
    """Judge an answer, and again as the smaller entry that a person has approved where it comes to more than that."""
    judgement = judge(answer)
    verdict, most = judgement.verdict, approval and approval.most
    if not most or verdict.quantity <= most or not isinstance(verdict.decision, ENTRIES):
        return judgement
    with localcontext(rounding=ROUND_CEILING):  # so that it comes to `most`, a whole number of steps, and no step less
        size_pct = verdict.decision.size_pct * most / verdict.quantity
    return judge(answer.replace(decision=verdict.decision.replace(size_pct=size_pct)))


def refused(verdict: Verdict) -> Verdict:
    """Return the verdict of what a person refused."""
    return verdict.replace(allowed=False, codes=(*verdict.codes, Code.NOT_APPROVED))


def status_of(judgement: Judgement, dry_run: bool = False) -> CycleStatus:
    """Return how a judged cycle ends; failures: what the venue refused of its orders."""
    if not judgement.verdict.allowed:
        return CycleStatus.DENIED
    if dry_run:
        return CycleStatus.DRY_RUN
    return CycleStatus.EXECUTED if judgement.intents else CycleStatus.HELD
