"""An account's equity from nothing but its fills: the cash they moved, and what is held at the marks."""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from tasks.core.trading.ledger import fee_of
from tasks.core.types import direction
from tasks.core.types.orders import Fill
from tasks.core.types.portfolio import Position


def equity_of_fills(initial: Decimal, fills: Iterable[Fill], marks: Mapping[str, Decimal]) -> Decimal:
    """Return cash plus what is left of each fill at `marks` by symbol; a fee in the base is valued at its price."""
    equity, positions = initial, dict[str, Decimal]()
    for fill in fills:
        if fill.reason == "funding":
            equity -= fill.fee
            continue
        sign, (fee, kept) = (1 if fill.side == "buy" else -1), fee_of(fill)
        equity -= sign * kept * fill.price + fee
        positions[fill.symbol] = positions.get(fill.symbol, Decimal(0)) + sign * kept
    return equity + sum((quantity * marks[symbol] for symbol, quantity in positions.items() if quantity), Decimal(0))


def equity_of_positions(initial: Decimal, positions: Iterable[Position], marks: Mapping[str, Decimal]) -> Decimal:
    """Return initial + realized - fees + unrealized over all positions, open ones at `marks` by symbol."""
    total = initial
    for p in positions:
        open_gain = direction(p.side) * (marks[p.symbol] - p.avg_price) * p.quantity if p.quantity else Decimal(0)
        total += p.realized_pnl - p.fees + open_gain
    return total
