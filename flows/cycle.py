"""One symbol's cycle: from the reasons to the orders, and a record however it ends."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import AwareDatetime

from tasks import account, approval, clock, execute, fetch, guard, ledger, protect, record
from tasks.adapters.store.cycles import BeginResult
from tasks.connections import log, store, venue
from tasks.core.decision.memory import Remembered
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.market import Market, bar_closes
from tasks.core.trading import orders
from tasks.core.trading.judge import Judgement, status_of, waits
from tasks.core.trading.question import beside, order_size, question
from tasks.core.types import (
    AccountState,
    Answer,
    Approval,
    CycleRecord,
    CycleStatus,
    DataFailure,
    Dto,
    Inputs,
    Lease,
    Ledger,
    News,
    Order,
    OrderStatus,
    Other,
    Question,
    Reason,
    RoleInputs,
    StoreError,
    Strategy,
    Texts,
    Trigger,
    VenueError,
    VenueUnavailable,
    day_start,
    known,
)
from tasks.crash_points import reached
from tasks.leases import Leases, lost, symbol_lease
from tasks.settings import settings


class Request(Dto):
    """What one run of the story is asked for."""

    symbols: Texts
    decider: str
    dry_run: bool = False
    reason: str = ""
    as_of: AwareDatetime | None = None
    trigger: Trigger = "adhoc"
    review_only: bool = False


class Cycle:
    """One symbol's cycle at one close; every way out leaves a finished record."""

    def __init__(self, request: Request, strategy: Strategy, symbol: str, as_of: datetime, leases: Leases) -> None:
        self.request, self.strategy, self.symbol, self.as_of = request, strategy, symbol, as_of
        # a dry run is a strategy of its own: it takes no bar and no reason from the real one
        dry = f"{strategy.name}/dry-run/{request.decider}"
        self.acting = strategy.called(dry, strategy.decider) if request.dry_run else strategy
        self.record = CycleRecord.of(
            request, cycle_id=orders.cycle_id(self.acting.name, symbol, as_of), strategy=self.acting.name,
            symbol=symbol, as_of=as_of,
        )  # fmt: skip
        self.last: Decimal | None = None
        self._leases = leases
        self._lease: Lease | None = None
        self._lease_name = f"{symbol_lease(symbol)}{':dry-run' if request.dry_run else ''}"
        self._resumed = ""
        self._waits = False

    def __str__(self) -> str:
        return f"symbol={self.symbol} cycle_id={self.record.cycle_id}"

    async def take_lease(self) -> None:
        """Take the symbol for this run, so that one decision at a time is made and sent; a dry run sends nothing."""
        self._lease = await self._leases.take(self._lease_name)
        reached("cycle_leased")

    async def begin(self, failures: tuple[DataFailure, ...]) -> bool:
        """Take the cycle up; False where it has ended by that, or is another run's."""
        if self._lease is None:
            self._yield("another run has had the symbol's lease all the while")
            return False
        asked = self.request.trigger == "adhoc" and bool(self.request.reason)
        begun = store().cycles.begin(self.record, clock.now(), asked=asked)
        reached("cycle_begun")
        if begun is BeginResult.DONE:
            self._yield("done already")
            return False
        if begun is BeginResult.RESUMED and store().intents.of_cycle(self.record.cycle_id):
            await self._finish_sending()
            return False
        if failures:
            self._end(CycleStatus.QUARANTINED, failures=failures)
            return False
        return True

    def ends_late(self, venue_time: datetime) -> bool:
        """End the cycle if its close is too long ago to be acted on, and say whether it was; a dry run's never is."""
        most = timedelta(seconds=self.strategy.limits.max_lateness_s)
        late = not self.request.dry_run and venue_time - self.as_of > most
        if late:
            self._end(CycleStatus.STALE)
        return late

    def has_reason(self, claimed: list[Reason]) -> bool:
        """Take the reasons that were found, a person's own counts as one; without any the cycle is quiet."""
        cycle_id, request, share = self.record.cycle_id, self.request, settings().sample_quiet
        reasons = [reason for reason in claimed if not reason.context]
        if request.trigger == "adhoc" and request.reason:
            text, mark = " ".join(request.reason.split())[:80], f"AdHoc|{self.symbol}|{cycle_id}"
            reasons.append(Reason(rule="AdHoc", symbol=self.symbol, detail=text, as_of=self.as_of, fingerprint=mark))
        if not reasons and request.trigger == "schedule" and sampled(cycle_id, share):
            reasons.append(sample_reason(self.symbol, cycle_id, self.as_of, share))
        if reasons:
            reasons += bar_closes(self.symbol, self.as_of)
        status = CycleStatus.STARTED if reasons else CycleStatus.QUIET
        self.record = self.record.replace(status=status, reasons=tuple(reasons))
        return bool(reasons)

    async def question(self, market: Market, news: News | None, remembered: Remembered, ours: Ledger) -> Question:
        """Put together what the decider is asked."""
        close, strategy = market.value("5m", "close", self.as_of), self.strategy
        self.last = known(close)
        state = await self._account()
        book = await fetch.fetch_book(self.symbol, order_size(strategy, state.equity))
        position = next(iter(ledger.open_in(self.symbol)), None)
        digest = account.trade_digest(strategy.name, self.symbol, self.as_of)
        known_at = clock.now()
        asked = question(
            strategy, market, state, book, news, remembered, self.record.reasons, self.as_of, position=position,
            digest=digest, ledger=ours,
        )  # fmt: skip
        inputs = Inputs(
            strategy=strategy.sha256, state=state, position=position, book=book, digest=digest, news=news,
            memory=asked.memory, ledger=ours, known_at=known_at,
        )  # fmt: skip
        self.record = self.record.replace(inputs=inputs)
        reached("prepared")
        return asked

    def beside(self, asked: Question, markets: dict[str, Market], others: tuple[Other, ...]) -> Question:
        """Put symbols that nothing is asked about beside the question."""
        inputs = self.record.inputs
        assert inputs is not None  # `question` has kept them
        assert inputs.state is not None
        self.record = self.record.replace(inputs=inputs.replace(others=others))
        return asked.replace(others=beside(self.strategy, markets, inputs.state, others, self.as_of))

    def _yield(self, why: str) -> None:
        """Leave the cycle to the run that has or had it."""
        log().info("cycle %s %s", self, why)
        self.record = store().cycles.get(self.record.cycle_id) or self.record.replace(error=why)
        self._leases.give_back(self._lease_name)

    def _end(self, status: CycleStatus, *, first: bool = False, **changes: Any) -> None:
        self.record = self.record.replace(status=status, **changes)
        record.record_cycle(self.record, first)
        self.recorded()

    def recorded(self) -> None:
        """Let the symbol go: the cycle's record is kept."""
        reached("cycle_ended")
        self._leases.give_back(self._lease_name)

    async def _account(self) -> AccountState:
        if self.symbol not in self.strategy.instruments:
            raise VenueError(f"{self.symbol}: the venue names no instrument for it; is it still listed?")
        balance = await fetch.fetch_balance()
        if balance.lack:
            self._end(CycleStatus.FAILED, error=balance.lack)
            raise VenueError(balance.lack)
        at_venue = await protect.venue_positions()
        if not self.request.dry_run:
            await ledger.book_unheard(self.symbol, at_venue)
        return account.account_state(self.strategy, self.symbol, balance, at_venue, self.last, self.as_of)

    async def act(self, question: Question, answer: Answer) -> None:
        """Guard the answer against the account as it is now, and carry it out.

        From the account to the written intents nobody else may: two symbols judged at once would both see the same
        free risk. The intents count as pending from then on.
        """
        name = f"guard:{self.record.strategy if self.request.dry_run else settings.account.strategy}"
        lease = await self._leases.take(name)
        if lease is None:
            raise StoreError(f"{name} is held by another run all the while; see what hangs in `quarterdeck status`")
        reached("guard_leased")
        try:
            judgement = await self._judge(question, answer, lease)
        finally:
            self._leases.give_back(name)
        reached("guard_released")
        if self._waits:
            self._end(CycleStatus.PROPOSED)
            await approval.ask(self.record)
            return
        status = status_of(judgement, dry_run=self.request.dry_run)
        if status in (CycleStatus.DENIED, CycleStatus.DRY_RUN):
            self._end(status)
            return
        decision = judgement.verdict.decision
        if decision.action == "REDUCE":
            store().pauses.reduce(self.strategy.name, day_start(self.as_of) + timedelta(days=1))
        if decision.action == "PAUSE":
            until = self.as_of + timedelta(minutes=float(decision.minutes))
            for symbol in self.strategy.symbols if decision.scope == "account" else (self.symbol,):
                store().pauses.add(self.strategy.name, symbol, until)
        await self._send()

    async def approved(self, record: CycleRecord, said: Approval) -> None:
        """Judge a proposal again by the account as it is now, and carry it out as a person has said.

        One that an earlier try has taken up is gone on with. Raises InputError where nothing waits any more,
        VenueUnavailable while another cycle has the symbol.
        """
        await self.take_lease()
        if self._lease is None:
            raise VenueUnavailable(f"{self.symbol}: a cycle is at work on it all the while; ask again")
        record = store().cycles.get(record.cycle_id) or record
        taken_up = record.status is CycleStatus.STARTED and record.approval == said
        if taken_up and store().intents.of_cycle(record.cycle_id):
            await self._finish_sending()
            return
        assert record.inputs is not None  # a proposal was decided and judged
        assert record.state is not None
        assert record.snapshot is not None
        assert record.decided is not None
        inputs = record.inputs.replace(state=record.inputs.state or record.state)
        self.record = record.replace(status=CycleStatus.STARTED, inputs=inputs, intents=(), approval=said)
        if not taken_up:
            approval.take_up(self.record)
        self.last = record.state.last_price
        asked = Question(
            snapshot=record.snapshot, reasons=record.reasons, role_inputs=record.role_inputs or RoleInputs()
        )
        await self.act(asked, record.decided)

    async def _judge(self, question: Question, answer: Answer, guarding: Lease) -> Judgement:
        state = await self._account()
        now = await fetch.venue_now()
        said = self.record.approval
        judgement = guard.guard_decision(question, answer, state, self.acting, now, said)
        self._waits = said is None and not self.request.dry_run and waits(judgement, settings().approve)
        inputs = self.record.inputs
        if inputs is not None:  # what became known since the question was made: `replay` needs it
            seen = None if inputs.state == state else inputs.state
            inputs = inputs.replace(state=seen, judged_at=now)
        self.record = self.record.replace(
            snapshot=question.snapshot, role_inputs=question.role_inputs, state=state, decided=answer,
            verdict=judgement.verdict, intents=judgement.intents, inputs=inputs,
        )  # fmt: skip
        reached("judged")
        if judgement.intents and not (self.request.dry_run or self._waits):
            store().cycles.save(self.record, clock.now())
            reached("cycle_saved")
            store().intents.save(self.record.cycle_id, judgement.intents, self.as_of, guarding)
            reached("intents_saved")
        return judgement

    async def _send(self) -> None:
        if self.record.verdict is not None:
            ledger.join_followups(self.symbol, self.record.verdict.decision)
        if not self.record.intents:
            self._end(CycleStatus.HELD)
            return
        assert self._lease is not None  # `begin` ends without it, and nothing is sent unfenced
        sent = await execute.execute_intents(self.record, self._lease)
        reached("executed")
        if len(sent) < len(self.record.intents):
            self._give_up(sent, lost(self._lease))
            return
        try:
            await ledger.book_fills(self.symbol)
        finally:  # no stop waits for a venue that cannot tell its fills
            if not venue().attaches_protection and any(order.filled and not order.reduce_only for order in sent):
                await protect.stop_at_once(self.symbol)
        for order in sent:
            if order.status in (OrderStatus.FILLED, OrderStatus.CANCELLED) and ledger.is_booked(order):
                store().intents.mark(order.client_order_id, "done")
        failed = [
            order
            for order in sent
            if order.status is OrderStatus.REJECTED
            or (order.status is OrderStatus.CANCELLED and order.type == "market" and not order.filled)
        ]
        status = CycleStatus.FAILED if failed else CycleStatus.EXECUTED
        why = [order.reason or f"{order.client_order_id} filled nothing" for order in failed]
        error = "; ".join(filter(None, (self._resumed, *why)))
        self._end(status, orders=sent, fills=tuple(store().fills.of_cycle(self.record.cycle_id)), error=error)

    def _give_up(self, sent: tuple[Order, ...], error: str) -> None:
        """Another run may have the cycle by now: end only what nobody has begun to send or finished."""
        log().error("cycle %s %s", self, error)
        store().intents.drop(self.record.cycle_id)
        self._end(CycleStatus.FAILED, first=True, orders=sent, error=error)

    async def _finish_sending(self) -> None:
        """A process died after the intents were written: finish exactly those; too late, only take note of them."""
        self.record = store().cycles.get(self.record.cycle_id) or self.record
        intents = store().intents.of_cycle(self.record.cycle_id)
        self.record = self.record.replace(intents=intents)
        log().warning("cycle %s resumed with %d intents", self, len(intents))
        self._resumed = "resumed: the run that wrote the intents ended before the cycle did"
        await self._send()
        await record.explain_decision(self.record)
