"""What was begun and did not end: orders on their way or resting, and cycles whose process died."""

from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.book import book_fills, is_booked, open_in
from tasks.connections import log, store, venue
from tasks.core.errors import TradingError
from tasks.core.types.decision import Add
from tasks.core.types.orders import Order, OrderIntent, OrderStatus
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.halts import active_halt
from tasks.settings import settings
from tasks.steps import reached

GRACE = timedelta(minutes=5)  # after the last moment a decision may be sent at
PROTECT_LEG = "p0"  # how the ids of `protect`'s own orders end


@task(cache_policy=NO_CACHE)
async def settle_working_orders(now: datetime) -> int:
    """Look up every order still on its way or resting; returns how many ended.

    Entries are cancelled past their time, and under a halt at once. One order's trouble is raised after the others.
    """
    ended, failed = 0, list[str]()
    for cycle_id, intent, state in store().open_intents(settings().strategy):
        try:
            ended += await _settle(cycle_id, intent, state, now)
        except TradingError as e:
            log().error("protect symbol=%s client_order_id=%s: %s", intent.symbol, intent.client_order_id, e)
            failed.append(f"{intent.client_order_id}: {e}")
    if failed:
        raise TradingError("; ".join(failed))
    return ended


async def _settle(cycle_id: str, intent: OrderIntent, state: str, now: datetime) -> bool:
    kept = store()
    order = await venue().find_order(intent.symbol, intent.client_order_id)
    if order is None:
        return _give_up(intent, state, now)
    if order.status is OrderStatus.OPEN and await _unwanted(cycle_id, intent, order, now):
        reached("before_cancel")
        await venue().cancel(intent.symbol, intent.client_order_id)
        reached("cancelled")
        order = await venue().find_order(intent.symbol, intent.client_order_id) or order
    kept.save_order(order, cycle_id)
    if order.status is OrderStatus.OPEN:
        return False
    if order.filled > 0:
        await book_fills.fn(intent.symbol)  # first: until then its risk counts as pending
        if not is_booked(order) and now - order.updated_at <= _too_late():
            return False
    kept.mark_intent(intent.client_order_id, "done", now)
    return True


async def _unwanted(cycle_id: str, intent: OrderIntent, order: Order, now: datetime) -> bool:
    if intent.expires_at is not None and intent.expires_at <= now:
        return True
    if intent.reduce_only:
        return False
    return active_halt() is not None or await _left_behind(cycle_id, intent, order)


async def _left_behind(cycle_id: str, intent: OrderIntent, order: Order) -> bool:
    """Say whether the position is gone that an entry's rest would have added to."""
    record = store().cycle(cycle_id)
    adds = record is not None and record.verdict is not None and isinstance(record.verdict.decision, Add)
    if not adds and order.filled == 0:
        return False
    await book_fills.fn(intent.symbol)
    return not open_in(intent.symbol)


def _give_up(intent: OrderIntent, state: str, now: datetime) -> bool:
    """End an intent the venue knows nothing of once it is too old to be sent; protect's own wait for their position."""
    kept = store()
    persisted = kept.persisted_at(intent.client_order_id)
    if intent.client_order_id.endswith(PROTECT_LEG):
        waits = bool(open_in(intent.symbol))
    else:
        waits = persisted is None or now - persisted <= _too_late()
    if waits:
        return False
    kept.mark_intent(intent.client_order_id, "rejected" if state == "persisted" else "done", now)
    log().warning(
        "protect symbol=%s client_order_id=%s %s at %s: the venue has no such order, ended",
        intent.symbol, intent.client_order_id, state, persisted,
    )  # fmt: skip
    return True


def _too_late() -> timedelta:
    return timedelta(seconds=settings().limits.max_lateness_s) + GRACE


@task(cache_policy=NO_CACHE)
def end_abandoned_cycles(now: datetime) -> int:
    """End cycles whose process died and that no run can take up any more; returns how many."""
    ended = 0
    for record in store().unfinished_cycles(settings().strategy):
        if now - record.as_of > _too_late():
            _end_cycle(record, now)
            ended += 1
    return ended


def _end_cycle(record: CycleRecord, now: datetime) -> None:
    kept = store()
    intents = kept.intents(record.cycle_id)
    known = [kept.order(intent.client_order_id) for intent in intents]
    late = (now - record.as_of).total_seconds()
    error = f"abandoned: its process ended before it did; found unfinished {late:.0f} s after its close"
    done = record.model_copy(
        update={
            "status": CycleStatus.FAILED, "intents": intents, "orders": tuple(o for o in known if o is not None),
            "fills": tuple(kept.fills_of(record.cycle_id)), "error": error,
        }
    )  # fmt: skip
    kept.save_cycle(done, datetime.now(UTC), first=True)  # it may have ended by itself meanwhile
    log().error("cycle symbol=%s cycle_id=%s %s", record.symbol, record.cycle_id, error)
