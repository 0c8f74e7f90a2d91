"""Challengers answer the same question and send nothing; what they would have earned is scored beside the champion."""

from datetime import datetime, timedelta
from decimal import Decimal

from prefect import task

from tasks import connections
from tasks.adapters.store_shadow import CHAMPION, PaperBookState, ShadowDecision
from tasks.connections import log, store, venue
from tasks.core.errors import InputError
from tasks.core.evaluation.counterfactual import HORIZON_BARS, PaperBook, score
from tasks.core.trading import guard, orders
from tasks.core.types.bars import duration, floor_time
from tasks.core.types.decision import Answer
from tasks.core.types.orders import Instrument
from tasks.core.types.record import CycleRecord
from tasks.core.types.snapshot import Question
from tasks.decide import first_answers, forget
from tasks.retries import STAGE
from tasks.settings import settings

HORIZON = HORIZON_BARS * duration("5m")


@task(**STAGE)
async def decide_shadows(questions: list[Question], records: list[CycleRecord]) -> int:
    """Ask every challenger about the cycles the champion has just decided; returns how many answers were kept.

    A challenger that fails costs a line in the log: the champion's cycle is over by now.
    """
    kept = 0
    judged = [
        (question, record) for question, record in zip(questions, records, strict=True) if record.state is not None
    ]
    questions, records = [question for question, _ in judged], [record for _, record in judged]
    ids = [record.cycle_id for record in records]
    for name in settings().shadow if judged else ():
        try:
            decider = connections.decider(name, shadow=True)
            answers = await first_answers(name, decider, questions, ids, store().shadow_answers(name, ids))
        except InputError as e:
            log().error("shadow decider=%s cannot answer: %s", name, e)
            continue
        for question, record, decided in zip(questions, records, answers, strict=True):
            store().keep_shadow(_judged(name, question, record, decided))
            kept += 1
        forget(name, ids)
    for record in records if settings().shadow else ():
        if record.state and record.decided and record.verdict:
            store().keep_shadow(
                ShadowDecision(
                    cycle_id=record.cycle_id, strategy=record.strategy, decider=CHAMPION, symbol=record.symbol,
                    as_of=record.as_of, state=record.state, decided=record.decided, verdict=record.verdict,
                    intents=record.intents,
                )
            )  # fmt: skip
    return kept


def _judged(name: str, question: Question, record: CycleRecord, decided: Answer) -> ShadowDecision:
    """Put a challenger's answer through the same guard, on the account the champion had."""
    if record.state is None:
        raise ValueError(f"cycle {record.cycle_id} was not judged; only judged cycles have a shadow")
    s = settings()
    verdict = guard.judge(
        decided.decision, question.snapshot, record.state, s.limits, s.costs,
        symbols=s.symbols, now=record.as_of, fallback=decided.is_fallback,
    )  # fmt: skip
    shadow_id = orders.cycle_id(f"{record.strategy}/{name}", record.symbol, record.as_of)
    intents = orders.plan(verdict, shadow_id, record.state, record.as_of, s.limits)
    return ShadowDecision(
        cycle_id=record.cycle_id, strategy=record.strategy, decider=name, symbol=record.symbol, as_of=record.as_of,
        state=record.state, decided=decided, verdict=verdict, intents=intents,
    )  # fmt: skip


@task(**STAGE)
def score_shadows(now: datetime) -> int:
    """Score every answer whose horizon has passed, champion and challengers alike; returns how many."""
    kept, scored = store(), 0
    for shadow in kept.unscored_shadows(settings().strategy, now - HORIZON, limit=500):
        until = shadow.as_of + HORIZON
        bars = kept.load_bars(venue().name, shadow.symbol, "5m", until, HORIZON_BARS)
        result = score(shadow.state, shadow.symbol, shadow.intents, bars.loc[shadow.as_of :], settings().costs)
        if result is not None:
            kept.score_shadow(shadow, result)
            scored += 1
    return scored


@task(**STAGE)
async def run_paper_books(now: datetime) -> dict[str, Decimal]:
    """Bring each challenger's own account up to the last close; returns its equity by challenger."""
    if not settings().shadow:
        return {}
    instruments = {symbol: await venue().instrument(symbol) for symbol in settings().symbols}
    return {name: await _run_book(name, instruments, floor_time(now, "5m")) for name in settings().shadow}


async def _run_book(name: str, instruments: dict[str, Instrument], until: datetime) -> Decimal:
    kept, strategy = store(), settings().strategy
    stored, cash = kept.paper_book(strategy, name), settings().paper_cash
    before = stored or PaperBookState(state="", equity=cash, until=until - timedelta(hours=1))
    book = PaperBook(cash, instruments, settings().costs, before.state)
    n = min(5000, int((until - before.until) / duration("5m")))
    if n <= 0:
        return before.equity
    bars = {s: kept.load_bars(venue().name, s, "5m", until, n).loc[before.until :] for s in instruments}
    answers = kept.shadows_between(strategy, name, before.until - duration("5m"), until - duration("5m"))
    due = [(each.as_of, each.symbol, each.intents) for each in answers]
    working = (*book.engine.open_orders(), *answers)
    held = {*book.engine.account.holdings, *(each.symbol for each in working)}
    equity = book.run(bars, due, await venue().funding_paid(sorted(held), before.until, until))
    after = PaperBookState(state=book.engine.dump(), equity=equity, until=until)
    kept.save_paper_book(strategy, name, after, stored)  # another run was quicker: it passed the same bars over it
    return equity
