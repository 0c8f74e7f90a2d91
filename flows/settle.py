"""Hourly: outcomes onto decisions, their pages and traces; prompts and the session's run into MLflow."""

from collections import Counter
from datetime import datetime
from typing import Any

from prefect import flow

from flows.clock import run_name, to_the_end, too_old
from flows.promote import watch_champions
from tasks import fetch, mirror, record, retention, shadow, strategies
from tasks import settle as stage
from tasks.connections import log
from tasks.stage import Tried


@flow(name="settle", flow_run_name=run_name)
async def settle(max_age_s: int = 1800) -> Any:
    """Settle what closed since the last time."""
    return too_old(max_age_s) or await to_the_end(settle_all())


async def settle_all() -> dict[str, int]:
    """Settle every strategy's; a count is that of all."""
    counts, tried = Counter[str](), Tried("settle")
    for each in strategies.each_in_turn():
        with tried(each.strategy):
            counts.update(await _settle_own(await fetch.venue_now()))
    for error in tried.failed.values():
        raise error
    return dict(counts)


async def _settle_own(at: datetime) -> dict[str, int]:
    """Attach outcomes, then mirror everything not yet mirrored."""
    settled = stage.settle_outcomes()
    decided = [(cycle, outcome) for cycle, outcome in settled if cycle is not None]
    traces = mirror.trace_links([cycle for cycle, _ in decided])
    for cycle, outcome in decided:
        await record.explain_decision(cycle, outcome, traces.get(cycle.cycle_id, ""))
    scored = shadow.score_shadows(at)
    books = await shadow.run_paper_books(at)
    watch_champions(at)
    mirrored = mirror.show_mlflow(at)
    result = {"outcomes": len(settled), **mirrored, "shadows_scored": scored, "pruned": retention.prune(at)}
    for name, equity in books.items():
        log().info("paper book decider=%s equity=%s", name, equity)
    log().info("settle %s", result)
    return result
