"""No position without its stop: what is missing or looser than the ledger's is set again, else the position goes.

The same orders carry out what a decision wants done once its trade has earned a given R, each rule once.
"""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from itertools import count, cycle

from tasks import clock, ledger
from tasks.connections import answered, log, store, venue
from tasks.core.trading import followups, orders
from tasks.core.trading.guard import sizing
from tasks.core.types import (
    Action,
    AlertKind,
    Finding,
    Flatten,
    Lease,
    LedgerView,
    Order,
    OrderIntent,
    OrderRejected,
    OrderType,
    OwnIntent,
    Position,
    SetStop,
    StoreError,
    TradingError,
    VenueError,
    VenuePosition,
    VenueUnavailable,
    direction,
)
from tasks.crash_points import reached
from tasks.execute import PROTECTION, send
from tasks.halts import active_halts
from tasks.settings import settings
from tasks.stage import stage

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before a venue that is busy or did not answer is asked again


@stage
async def venue_positions() -> list[VenuePosition]:
    """Fetch what the venue holds for us: the watchdog needs nothing else."""
    return await answered(venue().positions, "positions", PAUSES)


async def booked(symbol: str) -> list[Position]:
    """Book the fills of a position without a stop: what they tell says whose it is.

    They are asked for more than once, as a database is that failed: from a ledger that is behind a person's would go.
    """
    trouble = (VenueUnavailable, StoreError)
    return await answered(lambda: ledger.book_fills.fn(symbol), f"fills of {symbol}", ledger.PAUSES, trouble)


async def stops_wanted(at_venue: list[VenuePosition]) -> list[Action]:
    """Return what is to be done about positions without a stop, from what the venue says alone."""
    ours = await sent_view(position.symbol for position in at_venue if position.stop is None)
    return list(ledger.actions(ours, positions=tuple(at_venue)))


async def sent_view(symbols: Iterable[str]) -> LedgerView:
    """Return the ledger's view of these symbols without entries that the venue does not know.

    Those whose process died while it sent them, and those of a backup that rested when it was made and have expired:
    they explain nothing that the venue holds.
    """
    ours, at = ledger.view(*symbols), clock.now()
    sent = [own for own in ours.intents if not _is_doubtful(own, at) or await _is_at_venue(own.intent)]
    return ours.replace(intents=tuple(sent))


def _is_doubtful(own: OwnIntent, at: datetime) -> bool:
    expires = own.intent.expires_at
    return own.state == "sending" or (own.state == "sent" and expires is not None and expires < at)


async def _is_at_venue(intent: OrderIntent) -> bool:
    """Return whether the venue has an order; one that does not answer may have it: no stop waits for that."""
    try:
        return await venue().find_order(intent.symbol, intent.client_order_id) is not None
    except VenueError as e:
        log().warning("protect client_order_id=%s not looked up: %s", intent.client_order_id, e)
        return True


@stage(task_run_name="watchdog-{wanted.symbol}", retries=0)
async def restore_stop(wanted: SetStop | Flatten, behind: bool = False) -> Finding | None:
    """Put the lost or loosened stop of a position of ours back; where the venue will not have it, the position goes.

    That is once it has refused in two looks, or the price is beyond the stop. A venue that is busy or says nothing has
    refused nothing. Returns what was done; nothing for a position that is closed or has its stop by now.
    behind: its fills could not be booked. Then one of another size than ours may be a person's: raises TradingError.
    """
    if isinstance(wanted, SetStop):
        for last_look in (False, True):
            try:
                await _set_protection(wanted, PAUSES)
                return Finding(kind=AlertKind.EXPOSED, symbol=wanted.symbol, text=wanted.text) if wanted.tell else None
            except VenueError as e:
                log().error("protect symbol=%s stop=%s not placed: %s", wanted.symbol, wanted.stop, e)
                if wanted.position is None:
                    raise
                if last_look or await _is_beyond(wanted.position, wanted.stop):
                    break
                if isinstance(e, VenueUnavailable):
                    raise  # whether it rests is unknown: the next look tells
            await asyncio.sleep(PAUSES[0])
            held = next((p for p in await venue().positions() if p.symbol == wanted.symbol), None)
            if held is None or held.stop == wanted.stop:
                return None
    return await _flattened(wanted, behind)


async def _flattened(wanted: SetStop | Flatten, behind: bool) -> Finding | None:
    at_venue = tuple(p for p in await venue().positions() if p.symbol == wanted.symbol)
    if behind and wanted.position and [p.quantity for p in at_venue] != [wanted.position.quantity]:
        raise TradingError(f"{wanted.symbol}: not flattened, the venue holds another size and fills were not booked")
    refused = frozenset({wanted.symbol})
    for action in ledger.actions(ledger.view(), positions=at_venue, booked=frozenset(), refused=refused):
        if isinstance(action, Flatten):
            await flatten(action.position, action.quantity)
            return Finding(kind=AlertKind.EXPOSED, symbol=action.symbol, text=action.text)
    return None


async def _set_protection(wanted: SetStop, pauses: Iterable[float], read_back: bool = False) -> None:
    """Set a stop for what is ours of the position; read_back: and see it there."""
    ours = wanted.position.quantity if wanted.position else None

    async def attempt() -> None:
        reached("before_stop")
        await venue().set_protection(wanted.symbol, wanted.stop, wanted.target, ours)
        if read_back and wanted.symbol in {p.symbol for p in await venue().positions() if p.stop is None}:
            raise VenueUnavailable(f"{wanted.symbol}: a stop was taken and is not there")

    await answered(attempt, f"protect symbol={wanted.symbol} stop={wanted.stop}", pauses)
    reached("stop_set")


async def _is_beyond(position: Position, stop: Decimal) -> bool:
    """Return whether the price is beyond a stop, as far as the book tells."""
    try:
        book = await venue().fetch_book(position.symbol)
    except TradingError as e:
        log().warning("protect symbol=%s no price to compare its stop with: %s", position.symbol, e)
        return False
    side = book.bids if position.side == "long" else book.asks
    return bool(side) and direction(position.side) * (side[0][0] - stop) <= 0


@stage(task_run_name="stop-{symbol}", retries=0)
async def stop_at_once(symbol: str) -> None:
    """After a fill where the venue takes no stop with the entry: set it and read it back.

    What is not there after `stop_within_s` is as any stop that is missing: see `restore_stop`. Fills the venue has not
    told yet have no position in the ledger: then what it holds gets the stop of its entry.
    """
    booked = ledger.open_in(symbol)
    at_venue = [] if booked else [position for position in await venue_positions.fn() if position.symbol == symbol]
    for wanted in await stops_wanted(at_venue):
        if isinstance(wanted, SetStop) and (done := await restore_stop.fn(wanted)):
            log().error("protect %s", done.text)
    for position in booked:
        if position.stop is None:
            continue
        text = f"naked position {symbol}: stop {position.stop} not there {settings().stop_within_s:g} s after the entry"
        wanted = SetStop(symbol=symbol, stop=position.stop, target=position.target, position=position, text=text)
        try:
            async with asyncio.timeout(settings().stop_within_s):
                await _set_protection(wanted, cycle(PAUSES[:2]), read_back=True)
        except (TimeoutError, VenueError) as e:
            log().error("protect symbol=%s stop=%s not placed: %s", symbol, position.stop, e or "no answer")
            await restore_stop.fn(wanted)
            await ledger.book_fills.fn(symbol)


@stage(task_run_name="target-{position.symbol}", retries=0)
async def take_exit(position: Position) -> str:
    """Close a position under a halt that asks for it, or once the book has reached a target that is ours to take."""
    halts, attaches = tuple(active_halts()), venue().attaches_protection
    ours = ledger.view(open=(position,), halts=halts, attaches_protection=attaches)
    prices = {}
    if not (attaches or position.target is None or any(halt.flatten for halt in halts)):
        book = await venue().fetch_book(position.symbol)
        prices[position.symbol] = tuple(side[0][0] if side else None for side in (book.bids, book.asks))
    for action in ledger.actions(ours, prices=prices):
        if isinstance(action, Flatten):
            try:
                await flatten(position, action.quantity, action.why)
            except OrderRejected:
                if position.symbol in {held.symbol for held in await venue().positions()}:
                    raise
                return ""  # closed at the venue, which tells its fills late
            log().info("exit symbol=%s position_id=%s %s", position.symbol, position.position_id, action.text)
            return action.text
    return ""


async def flatten(
    position: Position, quantity: Decimal, why: str = "flatten", asked_by: str = "", lease: Lease | None = None
) -> Order:
    """Close as much of the position at market, in whole steps; each attempt has its own number.

    An unanswered one keeps it and is sent as it was written: what it leaves open is the next look's, or to be asked for
    again. asked_by: the person who wants it.
    """
    instrument = await venue().instrument(position.symbol)
    quantity = sizing.in_one_order(instrument, sizing.sellable(instrument, quantity))
    names = (orders.protect_order_id(position.position_id, why, attempt) for attempt in count())
    name, own = next((name, own) for name in names if not ((own := store().intents.get(name)) and own.ended))
    intent = own.intent if own else orders.reducing(position, name, OrderType.MARKET, quantity, asked_by=asked_by)
    return await submit(position, intent, lease)


async def submit(position: Position, intent: OrderIntent, lease: Lease | None = None) -> Order:
    """Send one order of `protect`: persisted first, looked up before sent, and proven where it has a lease."""
    kept, at = store(), clock.now()
    kept.intents.save(position.cycle_id, (intent,), at)
    reached("protect_intent_saved")
    try:
        order = await send(venue(), intent, lease)
    except OrderRejected as e:
        kept.intents.mark(intent.client_order_id, "rejected")
        log().error("protect symbol=%s client_order_id=%s refused: %s", position.symbol, intent.client_order_id, e)
        raise
    if intent.type not in PROTECTION:
        kept.orders.save(order)
        reached("order_saved")
    kept.intents.mark(intent.client_order_id, "done")
    reached("intent_marked")
    return order


# --- follow-ups


@stage(task_run_name="followups-{position.symbol}")
async def carry_out_followups(position: Position, seen: followups.Look, lease: Lease | None = None) -> list[str]:
    """Do what the decision asked for and is due by now: move the stop, trim or close; under the symbol's lease."""
    done, instrument = list[str](), await venue().instrument(position.symbol)
    position = store().positions.get(position.position_id) or position  # as a try before this one has left it
    for rule in followups.due(position, seen):
        intent = followups.intent(rule, position, instrument, seen)
        # without an intent there is nothing to do: the stop is as tight already
        try:
            stop = None if intent is None else await send_once(position, intent, lease)
        except OrderRejected as e:  # the market has come back beyond it by now: the stop there is stays
            log().warning("followup symbol=%s rule=%r refused, due again: %s", position.symbol, str(rule), e)
            continue
        reached("followup_sent")
        position = store().positions.get(position.position_id) or position  # booked or changed meanwhile
        if stop is not None:
            position = position.replace(stop=stop)
        position = followups.mark_done(position, rule)
        store().positions.save(position)
        reached("followup_noted")
        log().info(
            "followup symbol=%s position_id=%s rule=%r price=%s",
            position.symbol, position.position_id, str(rule), seen.price,
        )  # fmt: skip
        done.append(str(rule))
    return done


async def send_once(position: Position, wanted: OrderIntent, lease: Lease | None) -> Decimal | None:
    """Send an order once, as it was first written; returns the stop it set, if any.

    A moved stop is set again, which is harmless: the venue keeps no id of it.
    """
    own = store().intents.get(wanted.client_order_id)
    if wanted.type not in PROTECTION:
        if not (own and own.ended):
            await submit(position, own.intent if own else wanted, lease)
        return None
    if own is None:
        await submit(position, wanted, lease)
    else:
        await send(venue(), wanted)
        store().intents.mark(wanted.client_order_id, "done")
    return wanted.price
