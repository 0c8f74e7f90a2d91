"""What must hold in every world, read from the exchange itself and the ledger held against it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from tasks.account import look
from tasks.adapters.store.store import Store
from tasks.core.trading.followups import AgeRule, TrailRule, parse
from tasks.core.trading.orders import cycle_id, derives_from, is_ours, is_protects, protect_order_id
from tasks.core.types import (
    FINAL_STATES,
    ZERO,
    CycleRecord,
    CycleStatus,
    Order,
    OrderStatus,
    Position,
    VenuePosition,
    floor_time,
)
from tasks.settings import settings

if TYPE_CHECKING:
    from tests.simulation.world import World

RISK_PCT, GROSS_PCT = Decimal("1.5"), Decimal(100)
SLACK = Decimal("1.02")  # prices and equity move between the decision and the look
CENT, TINY = Decimal("0.01"), Decimal("1e-9")
NEAR = Decimal("0.05")  # R
NAKED_S = 900
LATE_CLOSES = 3  # a decision is sent at most 390 s after its close, and a request may be on its way for long
STEP = timedelta(minutes=5)
JUST_NOW = timedelta(seconds=5)
LATELY = timedelta(minutes=5)  # a refusal leads to a flattening order, by clocks that differ
SPREAD = Decimal("0.001")  # between the price that a stop is beyond and what an order then gets
# why a small entry may be refused when all is well
FITTING = {"PAUSED", "STACKED", "TOTAL_RISK_EXCEEDED", "GROSS_EXCEEDED"}


def ours(world: "World") -> list[VenuePosition]:
    """Return what the venue holds that no person has alone."""
    alone = world.person.keys() - world.beside
    return [p for p in world.exchange.account.positions() if p.symbol not in alone]


def is_exposed(world: "World") -> bool:
    """Return whether a position of ours has no stop, or an entry rests that the venue took without one."""
    resting = world.exchange.account.open_orders()
    return any(p.stop is None for p in ours(world)) or any(_entered(o) and o.stop is None for o in resting)


def naked(world: "World") -> Iterator[str]:
    """Breaches after the watchdog came to its end with nothing in its way: all of ours has the stop it should have."""
    yield from (f"naked: {p.symbol} has no stop" for p in ours(world) if p.stop is None)
    for position in world.store().positions.open(settings().strategy):
        if position.symbol not in world.person:
            yield from _stop(world, position)


def at_any_time(world: "World") -> Iterator[str]:
    """Breaches that the exchange's state alone shows."""
    account = world.exchange.account
    entries = Counter(
        o.client_order_id[4:28] for o in account.orders if _entered(o) and not is_protects(o.client_order_id)
    )
    yield from (f"duplicate: cycle {cycle} has {n} entries" for cycle, n in entries.items() if n > 1)
    ids = Counter(o.client_order_id for o in account.orders if is_ours(o.client_order_id))
    yield from (f"duplicate: {name} was ordered {n} times" for name, n in ids.items() if n > 1)
    held = [p for p in ours(world) if p.symbol not in world.person]
    equity = account.balance(world.exchange.marks()).equity
    gross = sum((p.quantity * world.exchange.price(p.symbol) for p in held), ZERO)
    if gross > equity * GROSS_PCT / 100 * SLACK:
        yield f"limit: gross {gross:.0f} of equity {equity:.0f}"
    stopped = [(p, 1 if p.side == "long" else -1) for p in held if p.stop is not None]
    risk = sum((max((p.avg_price - p.stop) * sign * p.quantity, ZERO) for p, sign in stopped), ZERO)
    if risk > equity * RISK_PCT / 100 * SLACK:
        yield f"limit: risk {risk / equity * 100:.2f} % of equity {equity:.0f}"
    if world.told.naked_s > NAKED_S:
        yield f"naked: a position had no stop for {world.told.naked_s:.0f} s"
    yield from _money(world)
    yield from _theirs(world)
    yield from _new_orders(world)


def _money(world: "World") -> Iterator[str]:
    """Cash is what it was, and what every fill and payment made of it: to the last digit."""
    account, wallet = world.exchange.account, world.exchange.account.wallet
    cash = world.exchange.config.cash
    for fill in account.fills:
        cash -= fill.fee
        if fill.reason != "funding":
            cash += fill.quantity * fill.price * (1 if fill.side == "sell" else -1)
    cash += sum((h.sign * h.cost for h in wallet.holdings.values()), ZERO)
    if cash != wallet.cash:
        yield f"money: cash is {wallet.cash}, the fills say {cash}"


def _theirs(world: "World") -> Iterator[str]:
    """What a person holds alone is as they left it."""
    for symbol, had in world.person.items():
        if symbol in world.beside | world.doubtful:
            continue
        held = world.exchange.account.position(symbol)
        now = ZERO if held is None else held.quantity * (1 if held.side == "long" else -1)
        if now != had:
            yield f"foreign: a person had {had} {symbol}, now it is {now}"
        elif held is not None and held.stop is not None:
            yield f"foreign: a stop {held.stop} is set for a person's {symbol}"


def _new_orders(world: "World") -> Iterator[str]:
    """Nothing is entered that must not be at this visit, or too late, and nothing closed without a cause."""
    orders = world.exchange.account.orders[world.orders_seen :]
    world.orders_seen = len(world.exchange.account.orders)
    for order in filter(_entered, orders):
        is_of_now = order.created_at > world.visit_began  # and not of the quiet before
        if is_of_now and "halted" in world.happens:
            yield f"halted: {order.client_order_id} entered {order.symbol} under a halt"
        if is_of_now and order.symbol not in settings().symbols:
            yield f"limit: {order.client_order_id} entered {order.symbol}, which is not traded"
        close = floor_time(order.created_at, "5m")
        closes = (close - n * STEP for n in range(LATE_CLOSES))
        named = (cycle_id(settings().strategy, order.symbol, at) for at in closes)
        if not any(derives_from(order.client_order_id, name) for name in named):
            yield f"late: {order.client_order_id} entered {order.symbol} at {order.created_at}"
    yield from _flattened(world, [order for order in orders if is_protects(order.client_order_id)])


def _flattened(world: "World", new: list[Order]) -> Iterator[str]:
    """The watchdog closes a position only where its stop was refused, or the price is beyond it."""
    if not new:
        return
    store, strategy = world.store(), settings().strategy
    positions = [*store.positions.open(strategy), *store.positions.closed(strategy, limit=None)]
    flattening = {protect_order_id(p.position_id, "flatten", n): p for p in positions for n in range(9)}
    for order in new:
        position = flattening.get(order.client_order_id)
        own = store.intents.get(order.client_order_id)
        if position is None or own is None or order.avg_price is None:
            continue
        if any(abs(at - own.persisted_at) < LATELY for at in world.venue.refused[order.symbol]):
            continue
        sign = 1 if position.side == "long" else -1
        if position.stop is not None and (order.avg_price / position.stop - 1) * sign > SPREAD:
            yield f"flattened: {order.client_order_id} closed {order.filled} {order.symbol} without a cause"


def of_records(world: "World", records: Iterable[CycleRecord]) -> Iterator[str]:
    """Breaches that a cycle's record shows: another end, the day's loss as seen, what it did when asked to trade."""
    for record in records:
        end = " ".join((record.status.value, *(record.verdict.codes if record.verdict else ())))
        if record.status is not CycleStatus.STARTED and (before := world.ended.setdefault(record.cycle_id, end)) != end:
            yield f"duplicate: the cycle of {record.symbol} at {record.as_of} ended twice, {before} and {end}"
        if record.verdict is None or record.state is None:
            continue
        if world.venue.is_sound and not (world.happens or world.kill_rate or world.person):
            yield from _day(world, record)
        asked = world.asked_to and record.status is not CycleStatus.EXECUTED
        if asked and record.verdict.decision.action != "HOLD" and not FITTING & {*record.verdict.codes}:
            yield f"progress: {record.symbol} {record.status} {record.verdict.codes} {record.error}"


def _day(world: "World", record: CycleRecord) -> Iterator[str]:
    """The guard knows the trades that were closed today: those whose last fill is of this UTC day."""
    day = record.as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    compared = next((check.compared for check in record.verdict.checks if check.code == "DAILY_LOSS"), None)
    if compared is None or record.inputs is None or (judged_at := record.inputs.judged_at) is None:
        return
    known, closed = compared["closed_today"], _closed(world, day, judged_at)
    if closed is not None and abs(Decimal(str(known)) - closed) > CENT:
        yield f"day: the guard knows of {known} today, fills of ours closed {closed:.4f}"


def _closed(world: "World", day: datetime, until: datetime) -> Decimal | None:
    """Return what positions earned that were closed meanwhile, after fees and funding, from the venue's fills.

    None where a person had a hand in one, or the last fill is so young that it may not have been asked for.
    """
    earned = ZERO
    if any(until - JUST_NOW < fill.at <= until for fill in world.exchange.account.fills):
        return None
    for symbol in world.exchange.markets:
        held, since_flat, by_hand = ZERO, ZERO, False
        for fill in world.exchange.account.fills:
            if fill.symbol != symbol or fill.at > until:
                continue
            by_hand |= fill.client_order_id.startswith("by-hand")
            sign = 1 if fill.side == "buy" else -1
            if fill.reason == "funding":
                since_flat -= fill.fee
                continue
            held += sign * fill.quantity
            since_flat -= sign * fill.quantity * fill.price + fill.fee
            if not held:
                if by_hand and day <= fill.at:
                    return None
                earned += since_flat if day <= fill.at else ZERO
                since_flat, by_hand = ZERO, False
    return earned


def in_quiet(world: "World", store: Store) -> Iterator[str]:
    """Breaches once nothing is late and the watchdog has looked with nothing in the way."""
    account, strategy = world.exchange.account, settings().strategy
    venue = {p.symbol: (p.side, p.quantity) for p in account.positions()}
    ledger = {p.symbol: (p.side, p.quantity) for p in store.positions.open(strategy)}
    if venue != ledger:
        yield f"mismatch: venue {_told(venue)}, ledger {_told(ledger)}"
    yield from naked(world)
    known = {s: {fill.fill_id for fill in store.fills.since(world.start, s)} for s in world.exchange.markets}
    lost = [f for f in account.fills if world.venue.name_of(f) not in known[f.symbol] and is_ours(f.client_order_id)]
    if lost:
        yield f"lost: {len(lost)} fills of ours are not in the ledger, the first of {lost[0].client_order_id}"
    yield from _intents(world, store, {*ledger})
    for position in store.positions.open(strategy):
        yield from _followups(world, position)
    yield from _books(world, store)
    for record in store.cycles.unfinished(strategy):
        yield f"unfinished: the cycle of {record.symbol} at {record.as_of} never ended"
    for halt in store.halts.active():
        yield f"halt: {halt.who}: {halt.reason}"


def _intents(world: "World", store: Store, held: set[str]) -> Iterator[str]:
    """Every order of ours at the venue has its intent, and every intent ended as its order did."""
    account, strategy = world.exchange.account, settings().strategy
    own = {
        o.intent.client_order_id: o for symbol in world.exchange.markets for o in store.intents.own(strategy, symbol)
    }
    for order in account.orders:
        if is_ours(order.client_order_id) and order.client_order_id not in own and order.filled:
            yield f"lost: {order.client_order_id} at the venue has no intent"
    at_venue = {order.client_order_id: order for order in account.orders}
    for name, intent in own.items():
        order = at_venue.get(name)
        if intent.state == "rejected" and order is not None and order.filled:
            yield f"lost: {name} filled {order.filled} and is rejected in the ledger"
        waits = order is None and is_protects(name) and intent.intent.symbol in held  # as long as its position is open
        if intent.state not in FINAL_STATES and not waits and (order is None or order.status is not OrderStatus.OPEN):
            where = order.status if order else "nowhere"
            yield f"lost: {name} is {where} at the venue and {intent.state} in the ledger"


def _stop(world: "World", position: Position) -> Iterator[str]:
    """The venue's stop is for all of ours and no looser than the ledger's, which was only ever tightened."""
    held, sign = world.exchange.account.position(position.symbol), 1 if position.side == "long" else -1
    at_first = position.initial_stop
    if held is None or held.stop is None or position.stop is None or at_first is None:
        return  # told elsewhere
    if (held.stop - position.stop) * sign < 0 or (position.stop - at_first) * sign < 0:
        yield f"stop: {held.stop} at the venue, {position.stop} in the ledger, at first {at_first}"
    if held.stop_quantity not in (None, position.quantity):
        yield f"stop: for {held.stop_quantity} of {position.quantity} {position.symbol}"


def _books(world: "World", store: Store) -> Iterator[str]:
    """Where no person traded, the ledger's positions earned and paid what the venue says of the symbol."""
    strategy = settings().strategy
    by_hand = {f.symbol for f in world.exchange.account.fills if f.client_order_id.startswith("by-hand")}
    positions = [*store.positions.open(strategy), *store.positions.closed(strategy, limit=None)]
    for symbol in world.exchange.markets.keys() - by_hand:
        venue, own = world.exchange.account.totals(symbol), [p for p in positions if p.symbol == symbol]
        earned, paid = sum((p.realized_pnl for p in own), ZERO), sum((p.fees for p in own), ZERO)
        if max(abs(earned - venue.realized), abs(paid - venue.fees + venue.funding)) > TINY:
            yield f"books: {symbol} earned {earned} and paid {paid}, the venue says {venue}"


def _followups(world: "World", position: Position) -> Iterator[str]:
    """What a decision wanted done at an R or age that has been reached, and still is, is done."""
    if position.initial_stop is None or position.first_price is None:
        return
    if (seen := look(position, floor_time(world.clock.venue_time, "5m"))) is None:
        return
    sign, symbol = 1 if position.side == "long" else -1, position.symbol
    close = floor_time(world.clock.venue_time, "5m").timestamp() * 1000
    prices = world.exchange.price(symbol), Decimal(str(world.exchange.markets[symbol].price_at(close)))
    scale = abs(position.first_price - position.initial_stop)
    least, most = (pick((price - position.first_price) * sign / scale for price in prices) for pick in (min, max))
    best = (seen.best - position.first_price) * sign / scale
    for rule in parse(position.followups):
        if str(rule) in position.followups_done:
            continue
        if isinstance(rule, AgeRule):
            is_due = seen.at - position.opened_at >= rule.bars * STEP and most < rule.at_r - NEAR
        elif isinstance(rule, TrailRule):
            aim = seen.best - sign * rule.atr * (seen.atr or Decimal("Infinity"))
            beyond = min((price - aim) * sign for price in (*prices, seen.price)) > scale * NEAR
            is_due = best > rule.at_r + NEAR and beyond and (aim - (position.stop or ZERO)) * sign > scale * NEAR
        else:
            is_due = least > rule.at_r + NEAR
        if is_due:
            yield f"follow-up: {str(rule)!r} of {symbol} is not done at {least:.2f} R, stop {position.stop}"


def _entered(order: Order) -> bool:
    return is_ours(order.client_order_id) and not order.reduce_only and order.type in ("market", "limit")


def _told(positions: dict[str, tuple[str, Decimal]]) -> str:
    return " ".join(f"{s} {side} {quantity}" for s, (side, quantity) in sorted(positions.items())) or "flat"
