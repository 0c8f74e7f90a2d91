"""No position without its stop: what is missing or looser than the ledger's is set again, else the position goes."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.adapters.store_orders import FINAL_STATES
from tasks.book import book_fills, dust, last_closed, open_in, own_intents, symbols_of_ours
from tasks.connections import answered, log, store, venue
from tasks.core.errors import OrderRejected, VenueError, VenueUnavailable
from tasks.core.trading import orders, sizing
from tasks.core.types.orders import Order, OrderIntent, OrderType, VenuePosition
from tasks.core.types.portfolio import Position
from tasks.core.types.record import Lease
from tasks.halts import active_halt
from tasks.sending import PROTECTION, prove, send
from tasks.settings import settings
from tasks.steps import reached

__all__ = ["book_fills", "open_in", "symbols_of_ours"]  # what a story needs beside the watchdog
PAUSES = (0.5, 1.0)  # seconds before a venue that did not answer is asked again


def halt(why: str) -> None:
    """Stop new entries unless they are stopped already."""
    if active_halt() is None:
        store().halt(f"ledger mismatch: {why}", "protect", datetime.now(UTC))


@task(retries=2, retry_delay_seconds=[1, 3], cache_policy=NO_CACHE)
async def venue_positions() -> list[VenuePosition]:
    """Fetch what the venue holds for us: the watchdog needs nothing else."""
    return await answered(venue().positions, "positions", PAUSES)


async def mismatches(at_venue: list[VenuePosition]) -> tuple[dict[str, str], dict[str, str]]:
    """Compare venue and ledger: one line by symbol where they differ; the same for positions that are not ours.

    What cannot be sold is no difference.
    """
    ledger_side = {p.symbol: p for p in store().open_positions(settings().strategy)}
    wrong, foreign = dict[str, str](), dict[str, str]()
    for held in at_venue:
        ours = ledger_side.pop(held.symbol, None)
        if ours is None:
            foreign[held.symbol] = f"foreign position {held.symbol} {held.side} {held.quantity}: left alone"
        elif held.side != ours.side or await _apart(held.symbol, held.quantity, ours.quantity):
            wrong[held.symbol] = (
                f"mismatch {held.symbol}: venue {held.side} {held.quantity}, ledger {ours.side} {ours.quantity}"
            )
    for p in ledger_side.values():
        wrong[p.symbol] = f"mismatch {p.symbol}: ledger {p.side} {p.quantity}, venue flat"
    return wrong, foreign


def more_than_ours(at_venue: list[VenuePosition]) -> set[str]:
    """Return the symbols in which the venue holds more than our ledger, or the other side: risk nobody counts."""
    ours = {p.symbol: p for p in store().open_positions(settings().strategy)}
    more = set()
    for held in at_venue:
        known = ours.get(held.symbol)
        if known is None or known.side != held.side or held.quantity > known.quantity:
            more.add(held.symbol)
    return more


async def _apart(symbol: str, at_venue: Decimal, in_ledger: Decimal) -> bool:
    return at_venue != in_ledger and abs(at_venue - in_ledger) >= await dust(symbol)


def exposed(held: VenuePosition) -> bool:
    """Say whether a position has no stop, or one that is looser than our ledger's."""
    if held.stop is None:
        return True
    ours = _ours(held)
    if ours is None or ours.stop is None:
        return False
    return sizing.direction(held.side) * (held.stop - ours.stop) < 0


def _ours(held: VenuePosition) -> Position | None:
    return next((p for p in open_in(held.symbol).values() if p.side == held.side), None)


@task(task_run_name="watchdog-{held.symbol}", cache_policy=NO_CACHE)
async def restore_stop(held: VenuePosition) -> str:
    """Put the lost or loosened stop of a position of ours back; where the venue will not have it, the position goes.

    Returns what was done; nothing for a position that is not ours or that has its stop by now.
    """
    ours = _ours(held)
    stop, target = (ours.stop, ours.target) if ours else _unbooked_protection(held)
    if ours is None and stop is None:
        return ""
    what = "naked position" if held.stop is None else f"stop {held.stop} looser than ours"
    if stop is not None:
        try:
            await _set_protection(held.symbol, stop, target)
            return f"{what} {held.symbol}: stop {stop} restored"
        except VenueUnavailable:
            raise  # whether it rests is unknown: the next look tells
        except VenueError as e:
            log().error("protect symbol=%s stop=%s refused: %s", held.symbol, stop, e)
            if ours is None:
                raise
    now = next((p for p in await venue().positions() if p.symbol == held.symbol), None)
    if ours is None or now is None or not exposed(now):
        return ""  # closed meanwhile, or protected
    await flatten(ours, now.quantity)
    return f"{what} {held.symbol}: flattened, no stop could be placed"


def _unbooked_protection(held: VenuePosition) -> tuple[Decimal | None, Decimal | None]:
    """Return stop and target of our entry that made a position which the ledger does not have yet."""
    kept, last = store(), last_closed(held.symbol)
    side = "buy" if held.side == "long" else "sell"
    for at, _, intent in sorted(own_intents(held.symbol).values(), key=lambda entry: entry[0], reverse=True):
        if intent.reduce_only or intent.side != side or intent.stop is None or (last is not None and at <= last):
            continue
        order = kept.order(intent.client_order_id)
        if kept.intent_state(intent.client_order_id) not in FINAL_STATES or (order is not None and order.filled > 0):
            return intent.stop, intent.target
    return None, None


async def _set_protection(symbol: str, stop: Decimal, target: Decimal | None) -> None:
    for pause in (*PAUSES, None):
        reached("before_stop")
        try:
            await venue().set_protection(symbol, stop, target)
            break
        except VenueUnavailable as e:
            if pause is None:
                raise
            log().warning("protect symbol=%s stop=%s not answered, again: %s", symbol, stop, e)
            await asyncio.sleep(pause)
    reached("stop_set")


@task(task_run_name="stop-{symbol}", cache_policy=NO_CACHE)
async def stop_at_once(symbol: str) -> None:
    """After a fill where the venue takes no stop with the entry: set it within `stop_within_s`, or close.

    Fills the venue has not told yet have no position in the ledger: then what it holds gets the stop of its entry.
    """
    booked = open_in(symbol)
    for held in () if booked else await venue_positions.fn():
        if held.symbol == symbol and held.stop is None:
            log().error("protect %s", await restore_stop.fn(held) or f"naked position {symbol}: not ours")
    for position in booked.values():
        if position.stop is None:
            continue
        try:
            async with asyncio.timeout(settings().stop_within_s):
                await _until_set(position, position.stop)
        except (TimeoutError, VenueError) as e:
            log().error("protect symbol=%s stop=%s not placed, closing: %s", symbol, position.stop, e or "no answer")
            await flatten(position, position.quantity)
            await book_fills.fn(symbol)


async def _until_set(position: Position, stop: Decimal) -> None:
    while True:
        try:
            return await _set_protection(position.symbol, stop, position.target)
        except VenueUnavailable as e:
            log().warning("protect symbol=%s stop=%s not answered, again: %s", position.symbol, stop, e)


@task(task_run_name="target-{position.symbol}", cache_policy=NO_CACHE)
async def take_target(position: Position) -> bool:
    """Close a position whose target is ours to take, once the book has reached it."""
    if venue().attaches_protection or position.target is None:
        return False
    book = await venue().fetch_book(position.symbol)
    side = book.bids if position.side == "long" else book.asks
    if not side or sizing.direction(position.side) * (side[0][0] - position.target) < 0:
        return False
    await flatten(position, position.quantity, "target")
    log().info("target symbol=%s position_id=%s target=%s", position.symbol, position.position_id, position.target)
    return True


async def flatten(position: Position, quantity: Decimal, why: str = "flatten") -> Order:
    """Close the position at market, in whole steps; each attempt has its own number, an unanswered one keeps it.

    Such a one is sent as it was written: what it leaves open is the next look's.
    """
    quantity, attempt = sizing.sellable(await venue().instrument(position.symbol), quantity), 0
    while store().intent_state(_exit_id(position, why, attempt)) in FINAL_STATES:
        attempt += 1
    intent = store().intent(_exit_id(position, why, attempt)) or OrderIntent(
        client_order_id=_exit_id(position, why, attempt), symbol=position.symbol,
        side="sell" if position.side == "long" else "buy", type=OrderType.MARKET, quantity=quantity, reduce_only=True,
    )  # fmt: skip
    return await submit(position, intent)


def _exit_id(position: Position, why: str, attempt: int) -> str:
    return orders.protect_order_id(position.position_id, why, attempt)


async def submit(position: Position, intent: OrderIntent, lease: Lease | None = None) -> Order:
    """Send one order of `protect`: persisted first, looked up before sent, and proven where it has a lease."""
    kept, at = store(), datetime.now(UTC)
    kept.save_intents(position.cycle_id, (intent,), at)
    reached("protect_intent_saved")
    try:
        order = await send(venue(), intent, None if lease is None else lambda: prove(intent, lease))
    except OrderRejected as e:
        kept.mark_intent(intent.client_order_id, "rejected", at)
        log().error("protect symbol=%s client_order_id=%s refused: %s", position.symbol, intent.client_order_id, e)
        raise
    if intent.type not in PROTECTION:
        kept.save_order(order, position.cycle_id)
        reached("order_saved")
    kept.mark_intent(intent.client_order_id, "done", at)
    reached("intent_marked")
    return order
