"""What a person asks for: close a position of ours or a share of it, tighten its stop, pause a symbol, halt, resume.

Closing and stops go out as everything else does: under the symbol's lease, persisted first, looked up before sent, and
only to reduce. Only the ledger's positions are touched, never a person's own. Who asked is kept with the order, so that
the ledger, the report and the next question say that a position was closed by hand.
"""

import asyncio
import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal, InvalidOperation

from prefect.runtime import flow_run

from tasks import clock, halts, ledger, protect, strategies
from tasks.connections import log, store, venue
from tasks.core.trading import orders
from tasks.core.trading.guard import sizing
from tasks.core.types import (
    BY_HAND,
    HUNDRED,
    InputError,
    Instrument,
    Json,
    Lease,
    OrderStatus,
    OrderType,
    Position,
    TradingError,
    VenueError,
    VenueUnavailable,
    direction,
)
from tasks.leases import Leases, symbol_lease
from tasks.settings import settings

BREAKEVEN = "breakeven"
LONGEST = 10_080  # minutes, as of a decision's pause


def asker() -> str:
    """Return who asks: the run of Prefect, which knows no people, or the user of this shell."""
    return f"Prefect run {flow_run.id}" if flow_run.id else getpass.getuser()


async def close(symbol: str, share: str | Decimal, who: str) -> Json:
    """Close `share` percent of our position at market, all of it where the rest could not be sold; says what was done.

    With all of it goes what rests of an entry: it would open another. An order of before without an answer is carried
    out in its place. Raises InputError for what cannot be asked.
    """
    pct = number(share, "share")
    if pct > HUNDRED:
        raise InputError(f"share {pct:f}: must be above 0 and at most 100, in percent of the position")
    with settings.of(strategies.owner(symbol)):
        done = await _closed(symbol, pct, who)
    log().info("by hand close %s", done)
    return done


async def _closed(symbol: str, pct: Decimal, who: str) -> Json:
    async with _position(symbol, who, whole=pct == HUNDRED) as (position, instrument, lease):
        if (part := sizing.part_of(instrument, position.quantity, pct)) is None:
            raise InputError(f"share {pct:f}: of {position.quantity:f} {symbol} that is too small to be sold")
        order = await protect.flatten(position, part, BY_HAND, who, lease)
        for pause in (*ledger.PAUSES, None):  # the venue may tell its fills late
            order = await venue().find_order(symbol, order.client_order_id) or order
            store().orders.save(order)
            await ledger.book_fills(symbol)
            if pause is None or (order.status is not OrderStatus.OPEN and ledger.is_booked(order)):
                break
            await asyncio.sleep(pause)
        left = store().positions.get(position.position_id) or position
    return {
        "symbol": symbol, "side": position.side, "asked_for": part, "closed": order.filled, "price": order.avg_price,
        "left": left.quantity, "realized_pnl": left.realized_pnl - left.fees, "asked_by": who,
        "client_order_id": order.client_order_id, "strategy": position.strategy,
    }  # fmt: skip


async def move_stop(symbol: str, to: str | Decimal, who: str) -> Json:
    """Move the stop of our position to a price (quote) or to breakeven, on a tick; it may only tighten."""
    price = None if to == BREAKEVEN else number(to, "stop")
    with settings.of(strategies.owner(symbol)):
        done = await _tightened(symbol, price, who)
    log().info("by hand move_stop %s", done)
    return done


async def _tightened(symbol: str, price: Decimal | None, who: str) -> Json:
    async with _position(symbol, who) as (position, instrument, lease):
        way = direction(position.side)
        stop = sizing.protective_price(position.side, price or position.avg_price, instrument.tick)
        book = await venue().fetch_book(symbol)
        if not (out := book.bids if way > 0 else book.asks):
            raise VenueError(f"{symbol}: the book is empty, so no stop can be compared with a price")
        if way * (out[0][0] - stop) <= 0:
            where = "below" if way > 0 else "above"
            raise InputError(f"stop {stop:f}: of a {position.side} it must be {where} the price, {out[0][0]:f}")
        if position.stop is not None and way * (stop - position.stop) <= 0:
            raise InputError(f"stop {stop:f}: no tighter than {position.stop:f}, where it is; a stop may only tighten")
        name = orders.protect_order_id(position.position_id, f"stop {BY_HAND} {stop}", 0)
        wanted = orders.reducing(position, name, OrderType.STOP, position.quantity, stop, who)
        await protect.send_once(position, wanted, lease)
        now = store().positions.get(position.position_id) or position
        store().positions.save(now.replace(stop=stop))
    return {
        "symbol": symbol, "side": position.side, "stop": stop, "was": position.stop, "asked_by": who,
        "strategy": position.strategy,
    }  # fmt: skip


async def pause(symbol: str, minutes: int, who: str) -> Json:
    """Allow no new entries in a symbol for so long, by the venue's clock; exits and protection go on."""
    if not 0 < minutes <= LONGEST:
        raise InputError(f"minutes {minutes}: must be above 0 and at most {LONGEST}")
    _known(symbol)
    try:
        now = await venue().now()
    except TradingError as e:
        log().warning("by hand pause symbol=%s by this machine's clock: %s", symbol, e)
        now = clock.now()
    kept, strategy = store().pauses, strategies.owner(symbol).strategy
    kept.add(strategy, symbol, now + timedelta(minutes=minutes), who)
    done = {
        "symbol": symbol, "paused_until": kept.until(strategy, symbol), "asked_by": who, "strategy": strategy,
    }  # fmt: skip
    log().info("by hand pause %s", done)
    return done


def halt(reason: str, flatten: bool, who: str) -> Json:
    """Stop new entries at once; flatten: `protect` closes our positions too, at its next run."""
    return dict(store().halts.add(reason, who, clock.now(), flatten))


def resume(who: str) -> Json:
    """Lift every halt; a file or variable that still says halt is named, and halts again."""
    halts.active_halts()  # what a file or variable asked for meanwhile is lifted, and so listed, too
    resumed = store().halts.resume(who, clock.now())
    still = [{"who": switch, "reason": reason} for switch, reason in halts.switches(fresh=True).items()]
    return {"resumed": resumed, "still_halted_by": still}


@asynccontextmanager
async def _position(symbol: str, who: str, whole: bool = False) -> AsyncIterator[tuple[Position, Instrument, Lease]]:
    """Hold our position in `symbol`, as the venue's fills make it by now, with no cycle deciding on it meanwhile.

    whole: nothing is to rest that would add to it.
    """
    _known(symbol)
    async with Leases(who) as leases:
        if (lease := await leases.take(symbol_lease(symbol))) is None:
            raise VenueUnavailable(f"{symbol}: a cycle is at work on it all the while; ask again")
        for own in store().intents.open(settings().strategy) if whole else ():
            if own.intent.symbol == symbol and not own.intent.reduce_only:
                await venue().cancel(symbol, own.intent.client_order_id)
        await ledger.book_fills(symbol)
        if not (ours := ledger.open_in(symbol)):
            open_ = ", ".join(p.symbol for s in strategies.at_work() for p in store().positions.open(s.strategy))
            raise InputError(f"symbol {symbol}: no open position of ours; open: {open_ or 'none'}")
        yield ours[0], await venue().instrument(symbol), lease


def _known(symbol: str) -> None:
    names = list[str]()
    for each in strategies.at_work():
        with settings.of(each):
            names += ledger.symbols_of_ours()
    if symbol not in names:
        raise InputError(f"symbol {symbol!r} is not the strategy's; there are {', '.join(names)}")


def number(text: str | Decimal, what: str) -> Decimal:
    """Read what a person typed; raises InputError, with what it is for, where that is no number above 0."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("NaN")
    if not (number.is_finite() and number > 0):
        raise InputError(f"{what} {text!s:.40}: must be a number above 0")
    return number
