"""Numbers as people read them; what is unknown is a dash."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

UNKNOWN = "–"


def plain(value: float | Decimal | None, digits: int = 6, thousands: bool = False) -> str:
    """Return a number without exponent or trailing zeros: a Decimal in full, a float to `digits` significant ones.

    No digit before the point is ever rounded away.
    """
    if value is None:
        return UNKNOWN
    exact = value if isinstance(value, Decimal) else Decimal(f"{value:.{max(digits, len(f'{abs(value):.0f}'))}g}")
    text = format(exact, ",f" if thousands else "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float | Decimal | None, digits: int = 2, sign: bool = False) -> str:
    """Return a number with `digits` decimals, for a column."""
    return UNKNOWN if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return UNKNOWN if share is None else f"{share * 100:.{digits}f} %"


def interval(bounds: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Return an estimate with the bounds of its interval, or with how little would stand behind them."""
    if bounds is None:
        return UNKNOWN
    estimate, low, high = (fixed(bounds[name], digits, sign=True) for name in ("estimate", "low", "high"))
    if low != UNKNOWN:
        return f"{estimate} [{low}, {high}]"
    effective_n = bounds.get("effective_n")
    return estimate if effective_n is None else f"{estimate} [none: effective n = {effective_n:.0f}]"
