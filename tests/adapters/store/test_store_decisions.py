"""Budget, breaker, replies and memory in both databases, between threads and processes, and under a real ladder."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier, BrokenBarrierError

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from model_server import Fault, ModelServer, Reply
from moments_sample import moment
from store_samples import AT, BTC, a_cycle, a_decision, a_hold, a_position, a_snapshot, an_outcome, minutes

from tasks.adapters.deciders import build
from tasks.core.decision.budget import Charge
from tasks.core.decision.ladder import BreakerState
from tasks.core.types.decision import ModelCall, PromptRef
from tasks.core.types.limits import Budget
from tasks.core.types.question import Question
from tasks.core.types.record import CycleStatus
from tasks.core.types.snapshot import Confluence
from tasks.core.types.verdict import Code, Verdict
from tasks.settings import Settings, load
from tests.forked import raced

CHARGE = Charge(session="default/today", symbol=BTC, decision="d1")
CENT = Decimal("0.01")
TRADER = PromptRef(name="trader", version="v001", sha256="ab" * 32)
OPEN = '{"action":"OPEN_LONG","size_pct":20,"stop_atr":1.5,"tp_atr":3,"confidence":0.6}'


def usd(cap: str, scope: str = "day") -> Budget:
    return Budget(**({"usd_per_day": None, "calls_per_day": None} | {f"usd_per_{scope}": Decimal(cap)}))


# --- the budget


def test_a_reservation_counts_at_once_and_is_replaced_by_the_real_cost(store):
    held = store.budget.reserve(CHARGE, CENT, usd("0.015"), AT)
    assert (store.budget.spent(AT).usd, store.budget.spent(AT).calls) == (CENT, 1)
    assert store.budget.reserve(CHARGE, CENT, usd("0.015"), AT).refused == "usd_per_day 0.01 + 0.01 > 0.015"
    store.budget.settle(held.budget_id, Decimal("0.0012345678"))
    assert store.budget.spent(AT).usd == Decimal("0.001234568"), "rounded up to a billionth"
    assert store.budget.reserve(CHARGE, CENT, usd("0.015"), AT).refused == ""


@pytest.mark.parametrize(
    ("scope", "other"),
    [
        ("day", {"session": "x", "symbol": "x", "decision": "x"}),
        ("session", {"symbol": "x", "decision": "x"}),
        ("symbol_day", {"session": "x", "decision": "x"}),
        ("decision", {}),
    ],
)
def test_a_scope_counts_its_own_calls_whatever_else_they_are(store, scope, other):
    budget = usd("0.01", scope)
    assert not store.budget.reserve(CHARGE, CENT, budget, AT).refused
    assert store.budget.reserve(CHARGE.model_copy(update=other), CENT, budget, AT).refused.startswith(
        f"usd_per_{scope} "
    )
    calls = Budget(**({"usd_per_day": None, "calls_per_day": None} | {f"calls_per_{scope}": 1}))
    assert (
        store.budget.reserve(CHARGE.model_copy(update=other), CENT, calls, AT).refused == f"calls_per_{scope} 1 + 1 > 1"
    )


def test_scopes_do_not_mix(store):
    store.budget.reserve(CHARGE, CENT, usd("1"), AT)
    fresh = {"session": "other", "symbol": "ETH", "decision": "d2"}
    for scope, changed in zip(("session", "symbol_day", "decision"), fresh.items(), strict=True):
        charge = CHARGE.model_copy(update=dict([changed]))
        assert not store.budget.reserve(charge, CENT, usd("0.01", scope), AT).refused


def test_a_new_day_begins_anew_but_a_named_session_goes_on(store):
    store.budget.settle(store.budget.reserve(CHARGE, CENT, usd("1"), AT).budget_id, CENT)
    tomorrow = AT + timedelta(days=1)
    assert not store.budget.reserve(CHARGE, CENT, usd("0.01"), tomorrow).refused
    assert store.budget.reserve(CHARGE, CENT, usd("0.02", "session"), tomorrow).budget_id == 0
    assert store.budget.spent(tomorrow).calls == 1


def test_the_reservation_of_a_process_that_died_gives_its_money_back_but_stays_a_call(store):
    dead = store.budget.reserve(CHARGE, CENT, usd("0.01"), AT)
    assert store.budget.reserve(CHARGE, CENT, usd("0.01"), AT + minutes(9.9)).refused
    assert not store.budget.reserve(CHARGE, CENT, usd("0.01"), AT + minutes(10)).refused
    assert store.budget.spent(AT + minutes(10)).calls == 2
    store.budget.settle(dead.budget_id, CENT)  # it lived after all: what it spent is spent
    assert store.budget.spent(AT + minutes(10)).usd == 2 * CENT


def test_of_threads_that_race_for_the_last_calls_no_more_than_fit_get_one(store):
    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda _: store.budget.reserve(CHARGE, CENT, usd("0.03"), AT), range(16)))
    assert sum(not one.refused for one in held) == 3
    assert len({one.budget_id for one in held if one.budget_id}) == 3


READY = """
import asyncio
from tasks.adapters.deciders import build
from tasks.adapters.model.litellm_model import prepare
from tasks.core.types.question import Question
from tasks.settings import load
sys.path[:0] = ["tests/core", "tests/adapters"]
from moments_sample import moment
asyncio.run(prepare())
"""
DECIDE = """
[decided] = asyncio.run(build("llm:single", load()).decide([Question(snapshot=moment())]))
print(decided.rung, decided.errors)
"""


@pytest.mark.slow
def test_of_two_processes_on_the_last_cent_exactly_one_calls_the_model(store, store_url, tmp_path, monkeypatch):
    with ModelServer(default=lambda _: Reply('{"action":"HOLD"}', delay_s=1)) as server:
        for name, value in {
            "MODEL": "openai/gpt-4o", "MODEL_BASE_URL": server.url, "DATABASE_URL": store_url, "HOME": str(tmp_path),
            "BUDGET__USD_PER_DAY": "0.03",  # one worst case is 0.018, two do not fit
        }.items():  # fmt: skip
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        said = sorted(raced(READY, DECIDE, count=2))
        assert len(server.requests) == 1, said
    assert said[0].startswith("primary ()")
    assert said[1].startswith("rules ('budget usd_per_day 0.0")
    today = store.budget.spent(now())
    assert today.calls == 1
    assert 0 < today.usd < Decimal("0.001"), "settled at what 100 + 20 tokens cost"


def now() -> datetime:
    return datetime.now(UTC)


# --- the breaker


def test_the_breaker_is_one_for_all_who_change_it(store):
    together = Barrier(6)

    def more(state: BreakerState) -> BreakerState:
        """All have read before the first one writes, if the database lets them."""
        with suppress(BrokenBarrierError):
            together.wait(0.1)
        return BreakerState(errors=state.errors + 1, retry_at=AT)

    with ThreadPoolExecutor(6) as pool:
        before = list(pool.map(lambda _: store.breakers.change("s", more), range(6)))
    assert sorted(state.errors for state in before) == [0, 1, 2, 3, 4, 5]
    assert store.breakers.change("s", lambda _: BreakerState()) == BreakerState(errors=6, retry_at=AT)
    assert store.breakers.change("s", lambda state: state) == BreakerState()
    assert store.breakers.change("other", lambda state: state) == BreakerState()


# --- replies

CALL = ModelCall(
    role="single", model="openai/a", prompt=PromptRef(name="single", version="v001", sha256="ab" * 32),
    raw_reply='{"action":"HOLD"}\x00', cost_usd=CENT, tokens_in=100, tokens_out=20,
)  # fmt: skip


def test_the_newest_of_several_questions_replies_is_found_while_it_is_young(store):
    store.replies.keep("h1", CALL, AT)
    store.replies.keep("h2", CALL.model_copy(update={"model": "openai/b"}), AT + minutes(1))
    found = store.replies.find(["h1", "h2"], AT)
    assert (found.model, found.created_at, found.raw_reply) == ("openai/b", AT + minutes(1), '{"action":"HOLD"}\ufffd')
    assert store.replies.find(["h1"], AT).model == "openai/a"
    assert store.replies.find(["h1"], AT + minutes(0.1)) is None
    assert store.replies.find(["h3"], AT) is None


def test_a_newer_reply_to_the_same_question_replaces_the_older(store):
    store.replies.keep("h1", CALL, AT)
    store.replies.keep("h1", CALL.model_copy(update={"raw_reply": "{}"}), AT + minutes(2))
    assert store.replies.find(["h1"], AT).raw_reply == "{}"
    assert store.counts()["replies"] == 1


# --- memory


def remembered(store, number: int, decided=None, outcome_at=None, r="0.5", **cycle) -> None:
    """Leave a decision behind, `number` bars of 5 minutes after AT; with an outcome closed at `outcome_at`."""
    cycle_id = f"c{number}"
    at = AT + minutes(5 * number)
    store.cycles.begin(a_cycle(cycle_id, **{"as_of": at, "decider": "llm:single", **cycle}), at)
    store.decisions.keep(cycle_id, decided or a_decision(), at)
    store.memory.keep(cycle_id, moment(50 + number), (decided or a_decision()).decision)
    if outcome_at is not None:
        store.positions.save(a_position(cycle_id, cycle_id=cycle_id))
        pnl = Decimal(r) * 10
        store.outcomes.save(
            an_outcome(cycle_id, cycle_id=cycle_id, closed_at=outcome_at, outcome_r=Decimal(r), pnl=pnl)
        )


def past_of(store, as_of, symbol=BTC, strategy="default", decider="llm:single"):
    done = store.memory.performance(strategy, decider, as_of)
    return store.memory.remembered(strategy, symbol, as_of, done).at(moment(50))


def test_recent_decisions_come_newest_first_with_the_outcomes_known_then(store):
    remembered(store, 0, outcome_at=AT + minutes(30))
    remembered(store, 1)
    remembered(store, 2, a_hold())  # the last rung: nobody decided
    at = AT + minutes(20)
    past = past_of(store, at).recent
    assert [(one.as_of, one.action, one.outcome_r) for one in past] == [
        (AT + minutes(5), "OPEN_LONG", None), (AT, "OPEN_LONG", None),
    ]  # fmt: skip
    assert (past[0].confidence, past[0].reasons, past[0].distance) == (0.7, (), None)
    assert past_of(store, AT + minutes(30)).recent[1].outcome_r == 0.5
    assert past_of(store, at, "ETH/USDT:USDT").recent == past_of(store, at, strategy="other").recent == ()


def test_similar_decisions_come_nearest_first_and_only_with_an_outcome(store):
    for number, r in ((8, "-1"), (2, "0.25"), (5, "2")):
        remembered(store, number, outcome_at=AT + minutes(60), r=r)
    remembered(store, 1)
    later = AT + timedelta(days=1)
    past = past_of(store, later).similar[:2]
    assert [(one.as_of, one.outcome_r) for one in past] == [(AT + minutes(10), 0.25), (AT + minutes(25), 2.0)]
    assert 0 < past[0].distance < past[1].distance < 0.2
    assert past_of(store, AT + minutes(59)).similar == ()


def test_performance_is_of_one_decider_by_prompt_version_and_of_trades_closed_by_then(store):
    remembered(store, 0, outcome_at=AT + minutes(30), r="2")
    remembered(store, 1, outcome_at=AT + minutes(40), r="-1")
    remembered(store, 2, outcome_at=AT + minutes(20), r="9", decider="rules")
    remembered(store, 3, outcome_at=AT - timedelta(days=31))
    newer = TRADER.model_copy(update={"version": "v002"})
    one = a_decision(calls=1)
    asked = one.replace(calls=(one.calls[0].replace(prompt=newer),))
    remembered(store, 4, asked, outcome_at=AT + minutes(40), r="0.5")

    def done(at: datetime) -> list[tuple]:
        told = store.memory.performance("default", "llm:single", at).statistics
        return [(each.names, each.trades, each.best_r, each.worst_r, round(each.cost_usd, 6)) for each in told]

    assert done(AT + minutes(40)) == [
        (("llm:single",), 3, 2, -1, 0.00861),
        (("trader/v001",), 2, 2, -1, 0.00738),
        (("trader/v002",), 1, 0.5, 0.5, 0.00123),
    ]
    assert done(AT + minutes(19)) == [(("llm:single", "trader/v001"), 0, None, None, 0.00738)]
    assert done(AT) == []
    told = store.memory.performance("default", "llm:single", AT + minutes(40)).statistics[0]
    assert (told.win_rate, told.mean_r, round(told.mean_confidence, 6)) == (2 / 3, 0.5, 0.7)


def test_each_decision_comes_with_how_its_cycle_ended_its_price_and_its_thesis(store):
    entered = a_decision("went\nlong").decision.replace(followups=("TRIM 30% at +1.5R", "TRAIL it somehow"))
    ends = {0: CycleStatus.EXECUTED, 1: CycleStatus.DENIED}
    for number, status in ends.items():
        verdict = Verdict(
            allowed=not number, decision=entered, codes=(Code.SIZE_CLAMPED, Code.LOW_CONFIDENCE)[: number + 1]
        )
        remembered(store, number, a_decision().replace(decision=entered))
        cycle = a_cycle(f"c{number}", as_of=AT + minutes(5 * number), status=status, verdict=verdict)
        store.cycles.save(cycle, AT)
    denied, executed = past_of(store, AT + minutes(10)).recent
    assert (denied.status, denied.codes, executed.status, executed.codes) == (
        "denied", ("LOW_CONFIDENCE",), "executed", (),
    )  # fmt: skip
    assert (executed.thesis, executed.unread) == ("went long", ("TRAIL it somehow",))
    assert executed.price == moment(50).timeframes["5m"].close


def test_the_first_vector_of_a_cycle_stays(store):
    remembered(store, 0, outcome_at=AT + minutes(1))
    store.memory.keep("c0", moment(90), a_decision().decision)
    [past] = past_of(store, AT + minutes(5)).similar
    assert past.distance == 0


steps = st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 40)), max_size=5, unique_by=lambda x: x[0])


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=steps, bar_now=st.integers(0, 40))
def test_nothing_is_remembered_that_was_not_known_at_as_of(store, made, bar_now):
    """made: each decision's bar, and how many bars later its position closed."""
    strategy = f"s{time.monotonic_ns()}"
    for number, held in made:
        cycle_id = f"{strategy}-{number}"
        at = AT + minutes(5 * number)
        store.cycles.begin(a_cycle(cycle_id, as_of=at, strategy=strategy, decider="rules"), at)
        store.decisions.keep(cycle_id, a_decision(), at)
        store.memory.keep(cycle_id, moment(50), a_decision().decision)
        if held is not None:
            store.positions.save(a_position(cycle_id, cycle_id=cycle_id))
            closed = at + minutes(5 * held)
            store.outcomes.save(an_outcome(cycle_id, cycle_id=cycle_id, closed_at=closed, outcome_r=Decimal(number)))
    as_of = AT + minutes(5 * bar_now)
    memory = past_of(store, as_of, strategy=strategy, decider="rules")
    known = {n: held is not None and n + held <= bar_now for n, held in made if n < bar_now}
    bar = {AT + minutes(5 * n): n for n, _ in made}
    assert {bar[past.as_of] for past in memory.recent} == set(sorted(known)[-10:])
    assert all(past.outcome_r == (bar[past.as_of] if known[bar[past.as_of]] else None) for past in memory.recent)
    assert len(memory.similar) == min(5, sum(known.values()))
    assert all(known[bar[past.as_of]] for past in memory.similar)
    trades = sum(each.trades for each in memory.statistics)
    assert trades == sum(held is not None and n + held <= bar_now for n, held in made)


# --- the whole ladder on a real server and database


@pytest.fixture
def ladder_of(store, tmp_path):
    def make(server: ModelServer, **fields):
        settings: Settings = load(model=("openai/test",), model_base_url=server.url, home=tmp_path, **fields)
        return build("llm:single", settings, store)

    return make


def asked(side: str = "flat", **fields) -> Question:
    return Question(snapshot=moment(50, side, reason_for_call=("TrendFlip(1h up)",)).model_copy(update=fields))


async def decide(ladder, question: Question | None = None):
    [decided] = await ladder.decide([question or asked()])
    return decided


CLOSE = '{"action":"CLOSE_ALL","confidence":0.5}'


async def test_the_rungs_fire_one_after_the_other_on_a_real_model_server(store, ladder_of):
    with ModelServer([Reply(CLOSE)], default=Fault("status", status=503)) as server:
        ladder = ladder_of(server, breaker_errors=3, cheap_model=("openai/cheap",))
        first = await decide(ladder)
        again = await decide(ladder)
        store.cycles.begin(a_cycle(as_of=first_bar()), AT)
        store.decisions.keep("c1", first, AT)
        store.memory.keep("c1", asked().snapshot, a_decision().decision)
        near = await decide(ladder, asked(confluence=Confluence(score=3, direction=-1, book=1), digest=traded()))
        ruled = await decide(ladder, asked("long", confluence=Confluence(score=4, direction=-1)))
        barred = await decide(ladder)
        count = len(server.requests)
    assert [(one.rung, one.decision.action) for one in (first, again, near, ruled, barred)] == [
        ("primary", "CLOSE_ALL"), ("cache", "CLOSE_ALL"), ("cache", "CLOSE_ALL"), ("rules", "CLOSE_ALL"),
        ("hold", "HOLD"),
    ]  # fmt: skip
    assert again.flags[0].startswith("cached:single:")
    assert near.flags == ("cached:0.000:300s",)
    assert again.decision.confidence == near.decision.confidence == Decimal("0.4")
    assert ruled.errors == ("unavailable",)
    assert barred.errors[0].startswith("breaker open until ")
    assert count == 1 + 3 * 3, "each fault is asked again twice; the breaker asked nobody"
    assert store.budget.spent(now()).calls == 4


def first_bar():
    return asked().snapshot.as_of - minutes(5)


def traded():
    return asked().snapshot.digest.model_copy(update={"trade_count": 1})


async def test_a_tight_budget_asks_the_cheap_model_over_the_wire(store, ladder_of):
    with ModelServer(default=Reply(OPEN, tokens_in=1000, tokens_out=0)) as server:
        budget = Budget(usd_per_day=Decimal("0.005"), usd_per_1k_tokens=Decimal("0.01"))
        ladder = ladder_of(server, cheap_model=("openai/gpt-4o-mini",), budget=budget)
        decided = await decide(ladder)
        assert [request["model"] for request in server.requests] == ["gpt-4o-mini"]
    assert (decided.rung, decided.source) == ("cheap", "llm:openai/gpt-4o-mini")
    assert (decided.cost_usd, store.budget.spent(now()).usd) == (Decimal("0.00015"), Decimal("0.00015"))


async def test_a_model_without_a_known_price_is_charged_the_assumed_one(store, ladder_of):
    with ModelServer(default=Reply(OPEN, tokens_in=1500, tokens_out=500)) as server:
        await decide(ladder_of(server))
    assert store.budget.spent(now()).usd == Decimal("0.02")


async def test_a_sample_snapshot_has_a_vector_too(store):
    store.cycles.begin(a_cycle(), AT)
    store.decisions.keep("c1", a_decision(), AT)
    store.memory.keep("c1", a_snapshot(), a_decision().decision)
    [past] = past_of(store, AT + minutes(5)).recent
    assert past.reasons == ("TrendFlip(1h)",)


def test_a_purse_of_its_own_spends_nobody_elses_day(store):
    main = usd("0.015")
    apart = main.model_copy(update={"purse": "shadow"})
    assert not store.budget.reserve(CHARGE, CENT, apart, AT).refused
    elsewhere = CHARGE.model_copy(update={"session": "other", "decision": "other"})
    assert not store.budget.reserve(elsewhere, CENT, main, AT).refused
    assert store.budget.reserve(elsewhere, CENT, main, AT).refused.startswith("usd_per_day")
    assert store.budget.spent(AT).calls == 1
