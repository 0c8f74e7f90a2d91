"""Apply the hard limits to a decision, and plan the orders of what is left."""

from datetime import datetime

from tasks.connections import log
from tasks.core.trading import judge
from tasks.core.trading.judge import Judgement
from tasks.core.types import AccountState, Answer, Approval, Question, Strategy
from tasks.stage import stage


@stage(task_run_name="guard-{question.snapshot.pair}")
def guard_decision(
    question: Question,
    answer: Answer,
    account: AccountState,
    strategy: Strategy,
    now: datetime,
    said: Approval | None = None,
) -> Judgement:
    """Judge, clamp and plan; the verdict says every rule that fired. said: by a person, of what was proposed."""
    judgement = judge.judged_as_said(lambda each: judge.judged(question, each, account, strategy, now), answer, said)
    cycle_id, verdict, intents = judgement
    level = log().info if verdict.allowed and not verdict.codes else log().warning
    level(
        "guard symbol=%s cycle_id=%s action=%s allowed=%s codes=%s intents=%d trade_risk_pct=%s",
        question.snapshot.pair, cycle_id, answer.decision.action, verdict.allowed,
        ",".join(verdict.codes) or "-", len(intents), verdict.trade_risk_pct,
    )  # fmt: skip
    return judgement
