"""One decision cycle for a set of symbols: fetch, validate, features, detect, decide, guard, execute, record.

At most one decision per strategy, symbol and 5m bar: the cycle's id derives from them, and the store's unique key
turns a retry, a second trigger or a restarted process into a no-op or into the rest of the same cycle.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from prefect import flow
from pydantic import Field

from flows.clock import Call, owner, plainly, scheduled_time, through_prefect, to_the_end, too_old
from flows.cycle import Cycle, Request
from tasks import account, decide, detect, features, fetch, record, settle, shadow, validate
from tasks.connections import log, store
from tasks.core.errors import InputError, TradingError
from tasks.core.evaluation import explain
from tasks.core.market.bars import Frames
from tasks.core.market.market import Market
from tasks.core.types.bars import floor_time
from tasks.core.types.record import CycleRecord, DataFailure, Reason
from tasks.core.types.snapshot import Question
from tasks.features import TOGETHER
from tasks.isolation import result
from tasks.leases import Leases
from tasks.settings import settings
from tasks.steps import reached


@flow(name="trade", retries=1, retry_delay_seconds=5)
async def trade(
    symbols: list[str] | str | None = None,
    decider: str | None = None,
    dry_run: bool = False,
    reason: str = Field(default="", description="why you ask; an ad-hoc run with a reason always asks the decider"),
    as_of: datetime | None = None,
    trigger: Literal["schedule", "event", "adhoc"] = "adhoc",
    review_only: bool = False,
    max_age_s: int = 840,
) -> Any:
    """Run one cycle for each symbol.

    Args:
        symbols: ccxt unified names such as BTC/USDT:USDT, a list or comma-separated; empty: all of the strategy's.
        decider: rules, hold, llm:single, llm:single@v002 (a prompt version), recorded:FILE; empty: the configured one.
        dry_run: go as far as the guard, send nothing.
        reason: why you ask; with a reason an ad-hoc run always asks the decider.
        as_of: the 5m close the run is about (UTC); empty: the latest.
        trigger: what started the run.
        review_only: only symbols with an open position.
        max_age_s: a scheduled run that comes later than this ends at once: there is a newer one behind it.
    """
    if trigger == "schedule" and (late := too_old(max_age_s)):
        return late
    request = Request(
        symbols=_symbols(symbols), decider=decider or settings().decider_name, dry_run=dry_run, reason=reason,
        as_of=as_of, trigger=trigger, review_only=review_only,
    )  # fmt: skip
    records = await to_the_end(run_cycles(request, through_prefect))
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
    if request.trigger == "schedule" and not (request.review_only or request.dry_run):
        call(record.record_missed)(symbols, as_of)
    async with Leases(owner()) as leases:
        return await _run([Cycle(request, symbol, as_of, call, leases) for symbol in symbols], request, as_of, call)


async def _run(cycles: list[Cycle], request: Request, as_of: datetime, call: Call) -> list[CycleRecord]:
    symbols = tuple(cycle.symbol for cycle in cycles)
    unfetched = await call(fetch.fetch_candles)(symbols, as_of)
    frames = call(features.load_candles)(symbols, as_of)
    failures = [*unfetched, *call(validate.validate_candles)(frames, as_of)]
    asked: list[tuple[Cycle, Question]] = []
    broken: list[Exception] = []
    for cycle in sorted(cycles, key=lambda cycle: cycle.symbol):  # one order for all runs, or two wait for each other
        await cycle.take_lease()
    for first in range(0, len(cycles), TOGETHER):
        some = cycles[first : first + TOGETHER]
        asked += await _prepare(some, frames, failures, broken, call)
    if asked:
        await _decide_and_act(asked, broken, request, call)
        await _afterwards(asked, request, as_of, call)
    if broken:
        raise broken[0]  # everything else is done: a retry takes up only the cycles that are not
    return [cycle.record for cycle in cycles]


async def _prepare(
    cycles: list[Cycle], frames: dict[str, Frames], failures: list[DataFailure], broken: list[Exception], call: Call
) -> list[tuple[Cycle, Question]]:
    """Go through the stages up to the question; the cycles without one have ended then."""
    begun: list[Cycle] = []
    for cycle in cycles:
        with _isolated(broken, cycle):
            if await cycle.begin(tuple(failure for failure in failures if failure.symbol == cycle.symbol)):
                begun.append(cycle)
    if begun:
        with _isolated(broken, *begun):
            return await _look(begun, frames, broken, call)
    return []


async def _look(
    begun: list[Cycle], frames: dict[str, Frames], broken: list[Exception], call: Call
) -> list[tuple[Cycle, Question]]:
    """Look for reasons; one symbol's trouble stays its own."""
    venue_time, cycles = await call(fetch.venue_now)(), []
    for cycle in begun:
        with _isolated(broken, cycle):
            if not cycle.ends_late(venue_time):
                cycles.append(cycle)
    if not cycles:
        return []
    markets = call(features.build_markets)({cycle.symbol: frames[cycle.symbol] for cycle in cycles})
    found = _reasons(cycles, markets, call)
    with_reason: list[Cycle] = []
    quiet: list[Cycle] = []
    for cycle in cycles:
        with _isolated(broken, cycle):
            (with_reason if cycle.has_reason(result(found[cycle.symbol])) else quiet).append(cycle)
    if quiet:
        with _isolated(broken, *quiet):
            call(record.record_quiet)([cycle.record for cycle in quiet])
            for cycle in quiet:
                cycle.recorded()
    asked = []
    for cycle in with_reason:
        with _isolated(broken, cycle):
            asked.append((cycle, await cycle.question(result(markets[cycle.symbol]))))
    return asked


def _reasons(
    cycles: list[Cycle], markets: dict[str, Market | Exception], call: Call
) -> dict[str, list[Reason] | Exception]:
    """Find what changed and claim it; a dry run claims nothing."""
    as_of, positions = cycles[0].as_of, store().open_positions(settings().strategy)
    found: dict[str, list[Reason] | Exception]
    found = call(detect.detect_reasons)(markets, as_of, positions, account.daily_pnl_pct(as_of))
    if cycles[0].request.dry_run:
        return found
    ids = {cycle.symbol: cycle.record.cycle_id for cycle in cycles}
    failed = {symbol: e for symbol, e in found.items() if isinstance(e, Exception)}
    claimed: dict[str, list[Reason] | Exception] = call(detect.claim_reasons)(ids | failed, as_of)
    return claimed


async def _decide_and_act(
    asked: list[tuple[Cycle, Question]], broken: list[Exception], request: Request, call: Call
) -> None:
    news = await call(fetch.fetch_headlines)()
    questions = [question.model_copy(update={"news": news}) for _, question in asked]
    questions = call(decide.recall)(questions, request.decider)
    ids = [cycle.record.cycle_id for cycle, _ in asked]
    answers = await call(decide.decide)(questions, ids, request.decider)
    reached("decided")
    acted: list[Cycle] = []
    for (cycle, _), question, decided in zip(asked, questions, answers, strict=True):
        with _isolated(broken, cycle):
            await cycle.act(question, decided)
            acted.append(cycle)
    for cycle in acted:  # only now: no order waits for a picture
        with _isolated(broken, cycle):
            await cycle.explain()


async def _afterwards(asked: list[tuple[Cycle, Question]], request: Request, as_of: datetime, call: Call) -> None:
    """Ask the challengers, keep the equity, and show MLflow what was decided: nothing here can change an order."""
    await call(shadow.decide_shadows)([question for _, question in asked], [cycle.record for cycle, _ in asked])
    if not request.dry_run:
        balance, _ = await call(fetch.fetch_account)()
        call(account.keep_equity)(balance, await call(fetch.venue_now)())
    call(record.track_decisions)()
    call(settle.sync_prompts)()
    call(settle.track_session)(as_of)


@contextmanager
def _isolated(broken: list[Exception], *cycles: Cycle) -> Iterator[None]:
    """Keep the trouble of these, whatever it is, from the others; it is raised when they are through."""
    try:
        yield
    except Exception as e:  # noqa: BLE001  (it is raised in the end)
        ours = isinstance(e, TradingError)
        said = e if ours else repr(e)
        for cycle in cycles:
            log().error(
                "cycle symbol=%s cycle_id=%s broke off: %s",
                cycle.symbol, cycle.record.cycle_id, said, exc_info=None if ours else e,
            )  # fmt: skip
        broken.append(e)


def _held(symbols: tuple[str, ...]) -> tuple[str, ...]:
    held = {position.symbol for position in store().open_positions(settings().strategy)}
    return tuple(symbol for symbol in symbols if symbol in held)
