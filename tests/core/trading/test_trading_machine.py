"""Guard, fill engine and ledger together, in any order of events: what must hold after every one of them."""

from datetime import datetime, timedelta
from decimal import Decimal as D

from equity_cases import equity_of_positions
from guard_cases import BTC, ETH, NOON, seen
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from instrument_cases import linear

from tasks.core.simulation.account import PriceBar, SimulatedAccount
from tasks.core.trading import orders
from tasks.core.trading.guard import guard
from tasks.core.trading.positions import positions_from_fills, with_protection
from tasks.core.types.decision import (
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    Decision,
    MoveStop,
    OpenLong,
    OpenShort,
    SetTarget,
    StopTarget,
    Trim,
)
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import OrderStatus, OrderType
from tasks.core.types.portfolio import AccountState, HeldPosition, PendingEntry, Position
from tasks.core.types.strategy import Strategy

CASH = D(10_000)
RULES = {name: linear(name) for name in (BTC, ETH)}
OFTEN = {
    "opens_per_hour": 10_000, "opens_per_day": 10_000, "reentry_cooldown_min": 0, "daily_loss_halt_pct": D(99),
    "drawdown_halt_pct": D(99), "stack_min_r": D(0), "min_reward_risk": D(0),
}  # fmt: skip
LIMITS = Limits(**OFTEN)
SAME = D("1e-15")  # relative: an average price is a division

symbols = st.sampled_from((BTC, ETH))
shares = st.integers(1, 400).map(lambda n: D(n) / 4)
distances = st.integers(2, 40).map(lambda n: D(n) / 10)
volumes = st.sampled_from((None, *map(D, ("0", "0.004", "3", "40", "500"))))
entries = st.sampled_from(({"type": "market"}, {"type": "limit", "offset_bps": 1}))


class Desk(RuleBasedStateMachine):
    """An account of 10,000 in two symbols; time goes on by seconds between decisions and by 5 minutes with a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.account = SimulatedAccount(CASH, RULES, Costs())
        self.price = {BTC: D(100), ETH: D(50)}
        self.now: datetime = NOON
        self.entries: dict[str, tuple[str, object]] = {}
        self.kept: dict[str, Position] = {}
        self.closed: dict[str, Position] = {}

    # -- what the market and the venue do -----------------------------------------------------------------------

    @rule(symbol=symbols, low=st.integers(0, 30), high=st.integers(0, 30), close=st.integers(-30, 30), volume=volumes)
    def bar(self, symbol: str, low: int, high: int, close: int, volume: D | None = None) -> None:
        opened = self.price[symbol]
        ends = opened * (1 + D(close) / 1000)
        at = self.now + timedelta(microseconds=1)
        self.now += timedelta(minutes=5)
        top, bottom = max(opened, ends) * (1 + D(high) / 1000), min(opened, ends) * (1 - D(low) / 1000)
        prices = [price.quantize(D("0.1")) for price in (opened, top, bottom, ends)]
        self.account.on_bar(symbol, PriceBar(at, *prices, volume), self.now)
        self.price[symbol] = prices[-1]
        self.account.wallet.last[symbol] = prices[-1]

    @rule(symbol=symbols, percent=st.integers(-15, 15))
    def gap(self, symbol: str, percent: int) -> None:
        self.price[symbol] = (self.price[symbol] * (1 + D(percent) / 100)).quantize(D("0.1"))
        self.bar(symbol, 0, 0, 0)

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols, rate=st.integers(-10, 10))
    def funding(self, symbol: str, rate: int) -> None:
        self.now += timedelta(seconds=1)
        self.account.apply_funding(symbol, D(rate) / 10_000, self.price[symbol], self.now)

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols)
    def liquidation(self, symbol: str) -> None:
        self.now += timedelta(seconds=1)
        self.account.liquidate(symbol, self.price[symbol], self.now)

    @rule(symbol=symbols)
    def cancel(self, symbol: str) -> None:
        for order in self.account.open_orders(symbol):
            if order.type == OrderType.LIMIT.value:
                self.account.cancel(order.client_order_id, self.now)

    # -- what is decided ----------------------------------------------------------------------------------------

    @rule(symbol=symbols, kind=st.sampled_from((OpenLong, OpenShort)), size=shares, stop=distances, tp=distances,
          entry=entries, thin=st.booleans())  # fmt: skip
    def enter(self, symbol: str, kind: type, entry: dict[str, object], thin: bool, size: D, stop: D, tp: D) -> None:
        if held := self.account.position(symbol):
            self.gap(symbol, 2 if held.side == "long" else -2)  # no adding to a loss
            kind = Add
        shape = {"size_pct": size, "stop_atr": stop, "tp_atr": tp, "entry": entry}
        self.carry_out(kind(symbol=symbol, confidence=D(1), **shape), thin)

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols, kind=st.sampled_from((Trim, ClosePartial)), size=shares, thin=st.booleans())
    def reduce(self, symbol: str, kind: type[Trim], size: D, thin: bool) -> None:
        self.carry_out(kind(symbol=symbol, confidence=D(1), size_pct=size), thin)

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols, thin=st.booleans())
    def close(self, symbol: str, thin: bool) -> None:
        self.carry_out(CloseAll(symbol=symbol, confidence=D(1)), thin)

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols, x=st.integers(-30, 30))
    def move_stop(self, symbol: str, x: int) -> None:
        to = StopTarget(kind="atr", x=D(x) / 10)
        self.carry_out(MoveStop(symbol=symbol, confidence=D(1), to=to))

    @precondition(lambda self: self.kept)
    @rule(symbol=symbols, tp=st.none() | distances)
    def set_target(self, symbol: str, tp: D | None) -> None:
        told = {"symbol": symbol, "confidence": D(1)}
        self.carry_out(CancelTarget(**told) if tp is None else SetTarget(tp_atr=tp, **told))

    def carry_out(self, decision: Decision, thin: bool = False) -> None:
        """Guard, plan, send and book, as a cycle does; `thin`: only half of it is there to be taken."""
        symbol = decision.symbol
        self.now += timedelta(seconds=1)
        state, price = self.state(symbol), self.price[symbol]
        snapshot = seen(pair=symbol, close=float(price), atr=float(price) / 100)
        verdict = guard.judge(decision, snapshot, state, Strategy(limits=LIMITS, symbols=(BTC, ETH)))
        cycle = orders.cycle_id("default", symbol, self.now)
        for intent in orders.plan(verdict, cycle, state, self.now, Strategy(limits=LIMITS)):
            self.entries[intent.client_order_id] = (cycle, intent)
            depth = (intent.quantity / 2).quantize(D("0.001")) if thin else None
            order = self.account.submit(intent, price, self.now, depth=depth)
            if order.status is not OrderStatus.REJECTED:
                self.kept = {
                    key: with_protection(p, intent) if p.symbol == symbol else p for key, p in self.kept.items()
                }
            if not intent.reduce_only:
                self.book()
                self.within_limits(state.equity)

    def state(self, symbol: str) -> AccountState:
        balance = self.account.balance(self.price)
        held = tuple(
            HeldPosition(symbol=p.symbol, side=p.side, quantity=p.quantity, avg_price=p.avg_price, stop=p.stop,
                         target=p.target, initial_stop=p.initial_stop, mark_price=self.price[p.symbol])
            for p in self.kept.values()
        )  # fmt: skip
        pending = tuple(
            PendingEntry(symbol=o.symbol, side="long" if o.side == "buy" else "short",
                         quantity=o.quantity - o.filled, price=o.price, stop=o.stop)
            for o in self.account.open_orders() if o.type == OrderType.LIMIT.value and not o.reduce_only
        )  # fmt: skip
        return AccountState(
            equity=balance.equity, available=balance.available, positions=held, pending=pending,
            instrument=RULES[symbol], last_price=self.price[symbol],
        )  # fmt: skip

    # -- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def book(self) -> None:
        """Project the fills as `protect` does; the invariants below look at the outcome."""
        fresh: list[Position] = []
        for symbol in (BTC, ETH):
            fills = [fill for fill in self.account.fills if fill.symbol == symbol]
            found, fold = positions_from_fills(fills, self.entries, self.kept, "default")
            assert not fold.foreign
            fresh += found
        self.kept = {p.position_id: p for p in fresh if p.closed_at is None}
        self.closed = {p.position_id: p for p in fresh if p.closed_at is not None}

    @invariant()
    def the_ledger_holds_what_the_venue_holds_under_the_same_stop_and_target(self) -> None:
        self.book()
        ours = {p.symbol: (p.side, p.quantity, p.stop, p.target) for p in self.kept.values()}
        assert ours == {p.symbol: (p.side, p.quantity, p.stop, p.target) for p in self.account.positions()}

    @invariant()
    def equity_is_the_same_from_the_fills_alone(self) -> None:
        self.book()
        ours = equity_of_positions(CASH, [*self.kept.values(), *self.closed.values()], self.price)
        theirs = self.account.balance(self.price).equity
        assert abs(ours - theirs) <= SAME * CASH

    @invariant()
    def every_position_has_a_stop_and_no_quantity_is_negative(self) -> None:
        for position in self.account.positions():
            assert position.stop is not None
            assert position.quantity > 0
        assert all(p.quantity >= 0 for p in (*self.kept.values(), *self.closed.values()))

    def within_limits(self, equity: D) -> None:
        """Right after an entry: what the stops may cost, and what is held, against equity before it."""
        held = self.account.positions()
        risk = sum((max(_loss(p.side, p.avg_price, p.stop), D(0)) * p.quantity for p in held), D(0))
        gross = sum((p.quantity * self.price[p.symbol] for p in held), D(0))
        grown = {p.symbol for p in held if self.account.fills and self.account.fills[-1].at == self.now}
        if grown:
            assert risk <= equity * LIMITS.max_total_risk_pct / 100
            assert gross <= equity * LIMITS.max_gross_pct / 100 * D("1.0001")


def _loss(side: str, price: D, stop: D | None) -> D:
    assert stop is not None
    return price - stop if side == "long" else stop - price


TestDesk = Desk.TestCase
TestDesk.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
