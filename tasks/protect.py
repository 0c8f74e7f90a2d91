"""Venue truth against our ledger: book fills, keep every position under its stop, carry out follow-ups."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import log, store, venue
from tasks.core.errors import OrderRejected, VenueError
from tasks.core.trading import booking, followups, orders
from tasks.core.types.decision import ENTRIES
from tasks.core.types.orders import Instrument, Order, OrderIntent, OrderStatus, OrderType, VenuePosition
from tasks.core.types.portfolio import Position
from tasks.sending import PROTECTION, send
from tasks.settings import settings

FINAL_STATES = ("done", "rejected")
OVERLAP = timedelta(minutes=10)  # fills are asked for again this far back: a late one is not missed


@task(task_run_name="book-{symbol}", retries=2, retry_delay_seconds=[1, 3], cache_policy=NO_CACHE)
async def book_fills(symbol: str) -> list[Position]:
    """Bring the ledger's positions of `symbol` up to the venue's fills; returns those that changed."""
    kept, strategy = store(), settings().strategy
    before = {p.position_id: p for p in kept.open_positions(strategy) if p.symbol == symbol}
    entries = _entries(symbol)
    if not entries:
        return []
    since = _start(symbol, before, min(at for at, *_ in entries.values()))
    known = kept.fills(symbol, since)
    asked_from = max(since, known[-1].at - OVERLAP) if known else since
    kept.save_fills(await venue().fills(symbol, asked_from))
    ours = {key: (cycle_id, intent) for key, (_, cycle_id, intent) in entries.items()}
    positions, foreign = booking.project(kept.fills(symbol, since), ours, before, strategy)
    if foreign:
        log().error("foreign symbol=%s fills=%s: not ours, left alone", symbol, [f.fill_id for f in foreign])
    changed = [_with_followups(p) for p in positions if before.get(p.position_id) != p]
    for position in changed:
        kept.save_position(position)
        log().info(
            "position symbol=%s position_id=%s side=%s quantity=%s avg_price=%s stop=%s closed_at=%s",
            symbol, position.position_id, position.side, position.quantity, position.avg_price, position.stop,
            position.closed_at,
        )  # fmt: skip
    return changed


def _entries(symbol: str) -> dict[str, tuple[datetime, str, OrderIntent]]:
    """Return our order intents of `symbol` of the last positions, by client order id, with when and by which cycle."""
    return store().own_intents(settings().strategy, symbol)


def _start(symbol: str, open_now: dict[str, Position], first_intent: datetime) -> datetime:
    """Return the moment our position in `symbol` was last flat."""
    if open_now:
        return min(p.opened_at for p in open_now.values())
    closed = [p.closed_at for p in store().closed_positions(settings().strategy, limit=50) if p.symbol == symbol]
    last = max((at for at in closed if at is not None), default=None)
    return first_intent - OVERLAP if last is None else last + timedelta(milliseconds=1)


def _with_followups(position: Position) -> Position:
    """Take the follow-ups from the decision that opened the position."""
    if position.followups:
        return position
    record = store().cycle(position.cycle_id)
    decision = record.verdict.decision if record and record.verdict else None
    if isinstance(decision, ENTRIES) and decision.followups:
        return position.model_copy(update={"followups": decision.followups})
    return position


@task(task_run_name="watchdog", cache_policy=NO_CACHE)
async def watch_positions(at_venue: list[VenuePosition]) -> list[str]:
    """Compare venue and ledger; restore a missing stop or flatten; a mismatch halts new entries.

    Returns one line for each thing that was wrong.
    """
    kept, strategy = store(), settings().strategy
    ledger_side = {p.symbol: p for p in kept.open_positions(strategy)}
    wrong: list[str] = []
    for held in at_venue:
        ours = ledger_side.pop(held.symbol, None)
        if ours is None:
            wrong.append(f"foreign position {held.symbol} {held.side} {held.quantity}: left alone")
            continue
        if (held.side, held.quantity) != (ours.side, ours.quantity):
            wrong.append(
                f"mismatch {held.symbol}: venue {held.side} {held.quantity}, ledger {ours.side} {ours.quantity}"
            )
        if held.stop is None:
            wrong.append(await _restore_stop(ours, held))
    wrong += [f"mismatch {p.symbol}: ledger {p.side} {p.quantity}, venue flat" for p in ledger_side.values()]
    for line in wrong:
        log().error("protect %s", line)
    mismatches = [line for line in wrong if line.startswith("mismatch")]
    if mismatches and kept.active_halt() is None:
        kept.halt(f"ledger mismatch: {mismatches[0]}", "protect", datetime.now(UTC))
    return wrong


async def _restore_stop(ours: Position, held: VenuePosition) -> str:
    """Put the ledger's stop back; where the venue will not have it, the position goes."""
    if ours.stop is not None:
        try:
            await venue().set_protection(held.symbol, ours.stop, ours.target)
            return f"naked position {held.symbol}: stop {ours.stop} restored"
        except VenueError as e:
            log().error("protect symbol=%s stop=%s refused: %s", held.symbol, ours.stop, e)
    await _flatten(ours, held.quantity)
    return f"naked position {held.symbol}: flattened, no stop could be placed"


async def _flatten(position: Position, quantity: Decimal) -> Order:
    """Close the position at market; each attempt has its own number, and one that was not answered keeps it."""
    attempt = 0
    while store().intent_state(_flatten_id(position, attempt)) in FINAL_STATES:
        attempt += 1
    intent = OrderIntent(
        client_order_id=_flatten_id(position, attempt), symbol=position.symbol,
        side="sell" if position.side == "long" else "buy", type=OrderType.MARKET, quantity=quantity, reduce_only=True,
    )  # fmt: skip
    return await _submit(position, intent)


def _flatten_id(position: Position, attempt: int) -> str:
    return orders.protect_order_id(position.position_id, "flatten", attempt)


async def _submit(position: Position, intent: OrderIntent) -> Order:
    """Send one order of `protect`: persisted first, looked up before sent."""
    kept, at = store(), datetime.now(UTC)
    kept.save_intents(position.cycle_id, (intent,), at)
    try:
        order = await send(venue(), intent)
    except OrderRejected as e:
        kept.mark_intent(intent.client_order_id, "rejected", at)
        log().error("protect symbol=%s client_order_id=%s refused: %s", position.symbol, intent.client_order_id, e)
        raise
    if intent.type not in PROTECTION:
        kept.save_order(order, position.cycle_id)
    kept.mark_intent(intent.client_order_id, "done", at)
    return order


@task(task_run_name="followups-{position.symbol}", cache_policy=NO_CACHE)
async def carry_out_followups(position: Position, price: Decimal, instrument: Instrument) -> list[str]:
    """Do what the decision asked for once its R was reached: move the stop, or trim."""
    done: list[str] = []
    for rule in followups.due(position, price):
        intent = followups.intent(rule, position, instrument)
        if intent is not None:  # None: the stop is already as tight
            await _submit(position, intent)
            if intent.type is OrderType.STOP:
                position = position.model_copy(update={"stop": intent.price})
        position = followups.mark_done(position, rule)
        store().save_position(position)
        log().info(
            "followup symbol=%s position_id=%s rule=%r price=%s",
            position.symbol,
            position.position_id,
            str(rule),
            price,
        )
        done.append(str(rule))
    return done


@task(cache_policy=NO_CACHE)
async def settle_working_orders(now: datetime) -> int:
    """Look up every order still on its way or resting; cancel entries past their time. Returns how many ended."""
    kept, ended = store(), 0
    for cycle_id, intent, _ in kept.open_intents(settings().strategy):
        order = await venue().find_order(intent.symbol, intent.client_order_id)
        if order is None:
            continue
        if order.status is OrderStatus.OPEN and intent.expires_at is not None and intent.expires_at <= now:
            await venue().cancel(intent.symbol, intent.client_order_id)
            order = await venue().find_order(intent.symbol, intent.client_order_id) or order
        kept.save_order(order, cycle_id)
        if order.status is not OrderStatus.OPEN:
            kept.mark_intent(intent.client_order_id, "done", now)
            ended += 1
    return ended
