"""Fills -> double-entry postings: what every execution moved, exact to the last digit, equity reproducible from it.

Each fill's postings sum to zero. Cash is what the account holds free of positions, a position's account is its cost,
fees and funding are what was paid away, realized is what was earned (negative: income has no account of its own to
come from). So initial + cash + positions valued at marks is the equity, and it is the same as initial + realized -
fees - funding + unrealized. All fills of an account count, also those of others. Spot and linear share this
book-keeping: a spot holding is a long at leverage 1. A fee taken in the base is valued at the fill's price.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel

from tasks.core.trading.ledger import fee_of
from tasks.core.types.base import Dto, Exact
from tasks.core.types.orders import Fill

ZERO = Decimal(0)
SHARE = Decimal("1e-12")  # to which a part's share of the cost is rounded; the rest keeps the difference


class Account(StrEnum):
    CASH = "cash"
    POSITION = "position"
    FEE = "fee"
    FUNDING = "funding"
    REALIZED = "realized"


class Posting(Dto):
    """One line of the books: `amount` in quote, `quantity` in base (position only), both signed."""

    fill_id: str
    symbol: str
    account: Account
    amount: Exact
    quantity: Exact = ZERO


class _Held(BaseModel):
    """What is held of a symbol: signed quantity and signed cost."""

    quantity: Decimal = ZERO
    cost: Decimal = ZERO


def postings(fills: Iterable[Fill]) -> Iterator[Posting]:
    """Yield the postings of an account's fills, oldest first, starting flat.

    Raises LedgerMismatch for a fee in a third currency.
    """
    held: dict[str, _Held] = {}
    for fill in fills:
        yield from _of(fill, held.setdefault(fill.symbol, _Held()))


def _of(fill: Fill, held: _Held) -> Iterator[Posting]:
    def line(account: Account, amount: Decimal, quantity: Decimal = ZERO) -> Posting:
        return Posting(fill_id=fill.fill_id, symbol=fill.symbol, account=account, amount=amount, quantity=quantity)

    if fill.reason == "funding":
        yield line(Account.FUNDING, fill.fee)
        yield line(Account.CASH, -fill.fee)
        return
    fee, kept = fee_of(fill)
    sign = 1 if fill.side == "buy" else -1
    closing = min(fill.quantity, abs(held.quantity)) if sign * held.quantity < 0 else ZERO
    if closing:
        share = (
            held.cost if closing == abs(held.quantity) else (held.cost * closing / abs(held.quantity)).quantize(SHARE)
        )
        held.quantity, held.cost = held.quantity + sign * closing, held.cost - share
        yield line(Account.POSITION, -share, sign * closing)
        yield line(Account.CASH, -sign * closing * fill.price)
        yield line(Account.REALIZED, share + sign * closing * fill.price)
    if opening := kept - closing:
        cost = sign * opening * fill.price
        held.quantity, held.cost = held.quantity + sign * opening, held.cost + cost
        yield line(Account.POSITION, cost, sign * opening)
        yield line(Account.CASH, -cost)
    if fee:
        yield line(Account.FEE, fee)
        yield line(Account.CASH, -fee)


def balances(lines: Iterable[Posting]) -> dict[Account, Decimal]:
    """Return the balance of every account in quote; they sum to zero."""
    total = dict.fromkeys(Account, ZERO)
    for line in lines:
        total[line.account] += line.amount
    return total


def equity(initial: Decimal, fills: Iterable[Fill], marks: Mapping[str, Decimal]) -> Decimal:
    """Return the account's equity from nothing but its fills: cash, and what is held at `marks` by symbol."""
    total, held = initial, dict[str, Decimal]()
    for line in postings(fills):
        held[line.symbol] = held.get(line.symbol, ZERO) + line.quantity
        total += line.amount if line.account is Account.CASH else ZERO
    return total + sum((quantity * marks[symbol] for symbol, quantity in held.items() if quantity), ZERO)
