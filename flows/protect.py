"""Venue truth against our ledger: watch stops, book fills, carry out follow-ups, keep the equity curve."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect import flow

from flows.clock import owner, run_name, to_the_end, too_old
from tasks import account, alerts, approval, clock, desk, fetch, ledger, strategies, unfinished
from tasks import protect as stage
from tasks.connections import log, store
from tasks.core.trading.followups import pending
from tasks.core.trading.reconcile import unbooked
from tasks.core.types import (
    Action,
    Alert,
    AlertKind,
    Finding,
    Flatten,
    LookAgain,
    Position,
    SetStop,
    TradingError,
    VenuePosition,
    floor_time,
)
from tasks.crash_points import reached
from tasks.halts import active_halts, halt, lift
from tasks.leases import Leases, symbol_lease
from tasks.settings import settings
from tasks.stage import Tried

LOOKS = 2  # how often a difference is looked at again before it counts
PAUSE_S = 0.5  # the venue's fills and positions may be a moment apart
NEVER = timedelta.max
COMPARISON = "comparison"  # who halts where venue and ledger differ


@flow(name="protect", flow_run_name=run_name)
async def protect(max_age_s: int = 240) -> Any:
    """Reconcile every symbol once."""
    return too_old(max_age_s) or await to_the_end(reconcile(), beat="protect")


async def reconcile() -> dict[str, Any]:
    """Do it for every strategy, one after the other, and renew the desk; says what was done in all.

    Raises TradingError at the end, naming all that failed.
    """
    done, failed, every = list[dict[str, Any]](), list[str](), strategies.at_work()
    for each in every:
        with settings.of(each):
            try:
                done.append(await _reconciled(is_last=each is every[-1]))
            except TradingError as e:
                failed.append(str(e))
    if failed:
        raise TradingError("; ".join(failed))
    return {name: sum((each[name] for each in done), start=type(first)()) for name, first in done[0].items()}


async def _reconciled(is_last: bool) -> dict[str, Any]:
    """Bring the venue's protection up to the ledger and the ledger up to the venue; says what was done.

    Stops come first, once the fills of what lacks one are booked or cannot be. What fails keeps nothing else from being
    tried. Raises TradingError at the end, naming all that failed.
    """
    tried, wrong, changed, done = Tried("protect"), list[Finding](), list[Position](), list[str]()
    now, ended, at_venue, up_to_date = None, 0, list[VenuePosition](), set[str]()
    reached("protect_begun")
    with tried("positions"):
        at_venue = await _at_venue()
        for position in (p for p in at_venue if p.stop is None):
            with tried(f"booking {position.symbol} first"):  # ours may be closed, and this a person's by now
                changed += await stage.booked(position.symbol)
                up_to_date.add(position.symbol)
        wrong += await _watch_stops(tried, await stage.stops_wanted(at_venue), up_to_date)
    reached("stops_watched")
    with tried("clock"):
        now = await fetch.venue_now()
        with tried("working orders"):
            ended = await unfinished.settle_working_orders(now)
    reached("working_settled")
    for symbol in ledger.symbols_of_ours(now, (position.symbol for position in at_venue)):
        with tried(f"orders of {symbol}"):
            wrong += await ledger.adopt_working(symbol)
        up_to_date.discard(symbol)
        with tried(f"booking {symbol}"):
            changed += await ledger.book_fills(symbol)
            up_to_date.add(symbol)
    with tried("comparison"):
        wanted = await _compare(tried, wrong, now or clock.now(), up_to_date)
        reached("compared")
        wrong += await _watch_stops(tried, wanted, up_to_date)
    done += await _take_exits(tried, up_to_date)
    if now is not None:
        done += await _carry_out_followups(tried, now, up_to_date)
        with tried("cycles"):
            unfinished.end_abandoned_cycles(now)
        reached("cycles_ended")
        with tried("proposals"):
            await approval.look_after(now)
        with tried("equity"):
            await account.keep_equity(now)
    with tried("alerts"):
        alerts.tell_protection(wrong)
        if now is not None:
            desk.tell_news(now)
    if now is not None and is_last:
        with settings.of(settings.account):
            await desk.show(now)
    lines = [finding.text for finding in wrong]
    result = {"orders_ended": ended, "positions_changed": len(changed), "wrong": lines, "followups": done}
    reached("protect_ended")
    log().info("protect %s", result)
    if tried.failed:
        raise TradingError(f"protect could not do everything: {tried}")
    return result


async def _at_venue() -> list[VenuePosition]:
    return strategies.mine(await stage.venue_positions())


async def _watch_stops(tried: Tried, wanted: Sequence[Action], up_to_date: set[str]) -> list[Finding]:
    """up_to_date: symbols whose fills are booked; where one is closed, those of its exit are, too."""
    restored = []
    for action in wanted:
        if isinstance(action, SetStop | Flatten):
            with tried(f"stop of {action.symbol}"):
                if finding := await stage.restore_stop(action, action.symbol not in up_to_date):
                    log().error("protect %s", finding.text)
                    restored.append(finding)
                    up_to_date.discard(action.symbol)  # it may be closed by now
                    await ledger.book_fills(action.symbol)
                    up_to_date.add(action.symbol)
    return restored


async def _compare(tried: Tried, wrong: list[Finding], now: datetime, up_to_date: set[str]) -> Sequence[Action]:
    """Compare the ledger with the venue; tell, and halt on, a difference that stays. Returns all that is to be done.

    The two are read at different instants while orders fill: what differs is booked and looked at again, in this run
    and, for `patience_s`, in those after it. Where they agree, a halt for a difference lifts itself.
    """
    kept, strategy = store().differences, settings().strategy
    seen = {look.about: look for look in kept.all_of(strategy)}
    actions, booked = tuple[Action, ...](seen.values()), frozenset[str]()
    for look_again in range(LOOKS, -1, -1):
        patience = NEVER if look_again else timedelta(seconds=settings().patience_s)
        actions = await _look(actions, booked, now, patience)
        seen |= {action.about: action for action in actions if isinstance(action, LookAgain)}
        again = {action.symbol for action in actions if isinstance(action, LookAgain)}
        if not (again and look_again):
            break
        wrong += await _watch_stops(tried, actions, up_to_date)
        await asyncio.sleep(PAUSE_S)
        booked = frozenset[str]()
        for symbol in sorted(again & {*ledger.symbols_of_ours()}):  # one order on every run
            with tried(f"booking {symbol} again"):
                await ledger.book_fills(symbol)
                booked |= {symbol}
    for action in actions:
        if isinstance(action, Finding):
            log().error("protect %s", action.text)
            if action.halts and await ledger.book_moved(action.symbol, await _at_venue()):
                continue
            wrong.append(action)
            if action.halts:
                halt(f"ledger mismatch: {action.text}", _comparison())
    odd = [action for action in actions if isinstance(action, LookAgain | Finding)]
    differs = {action.about if isinstance(action, LookAgain) else action.text for action in odd}
    kept.keep(strategy, [look for look in seen.values() if look.about in differs])
    if not any(isinstance(action, LookAgain) or action.kind is AlertKind.MISMATCH for action in odd):
        _lift_halts()
    return actions


async def _look(
    earlier: Sequence[Action], booked: frozenset[str], now: datetime, patience: timedelta
) -> tuple[Action, ...]:
    at_venue = tuple(await _at_venue())
    ours = await stage.sent_view({position.symbol for position in at_venue})
    dust = {p.symbol: await ledger.dust(p.symbol) for p in ours.open}
    ours = ours.replace(dust=dust, beside={p.symbol: ledger.beside(p) for p in ours.open})
    return ledger.actions(ours, now, earlier, patience, positions=at_venue, booked=booked)


def _comparison() -> str:
    """Return who halts where the strategy's books differ from the venue: no other's that agree lift it."""
    name = settings().strategy
    return COMPARISON if name == settings.account.strategy else f"{COMPARISON} {name}"


def _lift_halts() -> None:
    """Lift a halt for a difference that is gone or explained, and say so."""
    if halts := lift(_comparison()):
        text = f"halt lifted, the books agree again: {'; '.join(halt.reason for halt in halts)}"
        log().error("protect %s", text)
        alerts.tell([Alert(kind=AlertKind.HALT, key=f"lifted {halts[0].halt_id}", text=text)])


async def _take_exits(tried: Tried, up_to_date: set[str]) -> list[str]:
    """Close what must go: all under a halt that asks for it, else what has reached a target that only we can take.

    up_to_date: symbols whose fills are booked; elsewhere ours may be closed, and this a person's.
    """
    done, wanted = [], store().positions.open(settings().strategy)
    with tried("positions to close"):
        if any(halt.flatten for halt in active_halts()):
            at_venue = await _at_venue()
            wanted += unbooked(ledger.view(*(p.symbol for p in at_venue)), at_venue)
    for position in (p for p in wanted if p.symbol in up_to_date):
        with tried(f"exit of {position.symbol}"):
            if exit_ := await stage.take_exit(position):
                done.append(exit_)
                await ledger.book_fills(position.symbol)
    return done


async def _carry_out_followups(tried: Tried, now: datetime, up_to_date: set[str]) -> list[str]:
    """Do what is due, unless a cycle is deciding on the symbol right now: then at the next run, as for exits."""
    done = []
    async with Leases(owner(), patience_s=0) as leases:
        for position in (p for p in store().positions.open(settings().strategy) if p.symbol in up_to_date):
            if not pending(position) or (seen := account.look(position, floor_time(now, "5m"))) is None:
                continue
            if (lease := await leases.take(symbol_lease(position.symbol))) is None:
                continue
            position = store().positions.get(position.position_id) or position  # a cycle may have changed it until now
            with tried(f"follow-ups of {position.symbol}"):
                if carried_out := await stage.carry_out_followups(position, seen, lease):
                    done += carried_out
                    await ledger.book_fills(position.symbol)
            leases.give_back(symbol_lease(position.symbol))
    return done
