"""What the guard's rules are given, what they answer, and what is open already.

A rule is one small function, a case in, a Check out, that states what it compared and never what follows. They are
all in `rules`, what limits the size of an entry in `caps`. Percentages of equity are compared as amounts, so that a
rule divides as little as it can.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from math import inf
from typing import NamedTuple

from tasks.core.trading.guard.sizing import HUNDRED, direction, known, loss_per_unit
from tasks.core.trading.ledger import realized_today
from tasks.core.types.base import ZERO, Price, Quantity
from tasks.core.types.decision import Decision
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import Instrument, PositionSide
from tasks.core.types.portfolio import AccountState, HeldPosition, PendingEntry
from tasks.core.types.snapshot import Snapshot
from tasks.core.types.verdict import Check, Code

Exposure = HeldPosition | PendingEntry


class Closed(NamedTuple):
    """What the closed trades say at one moment: PnL of the UTC day, last exit of the symbol, losses of late."""

    pnl_today: Decimal
    last_exit: datetime | None
    losses: int


class Account(NamedTuple):
    """What is true of the account and `symbol` at `at`, before any decision is asked for."""

    state: AccountState
    instrument: Instrument
    symbol: str
    limits: Limits
    costs: Costs
    at: datetime
    lateness_s: float | None
    symbols: tuple[str, ...] | None
    risk_mode: str
    daily_pnl_pct: Decimal | None
    position: HeldPosition | None
    closed: Closed
    open_risk: Decimal  # quote lost at the stops of every open position and pending entry
    gross: Decimal  # their notional
    leverage: Decimal  # in force: ours, capped by the symbol's and the instrument's; 1 on spot

    @property
    def gross_limit(self) -> Decimal:
        return self.state.equity * min(self.limits.max_gross_pct / HUNDRED, self.leverage)

    @property
    def position_risk(self) -> Decimal:
        """Return what the open position in this symbol loses at its stop."""
        return risk(self.position, self.costs) if self.position else ZERO

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
    loss: Decimal  # quote per base at the stop, costs included
    equity: Decimal  # what its size and risk are a share of
    asked: Quantity
    shrunk: tuple[Check, ...]


def check(code: Code, fired: bool, **inputs: object) -> Check:
    """Build a Check; `Check` itself is what is passed around."""
    return tuple.__new__(Check, (code, fired, inputs))


def positive(value: float | None) -> Decimal | None:
    """Cross a price or distance of the snapshot; None unless it is positive."""
    crossed = known(value)
    return crossed if crossed is not None and crossed > 0 else None


def account(
    state: AccountState,
    instrument: Instrument,
    symbol: str,
    limits: Limits,
    costs: Costs,
    at: datetime,
    *,
    risk_mode: str,
    symbols: tuple[str, ...] | None = None,
    lateness_s: float | None = None,
    daily_pnl_pct: Decimal | None = None,
) -> Account:
    """Work out once what several rules compare."""
    mode = "tighten" if risk_mode == "normal" and losing(state, limits) else risk_mode
    leverage = min(limits.leverage_of(symbol), instrument.max_leverage)
    return Account(
        state, instrument, symbol, limits, costs, at, lateness_s, symbols, mode, daily_pnl_pct, state.position(symbol),
        _closed(state, symbol, limits, at), sum((risk(p, costs) for p in state.exposures), ZERO),
        sum((p.notional for p in state.exposures), ZERO), Decimal(1) if instrument.kind == "spot" else leverage,
    )  # fmt: skip


def losing(state: AccountState, limits: Limits) -> bool:
    """Return whether half of what halts trading is lost, of the day's start or of the peak: risk is tightened then."""
    return any(
        before is not None and (before - state.equity) * 2 * HUNDRED >= halt_pct * before > 0
        for before, halt_pct in (
            (state.day_start_equity, limits.daily_loss_halt_pct),
            (state.peak_equity, limits.drawdown_halt_pct),
        )
    )


def _closed(state: AccountState, symbol: str, limits: Limits, at: datetime) -> Closed:
    """Look through the closed trades once. One that does not name its symbol counts as this one's."""
    lately, cooled = at - timedelta(minutes=limits.cool_off_min), at - timedelta(minutes=limits.reentry_cooldown_min)
    exits = [t.closed_at for t in state.closed_trades if t.closed_at > cooled and t.symbol in ("", symbol)]
    losses = [t for t in state.closed_trades if t.closed_at > lately and t.pnl < 0]
    return Closed(realized_today(state.closed_trades, at), max(exits, default=None), len(losses))


def risk(p: Exposure, costs: Costs) -> Decimal:
    """Return what is lost at the stop, in quote; without a stop the whole notional is at risk."""
    return p.notional if p.stop is None else p.quantity * loss_per_unit(p.side, p.avg_price, p.stop, costs)
