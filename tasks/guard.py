"""Apply the hard limits to a decision, and plan the orders of what is left."""

from datetime import datetime

from prefect import task

from tasks.connections import log
from tasks.core.trading import guard, orders
from tasks.core.types.decision import Answer
from tasks.core.types.orders import OrderIntent
from tasks.core.types.portfolio import AccountState
from tasks.core.types.snapshot import Snapshot
from tasks.core.types.verdict import Verdict
from tasks.retries import STAGE
from tasks.settings import settings


@task(task_run_name="guard-{snapshot.pair}", **STAGE)
def guard_decision(
    decided: Answer, snapshot: Snapshot, state: AccountState, cycle_id: str, now: datetime
) -> tuple[Verdict, tuple[OrderIntent, ...]]:
    """Judge, clamp and plan; the verdict says every rule that fired."""
    s = settings()
    verdict = guard.judge(
        decided.decision, snapshot, state, s.limits, s.costs,
        symbols=s.symbols, now=now, fallback=decided.is_fallback,
    )  # fmt: skip
    intents = orders.plan(verdict, cycle_id, state, snapshot.as_of, s.limits)
    level = log().info if verdict.allowed and not verdict.codes else log().warning
    level(
        "guard symbol=%s cycle_id=%s action=%s allowed=%s codes=%s intents=%d trade_risk_pct=%s",
        snapshot.pair, cycle_id, decided.decision.action, verdict.allowed,
        ",".join(verdict.codes) or "-", len(intents), verdict.trade_risk_pct,
    )  # fmt: skip
    return verdict, intents
