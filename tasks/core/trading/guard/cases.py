"""What the guard's rules are given, what they answer, and what is open already.

A rule is one small function, a case in, a Check out, that states what it compared and never what follows. They are
all in `rules`, what limits the size of an entry in `caps`. Percentages of equity are compared as amounts, so that a
rule divides as little as it can.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from math import inf
from typing import NamedTuple

from tasks.core.trading.guard.sizing import impact_per_unit2, loss_per_unit, lost
from tasks.core.trading.ledger import realized_today
from tasks.core.types import (
    HUNDRED,
    ZERO,
    AccountState,
    Check,
    Costs,
    Decision,
    HeldPosition,
    Instrument,
    Limits,
    PendingEntry,
    PositionSide,
    Price,
    Quantity,
    Snapshot,
    Strategy,
    direction,
    exact_sum,
    fits,
    known,
)

Exposure = HeldPosition | PendingEntry
IMPACT_COUNTS = 3  # the first rules of a strategy by which size impact is part of the risk at a stop


@dataclass(frozen=True)
class Account:
    """What is true of the account and `symbol` at `at`, before any decision is asked for; each sum is made once."""

    state: AccountState
    instrument: Instrument
    symbol: str
    strategy: Strategy
    at: datetime
    mode: str  # of risk, as the snapshot says
    lateness_s: float | None = None
    daily_pnl_pct: Decimal | None = None

    @property
    def limits(self) -> Limits:
        return self.strategy.limits

    @property
    def costs(self) -> Costs:
        return self.strategy.costs

    @cached_property
    def risk_mode(self) -> str:
        return "tighten" if self.mode == "normal" and losing(self.state, self.limits) else self.mode

    @cached_property
    def position(self) -> HeldPosition | None:
        return self.state.position(self.symbol)

    @cached_property
    def pnl_today(self) -> Decimal:
        return realized_today(self.state.closed_trades, self.at)

    @cached_property
    def last_exit(self) -> datetime | None:
        """Return the last exit within the re-entry cooldown; a trade that does not name its symbol is this one's."""
        cooled = self.at - timedelta(minutes=self.limits.reentry_cooldown_min)
        trades = (t for t in self.state.closed_trades if t.symbol in ("", self.symbol))
        return max((t.closed_at for t in trades if t.closed_at > cooled), default=None)

    @cached_property
    def losses(self) -> int:
        """Return how many trades lost within the cool-off."""
        lately = self.at - timedelta(minutes=self.limits.cool_off_min)
        return sum(t.closed_at > lately and t.pnl < 0 for t in self.state.closed_trades)

    @cached_property
    def open_risk(self) -> Decimal:
        """Return the quote lost at the stops of every open position and pending entry."""
        return exact_sum(map(self.risk, self.state.exposures))

    @cached_property
    def gross(self) -> Decimal:
        return exact_sum(p.notional for p in self.state.exposures)

    @property
    def leverage(self) -> Decimal:
        """Return the leverage in force: ours, capped by the symbol's and the instrument's; 1 on spot."""
        spot = self.instrument.kind == "spot"
        return Decimal(1) if spot else min(self.limits.leverage_of(self.symbol), self.instrument.max_leverage)

    @property
    def gross_limit(self) -> Decimal:
        return self.state.equity * min(self.limits.max_gross_pct / HUNDRED, self.leverage)

    @property
    def position_risk(self) -> Decimal:
        """Return what the open position in this symbol loses at its stop."""
        return self.risk(self.position) if self.position else ZERO

    @cached_property
    def risk_costs(self) -> Costs:
        """Return the costs that are reckoned into the risk at a stop: all, but once without size impact."""
        return self.costs if self.strategy.rules >= IMPACT_COUNTS else self.costs.replace(impact_bps_per_million=ZERO)

    def risk(self, p: Exposure) -> Decimal:
        """Return what is lost at the stop, in quote; without a stop the whole notional is at risk."""
        if p.stop is None:
            return p.notional
        costs = self.risk_costs
        impact = impact_per_unit2(p.avg_price, costs) + impact_per_unit2(max(p.avg_price, p.stop), costs)
        return lost(p.quantity, loss_per_unit(p.side, p.avg_price, p.stop, costs), impact)

    def alike(self, side: PositionSide) -> list[Exposure]:
        """Return what is open or pending in other symbols and wins and loses with a `side` entry in this one.

        Their returns must be correlated beyond the limit, or be of unknown correlation and on the same side.
        """
        correlations, way = self.state.correlations, direction(side)
        if correlations is None:
            return []
        return [
            p
            for p in self.state.exposures
            if p.symbol != self.symbol  # NaN is unknown, too
            and not way * direction(p.side) * correlations.get(p.symbol, inf) <= self.limits.max_correlation
        ]


class Case(NamedTuple):
    """A decision before the guard; `last` and `atr` are None when they are unknown or not positive.

    breakouts: the ways (+1, -1) in which the market has just broken out.
    """

    account: Account
    decision: Decision
    snapshot: Snapshot
    fallback: bool
    last: Decimal | None
    atr: Decimal | None
    breakouts: frozenset[int]


class EntryTerms(NamedTuple):
    """Final prices of an entry, rounded to the tick, and the size asked for."""

    case: Case
    account: Account
    side: PositionSide
    entry: Price
    offset_bps: Decimal | None  # None: at market
    stop: Price
    target: Price
    last: Decimal
    atr: Decimal
    loss: Decimal  # quote per base at the stop, costs included but for size impact among themselves
    impact: Decimal  # quote per base squared at the stop: size impact in and out
    equity: Decimal  # what its size and risk are a share of
    asked: Quantity
    shrunk: tuple[Check, ...]


def positive(value: float | None) -> Decimal | None:
    """Cross a price or distance of the snapshot; None unless it is positive and of a size that can be written down."""
    crossed = known(value)
    return crossed if crossed is not None and crossed > 0 and fits(crossed) else None


def losing(state: AccountState, limits: Limits) -> bool:
    """Return whether half of what halts trading is lost, of the day's start or of the peak: risk is tightened then."""
    return any(
        before is not None and (before - state.worth) * 2 * HUNDRED >= halt_pct * before > 0
        for before, halt_pct in (
            (state.day_start_equity, limits.daily_loss_halt_pct),
            (state.peak_equity, limits.drawdown_halt_pct),
        )
    )
