"""Ask the decider; the first answer of a cycle is its only one."""

from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import connections
from tasks.connections import log, store
from tasks.core.types.decision import Decided
from tasks.core.types.snapshot import Brief


@task(task_run_name="decide-{brief.snapshot.pair}", cache_policy=NO_CACHE)
async def decide(brief: Brief, cycle_id: str, decider_name: str) -> Decided:
    """Ask once; a retried or doubled run of the same cycle gets the answer that was kept first."""
    decided = (await connections.decider(decider_name).decide([brief]))[0]
    kept = store().keep_decision(cycle_id, decided, datetime.now(UTC))
    level = log().warning if kept.errors else log().info
    level(
        "decide symbol=%s cycle_id=%s action=%s confidence=%s source=%s rung=%s errors=%s",
        brief.snapshot.pair, cycle_id, kept.decision.action, kept.decision.confidence,
        kept.source, kept.rung, ",".join(kept.errors) or "-",
    )  # fmt: skip
    return kept
