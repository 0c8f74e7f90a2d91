"""Replay the live cycle's own functions over history: decisions only where events fire, fills by the one engine.

Between two events nothing is computed bar by bar: the next touch of a stop, target or limit, the next crossing of
R and the next market event are searched for ahead, and the earliest is carried out. Within one bar the order is:
fills of what rested, follow-ups, then decisions at its close, whose orders meet the next bar that trades.

Funding is not in candle files and is reported as unknown; the book is modelled and flagged in every record.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import LedgerMismatch
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
from tasks.core.types.orders import Fill, Instrument, Order, OrderIntent, OrderStatus, OrderType
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


class Entry(NamedTuple):
    """An entry order of ours: its fills, at once or later, belong to the cycle that sent it."""

    cycle_id: str
    intent: OrderIntent
    followups: tuple[str, ...]


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
        self.entries: dict[str, Entry] = {}
        self.booked = 0
        self.losses: set[int] = set()  # bars to come, or this one, on which a position was closed at a loss
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
        candidates += self.losses
        return min((bar for bar in candidates if k < bar < self.grid.n), default=None)

    def _next_of(self, state: SymbolState, k: int) -> list[int]:
        i = bisect_right(state.event_bars, k)
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
            if bar >= k and reason.fingerprint not in state.said:
                state.ahead.setdefault(bar, []).append(reason)
        rules = followups.pending(position)
        if not rules:
            return
        path = position_events.r_path(position, bars)
        path = path[path.index > self.grid.closes_at(k)]
        for rule in rules:
            reached = np.flatnonzero(path.to_numpy() >= float(rule.at_r))
            if len(reached):
                state.ahead.setdefault(self.grid.index(int(path.index[reached[0]].timestamp())), [])

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
        self.peak = max(self.peak, exact(float(curve.max())))
        self.filled_to = k

    def _fill_resting(self, k: int) -> None:
        for symbol, state in self.symbols.items():
            if state.touch == k:
                self.engine.on_bar(symbol, state.tape.bar(k), self.grid.closes_at(k))
                self._book(k)
                self._look_ahead(symbol, k)
            if state.position is not None and k in state.ahead:
                self._follow_up(symbol, state.position, k)

    def _book(self, bar: int) -> None:
        """Book every fill the engine has made since the last time; `bar`: the one they happened on."""
        fills = self.engine.fills[self.booked :]
        self.booked += len(fills)
        for fill in fills:
            state = self.symbols[fill.symbol]
            state.position = self._booked(state.position, fill)
            if state.position.closed_at is not None:
                self._close(state, ledger.outcome(state.position), bar)

    def _booked(self, position: Position | None, fill: Fill) -> Position:
        entry = self.entries.get(fill.client_order_id)
        if position is not None:
            position = ledger.apply_fill(position, fill)
            return booking.add_protection(position, entry.intent) if entry and fill.reason == "entry" else position
        if entry is None:
            raise LedgerMismatch(f"fill {fill.fill_id} ({fill.reason}) on {fill.symbol} is of no entry of this replay")
        position = ledger.open_position(entry.intent, [fill], self.plan.strategy, entry.cycle_id)
        return position.model_copy(update={"followups": entry.followups})

    def _close(self, state: SymbolState, outcome: Outcome, bar: int) -> None:
        state.position = None
        if outcome.pnl < 0:
            self.losses.add(bar)
        self.outcomes.append(outcome)
        self.closed.append(
            ClosedTrade(
                closed_at=outcome.closed_at, pnl=outcome.pnl, symbol=outcome.symbol, r_multiple=outcome.r_multiple
            )
        )
        mine = [each for each in self.outcomes if each.symbol == outcome.symbol][-DIGESTED:]
        state.digest = ledger.digest(mine, outcome.closed_at, outcome.symbol)

    def _follow_up(self, symbol: str, position: Position, k: int) -> None:
        """Carry out what `protect` would at this close; what is refused is due again."""
        state = self.symbols[symbol]
        for rule in followups.due(position, exact(float(state.tape.marks[k]))):
            if state.position is None:
                break
            intent = followups.intent(rule, state.position, self.instruments[symbol])
            refusal = "" if intent is None else self._send(intent, k)
            if not refusal and state.position is not None:
                state.position = followups.mark_done(state.position, rule)
        self._look_ahead(symbol, k)

    def _send(self, intent: OrderIntent, k: int) -> str:
        """Send one intent at the close of bar k: it meets the open of the next bar that trades. Returns the refusal."""
        state = self.symbols[intent.symbol]
        following = state.tape.next_traded(k)
        if following is None:
            return "no_market"
        trades = intent.type in (OrderType.MARKET, OrderType.LIMIT)
        price = state.tape.arrays["open"][following] if trades else state.tape.marks[k]
        order = self.engine.submit(intent, exact(float(price)), self.grid.closes_at(following - 1))
        if order.status is OrderStatus.REJECTED:
            return order.reason
        self._book(following)
        if state.position is not None:
            state.position = booking.with_protection(state.position, intent)
        return ""

    # decisions

    async def _decide(self, k: int) -> None:
        as_of, lost = self.grid.closes_at(k), k in self.losses
        self.losses.discard(k)
        for symbol, state in self.symbols.items():
            reasons = [*state.events.get(k, ()), *state.ahead.get(k, ())]
            reasons = [reason for reason in reasons if reason.fingerprint not in state.said]
            if not (reasons or lost) or np.isnan(state.tape.marks[k]):
                continue
            account = self._account(symbol, k, as_of)
            drawdown = self._drawdown_reasons(symbol, account, as_of)
            if reasons or drawdown:
                await self._cycle(symbol, (*reasons, *bar_closes(symbol, as_of), *drawdown), account, k)

    async def _cycle(self, symbol: str, reasons: tuple[Reason, ...], account: AccountState, k: int) -> None:
        state, as_of = self.symbols[symbol], self.grid.closes_at(k)
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
        symbol = record.symbol
        self.decision_bars.add((symbol, k))
        self.by_action[decided.decision.action] += 1
        self.cost_usd += decided.cost_usd
        if not verdict.allowed:
            self.rejected.update(code.value for code in verdict.codes)
        first = len(self.engine.fills)
        refusals = [refusal for intent in record.intents if (refusal := self._send_for(record, intent, k))]
        if record.intents:
            self._look_ahead(symbol, k)
        if isinstance(verdict.decision, Pause) and verdict.allowed:
            self.paused[symbol] = record.as_of + timedelta(minutes=float(verdict.decision.minutes))
        self._finish(record, tuple(self.engine.fills[first:]), refusals)

    def _send_for(self, record: CycleRecord, intent: OrderIntent, k: int) -> str:
        """Send one intent of a decision, known as ours before it can fill. Returns the refusal."""
        if not intent.reduce_only:
            decision = record.decided.decision if record.decided else None
            rules = decision.followups if isinstance(decision, ENTRIES) else ()
            self.entries[intent.client_order_id] = Entry(record.cycle_id, intent, rules)
            self.opens.append(record.as_of)
        return self._send(intent, k)

    def _finish(self, record: CycleRecord, fills: tuple[Fill, ...], refusals: list[str]) -> None:
        allowed = record.verdict is not None and record.verdict.allowed
        status = CycleStatus.EXECUTED if record.intents else CycleStatus.HELD if allowed else CycleStatus.DENIED
        status = CycleStatus.FAILED if refusals else status
        record = record.model_copy(update={"status": status, "fills": fills, "error": "; ".join(refusals)})
        self.hash.update(record.model_dump_json().encode())
        self.hash.update(b"\n")
        if self.on_record:
            self.on_record(record)

    def _account(self, symbol: str, k: int, as_of: datetime) -> AccountState:
        """Build what the guard judges against, as the live cycle does from the venue and the store."""
        at_k = ((s, state.tape.marks[k]) for s, state in self.symbols.items())
        marks = {s: exact(float(mark)) for s, mark in at_k if not np.isnan(mark)}
        balance = self.engine.balance(marks)
        midnight = max(0, k - int(as_of.timestamp()) % 86_400 // STEP)
        since = as_of - timedelta(days=1)
        return AccountState(
            equity=balance.equity,
            available=balance.available,
            peak_equity=self.peak,
            day_start_equity=exact(float(self.equity[midnight])),
            day_peak_equity=exact(float(self.equity[midnight : k + 1].max())),
            positions=tuple(self._held(position, marks) for position in self._open_positions()),
            pending=self._pending(as_of),
            instrument=self.instruments[symbol],
            closed_trades=tuple(self.closed[-RECENT:]),
            opens=tuple(at for at in self.opens[-RECENT:] if at > since),
            paused_until=self.paused.get(symbol),
            last_price=marks[symbol],
        )

    def _pending(self, as_of: datetime) -> tuple[PendingEntry, ...]:
        return tuple(
            PendingEntry(
                symbol=order.symbol, side="long" if order.side == "buy" else "short",
                quantity=order.quantity - order.filled, price=order.price, stop=order.stop,
            )
            for order in self.engine.open_orders()
            if order.type == "limit" and order.price is not None and self._works(order, as_of)
        )  # fmt: skip

    def _works(self, order: Order, as_of: datetime) -> bool:
        """Say whether an entry may still fill: over a gap the engine learns of its end only with the next bar."""
        entry = self.entries.get(order.client_order_id)
        return entry is not None and (entry.intent.expires_at is None or entry.intent.expires_at >= as_of)

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
