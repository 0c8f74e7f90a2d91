"""The cycle's wiring: which lease, which clock, and what is handed on into the question and the record."""

import logging
from datetime import timedelta
from decimal import Decimal

import pytest
from sandbox_cycles import OPEN, START, SYMBOL, recorded, run
from sandbox_server import advance, state

from flows.trade import Request, run_cycles
from tasks import crash_points, decide, fetch, leases
from tasks.adapters.venue.bybit import Bybit
from tasks.connections import store, venue
from tasks.core.decision.memory import Earlier, Remembered, Vector
from tasks.core.errors import StoreError, VenueError
from tasks.core.types.decision import Answer, hold
from tasks.core.types.record import CycleStatus
from tasks.core.types.snapshot import Headline, Memory, News, Past
from tasks.leases import symbol_lease

LONG = timedelta(minutes=10)
NEWS = News(headlines=(Headline(title="A test is run", source="the test", published_at=START),), fear_greed=41)
BEFORE = START - timedelta(hours=1)
REMEMBERED = Remembered(
    recent=(Earlier(Past(as_of=BEFORE, action="HOLD", confidence=0.5), Vector(values=())),),
    done=Memory(decider_trades=3),
)
MEMORY = Memory(recent=(Past(as_of=BEFORE, action="HOLD", confidence=0.5),), decider_trades=3)

pytestmark = pytest.mark.slow


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that another has is not waited for."""
    monkeypatch.setattr(leases, "WAIT_S", 0.0)


def sent(exchange: str) -> list[str]:
    return [order["orderLinkId"] for order in state(exchange)["orders"] if order["orderLinkId"]]


async def test_a_run_that_never_gets_the_symbols_lease_leaves_the_cycle_to_the_one_that_has_it(
    home, exchange, impatient
):
    store().leases.acquire(symbol_lease(SYMBOL), "another", LONG)
    record = await run(recorded(home, (START, OPEN)))
    assert record.error == "another run has had the symbol's lease all the while"
    assert (record.status, record.decided) == (CycleStatus.STARTED, None)
    assert store().cycles.newest("default") == []
    assert sent(exchange) == []
    assert store().leases.get(symbol_lease(SYMBOL)).holder == "another"


async def test_a_dry_run_waits_for_no_real_run_and_a_real_run_for_no_dry_one(home, exchange, impatient):
    decider, real, dry = recorded(home, (START, OPEN)), symbol_lease(SYMBOL), f"{symbol_lease(SYMBOL)}:dry-run"
    store().leases.acquire(dry, "another", LONG)
    assert (await run(decider, dry_run=True)).error == "another run has had the symbol's lease all the while"
    store().leases.release(store().leases.get(dry))
    store().leases.acquire(real, "another", LONG)
    assert (await run(decider, dry_run=True)).status is CycleStatus.DRY_RUN
    store().leases.release(store().leases.get(real))
    store().leases.acquire(dry, "another", LONG)
    assert (await run(decider)).status is CycleStatus.EXECUTED


async def test_nothing_is_judged_beside_another_run_that_judges(home, exchange, impatient):
    decider = recorded(home, (START, OPEN))
    store().leases.acquire("guard:default", "another", LONG)
    with pytest.raises(StoreError, match="guard:default is held by another run"):
        await run(decider)
    assert sent(exchange) == []
    store().leases.release(store().leases.get("guard:default"))
    assert (await run(decider)).status is CycleStatus.EXECUTED


async def test_leases_are_given_back_for_the_next_run_however_the_cycle_ends(home, exchange, impatient):
    decider = recorded(home, (START, OPEN))
    for options in ({}, {}, {"as_of": START - timedelta(minutes=30)}):
        await run(decider, **options)
        for name in (symbol_lease(SYMBOL), "guard:default"):
            taken = store().leases.acquire(name, "the next", LONG)
            assert taken is not None, name
            store().leases.release(taken)


async def test_the_record_keeps_when_it_was_judged_and_the_news_and_memory_that_were_told(home, exchange, monkeypatch):
    """The venue's clock moves on while the decider thinks: judged_at is what the guard saw, not the close."""
    asked = []

    async def headlines() -> News:
        return NEWS

    async def think(questions, cycle_ids, decider_name) -> list[Answer]:
        asked.extend(questions)
        advance(exchange, 7)
        return [
            Answer(decision=hold(question.snapshot.pair, "x"), source="hold", rung="hold") for question in questions
        ]

    monkeypatch.setattr(fetch.fetch_headlines, "fn", headlines)
    monkeypatch.setattr(decide.recall, "fn", lambda strategy, symbols, as_of: dict.fromkeys(symbols, REMEMBERED))
    monkeypatch.setattr(decide.decide, "fn", think)
    record = await run("hold")
    [question] = asked
    assert (question.news, question.memory) == (NEWS, MEMORY)
    assert (record.inputs.news, record.inputs.memory) == (NEWS, MEMORY)
    assert record.inputs.judged_at == START + timedelta(seconds=7)
    assert (record.snapshot, record.role_inputs) == (question.snapshot, question.role_inputs)
    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()


async def test_the_record_keeps_the_account_as_it_was_asked_about_and_as_it_was_judged(home, exchange, monkeypatch):
    """A pause that begins while the decider thinks is the guard's to see; the record has both accounts."""

    def pause(step: str) -> None:
        if step == "decided":
            store().pauses.add("default", SYMBOL, START + timedelta(hours=1))

    monkeypatch.setattr(crash_points, "hook", pause)
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.DENIED
    assert "PAUSED" in record.verdict.codes
    assert record.inputs.state.paused_until is None
    assert record.state.paused_until == START + timedelta(hours=1)
    assert "OPEN_LONG" in record.snapshot.constraints.allowed_actions


async def test_an_answer_that_took_too_long_is_stale_by_the_venues_clock(home, exchange, monkeypatch):
    def slow(step: str) -> None:
        if step == "decided":
            advance(exchange, 600)

    monkeypatch.setattr(crash_points, "hook", slow)
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.DENIED
    assert "STALE" in record.verdict.codes
    assert record.inputs.judged_at == START + timedelta(seconds=600)
    assert sent(exchange) == []


async def test_the_question_is_about_the_position_the_book_and_the_past_of_its_symbol(home, exchange, monkeypatch):
    later, asked = START + timedelta(minutes=15), []
    decider, real = recorded(home, (START, OPEN)), decide.decide.fn

    async def keep(questions, *others) -> list[Answer]:
        asked.extend(questions)
        return await real(questions, *others)

    await run(decider)
    advance(exchange, 900)
    monkeypatch.setattr(decide.decide, "fn", keep)
    record = await run(decider)
    [question], [held] = asked, store().positions.open("default")
    assert record.as_of == later
    assert record.inputs.position == held
    assert question.snapshot.position.side == "long"
    assert Decimal(repr(question.quantity)) == held.quantity
    assert question.snapshot.orderbook.spread_bps == pytest.approx(record.inputs.book.spread_bps, rel=1e-4)
    assert question.snapshot.digest == record.inputs.digest
    assert question.equity == float(record.inputs.state.equity if record.inputs.state else record.state.equity)
    assert question.snapshot.reason_for_call == tuple(map(str, record.reasons))


async def test_missed_bars_are_noted_by_scheduled_runs_alone(home, exchange, monkeypatch):
    from tasks import record

    noted = []
    monkeypatch.setattr(record.record_missed, "fn", lambda symbols, as_of: noted.append((symbols, as_of)))
    for options in ({"trigger": "adhoc"}, {"trigger": "event"}, {"trigger": "schedule", "dry_run": True}):
        await run_cycles(Request(symbols=(SYMBOL,), decider="hold", **options))
    assert noted == []
    await run_cycles(Request(symbols=(SYMBOL,), decider="hold", trigger="schedule"))
    await run_cycles(Request(symbols=(SYMBOL,), decider="hold", trigger="schedule", review_only=True))
    await venue().close()
    assert noted == [((SYMBOL,), START)]


async def test_the_hourly_review_asks_about_an_open_position_on_a_close_of_its_own_and_once(home, exchange):
    await run(recorded(home, (START, OPEN)))
    advance(exchange, 3900)
    five_past = START + timedelta(minutes=65)
    review = Request(symbols=(SYMBOL,), decider="hold", trigger="schedule", review_only=True, as_of=five_past)
    [record] = await run_cycles(review)
    assert (record.status, [r.rule for r in record.reasons]) == (CycleStatus.HELD, ["Review"])
    [again] = await run_cycles(review.replace(trigger="event", review_only=False))
    assert again.cycle_id == record.cycle_id
    assert [r.as_of for r in store().cycles.newest("default")] == [five_past, START]
    await venue().close()


async def test_who_yields_says_so(home, exchange, impatient, caplog):
    store().leases.acquire(symbol_lease(SYMBOL), "another", LONG)
    with caplog.at_level(logging.INFO, "quarterdeck"):
        await run("hold")
    assert "another run has had the symbol's lease all the while" in caplog.text


async def test_a_wallet_without_the_quote_ends_the_cycle_with_one_line_that_names_what_it_has(
    home, exchange, monkeypatch
):
    only = {"coin": [{"coin": "USDC", "equity": "800"}, {"coin": "BTC", "equity": "0.00000000"}]}

    async def wallet(_venue):
        return only

    monkeypatch.setattr(Bybit, "_wallet", wallet)
    with pytest.raises(VenueError, match=r"the wallet holds no USDT \(equity 0\) but 800 USDC: convert or deposit"):
        await run(recorded(home, (START, OPEN)))
    [record] = store().cycles.newest("default")
    assert record.status is CycleStatus.FAILED
    assert "the wallet holds no USDT" in record.error
    assert state(exchange)["orders"] == []
