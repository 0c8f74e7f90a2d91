"""Hourly: outcomes onto decisions, their pages and traces; prompts and the session's run into MLflow."""

from typing import Any

from prefect import flow

from flows.clock import Call, plainly, through_prefect, to_the_end, too_old
from flows.promote import watch_champions
from tasks import fetch, record, retention, shadow
from tasks import settle as stage
from tasks.connections import log


@flow(name="settle")
async def settle(max_age_s: int = 1800) -> Any:
    """Settle what closed since the last time."""
    if late := too_old(max_age_s):
        return late
    return await to_the_end(settle_all(through_prefect))


async def settle_all(call: Call = plainly) -> dict[str, int]:
    """Attach outcomes, then mirror everything not yet mirrored."""
    at = await call(fetch.venue_now)()
    settled = call(stage.settle_outcomes)()
    if call is through_prefect:
        for cycle, outcome in settled:
            if cycle is not None:
                await call(record.explain_decision)(cycle, outcome)
    scored = call(shadow.score_shadows)(at)
    books = await call(shadow.run_paper_books)(at)
    watch_champions(at, call)
    prompts = call(stage.sync_prompts)()
    tracked = call(record.track_decisions)()
    call(stage.track_session)(at)
    result = {"outcomes": len(settled), "tracked": tracked, "prompts": prompts, "shadows_scored": scored}
    result["pruned"] = call(retention.prune)(at)
    for name, equity in books.items():
        log().info("paper book decider=%s equity=%s", name, equity)
    log().info("settle %s", result)
    return result
