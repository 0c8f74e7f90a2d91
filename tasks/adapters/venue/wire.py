"""What venues write, read and written exactly: their own strings become Decimal and aware UTC, never through float.

A row that lacks a field raises KeyError or ValueError; the caller says what that means.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tasks.core.types import ONE, VASTEST, ZERO, bounded

Row = Mapping[str, Any]
SHOWN = 40  # characters of what should have been a number


def at(ms: object, name: str = "time") -> datetime:
    """Return a venue's milliseconds as aware UTC."""
    try:
        return datetime.fromtimestamp(int(str(ms)) / 1000, tz=UTC)
    except (ArithmeticError, OSError, ValueError) as e:
        raise ValueError(f"{name} is {str(ms)[:SHOWN]!r}, no time in ms") from e


def ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def exact(value: object, name: str = "number") -> Decimal:
    """Read a number the venue sent, here alone; ccxt's floats cross by their shortest text, whole ones as such.

    Raises ValueError with the field's `name` and what it held, for what is none or beyond what a venue lists.
    """
    with suppress(ArithmeticError, ValueError):
        number = bounded(Decimal(str(value).removesuffix(".0")))
        if abs(number) <= VASTEST:
            return number
    raise ValueError(f"{name} is {str(value)[:SHOWN]!r}, no number up to {VASTEST:.0e}")


def number(row: Row, name: str) -> Decimal:
    return exact(row[name], name)


def figure(row: Row, name: str) -> float:
    return float(number(row, name))


def number_or_zero(row: Row, name: str) -> Decimal:
    return ZERO if row[name] in (None, "") else number(row, name)


def price_or_none(row: Row, name: str) -> Decimal | None:
    """Read a price; the venue writes "no price" as "", "0" or "0.00"."""
    return number_or_zero(row, name) or None


def told(row: Row, name: str) -> Decimal | None:
    """Read a number that a venue may leave out."""
    return price_or_none(row, name) if name in row else None


def contract_size(market: Row) -> Decimal:
    """Return how much base one unit of a market's sizes is: orders, positions, books and trades count in it."""
    return ONE if market["spot"] else exact(market["contractSize"] or 1, "contract size")


def wire(value: Decimal) -> str:
    """Write a number with all its digits and no exponent."""
    return format(value, "f")
