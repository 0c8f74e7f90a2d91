"""Instruments, order intents, orders and fills: the venue's words, all Decimal."""

from decimal import Decimal
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from tasks.core.types.base import ZERO, Dto, Exact, NonNegative, Positive, Sparse, Utc

Side = Literal["buy", "sell"]
PositionSide = Literal["long", "short"]
Kind = Literal["linear", "spot"]
FINAL_STATES = ("done", "rejected")  # of an intent: nothing more comes of it
ONE = Decimal(1)
TINIEST, VASTEST = Decimal("1e-18"), Decimal("1e18")  # beyond them no venue lists anything


class MarginTier(Dto):
    """The maintenance margin of a position, as a share of the part of its notional (quote) that is above `above`."""

    above: Exact = Field(ge=0, le=VASTEST)
    rate: Exact = Field(ge=0, lt=1)


STANDARD = (MarginTier(above=ZERO, rate=Decimal("0.005")),)  # what venues ask of small positions in large markets


class MarginLine(NamedTuple):
    """A tier as venues reckon with it: of a notional above `above`, notional x rate - deducted."""

    above: Decimal
    rate: Decimal
    deducted: Decimal


class Instrument(Dto):
    """What the venue lets one trade on a symbol. All quantities are base, `min_notional` is quote.

    Nothing that orders depend on has a default: the venue says it, or `core.market.instruments` says where it comes
    from. Without tiers of its own, `maintenance` is STANDARD; they ascend from 0. `contract_size` is for the venue's
    adapter alone, which writes quantity / contract_size into an order; `max_quantity` is of one market order, None
    where the venue does not tell. Both are left out of a document that lacks them: older strategies keep their hash.
    """

    symbol: str
    tick: Positive
    step: Positive
    min_quantity: NonNegative  # 0: the step
    min_notional: NonNegative
    max_leverage: Positive
    shorting: bool
    kind: Kind
    maintenance: tuple[MarginTier, ...] = ()
    contract_size: Exact = Field(ONE, gt=0, exclude_if=lambda size: size == ONE)  # base in one unit of its sizes
    max_quantity: Sparse[Exact | None] = Field(None, gt=0)

    @property
    def margin_lines(self) -> list[MarginLine]:
        """Return the tiers of maintenance margin, lowest first."""
        lines, rate, deducted = [], ZERO, ZERO
        for tier in self.maintenance or STANDARD:
            deducted, rate = deducted + tier.above * (tier.rate - rate), tier.rate
            lines.append(MarginLine(tier.above, rate, deducted))
        return lines

    def maintenance_margin(self, notional: Decimal) -> Decimal:
        """Return what must be left of the margin, in quote, so that a position of that notional stays open."""
        line = next((line for line in reversed(self.margin_lines) if notional > line.above), None)
        return ZERO if line is None else notional * line.rate - line.deducted


def base_of(symbol: str) -> str:
    """Return the base currency of a ccxt unified symbol."""
    return symbol.partition("/")[0]


def quote_of(symbol: str) -> str:
    """Return the quote currency of a ccxt unified symbol."""
    return symbol.partition("/")[2].partition(":")[0] or "USDT"


class InstrumentTerms(Dto):
    """What someone says of an instrument; None: not said."""

    tick: Exact | None = Field(None, ge=TINIEST, le=VASTEST)
    step: Exact | None = Field(None, ge=TINIEST, le=VASTEST)
    min_quantity: Exact | None = Field(None, ge=0, le=VASTEST)
    min_notional: Exact | None = Field(None, ge=0, le=VASTEST)
    max_leverage: Exact | None = Field(None, gt=0, le=VASTEST)
    max_quantity: Exact | None = Field(None, gt=0, le=VASTEST)
    shorting: bool | None = None
    kind: Kind | None = None
    maintenance: tuple[MarginTier, ...] | None = Field(None, min_length=1)

    @field_validator("maintenance")
    @classmethod
    def _ascend(cls, tiers: tuple[MarginTier, ...] | None) -> tuple[MarginTier, ...] | None:
        above = [tier.above for tier in tiers or ()]
        if above and (above[0] != 0 or above != sorted(set(above))):
            raise ValueError("tiers ascend from 0")
        return tiers


class OrderType(StrEnum):
    """What an intent asks of the venue; the last three change the protection of an open position."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    TARGET = "target"
    CANCEL_TARGET = "cancel_target"


class OrderIntent(Dto):
    """One order leg, complete before it is sent; `client_order_id` derives from (cycle_id, leg)."""

    client_order_id: str = Field(min_length=1, max_length=36)
    symbol: str
    side: Side
    type: OrderType
    quantity: NonNegative
    price: Exact | None = None  # limit price, or the trigger of a stop or target
    stop: Exact | None = None  # attached stop of an entry
    target: Exact | None = None  # attached target of an entry
    reduce_only: bool = False
    expires_at: Utc | None = None  # when an unfilled limit entry is cancelled
    asked_by: Sparse[str] = ""  # the person who asked for it by hand


class OrderStatus(StrEnum):
    OPEN = "open"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Order(Dto):
    """An order as the venue reports it."""

    client_order_id: str
    venue_order_id: str
    symbol: str
    side: Side
    type: str
    status: OrderStatus
    quantity: Exact
    filled: Exact = ZERO
    price: Exact | None = None
    avg_price: Exact | None = None
    stop: Exact | None = None
    target: Exact | None = None
    reduce_only: bool = False
    reason: str = ""
    created_at: Utc
    updated_at: Utc


class Fill(Dto):
    """One execution. `fee` is in `fee_currency`, positive = paid; `client_order_id` is empty for attached exits."""

    fill_id: str
    venue_order_id: str
    client_order_id: str = ""
    symbol: str
    side: Side
    quantity: Exact
    price: Exact
    fee: Exact = ZERO
    fee_currency: str = "USDT"
    liquidity: Literal["maker", "taker"] = "taker"
    reason: str = ""  # entry, exit, stop, target, liquidation, funding; empty if unknown; else what is no trade
    at: Utc


class VenuePosition(Dto):
    """A position as the venue reports it; absent when flat. `stop`/`target` are what rests at the venue."""

    symbol: str
    side: PositionSide
    quantity: Exact
    avg_price: Exact
    stop: Exact | None = None
    target: Exact | None = None
    stop_quantity: Exact | None = None  # None: the stop covers all of it


class Balance(Dto):
    """The account in quote currency: `equity` includes unrealized PnL, `available` is free for new margin.

    other: coins besides it that count for neither, as the venue writes them.
    """

    equity: Exact
    available: Exact
    currency: str = "USDT"
    other: dict[str, str] = {}

    @property
    def lack(self) -> str:
        """Say what is missing of an account without its quote; empty where there is some."""
        if self.equity > 0:
            return ""
        held = ", ".join(f"{quantity} {coin}" for coin, quantity in self.other.items()) or "nothing else"
        return f"the wallet holds no {self.currency} (equity {self.equity}) but {held}: convert or deposit some"
