"""Exact arithmetic of orders: steps, ticks, basis points, directions, and the one crossing from float to Decimal."""

from decimal import ROUND_DOWN, Decimal
from math import isfinite

from tasks.core.types.base import Price, Quantity
from tasks.core.types.orders import PositionSide, Side

BPS, HUNDRED = Decimal("0.0001"), Decimal(100)


def exact(x: float) -> Decimal:
    """Cross from a float (a candle, a statistic) to the Decimal one reads when it is printed.

    Raises ValueError for NaN and infinity: neither is a price.
    """
    value = Decimal(repr(float(x)))
    if not value.is_finite():
        raise ValueError(f"{x!r} is not a number that can become money")
    return value


def floor_to_step(quantity: Decimal, step: Decimal) -> Quantity:
    """Round `quantity` (base) down to the venue's lot `step`; never up."""
    return Quantity(round_to_tick(quantity, step, ROUND_DOWN))


def round_to_tick(price: Decimal, tick: Decimal, rounding: str) -> Price:
    """Round `price` to a multiple of `tick`; `rounding` is one of the decimal module's ROUND_ constants."""
    return Price((price / tick).to_integral_value(rounding) * tick)


def bps(value: Decimal, n: Decimal) -> Decimal:
    """Return `n` basis points of `value`."""
    return value * n * BPS


def known(number: float | None) -> Decimal | None:
    """Cross a snapshot's number to Decimal; None when it is unknown, NaN or infinite."""
    return exact(number) if number is not None and isfinite(number) else None


def direction(side: PositionSide | Side) -> int:
    """Return +1 for long and for what buys, -1 for short and for what sells."""
    return 1 if side in ("long", "buy") else -1
