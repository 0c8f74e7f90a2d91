"""The ladder: every rung fires where it should, says so, and never leaves a position worse protected."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from fake_ladder import Clock, FakeDesk, FakeModel, FakePrices
from hypothesis import given
from hypothesis import strategies as st
from moments_sample import moment
from prompt_sample import PROMPT

from tasks.core.decision.budget import BudgetedModel, Tier
from tasks.core.decision.cache import CachedModel, KeptDecision
from tasks.core.decision.kinds import KINDS, Means
from tasks.core.decision.ladder import Breaker, BreakerState, Ladder, Shared
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.decision.memory import vector
from tasks.core.decision.rules import RulesDecider
from tasks.core.types.decision import (
    ACTIONS,
    DECISION,
    HELD,
    MAY_AS_FALLBACK,
    Answer,
    ModelCall,
    PromptRef,
    Rung,
    Why,
)
from tasks.core.types.decision import hold as do_nothing
from tasks.core.types.limits import Budget
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Confluence

BTC = "BTC/USDT:USDT"
OPEN = '{"action":"OPEN_LONG","size_pct":20,"stop_atr":1.5,"tp_atr":3,"confidence":0.6}'
CLOSE = '{"action":"CLOSE_ALL","confidence":0.8}'
FREE = {"symbol": BTC, "size_pct": "20", "stop_atr": "1.5", "tp_atr": "3", "minutes": "30", "confidence": "0.8",
        "to": {"kind": "breakeven"}}  # fmt: skip
EVEN = Confluence()
BIG, CHEAP = "openai/big", "openai/cheap"


class Bench:
    """A ladder with everything under it, to break part by part."""

    def __init__(self, model: FakeModel, cheap: FakeModel | None = None, budget: Budget | None = None, **terms) -> None:
        self.model, self.desk, self.clock = model, FakeDesk(), Clock()
        tiers = [Tier(model, (BIG,))] + ([Tier(cheap, (CHEAP,))] if cheap else [])
        asked = CachedModel(BudgetedModel(tiers, FakePrices(), budget or Budget(usd_per_day=None)), (BIG, CHEAP),
                            timedelta(hours=1))  # fmt: skip
        self.primary = SingleDecider(asked, {"single": PROMPT}, Means())
        self.ladder = Ladder(
            self.primary, RulesDecider(), Shared(*[self.desk] * 4), self.clock,
            **{"strategy": "s", "ttl": timedelta(hours=1), "max_distance": 0.15,
               "breaker": Breaker(3, timedelta(seconds=900))} | terms,
        )  # fmt: skip

    async def decide(self, side="flat", reasons=("TrendFlip(1h up)",), confluence=EVEN) -> Answer:
        [decided] = await self.ladder.decide([question(side, reasons, confluence)])
        return decided

    def keep(self, action: str, minutes: float = 10, side="flat", rsi: float = 52) -> None:
        """Leave an earlier decision of the model behind."""
        at = moment(rsi, side).model_copy(update={"confluence": Confluence()})
        decision = made(action)
        call = ModelCall(role="single", model=BIG, prompt=PROMPT.ref)
        decided = Answer(decision=decision, source=f"llm:{BIG}", rung="primary", calls=(call,))
        self.desk.kept.append(
            KeptDecision(as_of=at.as_of - timedelta(minutes=minutes), decided=decided, vector=vector(at),
                         reasons=("TrendFlip(1h down)",))
        )  # fmt: skip


def made(action: str):
    fields = {name: value for name, value in FREE.items() if name in _fields(action)}
    return DECISION.validate_python({"action": action, **fields})


def _fields(action: str) -> set[str]:
    wanted = {
        "OPEN_LONG": {"size_pct", "stop_atr", "tp_atr"}, "OPEN_SHORT": {"size_pct", "stop_atr", "tp_atr"},
        "ADD": {"size_pct", "stop_atr", "tp_atr"}, "TRIM": {"size_pct"}, "CLOSE_PARTIAL": {"size_pct"},
        "MOVE_STOP": {"to"}, "SET_TP": {"tp_atr"}, "PAUSE": {"minutes"},
    }  # fmt: skip
    return {"symbol", "confidence"} | wanted.get(action, set())


def question(side="flat", reasons=("TrendFlip(1h up)",), confluence=EVEN, pair=BTC) -> Question:
    snapshot = moment(50, side, reason_for_call=reasons)
    allowed = snapshot.constraints.model_copy(update={"allowed_actions": ACTIONS})
    return Question(
        snapshot=snapshot.model_copy(update={"confluence": confluence, "constraints": allowed, "pair": pair})
    )


def steps(decided: Answer) -> list[str]:
    """Say each rung that was tried, and what became of it; the last is the one that decided."""
    assert (decided.trail[-1].rung, decided.trail[-1].source) == (decided.rung, decided.source)
    return [f"{rung.rung} {rung.why}" for rung in decided.trail]


WORKING, DEAD = FakeModel(reply=OPEN), FakeModel(error="unavailable")
LONG_AGAINST = {"side": "long", "confluence": Confluence(score=3, direction=-1)}


async def test_a_good_reply_is_the_primary_rung_and_nothing_else_is_touched():
    decided = await Bench(FakeModel(reply=OPEN)).decide()
    assert (decided.rung, decided.source, decided.decision.confidence) == ("primary", f"llm:{BIG}", Decimal("0.6"))
    assert (decided.is_fallback, decided.errors, decided.flags) == (False, (), ())
    assert decided.trail == (
        Rung(rung="primary", source=f"llm:{BIG}", role="single", cost_usd=Decimal("0.25")),
    )  # fmt: skip


async def test_a_tight_budget_asks_the_cheap_model_which_may_open():
    decided = await Bench(FakeModel(), FakeModel(CHEAP, OPEN), Budget(usd_per_day=Decimal("0.5"))).decide()
    assert (decided.rung, decided.source, decided.decision.action) == ("cheap", f"llm:{CHEAP}", "OPEN_LONG")
    assert not decided.is_fallback
    assert steps(decided) == ["primary budget_refused", "cheap answered"]
    assert [rung.source for rung in decided.trail] == [f"llm:{BIG}", f"llm:{CHEAP}"]


async def test_a_cheap_model_that_fails_steps_down_like_any():
    budget = Budget(usd_per_day=Decimal("0.5"))
    bench = Bench(FakeModel(), FakeModel(CHEAP, error="timeout"), budget)
    assert steps(await bench.decide()) == ["primary budget_refused", "cheap late", "cache nothing_near",
                                           "rules answered"]  # fmt: skip
    assert [state.errors for state in bench.desk.breakers.values()] == [1]


async def test_the_exact_reply_again_is_the_cache_rung_at_a_fifth_less_confidence():
    bench = Bench(FakeModel(reply=CLOSE))
    await bench.decide()
    bench.clock.wait(120)
    bench.model.error = "timeout"
    decided = await bench.decide()
    assert (decided.rung, decided.source, decided.decision.source) == ("cache", "cache", "cache")
    assert (decided.decision.action, decided.decision.confidence) == ("CLOSE_ALL", Decimal("0.64"))
    assert (decided.flags, decided.errors, decided.cost_usd) == (("cached:single:120s",), (f"{BIG}: timeout",), 1)
    assert decided.is_fallback
    assert steps(decided) == ["primary late", "cache answered"]
    assert (decided.trail[-1].role, decided.trail[-1].age_s, decided.trail[-1].distance) == ("single", 120, None)


async def test_an_exact_entry_may_not_be_and_the_trail_says_so():
    bench = Bench(FakeModel(reply=OPEN))
    await bench.decide()
    bench.model.error = "timeout"
    decided = await bench.decide()
    assert (decided.rung, decided.flags) == ("rules", ("cached:single:0s",))
    assert steps(decided) == ["primary late", "cache may_not_open", "cache nothing_near", "rules answered"]


async def test_a_near_decision_of_the_last_hour_is_the_cache_rung_with_distance_and_age():
    bench = Bench(DEAD)
    bench.keep("TRIM", minutes=30, side="long")
    decided = await bench.decide("long")
    assert (decided.rung, decided.decision.action, decided.decision.confidence) == ("cache", "TRIM", Decimal("0.64"))
    assert steps(decided) == ["primary provider_error", "cache answered"]
    near = decided.trail[-1]
    assert (near.as_of, near.age_s) == (moment().as_of - timedelta(minutes=30), 1800)
    assert 0 < near.distance < 0.1
    assert decided.flags == (f"cached:{near.distance:.3f}:1800s",)
    assert decided.errors == ("unavailable",)


@pytest.mark.parametrize("left", [{"minutes": 61}, {"rsi": 80}, {"side": "short"}])
async def test_old_far_or_other_sided_decisions_are_not_taken(left):
    bench = Bench(DEAD)
    bench.keep("TRIM", **({"side": "long"} | left))
    assert (await bench.decide("long")).rung == "rules"


async def test_rules_close_what_turned_against_us_with_little_confidence():
    decided = await Bench(DEAD).decide(**LONG_AGAINST)
    assert (decided.rung, decided.source, decided.decision.action) == ("rules", "rules", "CLOSE_ALL")
    assert (decided.decision.confidence, decided.decision.source) == (Decimal("0.3"), "rules")
    assert decided.errors == ("unavailable",)
    assert decided.calls, "what was tried stays in the record"
    assert steps(decided) == ["primary provider_error", "cache nothing_near", "rules answered"]


async def test_rules_that_would_enter_are_a_hold_with_the_error_in_it():
    up = Confluence(score=4, direction=1)
    decided = await Bench(DEAD).decide(confluence=up)
    assert (decided.rung, decided.source, decided.decision.action) == ("hold", "hold", "HOLD")
    assert decided.errors == ("unavailable",)
    assert steps(decided) == ["primary provider_error", "cache nothing_near", "rules may_not_open", "hold answered"]
    allowed = await Bench(DEAD, may_open=True).decide(confluence=up)
    assert (allowed.rung, allowed.decision.action, allowed.is_fallback) == ("rules", "OPEN_LONG", True)


async def test_a_reply_nobody_can_read_steps_down_too():
    decided = await Bench(FakeModel(reply="I would wait.")).decide(**LONG_AGAINST)
    assert (decided.rung, decided.errors) == ("rules", ("no_json: I would wait.",))
    assert steps(decided) == ["primary unusable_reply", "cache nothing_near", "rules answered"]


async def test_a_budget_that_is_used_up_steps_down_says_so_and_is_no_error_of_the_model():
    bench = Bench(FakeModel(), budget=Budget(calls_per_day=0))
    for _ in range(4):
        decided = await bench.decide()
    assert (decided.rung, decided.errors) == ("rules", ("budget calls_per_day 0 + 1 > 0",))
    assert bench.model.asked == 0
    assert steps(decided) == ["primary budget_refused", "cache nothing_near", "rules answered"]
    assert list(bench.desk.breakers.values()) == [BreakerState()]


async def test_the_breaker_opens_after_errors_in_a_row_then_one_try_closes_it():
    bench = Bench(FakeModel(error="unavailable"))
    for _ in range(3):
        assert (await bench.decide()).rung == "rules"
    barred = await bench.decide()
    assert (barred.rung, barred.decision.action) == ("hold", "HOLD")
    assert barred.errors == ("breaker open until 03:20:20 UTC after 3 errors",)
    assert steps(barred) == ["primary breaker_open", "rules no_rule", "hold answered"]
    assert (barred.trail[0].retry_at, barred.trail[0].errors) == (bench.clock.at + timedelta(seconds=900), 3)
    assert (await bench.decide(**LONG_AGAINST)).decision.action == "CLOSE_ALL"
    assert bench.model.asked == 3
    bench.clock.wait(900)
    first, second = await asyncio.gather(bench.decide(), bench.decide())
    assert sorted((first.rung, second.rung)) == ["hold", "rules"], "one tries, the other waits"
    assert bench.model.asked == 4
    bench.clock.wait(900)
    bench.model.error = ""
    assert (await bench.decide()).rung == "primary"
    assert (await bench.decide()).rung == "primary"
    assert list(bench.desk.breakers.values()) == [BreakerState()]


async def test_a_new_day_is_a_new_session_unless_it_has_a_name():
    for session, rungs in (("", "rules"), ("sweep", "hold")):
        bench = Bench(DEAD, session=session, breaker=Breaker(1, timedelta(days=2)))
        await bench.decide()
        bench.clock.wait(86_400)
        assert (await bench.decide()).rung == rungs


class Answering:
    """A decider of several roles that answers what it is told."""

    name, kind, prompts = "llm:panel", KINDS["llm:panel"], ()

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.groups = answers, []

    async def decide(self, questions):
        self.groups.append([b.snapshot.pair for b in questions])
        return list(self.answers[: len(questions)])


def ladder(primary, **terms) -> Ladder:
    bench = Bench(DEAD, **terms)
    return replace(bench.ladder, primary=primary)


async def test_a_hold_that_was_decided_is_an_answer_and_one_for_lack_of_answers_is_not():
    """What an error says is no matter: a reply may end with any word of ours."""
    failed_over = ModelCall(role="technical", model="openai/b", attempts=("openai/a: timeout",))
    vetoed = Answer(
        decision=do_nothing(BTC, "no consensus", "llm:panel"), source="llm:panel", rung="failover",
        calls=(failed_over,), errors=("technical: openai/a: timeout",), flags=("no_consensus",),
        trail=(*failed_over.tried(), Rung(rung="failover", source="llm:panel", why=Why.NO_CONSENSUS)),
    )  # fmt: skip
    [decided] = await ladder(Answering(vetoed)).decide([question(**LONG_AGAINST)])
    assert (decided.rung, decided.decision.action, decided.is_fallback) == ("failover", "HOLD", False)
    assert steps(decided) == ["failover answered", "failover no_consensus"]
    late = ModelCall(role="technical", model="", error="timeout")
    errors = ("technical: no_json: there is no_consensus",)
    lacking = vetoed.model_copy(
        update={"rung": "hold", "source": "hold", "errors": errors, "trail": (*late.tried(), HELD)}
    )  # fmt: skip
    [decided] = await ladder(Answering(lacking)).decide([question(**LONG_AGAINST)])
    assert (decided.rung, decided.decision.action) == ("rules", "CLOSE_ALL")
    assert steps(decided) == ["primary late", "cache nothing_near", "rules answered"]


async def test_symbols_are_asked_one_by_one_or_together_and_answered_in_order():
    good, bad = (
        Answer(decision=made("OPEN_LONG"), source="llm:m", rung="primary", trail=(Rung(rung="primary", source="m"),)),
        Answer(decision=do_nothing(BTC, "x"), source="hold", rung="hold", errors=("missing",), trail=(HELD,)),
    )
    questions = [question(pair="A"), question(pair="B", **LONG_AGAINST)]
    apart = Answering(good)
    await ladder(apart).decide(questions)
    assert apart.groups == [["A"], ["B"]]
    joint = Answering(good, bad)
    joint.kind, joint.prompts = KINDS["llm:portfolio"], (PromptRef(name="portfolio", version="v001", sha256="ab"),)
    standing = ladder(joint)
    answers = await standing.decide(questions)
    assert (standing.kind, standing.prompts) == (joint.kind, joint.prompts), "a ladder is what stands on it"
    assert joint.groups == [["A", "B"]]
    assert [each.rung for each in answers] == ["primary", "rules"]
    assert await ladder(joint).decide([]) == []


situations = st.builds(
    Confluence, score=st.integers(0, 5), direction=st.sampled_from((-1, 0, 1))
)  # fmt: skip


@given(
    side=st.sampled_from(("flat", "long", "short")), confluence=situations, kept=st.lists(st.sampled_from(ACTIONS)),
    reply=st.sampled_from((OPEN, CLOSE, "prose")), errors=st.integers(0, 3), minutes=st.integers(0, 30),
    reasons=st.sampled_from((("TrendFlip(1h up)",), ("TrendFlip(1h down)",))),
)  # fmt: skip
def test_a_model_that_cannot_be_reached_never_leaves_a_position_worse_protected(
    side, confluence, kept, reply, errors, minutes, reasons
):
    """Whatever was cached and whatever the rules say: no entry, no stop or target taken away."""

    async def run() -> Answer:
        bench = Bench(FakeModel(reply=reply))
        await bench.decide(side, reasons, confluence)  # leaves an exact reply behind
        for action in kept:
            bench.keep(action, side=side)
        bench.model.error = "unavailable"
        for _ in range(errors):
            await bench.decide(side, reasons, confluence)
            bench.clock.wait(60 * minutes)
        return await bench.decide(side, reasons, confluence)

    decided = asyncio.run(run())
    assert decided.is_fallback
    assert decided.decision.action in MAY_AS_FALLBACK
    assert decided.errors
