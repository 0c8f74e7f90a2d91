"""Replay the live cycle's own functions over history: decisions only where events fire, fills by the one account.

Between two events nothing is computed: a bar that touches no stop, target or limit, on which R is not crossed and the
market gives no reason is passed over. Within one bar the order is: orders that arrive at its open, fills of what
rested, follow-ups (carried out at 5m closes, as `protect` does), funding, then decisions at its close. An order meets
the first bar that trades after its decision and takes no more than its share of that bar's volume; where it arrives
`latency_s` into the bar, the price has by then gone that share of the way from the open to the worse extreme. Until
then it is under way: nothing that is asked or judged at a close knows of a later fill. All symbols with a reason at one
close are put to the decider together and judged one after the other, as in live; what the earlier ones have sent counts
for the later ones as a pending entry.

Funding is not in candle files: without rates it is reported as unknown. The book is modelled and flagged in every
record.
"""

import asyncio
import gc
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from tasks.core.decision.kinds import kind_of
from tasks.core.decision.llm.tools import DESK, ToolDesk
from tasks.core.decision.memory import JUDGED, Remembered, SettledTrade, performance, since
from tasks.core.market import position_events
from tasks.core.market.calendar import CalendarEvent
from tasks.core.market.market import Market, bar_closes
from tasks.core.market.position_events import STEP
from tasks.core.ports import Decider
from tasks.core.simulation import benchmark
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.simulation.backtest_inputs import World, coverage
from tasks.core.simulation.rejections import PROTECTIVE
from tasks.core.simulation.replayed_tools import Known, ReplayedTools
from tasks.core.simulation.sharpe import sharpe
from tasks.core.simulation.symbol_backtest import Arrival, SymbolBacktest, make_grid
from tasks.core.trading import followups, ledger
from tasks.core.trading.guard import track_record
from tasks.core.trading.judge import status_of
from tasks.core.trading.portfolio import REFUSALS, max_drawdown_pct, opening, refusal
from tasks.core.trading.positions import PositionFold, with_protection
from tasks.core.trading.question import beside, others_of, question
from tasks.core.types import (
    ENTRIES,
    MANAGES,
    ZERO,
    AccountState,
    Add,
    Answer,
    CycleRecord,
    CycleStatus,
    Fill,
    InputError,
    Inputs,
    Json,
    Ledger,
    LedgerMismatch,
    Memory,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Outcome,
    Pause,
    PendingEntry,
    Position,
    Question,
    Reason,
    Reduce,
    Refusal,
    Strategy,
    Texts,
    Verdict,
    day_start,
    exact,
    exact_sum,
)

RECENT = 50  # closed trades, and entries, that the guard looks back on
MONTH, HOUR = 8640, 12  # bars: of the equity that a decider is told, and from one point of it to the next
WEEK = 2016  # bars: an open position's coming reasons are searched for so far ahead
BREATH = 32  # busy bars between which the event loop gets a turn, and with it Ctrl-C


class SymbolQuestion(NamedTuple):
    """One symbol's question at one close."""

    symbol: str
    state: AccountState
    question: Question
    inputs: Inputs


@dataclass
class Unfinished:
    """A record whose orders are still under way, and what became of those that have arrived."""

    record: CycleRecord
    waiting: int = 0
    refusals: list[str] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)

    def arrived(self, refusal: str, fills: Sequence[Fill]) -> None:
        self.waiting -= 1
        self.refusals += [refusal] * bool(refusal)
        self.fills += fills


class Backtest:
    """One replay. `on_record` is called with every cycle record, in order, `on_line` with its JSON and a newline;
    `progress` with bars done and in all. Once `is_capped`, the replay ends at the next decision, before it."""

    def __init__(
        self,
        markets: Mapping[str, Market],
        decider: Decider,
        strategy: Strategy,
        world: World = World(),  # noqa: B008  (frozen)
        on_record: Callable[[CycleRecord], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_line: Callable[[bytes], None] | None = None,
        is_capped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.strategy, self.world, self.decider = strategy, world, decider
        self.is_capped, self.complete = is_capped, True
        self.on_record, self.progress, self.on_line = on_record, progress, on_line
        self.strategy_id = strategy.sha256
        self.grid = make_grid(markets, world.start, world.end)
        self.judge, self.is_guarded = benchmark.judge_of(decider.name), not kind_of(decider.name).benchmark
        if not self.is_guarded:
            begins = CalendarEvent(at=self.grid.closes_at(0), title="the window begins")
            world = replace(world, calendar=(*world.calendar, begins))
        if unknown := [symbol for symbol in sorted(markets) if symbol not in strategy.instruments]:
            raise InputError(f"{unknown[0]}: the strategy has no instrument for it; name its terms with --instruments")
        self.instruments = {symbol: strategy.instruments[symbol] for symbol in sorted(markets)}
        self.account = SimulatedAccount(strategy.capital, self.instruments, strategy.costs)
        self.unfinished: deque[Unfinished] = deque()
        self.intents: dict[str, tuple[str, OrderIntent]] = {}  # by client order id, with the cycle they are of
        self.followups: dict[str, Texts] = {}  # of entries
        self.opened_by: dict[str, Answer] = {}  # those that entries were sent for, by cycle
        self.paid: deque[tuple[datetime, str, float]] = deque()  # calls: when, with which role/version, USD
        self.done: tuple[object, Memory] = (None, Memory())  # how the decider did, with what it was worked out of
        self.refusals: deque[Refusal] = deque(maxlen=REFUSALS)  # the guard's, newest first
        self.sees_all, self.looks_up = kind_of(decider.name).together, kind_of(decider.name).looks_up
        self.adds: set[str] = set()  # entries that add to a position
        self.symbols = {
            symbol: SymbolBacktest(markets[symbol], self.grid, world, PositionFold(self.intents, strategy.name))
            for symbol in self.instruments
        }
        self.equity = np.full(self.grid.n, float(strategy.capital))
        self.filled_to = -1
        self.peak = float(strategy.capital)
        self.booked = 0
        self.losses: set[int] = set()  # bars to come, or this one, on which a position was closed at a loss
        self.outcomes: list[Outcome] = []
        self.opens: deque[datetime] = deque(maxlen=RECENT)
        self.paused: dict[str, datetime] = {}
        self.reduced_until: datetime | None = None
        self.decided_at: dict[str, datetime] = {}  # when a symbol was last decided on
        self.refused: list[tuple[datetime, bool]] = []  # entries since the last one that was taken
        self.liquidated: datetime | None = None
        self.kelly: Decimal | None = None
        self.correlations: dict[tuple[date, str, str], dict[str, float]] = {}
        self.hash = hashlib.sha256()
        self.by_action: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.decided: list[int] = []  # the bar of each decision
        self.cost_usd = ZERO
        self.halted_at: datetime | None = None

    async def run(self) -> "Backtest":
        """Carry out every event of the window in order; returns itself, done."""
        before = gc.get_threshold()
        gc.set_threshold(max(before[0], 70_000), *before[1:])  # records make no cycles, and looking took a fifth of it
        try:
            await self._bars()
        finally:
            gc.set_threshold(*before)
        self._emit(under_way=True)
        self.mark_equity(self.grid.n - 1)
        if self.progress:
            self.progress(self.grid.n, self.grid.n)
        return self

    async def _bars(self) -> None:
        turns, replays = 0, list(self.symbols.values())
        for k in range(self.grid.n):
            if not any([replay.is_busy(k) for replay in replays]) and k not in self.losses:  # noqa: C419  (faster)
                continue
            turns += 1
            self.pass_bar(k)
            await self._decide(k)
            if not self.complete:
                self.grid, self.equity = replace(self.grid, n=k + 1), self.equity[: k + 1]
                return
            if turns % BREATH == 0:
                if self.progress:
                    self.progress(k + 1, self.grid.n)
                await asyncio.sleep(0)

    # one bar

    def pass_bar(self, k: int) -> None:
        """Let orders arrive on bar k and pass it over what rests and is open; then come follow-ups and funding."""
        for symbol, replay in self.symbols.items():
            arriving = replay.arriving.pop(k, ())
            for order in arriving:
                self.mark_equity(k - 1)
                self._meet(order, k)
            if touched := replay.is_touched(k):
                self.mark_equity(k - 1)
                self.account.on_bar(symbol, replay.bar(k), self.grid.closes_at(k))
                self._book(k)
            if arriving or touched:
                if replay.position is None:
                    self._cancel_rests(symbol, k)
                self._look_ahead(symbol, k, since=k)
            if replay.position is not None and k in replay.ahead:
                self._follow_up(symbol, replay.position, k)
            if replay.position is not None and k in replay.funding:
                self.mark_equity(k - 1)
                self.account.apply_funding(symbol, replay.funding[k], replay.mark(k), self.grid.closes_at(k))
                self._book(k)
                self._look_ahead(symbol, k)
        self._emit()
        self.mark_equity(k)

    def mark_equity(self, k: int) -> None:
        """Fill the equity curve up to bar k with the account as it stands."""
        if k <= self.filled_to:
            return
        part = slice(self.filled_to + 1, k + 1)
        holdings = self.account.wallet.holdings.values()
        curve = self.equity[part]
        curve[:] = float(self.account.wallet.cash - sum(h.sign * h.cost for h in holdings))
        for h in holdings:
            curve += h.sign * float(h.quantity) * self.symbols[h.symbol].marks[part]
        self.peak = max(self.peak, float(curve.max()))
        self.filled_to = k

    def _look_ahead(self, symbol: str, k: int, since: int | None = None) -> None:
        """After anything changed: watch the prices that matter now, and find the position's coming reasons.

        since: the first bar whose close counts for follow-ups; by default the next one.
        """
        replay, position = self.symbols[symbol], self.symbols[symbol].position
        replay.ahead = {}
        replay.watch(self.account.next_triggers(symbol))
        if position is None:
            return
        last = min(k + WEEK, self.grid.n - 1)
        until = self.grid.closes_at(last)
        replay.ahead[last] = []
        thresholds = self.strategy.thresholds
        reasons = position_events.reasons_at(position, replay.closes, until, thresholds)
        for bar in (k - 1, k):  # the review of this close, which is asked only then, and the one after it
            if review := position_events.next_review(
                position, replay.closes, self.grid.closes_at(bar), until, thresholds
            ):
                reasons.append(review)
        for reason in {reason.fingerprint: reason for reason in reasons}.values():
            bar = self.grid.index(reason.as_of)
            if bar >= k and reason.fingerprint not in replay.reported:
                replay.ahead.setdefault(bar, []).append(reason)
        if rules := followups.pending(position):
            path = position_events.r_path(position, replay.closes, until)
            later = path.at_s > self.grid.start_s + (k + 1 if since is None else since) * STEP
            atr = (
                replay.market.atr(path.at_s) if any(isinstance(rule, followups.TrailRule) for rule in rules) else later
            )
            for rule in rules:
                reached = later & followups.reached(rule, position, path, atr)
                if reached.any():
                    at = int(path.at_s[reached.argmax()])
                    replay.ahead.setdefault((at - self.grid.start_s) // STEP - 1, [])

    def _book(self, bar: int) -> None:
        """Book every fill the account has made since the last time; `bar`: the one they happened on."""
        fills = self.account.fills[self.booked :]
        self.booked += len(fills)
        for fill in fills:
            replay = self.symbols[fill.symbol]
            fold = replay.fold
            fold.take(fill)
            if fold.foreign:
                raise LedgerMismatch(f"fill {fill.fill_id} ({fill.reason}) on {fill.symbol} is of no order of ours")
            if fold.position is not None and (asked := self.followups.get(fill.client_order_id)):
                both = dict.fromkeys((*fold.position.followups, *asked))
                fold.position = fold.position.replace(followups=tuple(both))
            self.liquidated = fill.at if fill.reason == "liquidation" else self.liquidated
            while fold.closed:
                self._close(replay, ledger.outcome(fold.closed.pop()), bar)

    def _close(self, replay: SymbolBacktest, outcome: Outcome, bar: int) -> None:
        if outcome.pnl < 0:
            self.losses.add(bar)
        self.outcomes.append(outcome)
        self.kelly = track_record.kelly(self.outcomes[-track_record.KEPT :], self.strategy.limits.kelly_min_outcomes)
        replay.settle(outcome)

    def _cancel_rests(self, symbol: str, k: int) -> None:
        """Cancel, as `protect` does, the rest of entries into a position that has ended."""
        for order in self.account.open_orders(symbol):
            if order.filled or order.client_order_id in self.adds:
                self.account.cancel(order.client_order_id, self.grid.closes_at(k))

    def _follow_up(self, symbol: str, position: Position, k: int) -> None:
        """Carry out what `protect` would at this close; what is refused is due again."""
        replay, at = self.symbols[symbol], self.grid.closes_at(k)
        closes = position_events.since_opened(position, replay.closes, at)
        seen = followups.look(position, closes, replay.market.atr)
        if seen is None:  # it has seen no close yet
            return
        for rule in followups.due(position, seen):
            intent = followups.intent(rule, replay.position or position, self.instruments[symbol], seen)
            done = partial(self._followed_up, symbol, rule)
            if intent is None:
                done("", ())
            else:
                self._send(position.cycle_id, intent, k, done)
        self._look_ahead(symbol, k)

    def _followed_up(self, symbol: str, rule: followups.Rule, refusal: str, _: Sequence[Fill]) -> None:
        fold = self.symbols[symbol].fold
        if not refusal and fold.position is not None:
            fold.position = followups.mark_done(fold.position, rule)

    def _send(self, cycle_id: str, intent: OrderIntent, k: int, done: Callable[[str, Sequence[Fill]], None]) -> None:
        """Send one intent at the close of bar k: it meets the next bar that trades, a change of protection this one.

        An entry waits over no gap. done: is told the refusal, or "", and what filled at once.
        """
        replay = self.symbols[intent.symbol]
        following = replay.next_traded(k)
        if following is None or (not intent.reduce_only and replay.gap(k, following)):
            done("no_market", ())
            return
        self.intents[intent.client_order_id] = cycle_id, intent  # known as ours before it can fill
        at = max(self.grid.closes_at(following - 1), self.grid.closes_at(k) + timedelta(seconds=self.world.latency_s))
        order = Arrival(at, cycle_id, intent, done)
        if intent.type in PROTECTIVE:
            self._meet(order, k)
        else:
            replay.arriving.setdefault(following, []).append(order)

    def _meet(self, order: Arrival, k: int) -> None:
        """Let an order meet the market on bar k."""
        intent, replay, first = order.intent, self.symbols[order.intent.symbol], len(self.account.fills)
        price, depth = replay.mark(k), None
        if intent.type not in PROTECTIVE:
            late = order.at - self.grid.closes_at(k - 1)
            price = replay.price_in(k, late.total_seconds(), intent.side)
            depth = self.account.depth(intent.symbol, exact(replay.arrays["volume"][k]), self.grid.closes_at(k - 1))
        sent = self.account.submit(intent, price, order.at, depth=depth)
        refusal = sent.reason if sent.status is OrderStatus.REJECTED else ""
        if not refusal:
            self._book(k)
            replay.watch(self.account.next_triggers(intent.symbol))
            if replay.position is not None:
                replay.fold.position = with_protection(replay.position, intent)
        order.done(refusal, self.account.fills[first:])

    # decisions at its close

    async def _decide(self, k: int) -> None:
        lost = k in self.losses
        self.losses.discard(k)
        questions = [each for symbol in self.symbols if (each := self._question(symbol, k, lost)) is not None]
        if not questions:
            return
        if self.sees_all:
            questions = self._beside(questions, k)
        if self.looks_up:
            DESK.set(partial(self._desk, k))
        answers = await self.decider.decide([each.question for each in questions])
        if self.is_capped():
            self.complete = False
            return
        for i, (each, answer) in enumerate(zip(questions, answers, strict=True)):
            self._act(each, answer, k, each.state if i == 0 else self.state(each.symbol, k))

    def _question(self, symbol: str, k: int, lost: bool) -> SymbolQuestion | None:
        replay = self.symbols[symbol]
        reasons = replay.reasons_at(k)
        if not (reasons or lost) or np.isnan(replay.marks[k]):
            return None
        as_of, state = self.grid.closes_at(k), self.state(symbol, k)
        drawdown = self._drawdown(symbol, state, as_of)
        if not (reasons or drawdown):
            return None
        replay.reported.update(reason.fingerprint for reason in (*reasons, *drawdown))
        replay.read_ahead(k, self.strategy.thresholds.review_bars)
        news = self.world.news(as_of) if self.strategy.told.news else None
        reasons = [*reasons, *bar_closes(symbol, as_of), *drawdown]
        position, digest, known = replay.position, replay.running.digest, self._ledger(k)
        asked = question(
            self.strategy, replay.market, state, None, news, self.remembered(symbol, as_of), reasons, as_of,
            position=position, digest=digest, ledger=known,
        )  # fmt: skip
        inputs = Inputs.trusted(
            strategy=self.strategy_id, position=position, digest=digest, news=news, memory=asked.memory, ledger=known
        )
        return SymbolQuestion(symbol, state, asked, inputs)

    def _desk(self, k: int, asked: Question) -> ToolDesk:
        """Return the tools of one decision, which know what is known at the close of bar k."""

        def known(symbol: str) -> Known:
            replay, remembered = self.symbols[symbol], self.remembered(symbol, self.grid.closes_at(k))
            return Known(self.state(symbol, k), replay.position, replay.running.digest, remembered)

        markets = {symbol: replay.market for symbol, replay in self.symbols.items()}
        return ReplayedTools(asked, self.strategy, markets, self.world, known).desk()

    def _ledger(self, k: int) -> Ledger:
        open_ = (replay.position for replay in self.symbols.values() if replay.position is not None)
        openings = tuple(opening(position, self.opened_by.get(position.cycle_id)) for position in open_)
        month = self.equity[max(0, k - MONTH) : k + 1][::-HOUR][::-1]
        return Ledger.trusted(
            openings=openings, refusals=tuple(self.refusals), drawdown_30d_pct=max_drawdown_pct(month)
        )

    def _beside(self, questions: list[SymbolQuestion], k: int) -> list[SymbolQuestion]:
        """Put the symbols that nothing is asked about beside the questions."""
        asked, as_of = {each.symbol for each in questions}, self.grid.closes_at(k)
        rest = {s: replay for s, replay in self.symbols.items() if s not in asked and not np.isnan(replay.marks[k])}
        others = others_of((s, replay.position, replay.running.digest) for s, replay in rest.items())
        markets = {each.symbol: rest[each.symbol].market for each in others}
        return [
            each._replace(
                question=each.question.replace(others=beside(self.strategy, markets, each.state, others, as_of)),
                inputs=each.inputs.replace(others=others),
            )
            for each in questions
        ]

    def _drawdown(self, symbol: str, state: AccountState, as_of: datetime) -> list[Reason]:
        """Return the day's loss as a reason that nobody was asked for yet, if it is this symbol's to ask."""
        held = [position for replay in self.symbols.values() if (position := replay.position)]
        if symbol != position_events.account_symbol(self.symbols, held):
            return []
        daily = ledger.realized_today_pct(state.closed_trades, state.day_start_equity, as_of)
        reasons = position_events.drawdown(symbol, daily, as_of, self.strategy.thresholds)
        told = [replay.reported for replay in self.symbols.values()]
        return [reason for reason in reasons if not any(reason.fingerprint in each for each in told)]

    def _act(self, asked: SymbolQuestion, answer: Answer, k: int, state: AccountState) -> None:
        """Judge one answer against the account as it is by now, carry it out and record it."""
        as_of, inputs, symbol = self.grid.closes_at(k), asked.inputs, asked.symbol
        if state != asked.state:
            inputs = inputs.replace(state=asked.state)
        judgement = self.judge(asked.question, answer, state, self.strategy, as_of)
        self.decided_at[symbol] = as_of
        cycle_id, verdict, intents = judgement
        self._count(answer, verdict, k, state)
        if not verdict.allowed:
            self.refusals.appendleft(refusal(as_of, symbol, verdict.decision.action, verdict.codes))
        fold = self.symbols[symbol].fold
        if verdict.allowed and isinstance(verdict.decision, MANAGES) and verdict.decision.followups and fold.position:
            fold.position = followups.joined(fold.position, verdict.decision)
            self._look_ahead(symbol, k)
        if isinstance(verdict.decision, Pause) and verdict.allowed:
            self._pause(symbol, verdict.decision, as_of)
        elif isinstance(verdict.decision, Reduce) and verdict.allowed:
            self.reduced_until = day_start(as_of) + timedelta(days=1)
        status = status_of(judgement)
        if self.strategy.told.memory:
            self._remember(cycle_id, asked, answer, status)
        record = CycleRecord.trusted(
            cycle_id=cycle_id, strategy=self.strategy.name, symbol=symbol, as_of=as_of, trigger="backtest",
            decider=self.decider.name, status=status, reasons=asked.question.reasons,
            snapshot=asked.question.snapshot, role_inputs=asked.question.role_inputs, modelled_book=True,
            state=state, inputs=inputs, decided=answer, verdict=verdict, intents=intents,
        )  # fmt: skip
        unfinished = Unfinished(record, len(intents))
        self.unfinished.append(unfinished)
        for intent in intents:
            self._send_for(unfinished, answer, intent, k)
        if intents:
            self._look_ahead(symbol, k)
        self._emit()

    def _pause(self, symbol: str, decision: Pause, as_of: datetime) -> None:
        until = as_of + timedelta(minutes=float(decision.minutes))
        for each in self.symbols if decision.scope == "account" else (symbol,):
            self.paused[each] = max(until, self.paused.get(each, until))

    def _emit(self, under_way: bool = False) -> None:
        """Write the records whose orders have all arrived, in order; under_way: of a capped run, the others too."""
        while self.unfinished and (under_way or not self.unfinished[0].waiting):
            done = self.unfinished.popleft()
            record, why = done.record, list(done.refusals)
            if done.fills:
                record = record.replace(fills=tuple(done.fills))
            elif not (done.waiting or why):
                market = (intent for intent in record.intents if intent.type is OrderType.MARKET)
                why = [f"{intent.client_order_id} filled nothing" for intent in market]
            if why:
                record = record.replace(status=CycleStatus.FAILED, error="; ".join(why))
                self.symbols[record.symbol].note(record.cycle_id, status=record.status)
            line = record.__pydantic_serializer__.to_json(record) + b"\n"
            self.hash.update(line)
            if self.on_line:
                self.on_line(line)
            if self.on_record:
                self.on_record(record)

    def _count(self, answer: Answer, verdict: Verdict, k: int, state: AccountState) -> None:
        self.decided.append(k)
        self.by_action[answer.decision.action] += 1
        self.cost_usd += answer.cost_usd
        if not verdict.allowed:
            self.rejected.update(verdict.codes)
        peak = state.peak_equity or state.equity
        if (
            self.is_guarded
            and self.halted_at is None
            and (peak - state.equity) * 100 >= self.strategy.limits.drawdown_halt_pct * peak
        ):
            self.halted_at = self.grid.closes_at(k)

    def _send_for(self, unfinished: Unfinished, answer: Answer, intent: OrderIntent, k: int) -> None:
        """Send one intent of a decision."""
        done, cycle_id = unfinished.arrived, unfinished.record.cycle_id
        if not isinstance(answer.decision, ENTRIES):
            self._send(cycle_id, intent, k, done)
            return
        at = self.grid.closes_at(k)
        self.opened_by[cycle_id] = answer
        self.followups[intent.client_order_id] = answer.decision.followups
        if isinstance(answer.decision, Add):
            self.adds.add(intent.client_order_id)
        self.opens.append(at)

        def entered(refusal: str, fills: Sequence[Fill]) -> None:
            self.refused = [*self.refused, (at, True)] if refusal else []
            done(refusal, fills)

        self._send(cycle_id, intent, k, entered)

    # what the guard judges against

    def state(self, symbol: str, k: int) -> AccountState:
        """Build what the guard judges against, as the live cycle does from the venue and the store.

        Here and in the record everything is of its type already: it is not validated thousands of times again.
        What the live cycle works out of the past each time (`track_record`) is worked out here only after a change.
        """
        as_of, limits, under_way = self.grid.closes_at(k), self.strategy.limits, self._under_way()
        marks = {s: self.symbols[s].mark(k) for s in {*self.account.wallet.holdings, symbol, *under_way}}
        balance, entering = self.account.balance(marks), [_entry(i, marks[s]) for s, i in under_way.items()]
        margins = (p.notional / self.account.wallet.leverage(p.symbol) for p in entering)
        midnight = max(0, k - int(as_of.timestamp()) % 86_400 // STEP)
        day_ago, cooling = as_of - timedelta(days=1), as_of - timedelta(minutes=limits.liquidation_cooldown_min)
        return AccountState.trusted(
            equity=balance.equity,
            available=max(balance.available - exact_sum(margins), ZERO),
            peak_equity=exact(self.peak),
            day_start_equity=exact(self.equity[midnight]),
            day_peak_equity=exact(self.equity[midnight : k + 1].max()),
            positions=tuple(p.marked(marks[name]) for name, replay in self.symbols.items() if (p := replay.position)),
            pending=(*self._resting(as_of), *entering),
            instrument=self.instruments[symbol],
            closed_trades=track_record.recent_trades(
                self.outcomes[-RECENT:], as_of, limits, self.decided_at.get(symbol)
            ),
            opens=tuple(at for at in self.opens if at > day_ago),
            paused_until=self.paused.get(symbol),
            reduced_until=self.reduced_until if self.reduced_until and self.reduced_until > as_of else None,
            last_price=marks[symbol],
            correlations=self._correlations(symbol, as_of),
            kelly=self.kelly,
            rejections=track_record.rejections(self.refused, as_of - timedelta(minutes=limits.rejection_window_min)),
            last_liquidation=self.liquidated if self.liquidated and self.liquidated >= cooling else None,
        )

    def _under_way(self) -> dict[str, OrderIntent]:
        """Return the entries that have not met the market yet, by symbol: one at most is decided on before that."""
        orders = [order for replay in self.symbols.values() for sent in replay.arriving.values() for order in sent]
        return {order.intent.symbol: order.intent for order in orders if not order.intent.reduce_only}

    def _correlations(self, symbol: str, as_of: datetime) -> dict[str, float]:
        """Look up how this symbol moves with those that are open or waiting; each pair is computed once a day."""
        waiting = (order.symbol for order in self.account.open_orders())
        others = {*self.account.wallet.holdings, *waiting, *self._under_way()} - {symbol}
        correlations: dict[str, float] = {}
        for other in sorted(others):
            pair = (as_of.date(), symbol, other)
            if pair not in self.correlations:
                closes = {s: self.symbols[s].by_open for s in (symbol, other)}
                self.correlations[pair] = track_record.correlations(symbol, closes, as_of)
            correlations |= self.correlations[pair]
        return correlations

    def _resting(self, as_of: datetime) -> list[PendingEntry]:
        return [
            _entry(order, order.price).replace(quantity=order.quantity - order.filled)
            for order in self.account.open_orders()
            if order.type == "limit" and order.price is not None and self._works(order, as_of)
        ]

    def _works(self, order: Order, as_of: datetime) -> bool:
        """Return whether an entry may still fill: over a gap the account learns of its end only with the next bar."""
        _, intent = self.intents.get(order.client_order_id, ("", None))
        return (
            intent is not None and not intent.reduce_only and (intent.expires_at is None or intent.expires_at >= as_of)
        )

    def _remember(self, cycle_id: str, asked: SymbolQuestion, answer: Answer, status: CycleStatus) -> None:
        codes = self.refusals[0].codes if status is CycleStatus.DENIED else ()
        self.symbols[asked.symbol].remember(cycle_id, asked.question, answer, status=status, codes=codes)
        at = asked.question.snapshot.as_of
        self.paid += [(at, str(call.prompt), float(call.cost_usd)) for call in answer.calls if call.prompt]

    def remembered(self, symbol: str, as_of: datetime) -> Remembered | None:
        """Return what may be remembered by now; None where the strategy is not told."""
        if not self.strategy.told.memory:
            return None
        known = since(as_of), len(self.outcomes), len(self.paid)
        if self.done[0] != known:
            self.done = known, self._performance(known[0])
        return self.symbols[symbol].remembered(self.done[1])

    def _performance(self, begins: datetime) -> Memory:
        """Return how the decider did since `begins`, worked out only after a change."""
        while self.paid and self.paid[0][0] < begins:
            self.paid.popleft()
        costs: dict[str, float] = {}
        for _, prompt, usd in self.paid:
            costs[prompt] = costs.get(prompt, 0.0) + usd
        lately = takewhile(lambda outcome: outcome.closed_at >= begins, self.outcomes[: -JUDGED - 1 : -1])
        trades = [self._trade(outcome) for outcome in lately if outcome.cycle_id in self.opened_by]
        return performance(self.decider.name, trades, costs)

    def _trade(self, outcome: Outcome) -> SettledTrade:
        opened = self.opened_by[outcome.cycle_id]
        prompts = frozenset(str(call.prompt) for call in opened.calls if call.prompt)
        return SettledTrade(outcome.pnl, outcome.outcome_r, float(opened.decision.confidence), prompts)

    # what came of it

    @property
    def fingerprint(self) -> str:
        return self.hash.hexdigest()

    def summary(self) -> Json:
        """Return the figures that `quarterdeck backtest --json` prints, but for the time it took.

        halted_at: the first decision at which the drawdown limit denied entries; as in live nothing lifts it but a
        new peak, which without entries never comes.
        """
        closes = self.grid.start_s + (np.arange(self.grid.n) + 1) * STEP
        quarters = int(np.count_nonzero(closes % 900 == 0)) * len(self.symbols)
        window, rates = (self.grid.closes_at(-1), self.grid.closes_at(self.grid.n - 1)), self.world.funding
        covered = {
            symbol: coverage(rates.get(symbol, ()), *window) if instrument.kind == "linear" else 1.0  # spot pays none
            for symbol, instrument in self.instruments.items()
        }
        least = min(covered.values())
        totals = self.account.wallet.totals.values()
        known = [float(outcome.outcome_r) for outcome in self.outcomes if outcome.outcome_r is not None]
        return {
            "candles": sum(int(np.count_nonzero(each.seen < self.grid.n)) for each in self.symbols.values()),
            "cycles": quarters + int(np.count_nonzero(closes[np.array(self.decided, dtype=int)] % 900)),
            "calls": len(self.decided),
            "decisions": len(self.decided),
            "by_action": dict(sorted(self.by_action.items())),
            "trades": len(self.outcomes),
            "return_pct": float((self.equity[-1] / self.equity[0] - 1) * 100),
            "sharpe": sharpe(self.equity, closes),
            "max_drawdown_pct": max_drawdown_pct(self.equity),
            "win_rate": sum(o.pnl > 0 for o in self.outcomes) / len(self.outcomes) if self.outcomes else None,
            "expectancy_r": float(np.mean(known)) if known else None,  # where it is known
            "fees_quote": exact_sum(each.fees for each in totals),
            "llm_cost_usd": self.cost_usd,
            "rejected_by_code": dict(sorted(self.rejected.items())),
            "halted_at": self.halted_at,
            "funding": "known" if least >= 1 else "partial" if least else "unknown",
            "funding_coverage": least,
            "funding_unknown": tuple(symbol for symbol, share in covered.items() if not share),
            "funding_quote": -exact_sum(each.funding for each in totals),
            "fingerprint": self.fingerprint,
        }


def _entry(order: Order | OrderIntent, price: Decimal) -> PendingEntry:
    """Return an entry that has not filled; one at market is reckoned at `price`."""
    side = "long" if order.side == "buy" else "short"
    return PendingEntry.of(order, side=side, price=order.price or price)
