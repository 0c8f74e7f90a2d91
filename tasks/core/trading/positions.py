"""Fills -> positions, as a projection: the same fills always give the same positions, however often it is run."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby

from tasks.core.trading import ledger, orders
from tasks.core.trading.guard import sizing
from tasks.core.types import BY_HAND, ZERO, Fill, JsonObject, LedgerMismatch, OrderIntent, Position, direction

ATTACHED = ("stop", "target", "liquidation", "funding")  # what the venue does to our position by itself
PLAIN = ("", "entry", "exit")  # what somebody ordered
OVERLAP = timedelta(minutes=10)  # fills are asked for again this far back: a late one is not missed
Entries = Mapping[str, tuple[str, OrderIntent]]


def flat_at(open_now: Collection[Position], past: Sequence[Position], first_intent: datetime) -> datetime:
    """Return the moment our position in a symbol was last flat; past: what is closed, newest first.

    A position that began at the very instant its predecessor ended (a liquidation, then an order under way) shares
    that instant's fills with it: both are gone through once more.
    """
    if not open_now:
        last = past[0].closed_at if past else None
        return first_intent - OVERLAP if last is None else last + timedelta(milliseconds=1)
    start = min(p.opened_at for p in open_now)
    for position in past:
        if position.closed_at != start:
            break
        start = position.opened_at
    return start


def positions_from_fills(
    fills: Sequence[Fill],
    entries: Entries,
    stored: Mapping[str, Position],
    strategy: str,
    closed: Collection[str] = (),
    dust: Decimal = ZERO,
) -> "tuple[list[Position], PositionFold]":
    """Fold one symbol's fills, starting flat.

    entries: our intents by client order id, with their cycle_id; stored: positions of before, whose moved stops and
    follow-ups are carried over; closed: ids of positions that ended before, never to be opened again; dust: less than
    that of a position is none. Returns every position in order (the last may be open), and of the fold what is not
    ours.
    """
    fold = PositionFold(entries, strategy, closed, dust)
    in_time = sorted(fills, key=lambda fill: (fill.at, fill.reason != "funding", fill.fill_id))
    for _, at_once in groupby(in_time, key=lambda fill: fill.at):
        fold.instant(list(at_once))
    last = [] if fold.position is None else [fold.position]
    return [_carry_over(position, stored, fold.entered) for position in (*fold.closed, *last)], fold


def is_manual(fill: Fill, entries: Entries) -> bool:
    """Return whether a person (or another program) traded this: no order of ours or of another strategy, no stop."""
    if fill.client_order_id:
        return fill.client_order_id not in entries and not orders.is_ours(fill.client_order_id)
    return fill.reason in PLAIN


def is_no_trade(fill: Fill) -> bool:
    """Return whether it tells of something else: a delivery, a settlement, a move between accounts."""
    return fill.reason not in (*PLAIN, *ATTACHED)


class PositionFold:
    """One symbol's position while its fills are gone through: what has closed, what is open, what is not ours."""

    def __init__(self, entries: Entries, strategy: str, ended: Collection[str] = (), dust: Decimal = ZERO) -> None:
        self.entries, self.strategy, self.ended, self.dust = entries, strategy, set(ended), dust
        self.closed: list[Position] = []
        self.foreign: list[Fill] = []
        self.manual: list[Fill] = []  # what a person closed of ours
        self.aside: list[str] = []  # ids of what fits nowhere, each with why: the others are booked without it
        self.position: Position | None = None
        self.theirs = ZERO  # what others hold beside us: on our side, or while we are flat, below 0 if short
        self.entered: dict[tuple[str, str], Decimal] = {}  # by position and order: entry_quantity before its first fill

    def instant(self, fills: list[Fill]) -> None:
        """Take the fills of one instant, order by order: their ids say nothing about which came first."""
        by_order: dict[str, list[Fill]] = {}
        for fill in fills:
            by_order.setdefault(fill.client_order_id or fill.venue_order_id or fill.fill_id, []).append(fill)
        waiting = list(by_order.values())
        while waiting:
            first = self._first(waiting)
            waiting.remove(first)
            for fill in first:
                self._take_or_set_aside(fill)

    def _take_or_set_aside(self, fill: Fill) -> None:
        """Take a fill, and see what became of a position it closed; what cannot be reckoned changes nothing."""
        before = self.position, self.theirs, [*self.closed], [*self.foreign], {**self.entered}
        try:
            self.take(fill)
            for position in self.closed[len(before[2]) :]:
                ledger.outcome(position)
        except (ArithmeticError, LedgerMismatch, ValueError) as e:
            self.position, self.theirs, self.closed, self.foreign, self.entered = before
            self.aside.append(f"{fill.fill_id} ({e})")

    def _first(self, waiting: list[list[Fill]]) -> list[Fill]:
        """Flat: an entry. Open: an exit of what is open, then entries."""
        entering = [order for order in waiting if self._enters(order[0])]
        if self.position is not None:
            open_now = self.position.quantity
            fitting = [o for o in waiting if o not in entering and sum(fill.quantity for fill in o) <= open_now]
            return (fitting or entering or waiting)[0]
        return (entering or waiting)[0]

    def _enters(self, fill: Fill) -> bool:
        ours = self.entries.get(fill.client_order_id)
        return ours is not None and not ours[1].reduce_only and fill.reason not in ("exit", *ATTACHED)

    def take(self, fill: Fill) -> None:
        if is_no_trade(fill):
            self.foreign.append(fill)
            return
        ours = self.entries.get(fill.client_order_id)
        attached = ours is None and not fill.client_order_id and fill.reason in ATTACHED
        if self.position is None:
            if ours is None or not self._enters(fill):
                self.foreign.append(fill)
                if fill.reason != "funding":
                    self.theirs += direction(fill.side) * fill.quantity
            else:
                self._open(fill, *ours)
        elif ours is not None and self._enters(fill) and _reduces(fill, self.position):
            self._turn(fill, self.position, *ours)
        elif ours is not None and self._enters(fill):
            cycle_id, intent = ours
            is_first = cycle_id == self.position.cycle_id  # a cycle sends one entry
            entry = self.position.position_id, intent.client_order_id
            is_new = entry not in self.entered
            self.entered.setdefault(entry, self.position.entry_quantity)
            after = ledger.apply_fill(self.position, fill, stop=intent.stop, is_first=is_first)
            self.position = add_protection(after, intent, is_new)
        elif fill.reason == "funding" and attached:
            self.position = ledger.apply_fill(self.position, fill)
        elif ours is not None or attached:
            self._exit(fill, self.position)
        else:
            self._of_others(fill, self.position)
        self._close()

    def _open(self, fill: Fill, cycle_id: str, intent: OrderIntent) -> None:
        """Open a position; the rest of an entry whose position has closed meanwhile opens another one."""
        name = ledger.position_id(intent.client_order_id)
        if name in self.ended:
            name = ledger.position_id(intent.client_order_id, fill.fill_id)
        self.position = ledger.open_position(intent, fill, self.strategy, cycle_id, name)
        self.theirs = max(ZERO, self.theirs * direction(self.position.side))
        self.entered[name, intent.client_order_id] = ZERO

    def _turn(self, fill: Fill, current: Position, cycle_id: str, intent: OrderIntent) -> None:
        """Take an entry of the other side: it reduces, and what is more than we held opens a position there."""
        rest = fill.quantity - current.quantity
        self.position = self._reduced(current, _part(fill, min(fill.quantity, current.quantity)))
        self._close()
        if rest > 0:
            self._open(_part(fill, rest), cycle_id, intent)

    def _close(self) -> None:
        if self.position is not None and self.position.closed_at is not None:
            self.closed.append(self.position)
            self.ended.add(self.position.position_id)
            self.theirs *= direction(self.position.side)
            self.position = None

    def _exit(self, fill: Fill, current: Position) -> None:
        """Take a reduction of ours; what exceeds our position was closed for others, who had added to it."""
        if not _reduces(fill, current):
            self.foreign.append(fill)
            return
        rest = fill.quantity - current.quantity
        if rest > 0:
            if rest >= self.dust:  # less is what earlier positions of ours have left in the wallet
                self.foreign.append(_part(fill, rest))
                self.theirs -= rest
            fill = _part(fill, current.quantity)
        self.position = self._reduced(current, fill)

    def _of_others(self, fill: Fill, current: Position) -> None:
        """Take over a manual exit; their own additions come off first, and what exceeds both is theirs again.

        On spot such a one sold coins that were never ours, and is left alone.
        """
        left = fill.quantity - self.theirs
        ours = min(left, current.quantity)
        if not is_manual(fill, self.entries) or (_reduces(fill, current) and ours < left and is_spot(fill.symbol)):
            self.foreign.append(fill)
        elif not _reduces(fill, current):
            self.theirs += fill.quantity
            self.foreign.append(fill)
        elif left <= 0:
            self.theirs = -left
            self.foreign.append(fill)
        else:
            self.theirs = ours - left
            self.position = self._reduced(current, _part(fill, ours))
            self.manual.append(_part(fill, ours))

    def _reduced(self, current: Position, fill: Fill) -> Position:
        """Return the position without what a fill took off it, and why that was."""
        _, intent = self.entries.get(fill.client_order_id, ("", None))
        if fill.reason in ATTACHED:
            why = fill.reason
        elif intent is None:
            why = "others"
        else:
            by_protect = orders.is_protects(fill.client_order_id)
            why = BY_HAND if intent.asked_by else "protect" if by_protect else "decision"
        return ledger.apply_fill(current, fill, self.dust).replace(exit_reason=why)


def is_spot(symbol: str) -> bool:
    return ":" not in symbol


def _reduces(fill: Fill, position: Position) -> bool:
    return (fill.side == "sell") == (position.side == "long")


def _part(fill: Fill, quantity: Decimal) -> Fill:
    """Return `quantity` of a fill with its share of the fee."""
    if quantity == fill.quantity:
        return fill
    return fill.replace(quantity=quantity, fee=fill.fee * quantity / fill.quantity)


def add_protection(position: Position, intent: OrderIntent, is_new: bool) -> Position:
    """Take over the stop and target that an entry brought with it, a looser stop not: it may have been moved since.

    is_new: whether it is the order's first fill into the position; a later one leaves a target that was set since. Not
    those of an order of the other side: its stop is on the wrong side of this position.
    """
    if intent.stop is None or (intent.side == "buy") != (position.side == "long"):
        return position
    target = intent.target if is_new and intent.target is not None else position.target
    return position.replace(stop=sizing.tighter(position.side, position.stop, intent.stop), target=target)


def with_protection(position: Position, intent: OrderIntent) -> Position:
    """Take over what a stop, target or cancel_target order has set at the venue: no fill ever tells of it."""
    changes: dict[str, JsonObject] = {
        "stop": {"stop": intent.price},
        "target": {"target": intent.price},
        "cancel_target": {"target": None},
    }
    return position.replace(**changes.get(intent.type, {}))


def _carry_over(
    fresh: Position, stored_positions: Mapping[str, Position], entered: Mapping[tuple[str, str], Decimal]
) -> Position:
    """Keep what fills do not tell: follow-ups, a stop that was moved, and a target set since the last order entered."""
    stored = stored_positions.get(fresh.position_id)
    if stored is None:
        return fresh
    changed = ["followups", "followups_done"]
    if all(before < stored.entry_quantity for (name, _), before in entered.items() if name == fresh.position_id):
        changed += ["stop", "target"]
    else:
        fresh = fresh.replace(stop=sizing.tighter(fresh.side, fresh.stop, stored.stop))
    return fresh.replace(**{name: getattr(stored, name) for name in changed})
