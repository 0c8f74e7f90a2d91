"""What was begun and did not end: orders on their way or resting, and cycles whose process died."""

from datetime import datetime

from tasks import clock, ledger
from tasks.connections import log, store, venue
from tasks.core.types import (
    ZERO,
    Action,
    Add,
    CancelOrder,
    CycleStatus,
    EndCycle,
    EndIntent,
    KeepOrder,
    LookAgain,
    Order,
    OrderIntent,
    OrderRejected,
    OwnIntent,
    SendAgain,
    TradingError,
)
from tasks.crash_points import reached
from tasks.execute import send
from tasks.halts import active_halts
from tasks.settings import settings
from tasks.stage import Tried, stage

LOOKS = 5  # at one order in one run: its rest cancelled and each time its fills asked for, and one to spare


@stage(retries=0)
async def settle_working_orders(now: datetime) -> int:
    """Look up every order still on its way or resting; returns how many ended.

    Entries are cancelled past their time, and under a halt at once. One order's trouble is raised after the others.
    """
    ended, tried = 0, Tried("protect")
    for own in store().intents.open(settings().strategy):
        with tried(f"symbol={own.intent.symbol} client_order_id={own.intent.client_order_id}"):
            ended += await _settle(own.intent, now)
    if tried.failed:
        raise TradingError(str(tried))
    return ended


async def _settle(intent: OrderIntent, now: datetime) -> bool:
    """Look at one order until there is nothing to look at again; returns whether it ended."""
    name, actions, booked, cancelled = intent.client_order_id, tuple[Action, ...](), frozenset[str](), False
    for _ in range(LOOKS):
        order = await venue().find_order(intent.symbol, name)
        ours = ledger.view(intents=(_own(intent, order),), halts=tuple(active_halts()))
        actions = ledger.actions(ours, now, actions, orders={name: order}, booked=booked)
        if cancelled:  # once in a run: what the venue has not taken note of is the next one's
            actions = tuple(action for action in actions if not isinstance(action, CancelOrder))
        for action in actions:
            await _carry_out(action, intent)
        kinds = {type(action) for action in actions}
        cancelled |= CancelOrder in kinds
        if not kinds & {CancelOrder, LookAgain}:
            return EndIntent in kinds
        booked = frozenset({intent.symbol} if LookAgain in kinds else ())
    return False


def _own(intent: OrderIntent, order: Order | None) -> OwnIntent:
    own = store().intents.get(intent.client_order_id)
    record = None if intent.reduce_only else store().cycles.get(own.cycle_id)
    adds = record is not None and record.verdict is not None and isinstance(record.verdict.decision, Add)
    return own.replace(booked=ledger.booked_of(order) if order else ZERO, adds=adds)


async def _carry_out(action: Action, intent: OrderIntent) -> None:
    kept = store()
    if isinstance(action, KeepOrder):
        kept.orders.save(action.order)
    elif isinstance(action, CancelOrder):
        reached("before_cancel")
        await venue().cancel(action.symbol, action.client_order_id)
        reached("cancelled")
    elif isinstance(action, LookAgain):
        await ledger.book_fills.fn(action.symbol)
    elif isinstance(action, SendAgain):
        try:
            kept.orders.save(await send(venue(), action.intent))
            kept.intents.mark(action.intent.client_order_id, "sent")
        except OrderRejected as e:
            kept.intents.mark(action.intent.client_order_id, "rejected")
            log().error("protect symbol=%s exit refused: %s", intent.symbol, e)
    elif isinstance(action, EndIntent):
        kept.intents.mark(action.client_order_id, action.state)
        if action.reason:
            log().warning(
                "protect symbol=%s client_order_id=%s %s, ended", intent.symbol, intent.client_order_id, action.reason
            )


@stage(retries=0)
def end_abandoned_cycles(now: datetime) -> None:
    """End cycles whose process died and that no run can take up any more."""
    kept = store()
    ours = ledger.view(unfinished=tuple(kept.cycles.unfinished(settings().strategy)))
    for action in ledger.actions(ours, now):
        if not isinstance(action, EndCycle):
            continue
        record = action.record
        intents = kept.intents.of_cycle(record.cycle_id)
        known = [kept.orders.get(intent.client_order_id) for intent in intents]
        done = record.replace(
            status=CycleStatus.FAILED,
            intents=intents,
            orders=tuple(o for o in known if o is not None),
            fills=tuple(kept.fills.of_cycle(record.cycle_id)),
            error=action.error,
        )
        kept.cycles.save(done, clock.now(), first=True)  # it may have ended by itself meanwhile
        log().error("cycle symbol=%s cycle_id=%s %s", record.symbol, record.cycle_id, action.error)
