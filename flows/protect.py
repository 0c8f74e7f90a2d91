"""Venue truth against our ledger: watch stops, book fills, carry out follow-ups, keep the equity curve."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from prefect import flow

from flows.clock import owner, to_the_end, too_old
from tasks import account, alerts, fetch, ledger, unfinished
from tasks import protect as stage
from tasks.connections import log, store
from tasks.core.errors import LedgerMismatch, TradingError
from tasks.core.trading import reconcile as core
from tasks.core.types.bars import floor_time
from tasks.core.types.reconcile import Action, Finding, Flatten, LookAgain, SetStop, VenueView
from tasks.crash_points import reached
from tasks.leases import Leases, symbol_lease
from tasks.settings import settings

T = TypeVar("T")
LOOKS = 2  # how often a difference is looked at again before it counts
PAUSE_S = 0.5  # the venue's fills and positions may be a moment apart


@flow(name="protect")
async def protect(max_age_s: int = 240) -> Any:
    """Reconcile every symbol once."""
    if late := too_old(max_age_s):
        return late
    return await to_the_end(reconcile())


async def reconcile() -> dict[str, Any]:
    """Bring the venue's protection up to the ledger and the ledger up to the venue; says what was done.

    Stops come first, from what the venue says alone. What fails keeps nothing else from being tried.
    Raises TradingError at the end, naming all that failed.
    """
    tried, wrong = Tried(), list[Finding]()
    reached("protect_begun")
    wanted = await tried("positions", _naked(), [])
    wrong += await _watch_stops(tried, wanted)
    reached("stops_watched")
    now = await tried("clock", fetch.venue_now(), None)
    ended = 0
    if now is not None:
        ended = await tried("working orders", unfinished.settle_working_orders(now), 0)
    reached("working_settled")
    changed = []
    for symbol in ledger.symbols_of_ours():
        wrong += await tried(f"orders of {symbol}", ledger.adopt_working(symbol), [])
        changed += await tried(f"booking {symbol}", ledger.book_fills(symbol), [])
    wanted = await tried("comparison", _compare(tried, wrong), [])
    reached("compared")
    wrong += await _watch_stops(tried, wanted)
    done = await _take_exits(tried)
    if now is not None:
        done += await _carry_out_followups(tried, now)
        await tried("cycles", _in_turn(unfinished.end_abandoned_cycles, now), 0)
        reached("cycles_ended")
        if (found := await tried("account", fetch.fetch_account(), None)) is not None:
            await tried("equity", _in_turn(account.keep_equity, found[0], now), None)
    await tried("alerts", _in_turn(alerts.tell_protection, wrong), 0)
    lines = [finding.text for finding in wrong]
    result = {"orders_ended": ended, "positions_changed": len(changed), "wrong": lines, "followups": done}
    reached("protect_ended")
    log().info("protect %s", result)
    if tried.failed:
        raise TradingError(f"protect could not do everything: {'; '.join(tried.failed)}")
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
                stage.halt(f"ledger mismatch: {what}: {e}")
            return otherwise


async def _in_turn(task: Any, *given: Any) -> Any:
    """Make a plain call one that `Tried` can await."""
    return task(*given)


async def _naked() -> list[Action]:
    return stage.stops_wanted(await stage.venue_positions())


async def _watch_stops(tried: Tried, wanted: Sequence[Action]) -> list[Finding]:
    found = []
    for action in wanted:
        if isinstance(action, SetStop | Flatten):
            done = await tried(f"stop of {action.symbol}", stage.restore_stop(action), None)
            if done is not None:
                log().error("protect %s", done.text)
                found.append(done)
    return found


async def _compare(tried: Tried, wrong: list[Finding]) -> Sequence[Action]:
    """Compare the ledger with the venue; tell, and halt on, a difference that stays. Returns all that is to be done.

    The two are read at different instants while orders fill: what differs is booked and looked at again.
    """
    actions, booked = tuple[Action, ...](), frozenset[str]()
    for look_again in range(LOOKS, -1, -1):
        actions = await _look(actions, booked)
        odd = {action.symbol for action in actions if isinstance(action, LookAgain)}
        if not (odd and look_again):
            break
        wrong += await _watch_stops(tried, actions)
        await asyncio.sleep(PAUSE_S)
        ours = sorted(odd & {*ledger.symbols_of_ours()})
        told = {s: await tried(f"booking {s} again", ledger.book_fills(s), None) for s in ours}
        booked = frozenset(s for s, changed in told.items() if changed is not None)
    for action in actions:
        if isinstance(action, Finding):
            log().error("protect %s", action.text)
            wrong.append(action)
            if action.halts:
                stage.halt(f"ledger mismatch: {action.text}")
    return actions


async def _look(earlier: Sequence[Action], booked: frozenset[str]) -> tuple[Action, ...]:
    at_venue = await stage.venue_positions()
    look = VenueView(observed_at=datetime.now(UTC), positions=tuple(at_venue), booked=booked)
    ours = ledger.view()
    dust = {p.symbol: await ledger.dust(p.symbol) for p in ours.open}
    ours = ours.replace(dust=dust)
    patience = timedelta(seconds=LOOKS * PAUSE_S)
    return core.reconcile(ours, look, earlier, look.observed_at, patience)


async def _take_exits(tried: Tried) -> list[str]:
    """Close what must go: all under a halt that asks for it, else what has reached a target that only we can take."""
    done = []
    for position in store().positions.open(settings().strategy):
        if said := await tried(f"exit of {position.symbol}", stage.take_exit(position), ""):
            await tried(f"booking {position.symbol}", ledger.book_fills(position.symbol), [])
            done.append(said)
    return done


async def _carry_out_followups(tried: Tried, now: datetime) -> list[str]:
    """Do what is due, unless a cycle is deciding on the symbol right now: then at the next run."""
    done = []
    async with Leases(owner(), patience_s=0) as leases:
        for position in store().positions.open(settings().strategy):
            price = account.last_close(position.symbol, floor_time(now, "5m"))
            if price is None or not position.followups:
                continue
            if (lease := await leases.take(symbol_lease(position.symbol))) is None:
                continue
            position = store().positions.get(position.position_id) or position  # a cycle may have changed it until now
            instrument = await tried("instrument", fetch.fetch_instrument(position.symbol), None)
            if instrument is not None:
                doing = stage.carry_out_followups(position, price, instrument, lease)
                if carried_out := await tried(f"follow-ups of {position.symbol}", doing, []):
                    await tried(f"booking {position.symbol}", ledger.book_fills(position.symbol), [])
                    done += carried_out
            leases.give_back(symbol_lease(position.symbol))
    return done
