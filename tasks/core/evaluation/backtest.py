"""Replay the live cycle's own functions over history: decisions only where events fire, fills by the one engine.

Between two events nothing is computed bar by bar: the next touch of a stop, target or limit, the next crossing of
R and the next market event are searched for ahead, and the earliest is carried out. Within one bar the order is:
fills of what rested, follow-ups, then decisions at its close, whose orders meet the next bar that trades.

Funding is not in candle files and is reported as unknown; the book is modelled and flagged in every record.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from tasks.core.evaluation import metrics
from tasks.core.evaluation.tape import STEP, Grid, Tape, make_grid
from tasks.core.market import orderbook, position_events
from tasks.core.market.calendar import CalendarEvent, calendar_reasons
from tasks.core.market.snapshot import Market, bar_closes
from tasks.core.ports import Decider
from tasks.core.trading import booking, followups, guard, ledger
from tasks.core.trading import orders as order_plan
from tasks.core.trading.brief import make_brief, realized_today_pct
from tasks.core.trading.matching import MatchingEngine
from tasks.core.trading.money import exact
from tasks.core.types.decision import ENTRIES, Decided, Pause
from tasks.core.types.limits import Costs, EventThresholds, Limits
from tasks.core.types.orders import Fill, Instrument, OrderIntent, OrderStatus
from tasks.core.types.portfolio import AccountState, ClosedTrade, HeldPosition, PendingEntry, Position
from tasks.core.types.record import CycleRecord, CycleStatus, Outcome, Reason
from tasks.core.types.snapshot import TradeDigest
from tasks.core.types.verdict import Verdict

RECENT = 50  # closed trades the guard looks back on
DIGESTED = 200  # outcomes of a symbol that its digest is made of


@dataclass(frozen=True)
class Plan:
    """What is replayed: the strategy's name, its money, limits and costs, and the window."""

    strategy: str = "default"
    cash: Decimal = Decimal(10_000)
    limits: Limits = field(default_factory=Limits)
    costs: Costs = field(default_factory=Costs)
    thresholds: EventThresholds = field(default_factory=EventThresholds)
    instruments: Mapping[str, Instrument] = field(default_factory=dict)
    calendar: tuple[CalendarEvent, ...] = ()
    start: datetime | None = None
    end: datetime | None = None


@dataclass
class Result:
    """What came out; `equity` has one value per 5m close of the grid."""

    grid: Grid
    equity: np.ndarray
    candles: int
    cycles: int
    fingerprint: str
    outcomes: list[Outcome]
    by_action: Counter[str]
    rejected_by_code: Counter[str]
    calls: int
    fees: Decimal
    cost_usd: Decimal

    def summary(self) -> dict[str, Any]:
        """Return the figures that `quarterdeck backtest --json` prints, but for the time it took."""
        closes = self.grid.start_s + (np.arange(len(self.equity)) + 1) * STEP
        return {
            "candles": self.candles,
            "cycles": self.cycles,
            "calls": self.calls,
            "decisions": sum(self.by_action.values()),
            "by_action": dict(sorted(self.by_action.items())),
            "trades": len(self.outcomes),
            "return_pct": metrics.return_pct(self.equity),
            "sharpe": metrics.sharpe(metrics.daily(self.equity, closes)),
            "max_drawdown_pct": metrics.max_drawdown_pct(self.equity),
            "win_rate": metrics.win_rate(self.outcomes),
            "expectancy_r": metrics.expectancy_r(self.outcomes),
            "fees_quote": self.fees,
            "llm_cost_usd": self.cost_usd,
            "rejected_by_code": dict(sorted(self.rejected_by_code.items())),
            "funding": "unknown",
            "fingerprint": self.fingerprint,
        }


class SymbolState:
    """What the replay tracks of one symbol: its tape, its events still to come, and our position."""

    def __init__(self, market: Market, grid: Grid, calendar: tuple[CalendarEvent, ...]) -> None:
        self.market, self.tape = market, Tape(market, grid)
        self.events: dict[int, list[Reason]] = {}
        first, last = grid.closes_at(-1), grid.closes_at(grid.n - 1)
        for reason in (*market.reasons(first, last), *calendar_reasons(calendar, market.symbol, first, last)):
            self.events.setdefault(grid.index(int(reason.as_of.timestamp())), []).append(reason)
        self.event_bars = sorted(self.events)
        self.position: Position | None = None
        self.ahead: dict[int, list[Reason]] = {}
        self.said: set[str] = set()
        self.touch: int | None = None
        self.digest = TradeDigest()
        self.last_price = 0.0


class Backtest:
    """One replay. `on_record` is called with every cycle record, in order; `progress` with bars done and in all."""

    def __init__(
        self,
        markets: Mapping[str, Market],
        decider: Decider,
        plan: Plan,
        on_record: Callable[[CycleRecord], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.plan, self.decider, self.on_record, self.progress = plan, decider, on_record, progress
        self.grid = make_grid(markets, plan.start, plan.end)
        self.symbols = {
            symbol: SymbolState(market, self.grid, plan.calendar) for symbol, market in sorted(markets.items())
        }
        instruments = {s: plan.instruments.get(s, Instrument(symbol=s)) for s in self.symbols}
        self.engine = MatchingEngine(plan.cash, instruments, plan.costs)
        self.instruments = instruments
        self.equity = np.full(self.grid.n, float(plan.cash))
        self.filled_to = -1
        self.peak = plan.cash
        self.outcomes: list[Outcome] = []
        self.closed: list[ClosedTrade] = []
        self.opens: list[datetime] = []
        self.paused: dict[str, datetime] = {}
        self.hash = hashlib.sha256()
        self.by_action: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.decision_bars: set[tuple[str, int]] = set()
        self.cost_usd = Decimal(0)

    async def run(self) -> Result:
        """Carry out every event of the window in order and return what came of it."""
        k = -1
        while (following := self._next_bar(k)) is not None:
            k = following
            self._mark_equity(k - 1)
            self._fill_resting(k)
            self._mark_equity(k)
            await self._decide(k)
            if self.progress:
                self.progress(k + 1, self.grid.n)
        self._mark_equity(self.grid.n - 1)
        return self._result()

    # the next thing that happens

    def _next_bar(self, k: int) -> int | None:
        candidates = [bar for state in self.symbols.values() for bar in self._next_of(state, k)]
        return min((bar for bar in candidates if k < bar < self.grid.n), default=None)

    def _next_of(self, state: SymbolState, k: int) -> list[int]:
        i = int(np.searchsorted(state.event_bars, k, side="right"))
        bars = state.event_bars[i : i + 1] + [bar for bar in state.ahead if bar > k]
        return bars if state.touch is None else [*bars, state.touch]

    def _look_ahead(self, symbol: str, k: int) -> None:
        """After anything changed: find the next touch of a resting price, and the position's coming reasons."""
        state = self.symbols[symbol]
        state.touch, state.ahead = None, {}
        if not self.engine.has_work(symbol):
            return
        state.touch = state.tape.first_touch(k, self.engine.next_triggers(symbol))
        if state.position is not None:
            self._position_ahead(state, state.position, k)

    def _position_ahead(self, state: SymbolState, position: Position, k: int) -> None:
        end = self.grid.n - 1 if state.touch is None else state.touch
        bars = state.market.bars["5m"].loc[position.opened_at - timedelta(seconds=STEP) : self.grid.closes_at(end)]
        until = self.grid.closes_at(end)
        for reason in position_events.position_reasons(position, bars, until, self.plan.thresholds):
            bar = self.grid.index(int(reason.as_of.timestamp()))
            if bar > k and reason.fingerprint not in state.said:
                state.ahead.setdefault(bar, []).append(reason)
        path = position_events.r_path(position, bars)
        for rule in followups.pending(position):
            reached = np.flatnonzero(path.to_numpy() >= float(rule.at_r))
            if len(reached):
                bar = max(k + 1, self.grid.index(int(path.index[reached[0]].timestamp())))
                state.ahead.setdefault(bar, [])

    # money

    def _mark_equity(self, k: int) -> None:
        """Fill the equity curve up to bar k with the account as it stands."""
        if k <= self.filled_to:
            return
        part = slice(self.filled_to + 1, k + 1)
        held = self.engine.positions()
        marks = {p.symbol: p.avg_price for p in held}
        curve = np.full(k - self.filled_to, float(self.engine.balance(marks).equity))
        for p in held:
            sign = 1.0 if p.side == "long" else -1.0
            curve += sign * float(p.quantity) * (self.symbols[p.symbol].tape.marks[part] - float(p.avg_price))
        self.equity[part] = curve
        self.filled_to = k

    def _fill_resting(self, k: int) -> None:
        for symbol, state in self.symbols.items():
            if state.touch == k:
                fills = self.engine.on_bar(symbol, state.tape.bar(k), self.grid.closes_at(k))
                self._book(symbol, fills, k)
            if state.position is not None and k in state.ahead:
                self._follow_up(symbol, state.position, k)

    def _book(self, symbol: str, fills: list[Fill], k: int) -> None:
        state = self.symbols[symbol]
        for fill in fills:
            if state.position is not None:
                state.position = ledger.apply_fill(state.position, fill)
                if state.position.closed_at is not None:
                    self._close(state, ledger.outcome(state.position))
        self._look_ahead(symbol, k)

    def _close(self, state: SymbolState, outcome: Outcome) -> None:
        state.position = None
        self.outcomes.append(outcome)
        self.closed.append(
            ClosedTrade(
                closed_at=outcome.closed_at, pnl=outcome.pnl, symbol=outcome.symbol, r_multiple=outcome.r_multiple
            )
        )
        mine = [each for each in self.outcomes if each.symbol == outcome.symbol][-DIGESTED:]
        state.digest = ledger.digest(mine, outcome.closed_at, outcome.symbol)

    def _follow_up(self, symbol: str, position: Position, k: int) -> None:
        """Carry out what `protect` would at this close."""
        state = self.symbols[symbol]
        price = exact(float(state.tape.marks[k]))
        for rule in followups.due(position, price):
            intent = followups.intent(rule, position, self.instruments[symbol])
            position = followups.mark_done(position, rule)
            state.position = position
            if intent is not None:
                self._send(symbol, intent, k, price)
        self._look_ahead(symbol, k)

    def _send(self, symbol: str, intent: OrderIntent, k: int, price: Decimal) -> list[Fill]:
        """Send one intent at the close of bar k: it meets the open of the next bar that trades."""
        state = self.symbols[symbol]
        following = state.tape.next_traded(k)
        if following is None:
            return []
        if intent.type in ("market", "limit"):
            price = exact(float(state.tape.arrays["open"][following]))
        before = len(self.engine.fills)
        order = self.engine.submit(intent, price, self.grid.closes_at(following - 1))
        fills = list(self.engine.fills[before:])
        if order.status is not OrderStatus.REJECTED and state.position is not None:
            state.position = booking.with_protection(state.position, intent)
        return fills

    # decisions

    async def _decide(self, k: int) -> None:
        as_of = self.grid.closes_at(k)
        for symbol, state in self.symbols.items():
            reasons = [*state.events.get(k, ()), *state.ahead.get(k, ())]
            reasons = [reason for reason in reasons if reason.fingerprint not in state.said]
            if reasons:
                await self._cycle(symbol, (*reasons, *bar_closes(symbol, as_of)), k, as_of)

    async def _cycle(self, symbol: str, reasons: tuple[Reason, ...], k: int, as_of: datetime) -> None:
        state = self.symbols[symbol]
        account = self._account(symbol, k, as_of)
        reasons += tuple(self._drawdown_reasons(symbol, account, as_of))
        state.said.update(reason.fingerprint for reason in reasons)
        book = orderbook.modelled(state.market.value("15m", "atr_pct", as_of), float(account.equity) / 5)
        brief = make_brief(
            state.market, as_of, account, self.plan.limits, self.plan.costs, tuple(self.symbols),
            reasons=reasons, position=state.position, book=book, digest=state.digest,
        )  # fmt: skip
        decided = (await self.decider.decide([brief]))[0]
        verdict = guard.judge(
            decided.decision, brief.snapshot, account, self.plan.limits, self.plan.costs,
            symbols=tuple(self.symbols), now=as_of, fallback=decided.is_fallback,
        )  # fmt: skip
        cycle_id = order_plan.cycle_id(self.plan.strategy, symbol, as_of)
        intents = order_plan.plan(verdict, cycle_id, account, as_of, self.plan.limits)
        record = CycleRecord(
            cycle_id=cycle_id, strategy=self.plan.strategy, symbol=symbol, as_of=as_of, trigger="backtest",
            decider=self.decider.name, reasons=reasons, snapshot=brief.snapshot, role_inputs=brief.role_inputs,
            modelled_book=True, state=account, decided=decided, verdict=verdict, intents=intents,
        )  # fmt: skip
        self._carry_out(record, k, decided, verdict)

    def _drawdown_reasons(self, symbol: str, account: AccountState, as_of: datetime) -> list[Reason]:
        said = self.symbols[symbol].said
        found = position_events.drawdown(symbol, realized_today_pct(account, as_of), as_of, self.plan.thresholds)
        return [reason for reason in found if reason.fingerprint not in said]

    def _carry_out(self, record: CycleRecord, k: int, decided: Decided, verdict: Verdict) -> None:
        symbol, state = record.symbol, self.symbols[record.symbol]
        self.decision_bars.add((symbol, k))
        self.by_action[decided.decision.action] += 1
        self.cost_usd += decided.cost_usd
        if not verdict.allowed:
            self.rejected.update(code.value for code in verdict.codes)
        fills: list[Fill] = []
        for intent in record.intents:
            fills += self._send(symbol, intent, k, exact(float(state.tape.marks[k])))
            self._book_intent(record, intent, fills, k)
        if isinstance(verdict.decision, Pause) and verdict.allowed:
            self.paused[symbol] = record.as_of + timedelta(minutes=float(verdict.decision.minutes))
        self._finish(record, tuple(fills))

    def _book_intent(self, record: CycleRecord, intent: OrderIntent, fills: list[Fill], k: int) -> None:
        state = self.symbols[record.symbol]
        mine = [fill for fill in fills if fill.client_order_id == intent.client_order_id]
        if state.position is None and mine and not intent.reduce_only:
            state.position = ledger.open_position(intent, mine, self.plan.strategy, record.cycle_id)
            if record.decided is not None and isinstance(record.decided.decision, ENTRIES):
                state.position = state.position.model_copy(update={"followups": record.decided.decision.followups})
            mine = []
        elif state.position is not None and mine:
            state.position = booking.add_protection(state.position, intent)
        if not intent.reduce_only and intent.type in ("market", "limit"):
            self.opens.append(record.as_of)
        self._book(record.symbol, mine, k)

    def _finish(self, record: CycleRecord, fills: tuple[Fill, ...]) -> None:
        allowed = record.verdict is not None and record.verdict.allowed
        status = CycleStatus.EXECUTED if record.intents else CycleStatus.HELD if allowed else CycleStatus.DENIED
        record = record.model_copy(update={"status": status, "fills": fills})
        self.hash.update(record.model_dump_json().encode())
        self.hash.update(b"\n")
        if self.on_record:
            self.on_record(record)

    def _account(self, symbol: str, k: int, as_of: datetime) -> AccountState:
        """Build what the guard judges against, as the live cycle does from the venue and the store."""
        marks = {s: exact(float(state.tape.marks[k])) for s, state in self.symbols.items()}
        balance = self.engine.balance(marks)
        self.peak = max(self.peak, exact(float(self.equity[: k + 1].max())) if k >= 0 else self.peak)
        midnight = max(0, k - int(as_of.timestamp()) % 86_400 // STEP)
        since = as_of - timedelta(days=1)
        return AccountState(
            equity=balance.equity,
            available=balance.available,
            peak_equity=self.peak,
            day_start_equity=exact(float(self.equity[midnight])),
            day_peak_equity=exact(float(self.equity[midnight : k + 1].max())),
            positions=tuple(self._held(position, marks) for position in self._open_positions()),
            pending=self._pending(),
            instrument=self.instruments[symbol],
            closed_trades=tuple(self.closed[-RECENT:]),
            opens=tuple(at for at in self.opens[-RECENT:] if at > since),
            paused_until=self.paused.get(symbol),
            last_price=marks[symbol],
        )

    def _pending(self) -> tuple[PendingEntry, ...]:
        return tuple(
            PendingEntry(
                symbol=order.symbol, side="long" if order.side == "buy" else "short",
                quantity=order.quantity - order.filled, price=order.price, stop=order.stop,
            )
            for order in self.engine.open_orders()
            if order.type == "limit" and not order.reduce_only and order.price is not None
        )  # fmt: skip

    def _open_positions(self) -> list[Position]:
        return [state.position for state in self.symbols.values() if state.position is not None]

    def _held(self, position: Position, marks: Mapping[str, Decimal]) -> HeldPosition:
        return HeldPosition(
            symbol=position.symbol, side=position.side, quantity=position.quantity, avg_price=position.avg_price,
            stop=position.stop, tp=position.target, initial_stop=position.initial_stop,
            mark_price=marks[position.symbol],
        )  # fmt: skip

    def _result(self) -> Result:
        quarter_hours = sum(1 for k in range(self.grid.n) if (self.grid.start_s + (k + 1) * STEP) % 900 == 0)
        extra = sum(1 for _, k in self.decision_bars if (self.grid.start_s + (k + 1) * STEP) % 900)
        return Result(
            grid=self.grid,
            equity=self.equity,
            candles=sum(state.tape.count for state in self.symbols.values()),
            cycles=quarter_hours * len(self.symbols) + extra,
            fingerprint=self.hash.hexdigest(),
            outcomes=self.outcomes,
            by_action=self.by_action,
            rejected_by_code=self.rejected,
            calls=len(self.decision_bars),
            fees=sum((fill.fee for fill in self.engine.fills), Decimal(0)),
            cost_usd=self.cost_usd,
        )
