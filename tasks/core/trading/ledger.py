"""One fill applied to one position, its outcome, and the digest of many; exact to the last digit; money in quote.

Every function is a projection: the same fills in the same order give the same position. Fees are kept apart from
`realized_pnl`, so equity = initial + the sum over positions of realized - fees + unrealized. A fee taken in the base
(spot) lowers what was bought by that much and is valued at the fill's price. What it leaves below the smallest order
counts as sold with the last exit, at its price: it is still in the wallet, and worth that. A fee in a third currency
comes here valued in quote by the venue's adapter; one that it could not value counts as none (`is_valued`).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from statistics import fmean
from uuid import uuid5

from tasks.core.trading.orders import NAMESPACE
from tasks.core.types import (
    HUNDRED,
    ZERO,
    ClosedTrade,
    Fill,
    LedgerMismatch,
    OrderIntent,
    Outcome,
    Position,
    TradeDigest,
    day_start,
    direction,
    exact_sum,
    stop_distance,
)

SCORED, HALF_LIFE = 20, 10
SAME = Decimal("1e-20")  # relative: the last digits of a division are no news


def position_id(client_order_id: str, fill_id: str = "") -> str:
    """Return the id of the position an entry order opens; of its second one, by the fill that opens it."""
    return str(uuid5(NAMESPACE, f"{client_order_id}|{fill_id}" if fill_id else client_order_id))


def open_position(intent: OrderIntent, fill: Fill, strategy: str, cycle_id: str, name: str) -> Position:
    """Open a position by a fill of its entry order.

    name: its id. Raises LedgerMismatch when the fill is not of this order.
    """
    if fill.client_order_id != intent.client_order_id or fill.side != intent.side:
        raise LedgerMismatch(f"fill {fill.fill_id} ({fill.side}) is not of {intent.client_order_id}; reconcile")
    flat = Position.of(
        intent,
        position_id=name,
        strategy=strategy,
        cycle_id=cycle_id,
        side="long" if intent.side == "buy" else "short",
        quantity=ZERO,
        entry_quantity=ZERO,
        avg_price=fill.price,
        initial_stop=intent.stop,
        opened_at=fill.at,
        first_price=fill.price,
        risk=ZERO,
    )
    return apply_fill(flat, fill, stop=intent.stop, is_first=True)


def apply_fill(
    position: Position, fill: Fill, dust: Decimal = ZERO, stop: Decimal | None = None, is_first: bool = False
) -> Position:
    """Return the position after one more fill: an add averages the price, a reduction realizes PnL.

    dust: what is less than that cannot be sold, and a reduction that leaves no more closes the position. stop: of the
    entry order that this is a fill of; is_first: whether that order opened the position.
    Raises LedgerMismatch for another symbol, a closed position, or more than is open.
    """
    if fill.symbol != position.symbol:
        raise LedgerMismatch(f"fill {fill.fill_id} is on {fill.symbol}, the position on {position.symbol}; reconcile")
    if position.closed_at is not None:
        raise LedgerMismatch(f"fill {fill.fill_id} came after {position.position_id} was closed; reconcile")
    if fill.reason == "funding":
        return position.replace(fees=position.fees + fee_of(fill)[0])
    fee, bought = fee_of(fill)
    position = position.replace(fees=position.fees + fee)
    adds = (fill.side == "buy") == (position.side == "long")
    if not adds:
        return _reduce(position, fill, dust)
    position = _add(position, fill.price, bought, stop)
    if not is_first:
        return position
    first = position.first_price or fill.price
    return position.replace(
        first_price=_mean(first, position.first_quantity, fill.price, bought),
        first_quantity=position.first_quantity + bought,
    )


def fee_of(fill: Fill) -> tuple[Decimal, Decimal]:
    """Return the fee in quote and the quantity that is left of the fill once it is paid."""
    base, quote = money_of(fill.symbol)
    if fill.fee_currency == quote:
        return fill.fee, fill.quantity
    if fill.fee_currency != base:
        return ZERO, fill.quantity
    return fill.fee * fill.price, fill.quantity - fill.fee if fill.side == "buy" else fill.quantity


def is_valued(fill: Fill) -> bool:
    """Return whether the fee is in a currency that profit can be reckoned with."""
    return not fill.fee or fill.fee_currency in money_of(fill.symbol)


def money_of(symbol: str) -> tuple[str, str]:
    """Return base and quote."""
    base, _, quote = symbol.partition(":")[0].partition("/")
    return base, quote


def _add(position: Position, price: Decimal, quantity: Decimal, stop: Decimal | None) -> Position:
    distance = stop_distance(position.side, price, stop)
    return position.replace(
        quantity=position.quantity + quantity,
        entry_quantity=position.entry_quantity + quantity,
        avg_price=_mean(position.avg_price, position.quantity, price, quantity),
        risk=None if position.risk is None or distance is None else position.risk + abs(distance) * quantity,
    )


def _mean(price: Decimal, quantity: Decimal, other: Decimal, more: Decimal) -> Decimal:
    """Return the average price of `quantity` and `more`; one and the same stays as it is, to the last digit."""
    return price if price == other else (price * quantity + other * more) / (quantity + more)


def _reduce(position: Position, fill: Fill, dust: Decimal) -> Position:
    left = position.quantity - fill.quantity
    if left < 0:
        raise LedgerMismatch(
            f"fill {fill.fill_id} takes {fill.quantity} out of {position.quantity} {position.symbol}; reconcile"
        )
    left = ZERO if left < dust else left
    taken = position.quantity - left
    gain = direction(position.side) * (fill.price - position.avg_price) * taken
    out = position.entry_quantity - position.quantity
    return position.replace(
        quantity=left,
        realized_pnl=position.realized_pnl + gain,
        exit_price=_mean(position.exit_price or fill.price, out, fill.price, taken),
        closed_at=fill.at if left == 0 else None,
    )


def _entry_price(position: Position, exit_price: Decimal) -> Decimal:
    """Return the average over everything bought into a closed position, also where it was added to after a trim."""
    per_unit = position.realized_pnl / position.entry_quantity
    mean = exit_price - direction(position.side) * per_unit
    return position.avg_price if abs(mean - position.avg_price) <= SAME * position.avg_price else mean


def outcome(position: Position) -> Outcome:
    """Return what became of a closed position, after fees and funding.

    Raises ValueError for one that is still open.
    """
    if position.closed_at is None or position.exit_price is None:
        raise ValueError(f"{position.position_id} still holds {position.quantity} {position.symbol}; close it first")
    entry, pnl = _entry_price(position, position.exit_price), position.realized_pnl - position.fees
    return Outcome.of(
        position,
        entry_price=entry,
        pnl=pnl,
        pnl_pct=pnl * HUNDRED / (entry * position.entry_quantity),
        outcome_r=pnl / position.risk if position.risk else None,
        hold_seconds=int((position.closed_at - position.opened_at).total_seconds()),
    )


def realized_today(closed: Iterable[ClosedTrade], at: datetime) -> Decimal:
    """Return the PnL, in quote, of trades closed in the UTC day of `at`: [00:00, 24:00), for everybody."""
    today = day_start(at)
    return exact_sum(trade.pnl for trade in closed if trade.closed_at >= today)


def realized_today_pct(closed: Iterable[ClosedTrade], day_start: Decimal | None, at: datetime) -> float | None:
    """Return it in percent of the equity at 00:00 UTC; None where that is unknown."""
    return float(realized_today(closed, at) / day_start * 100) if day_start and day_start > 0 else None


def digest(outcomes: Iterable[Outcome]) -> TradeDigest:
    """Sum up outcomes, in whatever order; drawdown of their PnL in quote."""
    running = RunningDigest()
    for each in sorted(outcomes, key=lambda o: o.closed_at):
        running.add(each)
    return running.digest


class RunningDigest:
    """The digest of what has been added, oldest first."""

    def __init__(self) -> None:
        self.digest = TradeDigest()
        self.entries: list[float] = []
        self.rs: list[Decimal] = []
        self.pnl = self.peak = self.fall = ZERO
        self.won = self.held_s = 0

    def add(self, one: Outcome) -> None:
        self.entries.append(float(one.entry_price))
        self.rs += [] if one.outcome_r is None else [one.outcome_r]
        self.pnl += one.pnl
        self.peak = max(self.peak, self.pnl)
        self.fall = max(self.fall, self.peak - self.pnl)
        self.won += one.pnl > 0
        self.held_s += one.hold_seconds
        count = len(self.entries)
        self.digest = TradeDigest(
            trade_count=count,
            realized_pnl=float(self.pnl),
            win_rate=self.won / count,
            avg_holding_ms=self.held_s * 1000 / count,
            last_trade_ts=one.closed_at,
            avg_entry_price=fmean(self.entries),
            max_drawdown=float(self.fall),
            recent_performance_score=performance_score(self.rs),
        )


def performance_score(rs: Sequence[Decimal]) -> float | None:
    """Return the mean of the last 20, oldest first, each weighing half of one 10 trades later; None without any.

    rs: each trade's `outcome_r`.
    """
    recent = [float(r) for r in reversed(rs[-SCORED:])]
    weights = [0.5 ** (age / HALF_LIFE) for age in range(len(recent))]
    return sum(w * r for w, r in zip(weights, recent, strict=True)) / sum(weights) if recent else None
