"""Our side as the core is given it: one frozen view, read at one moment."""

from decimal import Decimal
from typing import Any

from tasks.connections import store, venue
from tasks.core.trading import booking
from tasks.core.types.orders import Order
from tasks.core.types.portfolio import Position
from tasks.core.types.reconcile import LedgerView
from tasks.settings import settings


def view(*symbols: str, **more: Any) -> LedgerView:
    """Read our open positions; of each of `symbols` also what closed lately and our orders. more: fields as they are.

    Read it after the venue: then an order that the venue has and the view lacks is none of ours.
    """
    kept, s = store(), settings()
    read: dict[str, Any] = {"strategy": s.strategy, "limits": s.limits}
    if "open" not in more:
        read["open"] = tuple(kept.positions.open(s.strategy))
    if "intents" not in more:
        read["intents"] = tuple(own for symbol in symbols for own in kept.intents.own(s.strategy, symbol))
    read["closed"] = tuple(p for symbol in symbols for p in kept.positions.closed(s.strategy, symbol=symbol))
    return LedgerView(**(read | more))


def symbols_of_ours() -> tuple[str, ...]:
    """Return the strategy's symbols and those in which it still has a position or an order."""
    kept, strategy = store(), settings().strategy
    held = [p.symbol for p in kept.positions.open(strategy)]
    working = [intent.symbol for _, intent, _ in kept.intents.open(strategy)]
    return tuple(dict.fromkeys((*settings().symbols, *held, *working)))


def open_in(symbol: str) -> dict[str, Position]:
    """Return our open positions of `symbol` by id."""
    return {p.position_id: p for p in store().positions.open(settings().strategy) if p.symbol == symbol}


def booked_of(order: Order) -> Decimal:
    """Return how much of an order the ledger has fills of."""
    told = store().fills.since(order.created_at - booking.OVERLAP, order.symbol)
    return sum((fill.quantity for fill in told if fill.client_order_id == order.client_order_id), Decimal(0))


async def dust(symbol: str) -> Decimal:
    """Return what less of cannot be sold, and so is nothing: spot fees taken in the coin leave some."""
    if ":" in symbol:
        return Decimal(0)
    instrument = await venue().instrument(symbol)
    return max(instrument.step, instrument.min_quantity)
