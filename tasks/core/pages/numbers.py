"""Numbers as people read them; what is unknown is a dash."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tasks.core.types import ZERO, ModelCall, ModelUse, Pricing, exact_sum

UNKNOWN = "–"
SMALLEST = -12  # power of ten
PRICED: dict[Pricing, str] = {"": "", "assumed": "assumed", "free": "free: served here", "shared": ""}


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
    return UNKNOWN if value is None else f"{value:{'+' if sign else ''}z.{digits}f}"


def amount(value: float | Decimal | None, sign: bool = False) -> str:
    """Return an amount of money: two decimals, and two digits where it is smaller, but no rest of a division."""
    if value is None:
        return UNKNOWN
    exact = Decimal(value)
    decimals = 1 - exact.adjusted() if exact and SMALLEST <= exact.adjusted() < -2 else 2
    return f"{exact:{'+' if sign else ''}z,.{decimals}f}"


def money(value: float | Decimal | None, currency: str, sign: bool = False) -> str:
    """Return an amount with its currency."""
    return UNKNOWN if value is None else f"{amount(value, sign)} {currency}"


def price(value: float | Decimal | None) -> str:
    """Return a price to 8 significant digits: an average has more than any venue's tick."""
    return plain(None if value is None else float(value), 8, thousands=True)


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return UNKNOWN if share is None else f"{share * 100:.{digits}f} %"


def usd(uses: Sequence[ModelUse | ModelCall]) -> str:
    """Return what models cost, in full, and how that is known."""
    total, mark = exact_sum(use.cost_usd for use in uses), pricing_of(uses)
    return f"{plain(total)} USD{f' ({mark})' if mark else ''}"


def pricing_of(uses: Sequence[ModelUse | ModelCall]) -> str:
    """Return how costs are known: nothing where by a list of prices, else `assumed`, or `free: served here`."""
    by_pricing = defaultdict[str, Decimal](Decimal)
    for use in uses:
        by_pricing[use.pricing] += use.cost_usd
    if assumed := by_pricing.pop("assumed", ZERO):
        return f"{plain(assumed)} of it assumed" if any(by_pricing.values()) else PRICED["assumed"]
    return PRICED["free"] if "free" in by_pricing else ""


def interval(bounds: Mapping[str, Any] | None, digits: int = 2) -> str:
    """Return an estimate with the bounds of its interval, or with how little would stand behind them."""
    if bounds is None:
        return UNKNOWN
    estimate, low, high = (fixed(bounds[name], digits, sign=True) for name in ("estimate", "low", "high"))
    if low != UNKNOWN:
        return f"{estimate} [{low}, {high}]"
    effective_n = bounds.get("effective_n")
    return estimate if effective_n is None else f"{estimate} [none: effective n = {effective_n:.0f}]"
