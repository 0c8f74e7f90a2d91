"""Challengers answer the same question and send nothing; what they would have earned is scored beside the champion."""

from datetime import datetime, timedelta
from decimal import Decimal

from tasks import connections
from tasks.adapters.store.shadow import CHAMPION
from tasks.connections import log, store, venue
from tasks.core.decision.kinds import kind_of
from tasks.core.decision.votes import polled
from tasks.core.errors import InputError
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.simulation.counterfactual import HORIZON_BARS, score
from tasks.core.trading import judge
from tasks.core.types import (
    Answer,
    CycleRecord,
    Instrument,
    PaperBookState,
    Question,
    ShadowDecision,
    Strategy,
    duration,
    floor_time,
)
from tasks.decide import first_answers, forget
from tasks.settings import settings
from tasks.stage import stage

BAR = duration("5m")
HORIZON = HORIZON_BARS * BAR
WAITS = 12  # bars that a challenger's order waits for one with trades


@stage
async def decide_shadows(strategy: Strategy, questions: list[Question], records: list[CycleRecord]) -> int:
    """Put the champion's very questions to every challenger; returns how many answers were kept.

    A challenger that fails costs a line in the log: the champion's cycle is over by now. With `votes` each of them is
    asked so often about a question, and the champion, too, for what it would have answered else.
    """
    judged = [each for each in zip(questions, records, strict=True) if each[1].state is not None]
    votes = settings().votes
    if not (judged and (settings().shadow or votes > 1)):
        return 0
    kept, (questions, records) = 0, zip(*judged, strict=True)
    ids = [record.cycle_id for record in records]
    for name in settings().shadow:
        try:
            decider = connections.decider(name, shadow=True, samples=range(votes))
            answers = await first_answers(name, decider, questions, ids, store().shadow.answers(name, ids))
        except InputError as e:
            log().error("shadow decider=%s cannot answer: %s", name, e)
            continue
        for question, record, answer in zip(questions, records, answers, strict=True):
            challenger = strategy.called(f"{record.strategy}/{name}", name)
            now = (record.inputs and record.inputs.judged_at) or record.as_of
            _, verdict, intents = judge.judged(question, answer, record.state, challenger, now)
            answered = {"decided": answer, "verdict": verdict, "intents": intents}
            store().shadow.keep(ShadowDecision.of(record, decider=name, **answered))
            kept += 1
        forget(name, ids)
    whole = [each for each in zip(questions, records, strict=True) if each[1].decided and each[1].verdict]
    for record, decided in zip([record for _, record in whole], await _polled(whole, votes), strict=True):
        store().shadow.keep(ShadowDecision.of(record, decider=CHAMPION, decided=decided))
    return kept


async def _polled(cycles: list[tuple[Question, CycleRecord]], votes: int) -> list[Answer]:
    """Return what the champion decided with the votes of further samples, asked once for each cycle."""
    decided = [record.decided for _, record in cycles if record.decided]
    names = {record.decider for _, record in cycles}
    had = store().shadow.answers(CHAMPION, [record.cycle_id for _, record in cycles])
    if votes == 1 or had or len(names) != 1 or not kind_of(name := names.pop()).asks_alone:
        return decided
    others = [connections.decider(name, shadow=True, samples=(sample,)) for sample in range(1, votes)]
    return await polled(decided, [question for question, _ in cycles], others)


@stage
def score_shadows(now: datetime) -> int:
    """Score every answer whose horizon has passed, champion and challengers alike; returns how many."""
    kept, scored = store(), 0
    for shadow in kept.shadow.unscored(settings().strategy, now - HORIZON, limit=500):
        until = shadow.as_of + HORIZON
        bars = kept.candles.load(venue().name, shadow.symbol, "5m", until, HORIZON_BARS)
        earned = score(shadow.state, shadow.symbol, shadow.intents, bars.loc[shadow.as_of :], settings().costs)
        if earned is not None:
            kept.shadow.score(shadow, earned)
            scored += 1
    return scored


@stage
async def run_paper_books(now: datetime) -> dict[str, Decimal]:
    """Bring each challenger's own account up to the last close; returns its equity by challenger."""
    if not settings().shadow:
        return {}
    instruments = {symbol: await venue().instrument(symbol) for symbol in settings().symbols}
    return {name: await _run_book(name, instruments, floor_time(now, "5m")) for name in settings().shadow}


async def _run_book(name: str, instruments: dict[str, Instrument], until: datetime) -> Decimal:
    kept, strategy = store(), settings().strategy
    stored, cash = kept.paper_books.get(strategy, name), settings().paper_cash
    before = stored or PaperBookState(state="", equity=cash, until=until - timedelta(hours=1))
    n = min(5000, int((until - before.until) / BAR))
    if n <= 0:
        return before.equity
    account = SimulatedAccount(cash, instruments, settings().costs)
    if stored:
        account.load(stored.state)
    began = before.until - WAITS * BAR
    bars = {s: kept.candles.load(venue().name, s, "5m", until, n + WAITS).loc[began:] for s in instruments}
    answers = [
        each
        for each in kept.shadow.between(strategy, name, began - BAR, until - BAR)
        if each.symbol in bars and not (bars[each.symbol].loc[each.as_of : before.until - BAR, "volume"] > 0).any()
    ]  # what is new, and what has found no bar with trades before
    due = [(each.as_of, each.symbol, each.intents) for each in answers]
    traded = {*account.wallet.holdings, *(each.symbol for each in (*account.open_orders(), *answers))}
    rates = await venue().funding_paid(sorted(traded), before.until, until)
    account.pass_bars({s: frame.loc[before.until :] for s, frame in bars.items()}, BAR, due, rates)
    after = PaperBookState(state=account.dump(), equity=account.balance({}).equity, until=until)
    kept.paper_books.save(strategy, name, after, stored)  # another run was quicker: it passed the same bars over it
    return after.equity
