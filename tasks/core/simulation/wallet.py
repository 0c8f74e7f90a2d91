"""The wallet of a simulated account: cash, positions and margin, exact to the last digit.

Spot and linear perpetuals share one book-keeping: a spot holding is a long position at leverage 1, and the free quote
balance is the wallet less what the holdings cost. So equity is always cash + unrealized, and
cash = cash at the start + realized - fees - funding. Fees are paid in quote, also where a venue would take a spot
buy's fee in base. Margin is crossed: a perpetual is liquidated where equity no longer covers the maintenance margin of
all that is open, by each instrument's tiers. Left out on purpose: isolated margin, hedge mode.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal

from pydantic import AliasChoices, BaseModel, Field

from tasks.core.types import ZERO, Instrument, exact_sum

ONE = Decimal(1)
SHARE = Decimal("1e-12")
REPORTED = Context(prec=16, rounding=ROUND_HALF_EVEN)


class Holding(BaseModel):
    """One open position. `sign` is +1 long, -1 short; `cost` its entry notional; `entered_at` its last increase.

    exiting: "stop", "target" or "liquidation" once one of them has been triggered and found too little volume.
    stop_quantity: how much of it its stop and target close; None: all.
    """

    symbol: str
    sign: int
    quantity: Decimal
    cost: Decimal
    opened_at: datetime
    entered_at: datetime
    stop: Decimal | None = None
    target: Decimal | None = None
    stop_quantity: Decimal | None = None
    stop_order: str = ""
    target_order: str = ""
    exiting: str = ""

    @property
    def avg_price(self) -> Decimal:
        return REPORTED.divide(self.cost, self.quantity)

    def unrealized(self, mark: Decimal) -> Decimal:
        return self.sign * (mark * self.quantity - self.cost)


class Totals(BaseModel):
    """What a symbol has earned and paid since the start, in quote; `funding` is positive when received."""

    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO


class Wallet(BaseModel):
    """Wallet and positions. `last` holds the newest price seen of each symbol, for margin between bars.

    basis: mark price over last price. Stops and targets fire by the last price, liquidation and PnL go by the mark.
    """

    cash: Decimal = Field(validation_alias=AliasChoices("cash", "wallet"), serialization_alias="wallet")
    instruments: Mapping[str, Instrument] = Field({}, exclude=True)
    default_leverage: Decimal = Decimal(10)
    leverages: dict[str, Decimal] = {}
    holdings: dict[str, Holding] = {}
    totals: dict[str, Totals] = {}
    last: dict[str, Decimal] = {}
    basis: Decimal = Field(ONE, exclude=True)

    def leverage(self, symbol: str) -> Decimal:
        """Return what margin is computed with: 1 on spot, else the chosen leverage within the instrument's."""
        instrument = self.instruments[symbol]
        if instrument.kind == "spot":
            return ONE
        return min(self.leverages.get(symbol, self.default_leverage), instrument.max_leverage)

    def trade(
        self, symbol: str, sign: int, quantity: Decimal, price: Decimal, fee: Decimal, entered_at: datetime
    ) -> None:
        """Book one execution that either opens, increases or reduces; the caller splits one that would flip."""
        holding = self.holdings.get(symbol)
        realized = ZERO
        if holding is None:
            self.holdings[symbol] = Holding(
                symbol=symbol,
                sign=sign,
                quantity=quantity,
                cost=quantity * price,
                opened_at=entered_at,
                entered_at=entered_at,
            )
        elif holding.sign == sign:
            holding.quantity += quantity
            holding.cost += quantity * price
            holding.entered_at = entered_at
        else:
            realized = self._reduce(holding, quantity, price)
        totals = self.totals.setdefault(symbol, Totals())
        totals.realized += realized
        totals.fees += fee
        self.cash += realized - fee

    def _reduce(self, holding: Holding, quantity: Decimal, price: Decimal) -> Decimal:
        whole = quantity == holding.quantity
        share = holding.cost if whole else (holding.cost * quantity / holding.quantity).quantize(SHARE)
        holding.quantity -= quantity
        holding.cost -= share
        if whole:
            del self.holdings[holding.symbol]
        return holding.sign * (quantity * price - share)

    def fund(self, symbol: str, paid: Decimal) -> None:
        """Book a funding payment; negative: received."""
        self.totals.setdefault(symbol, Totals()).funding -= paid
        self.cash -= paid

    def margin(self, holding: Holding) -> Decimal:
        return holding.cost / self.leverage(holding.symbol)

    def equity(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Return cash plus unrealized PnL, at `marks` or else the last price seen."""
        return self.cash + exact_sum(h.unrealized(self.mark(h, marks)) for h in self.holdings.values())

    def available(self, marks: Mapping[str, Decimal]) -> Decimal:
        """Return what is free as margin for new orders; gains on spot holdings are not until they are sold."""
        free = self.cash
        for holding in self.holdings.values():
            free -= self.margin(holding)
            if self.instruments[holding.symbol].kind == "linear":
                free += holding.unrealized(self.mark(holding, marks))
        return free

    def mark(self, holding: Holding, marks: Mapping[str, Decimal]) -> Decimal:
        return marks.get(holding.symbol) or self.last.get(holding.symbol, ZERO) * self.basis or holding.avg_price

    def liquidation_price(self, symbol: str) -> Decimal | None:
        """Return the last price of `symbol` at which equity falls to the maintenance margin; None: never.

        Other positions count at their last price.
        """
        holding, instrument = self.holdings[symbol], self.instruments[symbol]
        if instrument.kind == "spot":
            return None
        others = [h for h in self.holdings.values() if h is not holding]
        left = self.cash + exact_sum(h.unrealized(self.mark(h, {})) - self.maintenance(h) for h in others)
        for tier in reversed(instrument.margin_lines):
            # equity and margin are linear in the price within a tier: sign (p q - cost) + left = p q rate - deducted
            at = holding.sign * holding.cost - left - tier.deducted
            price = REPORTED.divide(at, holding.quantity * (holding.sign - tier.rate))
            if price * holding.quantity > tier.above:
                return price / self.basis
        return None

    def maintenance(self, holding: Holding) -> Decimal:
        """Return the least equity, in quote, that keeps a position open at its last price."""
        instrument, notional = self.instruments[holding.symbol], holding.quantity * self.mark(holding, {})
        return instrument.maintenance_margin(notional)
