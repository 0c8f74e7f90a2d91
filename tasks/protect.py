"""Venue truth against our ledger: book fills, keep every position under its stop, carry out follow-ups."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.connections import log, store, venue
from tasks.core.errors import OrderRejected, VenueError, VenueUnavailable
from tasks.core.trading import booking, followups, orders
from tasks.core.types.decision import ENTRIES
from tasks.core.types.orders import Fill, Instrument, Order, OrderIntent, OrderType, VenuePosition
from tasks.core.types.portfolio import Position
from tasks.sending import PROTECTION, send
from tasks.settings import settings

FINAL_STATES = ("done", "rejected")
OVERLAP = timedelta(minutes=10)  # fills are asked for again this far back: a late one is not missed
PAUSES = (0.5, 1.0)  # seconds before a venue that did not answer is asked again


def symbols_of_ours() -> tuple[str, ...]:
    """Return the strategy's symbols and those in which it still has a position or an order."""
    kept, strategy = store(), settings().strategy
    held = [p.symbol for p in kept.open_positions(strategy)]
    working = [intent.symbol for _, intent, _ in kept.open_intents(strategy)]
    return tuple(dict.fromkeys((*settings().symbols, *held, *working)))


def halt(why: str) -> None:
    """Stop new entries unless they are stopped already."""
    if store().active_halt() is None:
        store().halt(f"ledger mismatch: {why}", "protect", datetime.now(UTC))


@task(task_run_name="book-{symbol}", retries=2, retry_delay_seconds=[1, 3], cache_policy=NO_CACHE)
async def book_fills(symbol: str) -> list[Position]:
    """Bring the ledger's positions of `symbol` up to the venue's fills; returns those that changed."""
    kept, strategy = store(), settings().strategy
    entries = _entries(symbol)
    if not entries:
        return []
    since = _start(symbol, open_in(symbol), min(at for at, *_ in entries.values()))
    known = kept.fills(symbol, since)
    asked_from = max(since, known[-1].at - OVERLAP) if known else since
    ours = {key: (cycle_id, intent) for key, (_, cycle_id, intent) in entries.items()}
    new = kept.save_fills(await venue().fills(symbol, asked_from))
    before = open_in(symbol)  # only now: a stop may have been moved while the venue was asked
    positions, foreign = booking.project(kept.fills(symbol, since), ours, before, strategy)
    _tell_of_others(symbol, [fill for fill in new if booking.is_manual(fill, ours)], foreign)
    changed = [_with_followups(p) for p in positions if before.get(p.position_id) != p]
    for position in changed:
        kept.save_position(position)
        log().info(
            "position symbol=%s position_id=%s side=%s quantity=%s avg_price=%s stop=%s closed_at=%s",
            symbol, position.position_id, position.side, position.quantity, position.avg_price, position.stop,
            position.closed_at,
        )  # fmt: skip
    return changed


def open_in(symbol: str) -> dict[str, Position]:
    """Return our open positions of `symbol` by id."""
    return {p.position_id: p for p in store().open_positions(settings().strategy) if p.symbol == symbol}


def _tell_of_others(symbol: str, manual: list[Fill], foreign: list[Fill]) -> None:
    if foreign:
        log().error("foreign symbol=%s fills=%s: not ours, left alone", symbol, [f.fill_id for f in foreign])
    left = {f.fill_id for f in foreign}
    for fill in manual:
        if fill.fill_id not in left:
            log().warning(
                "exit symbol=%s reason=manual fill_id=%s side=%s quantity=%s price=%s: taken over",
                symbol, fill.fill_id, fill.side, fill.quantity, fill.price,
            )  # fmt: skip


def _entries(symbol: str) -> dict[str, tuple[datetime, str, OrderIntent]]:
    """Return our order intents of `symbol` of the last positions, by client order id, with when and by which cycle."""
    return store().own_intents(settings().strategy, symbol)


def _start(symbol: str, open_now: dict[str, Position], first_intent: datetime) -> datetime:
    """Return the moment our position in `symbol` was last flat."""
    if open_now:
        return min(p.opened_at for p in open_now.values())
    last = _last_closed(symbol)
    return first_intent - OVERLAP if last is None else last + timedelta(milliseconds=1)


def _last_closed(symbol: str) -> datetime | None:
    closed = store().closed_positions(settings().strategy, limit=1, symbol=symbol)
    return closed[0].closed_at if closed else None


def _with_followups(position: Position) -> Position:
    """Take the follow-ups from the decision that opened the position."""
    if position.followups:
        return position
    record = store().cycle(position.cycle_id)
    decision = record.verdict.decision if record and record.verdict else None
    if isinstance(decision, ENTRIES) and decision.followups:
        return position.model_copy(update={"followups": decision.followups})
    return position


@task(retries=2, retry_delay_seconds=[1, 3], cache_policy=NO_CACHE)
async def venue_positions() -> list[VenuePosition]:
    """Fetch what the venue holds for us: the watchdog needs nothing else."""
    for pause in PAUSES:
        try:
            return await venue().positions()
        except VenueUnavailable as e:
            log().warning("positions not answered, asking again: %s", e)
            await asyncio.sleep(pause)
    return await venue().positions()


def mismatches(at_venue: list[VenuePosition]) -> tuple[dict[str, str], dict[str, str]]:
    """Compare venue and ledger: one line by symbol where they differ; the same for positions that are not ours."""
    ledger_side = {p.symbol: p for p in store().open_positions(settings().strategy)}
    wrong, foreign = dict[str, str](), dict[str, str]()
    for held in at_venue:
        ours = ledger_side.pop(held.symbol, None)
        if ours is None:
            foreign[held.symbol] = f"foreign position {held.symbol} {held.side} {held.quantity}: left alone"
        elif (held.side, held.quantity) != (ours.side, ours.quantity):
            wrong[held.symbol] = (
                f"mismatch {held.symbol}: venue {held.side} {held.quantity}, ledger {ours.side} {ours.quantity}"
            )
    for p in ledger_side.values():
        wrong[p.symbol] = f"mismatch {p.symbol}: ledger {p.side} {p.quantity}, venue flat"
    return wrong, foreign


@task(task_run_name="watchdog-{held.symbol}", cache_policy=NO_CACHE)
async def restore_stop(held: VenuePosition) -> str:
    """Put the lost stop of a position of ours back; where the venue will not have it, the position goes.

    Returns what was done; nothing for a position that is not ours or that has its stop by now.
    """
    ours = next((p for p in open_in(held.symbol).values() if p.side == held.side), None)
    stop, target = (ours.stop, ours.target) if ours else _unbooked_protection(held)
    if ours is None and stop is None:
        return ""
    if stop is not None:
        try:
            await _set_protection(held.symbol, stop, target)
            return f"naked position {held.symbol}: stop {stop} restored"
        except VenueUnavailable:
            raise  # whether it rests is unknown: the next look tells
        except VenueError as e:
            log().error("protect symbol=%s stop=%s refused: %s", held.symbol, stop, e)
            if ours is None:
                raise
    now = next((p for p in await venue().positions() if p.symbol == held.symbol), None)
    if ours is None or now is None or now.stop is not None:
        return ""  # closed meanwhile, or protected
    await _flatten(ours, now.quantity)
    return f"naked position {held.symbol}: flattened, no stop could be placed"


def _unbooked_protection(held: VenuePosition) -> tuple[Decimal | None, Decimal | None]:
    """Return stop and target of our entry that made a position which the ledger does not have yet."""
    kept, last = store(), _last_closed(held.symbol)
    side = "buy" if held.side == "long" else "sell"
    for at, _, intent in sorted(_entries(held.symbol).values(), key=lambda entry: entry[0], reverse=True):
        if intent.reduce_only or intent.side != side or intent.stop is None or (last is not None and at <= last):
            continue
        order = kept.order(intent.client_order_id)
        if kept.intent_state(intent.client_order_id) not in FINAL_STATES or (order is not None and order.filled > 0):
            return intent.stop, intent.target
    return None, None


async def _set_protection(symbol: str, stop: Decimal, target: Decimal | None) -> None:
    for pause in PAUSES:
        try:
            return await venue().set_protection(symbol, stop, target)
        except VenueUnavailable as e:
            log().warning("protect symbol=%s stop=%s not answered, again: %s", symbol, stop, e)
            await asyncio.sleep(pause)
    return await venue().set_protection(symbol, stop, target)


async def _flatten(position: Position, quantity: Decimal) -> Order:
    """Close the position at market; each attempt has its own number, and one that was not answered keeps it.

    Such a one is sent as it was written: what it leaves open is the next look's.
    """
    attempt = 0
    while store().intent_state(_flatten_id(position, attempt)) in FINAL_STATES:
        attempt += 1
    intent = store().intent(_flatten_id(position, attempt)) or OrderIntent(
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
        stop = None if intent is None else await _carry_out(position, intent)  # None: the stop is already as tight
        position = store().position(position.position_id) or position  # booked or changed meanwhile
        if stop is not None:
            position = position.model_copy(update={"stop": stop})
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


async def _carry_out(position: Position, wanted: OrderIntent) -> Decimal | None:
    """Send a follow-up's order once, as it was first written; returns the stop it set, if any.

    A moved stop is set again, which is harmless: the venue keeps no id of it.
    """
    intent = wanted
    if wanted.type not in PROTECTION:
        intent = store().intent(wanted.client_order_id) or wanted
        if store().intent_state(intent.client_order_id) in FINAL_STATES:
            return None
        await _submit(position, intent)
        return None
    if store().intent(wanted.client_order_id) is None:
        await _submit(position, wanted)
    else:
        await send(venue(), wanted)
        store().mark_intent(wanted.client_order_id, "done", datetime.now(UTC))
    return wanted.price
