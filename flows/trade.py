"""One decision cycle for a set of symbols: fetch, validate, features, detect, decide, guard, execute, record.

At most one decision per strategy, symbol and 5m bar: the cycle's id derives from them, and the store's unique key
turns a retry, a second trigger or a restarted process into a no-op or into the rest of the same cycle.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from prefect import flow
from pydantic import AwareDatetime, Field

from flows.clock import Call, owner, plainly, scheduled_time, through_prefect, too_old
from tasks import account, decide, detect, execute, features, fetch, guard, protect, record, settle, shadow, validate
from tasks.adapters.store import BeginResult
from tasks.connections import log, store
from tasks.core.errors import InputError, StoreError, TradingError
from tasks.core.evaluation import explain
from tasks.core.market.calendar import sample_reason, sampled
from tasks.core.market.snapshot import Market, bar_closes
from tasks.core.trading import orders
from tasks.core.trading.brief import make_brief
from tasks.core.trading.money import exact
from tasks.core.types.bars import floor_time
from tasks.core.types.base import Dto
from tasks.core.types.decision import Decided
from tasks.core.types.orders import Order, OrderStatus
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import CycleRecord, CycleStatus, DataFailure, Reason, Trigger
from tasks.core.types.snapshot import Brief
from tasks.settings import settings

LEASE = timedelta(minutes=3)  # a cycle whose run has not ended by then may be taken over
MAX_AGE_S = 840  # a scheduled run older than this has a newer one behind it


class Request(Dto):
    """What one run of the story is asked for."""

    symbols: tuple[str, ...]
    decider: str
    dry_run: bool = False
    reason: str = ""
    as_of: AwareDatetime | None = None
    trigger: Trigger = "adhoc"
    review_only: bool = False


@flow(name="trade", retries=1, retry_delay_seconds=5)
async def trade(
    symbols: list[str] | str | None = None,
    decider: str | None = None,
    dry_run: bool = False,
    reason: str = Field(default="", description="why you ask; an ad-hoc run with a reason always asks the decider"),
    as_of: datetime | None = None,
    trigger: Literal["schedule", "event", "adhoc"] = "adhoc",
    review_only: bool = False,
) -> Any:
    """Run one cycle for each symbol.

    Args:
        symbols: ccxt unified names such as BTC/USDT:USDT, a list or comma-separated; empty: all of the strategy's.
        decider: rules, hold, llm:single, recorded:FILE; empty: the configured one.
        dry_run: go as far as the guard, send nothing.
        reason: why you ask; with a reason an ad-hoc run always asks the decider.
        as_of: the 5m close the run is about (UTC); empty: the latest.
        trigger: what started the run.
        review_only: only symbols with an open position.
    """
    if trigger == "schedule" and (late := too_old(MAX_AGE_S)):
        return late
    request = Request(
        symbols=_symbols(symbols), decider=decider or settings().decider_name, dry_run=dry_run, reason=reason,
        as_of=as_of, trigger=trigger, review_only=review_only,
    )  # fmt: skip
    records = await run_cycles(request, through_prefect)
    return [explain.summary_line(record) for record in records]


def _symbols(asked: list[str] | str | None) -> tuple[str, ...]:
    names = asked.split(",") if isinstance(asked, str) else asked or []
    chosen = tuple(name.strip() for name in names if name.strip()) or settings().symbols
    unknown = [name for name in chosen if name not in settings().symbols]
    if unknown:
        allowed = ", ".join(settings().symbols)
        raise InputError(f"symbol {unknown[0]!r} is not the strategy's; QUARTERDECK_SYMBOLS has {allowed}")
    return chosen


async def run_cycles(request: Request, call: Call = plainly) -> list[CycleRecord]:
    """Run the story once: prepare every symbol, ask the decider about all at once, then act one after the other.

    The guard sees the risk of those acted on before.
    """
    venue_time = await call(fetch.venue_now)()
    as_of = fetch.cycle_time(scheduled_time(), venue_time, datetime.now(UTC))
    if request.as_of is not None:
        as_of = floor_time(request.as_of, "5m")
    symbols = _held(request.symbols) if request.review_only else request.symbols
    if not symbols:
        return []
    unfetched = await call(fetch.fetch_candles)(symbols, as_of)
    frames = call(features.load_candles)(symbols, as_of)
    failures = [*unfetched, *call(validate.validate_candles)(frames, as_of)]
    run = owner()
    cycles = [Cycle(request, symbol, as_of, call, run) for symbol in symbols]
    asked: list[tuple[Cycle, Brief]] = []
    broken: list[TradingError] = []
    for cycle in cycles:
        failed = tuple(failure for failure in failures if failure.symbol == cycle.symbol)
        with _isolated(cycle, broken):
            if brief := await cycle.prepare(frames[cycle.symbol], failed):
                asked.append((cycle, brief))
    if asked:
        await _decide_and_act(asked, broken, request, call)
        await _afterwards(asked, request, as_of, call)
    if broken:
        raise broken[0]  # everything else is done: a retry takes up only the cycles that are not
    return [cycle.record for cycle in cycles]


async def _decide_and_act(
    asked: "list[tuple[Cycle, Brief]]", broken: list[TradingError], request: Request, call: Call
) -> None:
    news = await call(fetch.fetch_headlines)()
    briefs = [brief.model_copy(update={"news": news}) for _, brief in asked]
    ids = [cycle.record.cycle_id for cycle, _ in asked]
    answers = await call(decide.decide)(briefs, ids, request.decider)
    for (cycle, _), brief, decided in zip(asked, briefs, answers, strict=True):
        with _isolated(cycle, broken):
            await cycle.act(brief, decided)


async def _afterwards(asked: "list[tuple[Cycle, Brief]]", request: Request, as_of: datetime, call: Call) -> None:
    """Ask the challengers, keep the equity, and show MLflow what was decided: nothing here can change an order."""
    await call(shadow.decide_shadows)([brief for _, brief in asked], [cycle.record for cycle, _ in asked])
    if not request.dry_run:
        balance, _ = await call(fetch.fetch_account)()
        call(account.keep_equity)(balance, await call(fetch.venue_now)())
    call(record.track_decisions)()
    call(settle.sync_prompts)()
    call(settle.track_session)(as_of)


@contextmanager
def _isolated(cycle: "Cycle", broken: list[TradingError]) -> Iterator[None]:
    """Keep one symbol's trouble from the others; it is raised when they are through."""
    try:
        yield
    except TradingError as e:
        log().error("cycle symbol=%s cycle_id=%s broke off: %s", cycle.symbol, cycle.record.cycle_id, e)
        broken.append(e)


def _held(symbols: tuple[str, ...]) -> tuple[str, ...]:
    held = {position.symbol for position in store().open_positions(settings().strategy)}
    return tuple(symbol for symbol in symbols if symbol in held)


class Cycle:
    """One symbol's cycle at one close; every way out leaves a finished record."""

    def __init__(self, request: Request, symbol: str, as_of: datetime, call: Call, run: str) -> None:
        self.request, self.symbol, self.as_of, self.call = request, symbol, as_of, call
        # a dry run is a strategy of its own: it takes no bar and no reason from the real one
        strategy = f"{settings().strategy}/dry-run/{request.decider}" if request.dry_run else settings().strategy
        self.record = CycleRecord(
            cycle_id=orders.cycle_id(strategy, symbol, as_of), strategy=strategy, symbol=symbol,
            as_of=as_of, trigger=request.trigger, decider=request.decider,
        )  # fmt: skip
        self.last: Decimal | None = None
        self._run = run

    async def prepare(self, frames: dict[str, Any], failures: tuple[DataFailure, ...]) -> Brief | None:
        """Go through the stages up to the question; None where the cycle has ended before it."""
        begun = store().begin_cycle(self.record, datetime.now(UTC))
        if begun is BeginResult.DONE or not self._is_ours():
            log().info("cycle symbol=%s cycle_id=%s is done, or under way elsewhere", self.symbol, self.record.cycle_id)
            self.record = store().cycle(self.record.cycle_id) or self.record
            return None
        if begun is BeginResult.RESUMED and store().intents(self.record.cycle_id):
            await self._finish_sending()
            return None
        if failures:
            self._end(CycleStatus.QUARANTINED, failures=failures)
            return None
        if not self.request.dry_run and await self._is_late():
            self._end(CycleStatus.STALE)
            return None
        market = self.call(features.build_market)(self.symbol, frames)
        reasons = self._reasons(market)
        if not reasons:
            self._end(CycleStatus.QUIET)
            return None
        self.record = self.record.model_copy(update={"reasons": reasons})
        return await self._brief(market)

    def _is_ours(self) -> bool:
        """Take the cycle for this run: a run that died loses it after LEASE, a living one keeps the others out."""
        return store().acquire_lease(f"cycle:{self.record.cycle_id}", self._run, datetime.now(UTC), LEASE)

    def _end(self, status: CycleStatus, **changes: Any) -> None:
        self.record = self.record.model_copy(update={"status": status, **changes})
        self.call(record.record_cycle)(self.record)
        store().release_lease(f"cycle:{self.record.cycle_id}", self._run)

    def _reasons(self, market: Market) -> tuple[Reason, ...]:
        """Find what changed and claim it; a person's own reason counts as one."""
        positions = store().open_positions(settings().strategy)
        found = self.call(detect.detect_reasons)(market, self.as_of, positions, account.daily_pnl_pct(self.as_of))
        if not self.request.dry_run:
            found = self.call(detect.claim_reasons)(self.symbol, self.record.cycle_id, self.as_of, self.as_of)
        reasons = [reason for reason in found if not reason.context]
        if self.request.trigger == "adhoc" and self.request.reason:
            reasons.append(self._asked())
        share = settings().sample_quiet
        if not reasons and self.request.trigger == "schedule" and sampled(self.record.cycle_id, share):
            reasons.append(sample_reason(self.symbol, self.record.cycle_id, self.as_of, share))
        return (*reasons, *bar_closes(self.symbol, self.as_of)) if reasons else ()

    def _asked(self) -> Reason:
        text = " ".join(self.request.reason.split())[:80]
        mark = f"AdHoc|{self.symbol}|{self.record.cycle_id}"
        return Reason(rule="AdHoc", symbol=self.symbol, detail=text, as_of=self.as_of, fingerprint=mark)

    async def _brief(self, market: Market) -> Brief:
        close = market.value("5m", "close", self.as_of)
        self.last = None if close is None else exact(close)
        state = await self._account()
        book = await self.call(fetch.fetch_book)(self.symbol, state.equity * settings().limits.max_gross_pct / 500)
        held = [p for p in store().open_positions(settings().strategy) if p.symbol == self.symbol]
        return make_brief(
            market, self.as_of, state, settings().limits, settings().costs, settings().symbols,
            reasons=self.record.reasons, position=held[0] if held else None, book=book,
            digest=account.trade_digest(self.symbol, self.as_of),
        )  # fmt: skip

    async def _account(self) -> AccountState:
        balance, _ = await self.call(fetch.fetch_account)()
        instrument = await self.call(fetch.fetch_instrument)(self.symbol)
        state: AccountState = self.call(account.account_state)(balance, instrument, self.last, self.as_of)
        return state

    async def act(self, brief: Brief, decided: Decided) -> None:
        """Guard the answer against the account as it is now, carry it out and explain it.

        From the account to the written intents nobody else may: two symbols judged at once would both see the same
        free risk. The intents count as pending from then on.
        """
        await self._wait_for_guard()
        try:
            await self._judge(brief, decided)
        finally:
            store().release_lease(self._guard_lease, self._run)
        verdict = self.record.verdict
        if verdict is None or not verdict.allowed:
            self._end(CycleStatus.DENIED)
        elif self.request.dry_run:
            self._end(CycleStatus.DRY_RUN)
        else:
            if verdict.decision.action == "PAUSE":
                until = self.as_of + timedelta(minutes=float(verdict.decision.minutes))
                store().pause(settings().strategy, self.symbol, until)
            await self._send()
        await self._explain()

    @property
    def _guard_lease(self) -> str:
        return f"guard:{self.record.strategy}"

    async def _wait_for_guard(self) -> None:
        for _ in range(300):
            if store().acquire_lease(self._guard_lease, self._run, datetime.now(UTC), timedelta(seconds=30)):
                return
            await asyncio.sleep(0.1)
        raise StoreError(
            f"{self._guard_lease} is held by another run for 30 s; look at what hangs in `quarterdeck status`"
        )

    async def _judge(self, brief: Brief, decided: Decided) -> None:
        state = await self._account()
        now = await self.call(fetch.venue_now)()
        verdict, intents = self.call(guard.guard_decision)(decided, brief.snapshot, state, self.record.cycle_id, now)
        self.record = self.record.model_copy(
            update={
                "snapshot": brief.snapshot, "role_inputs": brief.role_inputs, "state": state, "decided": decided,
                "verdict": verdict, "intents": intents,
            }
        )  # fmt: skip
        if intents and not self.request.dry_run:
            store().save_cycle(self.record, datetime.now(UTC))
            store().save_intents(self.record.cycle_id, intents, self.as_of)

    async def _send(self) -> None:
        if not self.record.intents:
            self._end(CycleStatus.HELD)
            return
        price = self.record.verdict.price if self.record.verdict else None
        intents = self.record.intents
        sent = await self.call(execute.execute_intents)(self.record.cycle_id, intents, self.as_of, price)
        await self.call(protect.book_fills)(self.symbol)
        for order in sent:
            if order.status in (OrderStatus.FILLED, OrderStatus.CANCELLED):
                store().mark_intent(order.client_order_id, "done", datetime.now(UTC))
        failed = [order for order in sent if _came_to_nothing(order)]
        status = CycleStatus.FAILED if failed else CycleStatus.EXECUTED
        error = "; ".join(order.reason or f"{order.client_order_id} filled nothing" for order in failed)
        self._end(status, orders=sent, fills=tuple(store().fills_of(self.record.cycle_id)), error=error)

    async def _finish_sending(self) -> None:
        """A process died after the intents were written: finish exactly those; too late, only take note of them."""
        self.record = store().cycle(self.record.cycle_id) or self.record
        intents = store().intents(self.record.cycle_id)
        self.record = self.record.model_copy(update={"intents": intents})
        log().warning(
            "cycle symbol=%s cycle_id=%s resumed with %d intents", self.symbol, self.record.cycle_id, len(intents)
        )
        await self._send()
        await self._explain()

    async def _is_late(self) -> bool:
        venue_time: datetime = await self.call(fetch.venue_now)()
        return venue_time - self.as_of > timedelta(seconds=settings().limits.max_lateness_s)

    async def _explain(self) -> None:
        if self.call is through_prefect:
            await self.call(record.explain_decision)(self.record)


def _came_to_nothing(order: Order) -> bool:
    cancelled = order.status is OrderStatus.CANCELLED and order.type == "market" and order.filled == 0
    return order.status is OrderStatus.REJECTED or cancelled
