"""Venue truth against our ledger: book fills, watch stops, carry out follow-ups, keep the equity curve."""

from typing import Any

from prefect import flow

from flows.clock import Call, plainly, through_prefect, too_old
from tasks import account, fetch
from tasks import protect as stage
from tasks.connections import log, store
from tasks.core.types.bars import floor_time
from tasks.settings import settings


@flow(name="protect")
async def protect(max_age_s: int = 240) -> Any:
    """Reconcile every symbol once."""
    if late := too_old(max_age_s):
        return late
    return await reconcile(through_prefect)


async def reconcile(call: Call = plainly) -> dict[str, Any]:
    """Bring the ledger up to the venue and the venue's protection up to the ledger; says what was done."""
    now = await call(fetch.venue_now)()
    ended = await call(stage.settle_working_orders)(now)
    changed = []
    for symbol in settings().symbols:
        changed += await call(stage.book_fills)(symbol)
    balance, at_venue = await call(fetch.fetch_account)()
    wrong = await call(stage.watch_positions)(at_venue)
    done = []
    for position in store().open_positions(settings().strategy):
        price = account.last_close(position.symbol, floor_time(now, "5m"))
        if price is not None and position.followups:
            instrument = await call(fetch.fetch_instrument)(position.symbol)
            done += await call(stage.carry_out_followups)(position, price, instrument)
    call(account.keep_equity)(balance, now)
    result = {"orders_ended": ended, "positions_changed": len(changed), "wrong": wrong, "followups": done}
    log().info("protect equity=%s %s", balance.equity, result)
    return result
