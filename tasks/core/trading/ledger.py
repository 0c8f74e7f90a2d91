"""One fill applied to one position, its outcome, and the digest of many; exact to the last digit; money in quote.

Every function is a projection: the same fills in the same order give the same position. Fees are kept apart from
`realized_pnl`, so equity = initial + the sum over positions of realized - fees + unrealized. A fee taken in the base
(spot) lowers what was bought by that much and is valued at the fill's price. What it leaves below the smallest order
counts as sold with the last exit, at its price: it is still in the wallet, and worth that. Left out on purpose: fees
in a third currency, which cannot be valued from fills alone.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from statistics import fmean
from uuid import uuid5

from tasks.core.errors import LedgerMismatch
from tasks.core.trading.guard.sizing import HUNDRED, direction
from tasks.core.trading.orders import NAMESPACE
from tasks.core.types.bars import day_start
from tasks.core.types.base import ZERO, exact_sum
from tasks.core.types.orders import Fill, OrderIntent
from tasks.core.types.portfolio import ClosedTrade, Position
from tasks.core.types.record import Outcome
from tasks.core.types.snapshot import TradeDigest

SCORED, HALF_LIFE = 20, 10
SAME = Decimal("1e-20")  # relative: the last digits of a division are no news


def position_id(client_order_id: str, fill_id: str = "") -> str:
    """Return the id of the position an entry order opens; of its second one, by the fill that opens it."""
    return str(uuid5(NAMESPACE, f"{client_order_id}|{fill_id}" if fill_id else client_order_id))


def open_position(intent: OrderIntent, fill: Fill, strategy: str, cycle_id: str, name: str) -> Position:
    """Open a position by a fill of its entry order; R is measured against the intent's stop.

    name: its id. Raises LedgerMismatch when the fill is not of this order.
    """
    if fill.client_order_id != intent.client_order_id or fill.side != intent.side:
        raise LedgerMismatch(f"fill {fill.fill_id} ({fill.side}) is not of {intent.client_order_id}; reconcile")
    flat = Position(
        position_id=name,
        strategy=strategy,
        cycle_id=cycle_id,
        symbol=intent.symbol,
        side="long" if intent.side == "buy" else "short",
        quantity=ZERO,
        entry_quantity=ZERO,
        avg_price=fill.price,
        initial_stop=intent.stop,
        stop=intent.stop,
        target=intent.target,
        opened_at=fill.at,
    )
    return apply_fill(flat, fill)


def apply_fill(position: Position, fill: Fill, dust: Decimal = ZERO) -> Position:
    """Return the position after one more fill: an add averages the price, a reduction realizes PnL.

    dust: what is less than that cannot be sold, and a reduction that leaves no more closes the position.
    Raises LedgerMismatch for another symbol, a closed position, or more than is open.
    """
    if fill.symbol != position.symbol:
        raise LedgerMismatch(f"fill {fill.fill_id} is on {fill.symbol}, the position on {position.symbol}; reconcile")
    if position.closed_at is not None:
        raise LedgerMismatch(f"fill {fill.fill_id} came after {position.position_id} was closed; reconcile")
    if fill.reason == "funding":
        return position.replace(fees=position.fees + fill.fee)
    fee, bought = fee_of(fill)
    position = position.replace(fees=position.fees + fee)
    adds = (fill.side == "buy") == (position.side == "long")
    return _add(position, fill, bought) if adds else _reduce(position, fill, dust)


def fee_of(fill: Fill) -> tuple[Decimal, Decimal]:
    """Return the fee in quote and the quantity that is left of the fill once it is paid."""
    base, _, quote = fill.symbol.partition(":")[0].partition("/")
    if fill.fee == 0 or fill.fee_currency == quote:
        return fill.fee, fill.quantity
    if fill.fee_currency != base:
        raise LedgerMismatch(
            f"fill {fill.fill_id} has its fee in {fill.fee_currency}, which cannot be valued; pay fees in {quote}"
        )
    return fill.fee * fill.price, fill.quantity - fill.fee if fill.side == "buy" else fill.quantity


def _add(position: Position, fill: Fill, quantity: Decimal) -> Position:
    total = position.quantity + quantity
    cost = position.avg_price * position.quantity + fill.price * quantity
    same_price = fill.price == position.avg_price
    return position.replace(
        quantity=total,
        entry_quantity=position.entry_quantity + quantity,
        avg_price=position.avg_price if same_price else cost / total,
    )


def _reduce(position: Position, fill: Fill, dust: Decimal) -> Position:
    left = position.quantity - fill.quantity
    if left < 0:
        raise LedgerMismatch(
            f"fill {fill.fill_id} takes {fill.quantity} out of {position.quantity} {position.symbol}; reconcile"
        )
    left = ZERO if left < dust else left
    taken = position.quantity - left
    gain = direction(position.side) * (fill.price - position.avg_price) * taken
    return position.replace(
        quantity=left,
        realized_pnl=position.realized_pnl + gain,
        exit_price=_exit_price(position, fill.price, taken),
        closed_at=fill.at if left == 0 else None,
    )


def _exit_price(position: Position, price: Decimal, taken: Decimal) -> Decimal:
    if position.exit_price is None or position.exit_price == price:
        return price
    out = position.entry_quantity - position.quantity
    return (position.exit_price * out + price * taken) / (out + taken)


def _entry_price(position: Position, exit_price: Decimal) -> Decimal:
    """Return the average over everything bought into a closed position, also where it was added to after a trim."""
    per_unit = position.realized_pnl / position.entry_quantity
    mean = exit_price - direction(position.side) * per_unit
    return position.avg_price if abs(mean - position.avg_price) <= SAME * position.avg_price else mean


def outcome(position: Position) -> Outcome:
    """Return what became of a closed position; PnL after fees, R = (exit - entry) / (entry - initial stop) before.

    Raises ValueError for one that is still open.
    """
    if position.closed_at is None or position.exit_price is None:
        raise ValueError(f"{position.position_id} still holds {position.quantity} {position.symbol}; close it first")
    entry, pnl = _entry_price(position, position.exit_price), position.realized_pnl - position.fees
    risk = entry - position.initial_stop if position.initial_stop is not None else ZERO
    risked = direction(position.side) * risk > 0
    return Outcome(
        cycle_id=position.cycle_id,
        position_id=position.position_id,
        symbol=position.symbol,
        entry_price=entry,
        exit_price=position.exit_price,
        pnl=pnl,
        pnl_pct=pnl * HUNDRED / (entry * position.entry_quantity),
        r_multiple=(position.exit_price - entry) / risk if risked else None,
        fees=position.fees,
        hold_seconds=int((position.closed_at - position.opened_at).total_seconds()),
        closed_at=position.closed_at,
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
        self.rs += [] if one.r_multiple is None else [one.r_multiple]
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


def performance_score(r_multiples: Sequence[Decimal]) -> float | None:
    """Return the mean R of the last 20, oldest first, each weighing half of one 10 trades later; None without any."""
    recent = [float(r) for r in reversed(r_multiples[-SCORED:])]
    weights = [0.5 ** (age / HALF_LIFE) for age in range(len(recent))]
    return sum(w * r for w, r in zip(weights, recent, strict=True)) / sum(weights) if recent else None
