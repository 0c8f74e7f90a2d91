"""Venue truth against our ledger: watch stops, book fills, carry out follow-ups, keep the equity curve."""

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

from prefect import flow

from flows.clock import Call, owner, plainly, through_prefect, to_the_end, too_old
from tasks import account, adopt, alerts, fetch, followups, working
from tasks import protect as stage
from tasks.connections import log, store
from tasks.core.errors import LedgerMismatch, TradingError
from tasks.core.types.bars import floor_time
from tasks.core.types.orders import VenuePosition
from tasks.halts import active_halts
from tasks.leases import Leases, symbol_lease
from tasks.settings import settings
from tasks.steps import reached

T = TypeVar("T")
LOOKS = 2  # how often a difference is looked at again before it counts
PAUSE_S = 0.5  # the venue's fills and positions may be a moment apart


@flow(name="protect")
async def protect(max_age_s: int = 240) -> Any:
    """Reconcile every symbol once."""
    if late := too_old(max_age_s):
        return late
    return await to_the_end(reconcile(through_prefect))


async def reconcile(call: Call = plainly) -> dict[str, Any]:
    """Bring the venue's protection up to the ledger and the ledger up to the venue; says what was done.

    Stops come first, from what the venue says alone. What fails keeps nothing else from being tried.
    Raises TradingError at the end, naming all that failed.
    """
    tried = Tried()
    reached("protect_begun")
    held = await tried("positions", call(stage.venue_positions)(), [])
    wrong = await _watch_stops(call, tried, [position for position in held if position.stop is None])
    reached("stops_watched")
    now = await tried("clock", call(fetch.venue_now)(), None)
    ended = 0
    if now is not None:
        ended = await tried("working orders", call(working.settle_working_orders)(now), 0)
    reached("working_settled")
    changed = []
    for symbol in stage.symbols_of_ours():
        wrong += await tried(f"orders of {symbol}", adopt.adopt_working(symbol), [])
        changed += await tried(f"booking {symbol}", call(stage.book_fills)(symbol), [])
    at_venue = await tried("comparison", _compare(call, tried, wrong), [])
    reached("compared")
    wrong += await _watch_stops(call, tried, [position for position in at_venue if stage.exposed(position)])
    done = await _close_what_must_go(call, tried)
    if now is not None:
        done += await _carry_out_followups(call, tried, now)
        await tried("cycles", _in_turn(call(working.end_abandoned_cycles), now), 0)
        reached("cycles_ended")
        if (found := await tried("account", call(fetch.fetch_account)(), None)) is not None:
            await tried("equity", _in_turn(call(account.keep_equity), found[0], now), None)
    await tried("alerts", _in_turn(call(alerts.tell_protection), wrong), 0)
    result = {"orders_ended": ended, "positions_changed": len(changed), "wrong": wrong, "followups": done}
    reached("protect_ended")
    log().info("protect %s", result)
    tried.raise_what_failed()
    return result


class Tried:
    """Awaits one thing after the other; what failed is logged, kept and told at the end."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    async def __call__(self, what: str, doing: Awaitable[T], otherwise: T) -> T:
        """Return what came of it, or `otherwise`; a ledger that cannot be right halts new entries.

        Nothing may keep the watchdog from the next symbol, not even a defect of our own or a library's.
        """
        try:
            return await doing
        except Exception as e:  # noqa: BLE001  (it is told at the end)
            said = e if isinstance(e, TradingError) else repr(e)
            log().error("protect %s failed: %s", what, said, exc_info=not isinstance(e, TradingError))
            self.failed.append(f"{what}: {said}")
            if isinstance(e, LedgerMismatch):
                stage.halt(f"{what}: {e}")
            return otherwise

    def raise_what_failed(self) -> None:
        if self.failed:
            raise TradingError(f"protect could not do everything: {'; '.join(self.failed)}")


async def _in_turn(task: Any, *given: Any) -> Any:
    """Make a plain call one that `Tried` can await."""
    return task(*given)


async def _watch_stops(call: Call, tried: Tried, exposed: list[VenuePosition]) -> list[str]:
    lines = [await tried(f"stop of {held.symbol}", call(stage.restore_stop)(held), "") for held in exposed]
    for line in filter(None, lines):
        log().error("protect %s", line)
    return [line for line in lines if line]


async def _compare(call: Call, tried: Tried, wrong: list[str]) -> list[VenuePosition]:
    """Compare the ledger with the venue and halt on a difference that stays; returns what the venue holds.

    The two are read at different instants while orders fill, so a difference is booked and looked at again. Where the
    venue tells no fills and holds no more than the ledger has, a trade of ours was just not told yet: the next look's.
    """
    unread: set[str] = set()
    at_venue: list[VenuePosition] = await call(stage.venue_positions)()
    differing, foreign = await stage.mismatches(at_venue)
    for _ in range(LOOKS):
        suspects = {*differing, *(symbol for symbol in foreign if symbol in settings().symbols)}
        if not suspects:
            break
        await asyncio.sleep(PAUSE_S)
        booked = {s: await tried(f"booking {s} again", call(stage.book_fills)(s), None) for s in sorted(suspects)}
        unread = {symbol for symbol, changed in booked.items() if changed is None}
        at_venue = await call(stage.venue_positions)()
        differing, foreign = await stage.mismatches(at_venue)
    for line in (*differing.values(), *foreign.values()):
        log().error("protect %s", line)
        wrong.append(line)
    more = stage.more_than_ours(at_venue)
    if certain := [line for symbol, line in differing.items() if symbol not in unread or symbol in more]:
        stage.halt(certain[0])
    return at_venue


async def _close_what_must_go(call: Call, tried: Tried) -> list[str]:
    """Close every position under a halt that asks for it, else those whose target only we can take."""
    done: list[str] = []
    flat = any(halt.flatten for halt in active_halts())
    for position in store().open_positions(settings().strategy):
        if flat:
            closing = stage.flatten(position, position.quantity)
            if await tried(f"flattening {position.symbol}", closing, None) is None:
                continue
        elif not await tried(f"target of {position.symbol}", call(stage.take_target)(position), False):
            continue
        await tried(f"booking {position.symbol}", call(stage.book_fills)(position.symbol), [])
        done.append(f"{position.symbol} closed: {'halted' if flat else f'target {position.target}'}")
    return done


async def _carry_out_followups(call: Call, tried: Tried, now: datetime) -> list[str]:
    """Do what is due, unless a cycle is deciding on the symbol right now: then at the next run."""
    done: list[str] = []
    async with Leases(owner(), patience_s=0) as leases:
        for position in store().open_positions(settings().strategy):
            price = account.last_close(position.symbol, floor_time(now, "5m"))
            if price is None or not position.followups:
                continue
            if (lease := await leases.take(symbol_lease(position.symbol))) is None:
                continue
            position = store().position(position.position_id) or position  # a cycle may have changed it until now
            instrument = await tried("instrument", call(fetch.fetch_instrument)(position.symbol), None)
            if instrument is not None:
                doing = call(followups.carry_out_followups)(position, price, instrument, lease)
                if carried_out := await tried(f"follow-ups of {position.symbol}", doing, []):
                    await tried(f"booking {position.symbol}", call(stage.book_fills)(position.symbol), [])
                    done += carried_out
            leases.give_back(symbol_lease(position.symbol))
    return done
