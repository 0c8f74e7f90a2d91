"""Replay the live cycle's own functions over history: decisions only where events fire, fills by the one account.

Between two events nothing is computed bar by bar: the next touch of a stop, target or limit, the next crossing of
R and the next market event are searched for ahead, and the earliest is carried out. Within one bar the order is:
fills of what rested, follow-ups, funding, then decisions at its close, whose orders meet the next bar that trades.
All symbols with a reason at one close are put to the decider together and judged one after the other, as in live.

Funding is not in candle files: without rates it is reported as unknown. The book is modelled and flagged in every
record.
"""

import asyncio
import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from tasks.core.market import position_events
from tasks.core.market.market import Market, bar_closes
from tasks.core.ports import Decider
from tasks.core.simulation.backtest_account import Desk, Entry
from tasks.core.simulation.tape import STEP
from tasks.core.simulation.world import FundingRate, Result, World
from tasks.core.trading import ledger
from tasks.core.trading.judge import judged, status_of
from tasks.core.trading.question import question
from tasks.core.types.decision import ENTRIES, Answer, Pause
from tasks.core.types.orders import OrderIntent
from tasks.core.types.portfolio import AccountState
from tasks.core.types.question import Question, Reason
from tasks.core.types.record import CycleRecord, Inputs
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Verdict

__all__ = ["Backtest", "FundingRate", "Result", "World"]

BREATH = 32  # decision bars between which the event loop gets a turn, and with it Ctrl-C


class Asked(NamedTuple):
    """One symbol's question at one close."""

    symbol: str
    account: AccountState
    question: Question
    inputs: Inputs


class Backtest(Desk):
    """One replay. `on_record` is called with every cycle record, in order, `on_line` with its JSON and a newline;
    `progress` with bars done and in all."""

    def __init__(
        self,
        markets: Mapping[str, Market],
        decider: Decider,
        strategy: Strategy,
        world: World = World(),  # noqa: B008  (frozen)
        on_record: Callable[[CycleRecord], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_line: Callable[[bytes], None] | None = None,
    ) -> None:
        super().__init__(markets, strategy, world)
        self.decider, self.on_record, self.progress, self.on_line = decider, on_record, progress, on_line
        self.names = tuple(self.symbols)
        self.strategy_id = strategy.sha256
        self.hash = hashlib.sha256()
        self.by_action: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.asked: list[int] = []  # the bar of each decision
        self.cost_usd = Decimal(0)
        self.halted_at: datetime | None = None

    async def run(self) -> Result:
        """Carry out every event of the window in order and return what came of it."""
        with _seldom_collected():
            await self._bars()
        self.mark_equity(self.grid.n - 1)
        if self.progress:
            self.progress(self.grid.n, self.grid.n)
        return self._result()

    async def _bars(self) -> None:
        k, turns = -1, 0
        while (following := self.next_bar(k)) is not None:
            k, turns = following, turns + 1
            self.pass_bar(k)
            await self._decide(k)
            if turns % BREATH == 0:
                if self.progress:
                    self.progress(k + 1, self.grid.n)
                await asyncio.sleep(0)

    async def _decide(self, k: int) -> None:
        lost = k in self.losses
        self.losses.discard(k)
        found = ((symbol, self._question(symbol, k, lost)) for symbol in self.names)
        asked = [question for _, question in found if question is not None]
        if not asked:
            return
        answers = await self.decider.decide([each.question for each in asked])
        for i, (each, decided) in enumerate(zip(asked, answers, strict=True)):
            self._act(each, decided, k, each.account if i == 0 else self.state(each.symbol, k))

    def _question(self, symbol: str, k: int, lost: bool) -> Asked | None:
        state = self.symbols[symbol]
        reasons = state.reasons_at(k)
        if not (reasons or lost) or np.isnan(state.tape.marks[k]):
            return None
        as_of, account = self.grid.closes_at(k), self.state(symbol, k)
        daily = ledger.realized_today_pct(account.closed_trades, account.day_start_equity, as_of)
        drawdown = position_events.drawdown(symbol, daily, as_of, self.strategy.thresholds)
        drawdown = [reason for reason in drawdown if reason.fingerprint not in state.said]
        if not (reasons or drawdown):
            return None
        state.said.update(reason.fingerprint for reason in (*reasons, *drawdown))
        state.read_ahead(k)
        return self._asked(symbol, as_of, account, (*reasons, *bar_closes(symbol, as_of), *drawdown))

    def _asked(self, symbol: str, as_of: datetime, account: AccountState, reasons: tuple[Reason, ...]) -> Asked:
        state, news = self.symbols[symbol], self.world.news(as_of) if self.strategy.told.news else None
        asked = question(
            self.strategy, state.market, account, None, news, self.remembered(symbol), reasons, as_of,
            position=state.position, digest=state.digest,
        )  # fmt: skip
        inputs = Inputs(
            strategy=self.strategy_id, position=state.position, digest=state.digest, news=news, memory=asked.memory
        )
        return Asked(symbol, account, asked, inputs)

    def _act(self, asked: Asked, answer: Answer, k: int, account: AccountState) -> None:
        """Judge one answer against the account as it is by now, carry it out and record it."""
        as_of, inputs = asked.question.snapshot.as_of, asked.inputs
        if account != asked.account:
            inputs = inputs.model_copy(update={"state": asked.account})
        judgement = judged(asked.question, answer, account, self.strategy, as_of)
        self.decided[asked.symbol] = as_of
        cycle_id, verdict, intents = judgement
        self._count(answer, verdict, k, account, as_of)
        first = len(self.account.fills)
        refusals = [refusal for intent in intents if (refusal := self._send_for(cycle_id, answer, intent, k))]
        if intents:
            self._look_ahead(asked.symbol, k)
        if isinstance(verdict.decision, Pause) and verdict.allowed:
            self.paused[asked.symbol] = as_of + timedelta(minutes=float(verdict.decision.minutes))
        if self.strategy.told.memory:
            self.symbols[asked.symbol].remember(cycle_id, asked.question, answer)
        self._keep(CycleRecord(
            cycle_id=cycle_id, strategy=self.strategy.name, symbol=asked.symbol, as_of=as_of, trigger="backtest",
            decider=self.decider.name, status=status_of(judgement, refusals), reasons=asked.question.reasons,
            snapshot=asked.question.snapshot, role_inputs=asked.question.role_inputs, modelled_book=True,
            state=account, inputs=inputs, decided=answer, verdict=verdict, intents=intents,
            fills=tuple(self.account.fills[first:]), error="; ".join(refusals),
        ))  # fmt: skip

    def _count(self, decided: Answer, verdict: Verdict, k: int, account: AccountState, as_of: datetime) -> None:
        self.asked.append(k)
        self.by_action[decided.decision.action] += 1
        self.cost_usd += decided.cost_usd
        if not verdict.allowed:
            self.rejected.update(code.value for code in verdict.codes)
        peak = account.peak_equity or account.equity
        if self.halted_at is None and (peak - account.equity) * 100 >= self.strategy.limits.drawdown_halt_pct * peak:
            self.halted_at = as_of

    def _send_for(self, cycle_id: str, decided: Answer, intent: OrderIntent, k: int) -> str:
        """Send one intent of a decision, known as ours before it can fill. Returns the refusal."""
        if not intent.reduce_only:
            rules = decided.decision.followups if isinstance(decided.decision, ENTRIES) else ()
            self.entries[intent.client_order_id] = Entry(cycle_id, intent, rules)
            self.opens.append(self.grid.closes_at(k))
        refusal = self._send(intent, k)
        if not intent.reduce_only:
            self.refused = [*self.refused, (self.grid.closes_at(k), True)] if refusal else []
        return refusal

    def _keep(self, record: CycleRecord) -> None:
        line = record.model_dump_json().encode() + b"\n"
        self.hash.update(line)
        if self.on_line:
            self.on_line(line)
        if self.on_record:
            self.on_record(record)

    def _result(self) -> Result:
        closes = self.grid.start_s + (np.arange(self.grid.n) + 1) * STEP
        extra = int(np.count_nonzero(closes[np.array(self.asked, dtype=int)] % 900))
        totals = self.account.wallet.totals.values()
        return Result(
            grid=self.grid,
            equity=self.equity,
            candles=sum(state.tape.count for state in self.symbols.values()),
            cycles=int(np.count_nonzero(closes % 900 == 0)) * len(self.symbols) + extra,
            fingerprint=self.hash.hexdigest(),
            outcomes=self.outcomes,
            by_action=self.by_action,
            rejected_by_code=self.rejected,
            calls=len(self.asked),
            fees=sum((each.fees for each in totals), Decimal(0)),
            cost_usd=self.cost_usd,
            funding_paid=-sum((each.funding for each in totals), Decimal(0)),
            funding_unknown=tuple(symbol for symbol in self.names if symbol not in self.world.funding),
            halted_at=self.halted_at,
        )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Look for reference cycles more seldom: records make none, and looking took a fifth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 70_000), *before[1:])  # not a factor: replays may run side by side
    try:
        yield
    finally:
        gc.set_threshold(*before)
