"""Positions as our ledger knows them, and the account state that the guard judges against.

R is two words. `r` is how far the price has gone from the first entry's price, in units of that entry's stop distance:
an ADD changes neither, so rules at +1 R stay where they are. The first entry is the order that opened the position,
with all its fills: their average price, and the stop that the order brought. `outcome_r` is what a closed position
made after fees and funding, over what all its entries risked, each fill against its own order's stop.
"""

from decimal import Decimal
from typing import Any

from pydantic import AliasChoices, ConfigDict, Field, NonNegativeInt, model_validator

from tasks.core.types.base import ZERO, Dto, Exact, NonNegative, Positive, Sparse, Texts, Utc
from tasks.core.types.orders import Instrument, PositionSide, VenuePosition

BY_HAND = "by hand"  # why a position was closed: a person asked us to


class Position(Dto):
    """One position of ours from its first fill to its last."""

    position_id: str
    strategy: str
    cycle_id: str  # the cycle that opened it
    symbol: str
    side: PositionSide
    quantity: NonNegative  # base, what is open now; 0 once closed
    entry_quantity: Exact  # base, everything ever bought into it
    avg_price: Exact
    initial_stop: Exact | None = None  # the first entry's, as are `first_*`
    stop: Exact | None = None
    target: Exact | None = None
    realized_pnl: Exact = ZERO  # quote, before fees
    fees: Exact = ZERO
    exit_price: Exact | None = None  # average over exits
    followups: Texts = ()
    followups_done: Texts = ()
    opened_at: Utc
    closed_at: Utc | None = None
    first_price: Exact | None = None  # None in records of before: avg_price
    first_quantity: Exact = ZERO  # base
    risk: Exact | None = None  # quote, of every entry at its own stop; None: one had none
    exit_reason: Sparse[str] = ""  # of the last exit: stop, target, decision, protect, by hand, others, ...

    @model_validator(mode="before")
    @classmethod
    def _without_peak(cls, document: Any) -> Any:
        """Leave out what records of before hold and nobody ever computed."""
        return {k: v for k, v in document.items() if k != "peak_r"} if isinstance(document, dict) else document

    def marked(self, price: Decimal | None) -> "HeldPosition":
        """Return what the guard is told of the position, valued at `price`."""
        return HeldPosition.of(self, mark_price=price)


class HeldPosition(VenuePosition):
    """A position as `quarterdeck guard --state` takes it, and as records hold it; there its target is named `tp`."""

    model_config = ConfigDict(serialize_by_alias=True)

    quantity: Positive
    avg_price: Positive
    target: Exact | None = Field(None, validation_alias=AliasChoices("target", "tp"), serialization_alias="tp")
    initial_stop: Exact | None = None
    mark_price: Exact | None = None
    first_price: Exact | None = None  # None: avg_price

    @property
    def notional(self) -> Decimal:
        """Return what the position is worth at its mark, else at its entry."""
        return self.quantity * (self.mark_price or self.avg_price)


def stop_distance(side: PositionSide, price: Decimal, stop: Decimal | None) -> Decimal | None:
    """Return price - stop of an entry, below 0 for a short; None without a stop, or with one that bounds no loss."""
    distance = ZERO if stop is None else price - stop
    return distance if (distance > 0 if side == "long" else distance < 0) else None


def r_scale(position: Position | HeldPosition) -> tuple[Decimal, Decimal] | None:
    """Return the price at 0 R and how far 1 R is from there, below 0 for a short; None where there is no R."""
    zero = position.first_price or position.avg_price
    unit = stop_distance(position.side, zero, position.initial_stop)
    return None if unit is None else (zero, unit)


def r_at(position: Position | HeldPosition, price: Decimal) -> Decimal | None:
    """Return `r` at a price; None where there is no R."""
    scale = r_scale(position)
    return None if scale is None else (price - scale[0]) / scale[1] + ZERO  # a short's -0 is 0


class PendingEntry(Dto):
    """A working entry order: its risk and notional count like those of a position at its price."""

    symbol: str
    side: PositionSide
    quantity: Exact
    price: Exact
    stop: Exact | None = None

    @property
    def avg_price(self) -> Decimal:
        return self.price

    @property
    def notional(self) -> Decimal:
        return self.quantity * self.price


class ClosedTrade(Dto):
    """A position that was closed: when, for how much (quote, after fees) and its `outcome_r` where known.

    Records of before have `r_multiple` instead, which is before fees.
    """

    closed_at: Utc
    pnl: Exact
    symbol: str = ""
    outcome_r: Exact | None = None
    by_hand: Sparse[bool] = False  # a person asked us to
    r_multiple: Exact | None = Field(None, exclude=True)


class Opening(Dto):
    """How an open position came about, and what is still to be done with it."""

    symbol: str
    opened_at: Utc
    thesis: str = ""  # of the decision that opened it, one line
    followups: Texts = ()  # not carried out yet
    unread: Texts = ()  # those that nobody will carry out


class Refusal(Dto):
    """A decision that the guard refused, with every code that fired."""

    as_of: Utc
    symbol: str
    action: str
    codes: Texts


class Ledger(Dto):
    """What a decider is told of our ledger besides the account's state, known at as_of."""

    openings: tuple[Opening, ...] = ()  # of the open positions
    refusals: tuple[Refusal, ...] = ()  # newest first
    # the deepest fall from an earlier high, percent; None: unknown, as in records of before
    drawdown_30d_pct: float | None = Field(None, exclude_if=lambda pct: pct is None)


class PortfolioPosition(Dto):
    """One open position as a decider is told of it: size in percent of equity, prices in quote."""

    symbol: str
    side: PositionSide
    size_pct: float | None = None
    avg_price: float | None = None
    r: float | None = None
    stop: float | None = None
    target: float | None = None
    age_bars_5m: int | None = None
    thesis: str = ""
    followups: Texts = ()
    unread: Texts = ()


class Portfolio(Dto):
    """The account as a decider is told of it; percentages are of equity, None is unknown.

    equity: the strategy's share, where it has one; open risk and its limit are percentages of the whole account. Open
    risk is what is lost at all stops, costs included. pending: entries that have not filled, and are part of exposure
    and risk.
    """

    cash: float | None = None  # quote, free for new margin
    equity: float
    of_account: Sparse[float | None] = None  # how much of it `equity` is; None: all
    gross_pct: float | None = None
    net_pct: float | None = None  # longs less shorts
    open_risk_pct: float | None = None
    max_total_risk_pct: float
    daily_pnl_pct: float | None = None
    realized_today_pct: float | None = None
    drawdown_today_pct: float | None = None
    drawdown_pct: float | None = None  # from the peak
    drawdown_30d_pct: float | None = None  # the deepest
    drawdown_halt_pct: float | None = None
    max_symbol_pct: float | None = None
    correlations: dict[str, float | None] = {}  # with other symbols that are open or pending
    kelly_pct: float | None = None  # the share of equity that Kelly would risk
    positions: tuple[PortfolioPosition, ...] = ()
    pending: tuple[PortfolioPosition, ...] = ()
    refusals: tuple[Refusal, ...] = ()  # newest first
    by_hand: Sparse[tuple[ClosedTrade, ...]] = ()  # what a person has closed lately


class AccountState(Dto):
    """What the guard judges a decision against; by default a flat account of 10,000 quote."""

    equity: Exact = Decimal(10_000)
    available: Exact | None = None  # None: all of equity
    peak_equity: Exact | None = None
    day_start_equity: Exact | None = None
    day_peak_equity: Exact | None = None
    positions: tuple[HeldPosition, ...] = ()
    pending: tuple[PendingEntry, ...] = ()
    instrument: Instrument | None = None  # None: not named; the guard allows nothing
    closed_trades: tuple[ClosedTrade, ...] = ()
    opens: tuple[Utc, ...] = ()  # when the last entries were sent
    paused_until: Utc | None = None
    reduced_until: Sparse[Utc | None] = None  # entries are half as large
    halt: str | bool | None = None  # why trading is halted; None or false: it is not
    last_price: Exact | None = None  # None: the snapshot's last close
    last_price_at: Utc | None = None  # None: its age is not judged
    venue: str = ""  # where the entry would go
    foreign: Exact | None = None  # what the venue holds of the symbol that is not ours (base); None: nobody asked
    # what `core.trading.guard.past` works out
    # of `instrument` with other symbols; None: not judged; one that is missing is close
    correlations: dict[str, float] | None = None
    kelly: Exact | None = None  # share of equity; None: too few outcomes, or no losses
    rejections: NonNegativeInt = 0  # entries the venue refused in a row, lately
    last_liquidation: Utc | None = None
    # where several strategies share the account: what it would be worth by this one's trades alone, which the peak and
    # the day's start belong to, and what it may fall to today by the trades of all
    own_equity: Sparse[Exact | None] = None
    least_equity: Sparse[Exact | None] = None
    own_capital: Sparse[Exact | None] = None  # its share of the equity; None: all of it

    @property
    def capital(self) -> Decimal:
        """Return what the strategy sizes on, and what its own limits are shares of."""
        return self.equity if self.own_capital is None else self.own_capital

    @property
    def worth(self) -> Decimal:
        """Return what the strategy's own losses are reckoned from: the equity, where nobody shares the account."""
        return self.equity if self.own_equity is None else self.own_equity

    @property
    def exposures(self) -> tuple[HeldPosition | PendingEntry, ...]:
        return (*self.positions, *self.pending)

    def position(self, symbol: str) -> HeldPosition | None:
        """Return the open position in `symbol`, if any."""
        return next((p for p in self.positions if p.symbol == symbol), None)
