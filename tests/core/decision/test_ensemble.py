"""Several deciders, one decision: who is asked, who is heard, and what is kept of each."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import panel_cases
import pytest

from tasks.core.decision.ensemble import PickDecider, TimedDecider, VoteDecider
from tasks.core.decision.kinds import KINDS
from tasks.core.types.decision import DECISION, Answer, ModelCall, PromptRef, Rung, Why
from tasks.core.types.question import Question

SYMBOL = panel_cases.SYMBOL
ENTRY = {"size_pct": 20, "stop_atr": 2, "tp_atr": 4}
FIELDS = {"OPEN_LONG": ENTRY, "OPEN_SHORT": ENTRY, "TRIM": {"size_pct": 50}, "PAUSE": {"minutes": 30}}


class Says:
    """Says one thing of every question."""

    kind, prompts = KINDS["model"], ()

    def __init__(self, action: str, confidence: str = "0.8", name: str = "", rung: str = "primary", **more) -> None:
        self.name, self.asked = name or action.lower(), 0
        told = {"symbol": SYMBOL, "action": action, "confidence": Decimal(confidence), "reasoning": f"{self.name} says"}
        call = ModelCall(role="single", model="m", cost_usd=Decimal("0.01"), tokens_in=7)
        self.answer = Answer(
            decision=DECISION.validate_python(told | FIELDS.get(action, {}) | more), source=self.name, rung=rung,
            model=self.name, cost_usd=Decimal("0.01"), tokens=7, calls=(call,), flags=("seen",),
            trail=(Rung(rung=rung, source=self.name),),
        )  # fmt: skip

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        self.asked += len(questions)
        return [self.answer] * len(questions)


def question(side: str = "flat") -> Question:
    one = panel_cases.question()
    position = one.snapshot.position.model_copy(update={"side": side})
    return one.model_copy(update={"snapshot": one.snapshot.model_copy(update={"position": position})})


def asked(decider: object, side: str = "flat") -> Answer:
    [decided] = asyncio.run(decider.decide([question(side)]))
    return decided


def test_an_entry_is_the_choosers_plan_on_the_timers_moment():
    chooser = Says("OPEN_LONG", "0.9", size_pct=33)
    decided = asked(TimedDecider(chooser, Says("OPEN_LONG", "0.6")))
    assert (decided.decision.action, decided.decision.size_pct) == ("OPEN_LONG", 33)
    assert decided.decision.confidence == Decimal("0.6")


@pytest.mark.parametrize("chooser", ["OPEN_SHORT", "HOLD"])
def test_without_the_choosers_yes_nothing_is_opened(chooser):
    assert asked(TimedDecider(Says(chooser), Says("OPEN_LONG"))).decision.action == "HOLD"


def test_while_flat_and_the_timer_waits_the_chooser_costs_nothing():
    chooser = Says("OPEN_LONG")
    assert asked(TimedDecider(chooser, Says("HOLD"))).decision.action == "HOLD"
    assert chooser.asked == 0
    assert asked(TimedDecider(chooser, Says("PAUSE"))).decision.action == "PAUSE"
    assert chooser.asked == 0


@pytest.mark.parametrize(
    ("chooser", "timer", "done"),
    [("CLOSE_ALL", "HOLD", "CLOSE_ALL"), ("HOLD", "TRIM", "TRIM"), ("CLOSE_ALL", "TRIM", "CLOSE_ALL"),
     ("HOLD", "HOLD", "HOLD")],
)  # fmt: skip
def test_one_voice_is_enough_to_reduce_risk(chooser, timer, done):
    assert asked(TimedDecider(Says(chooser), Says(timer)), "long").decision.action == done


def test_what_each_said_and_cost_is_kept():
    decided = asked(TimedDecider(Says("OPEN_LONG", "0.9", "llm"), Says("OPEN_LONG", "0.6", "policy")))
    assert decided.flags[:2] == ("llm:OPEN_LONG@0.9:primary", "policy:OPEN_LONG@0.6:primary")
    assert decided.decision.reasoning == "llm: OPEN_LONG llm says\npolicy: OPEN_LONG policy says"
    assert (decided.cost_usd, decided.tokens, len(decided.calls), decided.model) == (
        Decimal("0.02"), 14, 2, "llm, policy",
    )  # fmt: skip
    assert decided.source == decided.decision.source == "ensemble:llm+policy"
    assert [(rung.source, rung.why) for rung in decided.trail] == [
        ("llm", Why.ANSWERED), ("policy", Why.ANSWERED), ("ensemble:llm+policy", Why.ANSWERED),
    ]  # fmt: skip


def test_an_answer_from_a_fallback_rung_keeps_its_label():
    decided = asked(TimedDecider(Says("OPEN_LONG", rung="cache"), Says("OPEN_LONG")))
    assert (decided.rung, decided.is_fallback, decided.trail[-1].rung) == ("cache", True, "cache")
    unheard = asked(TimedDecider(Says("HOLD", rung="hold"), Says("CLOSE_ALL")), "long")
    assert (unheard.decision.action, unheard.rung) == ("CLOSE_ALL", "primary")


def vote(*members: tuple[Says, str]) -> Answer:
    return asked(VoteDecider([(member, Decimal(weight)) for member, weight in members]))


def test_more_than_half_of_the_weight_wins_with_the_heaviests_numbers():
    decided = vote((Says("OPEN_LONG", "0.9"), "1"), (Says("OPEN_LONG", "0.6", size_pct=11), "2"), (Says("HOLD"), "1"))
    assert (decided.decision.action, decided.decision.size_pct) == ("OPEN_LONG", 11)
    assert decided.decision.confidence == Decimal("0.525")  # (0.9 + 2 x 0.6) / 4


@pytest.mark.parametrize("members", [("OPEN_LONG", "OPEN_SHORT"), ("OPEN_LONG", "HOLD"), ("CLOSE_ALL", "TRIM")])
def test_half_of_the_weight_is_not_enough(members):
    undecided = vote(*((Says(action), "1") for action in members))
    assert (undecided.decision.action, undecided.trail[-1].why) == ("HOLD", Why.NO_CONSENSUS)


def test_a_vote_says_who_voted_for_what():
    decided = vote((Says("OPEN_LONG", name="a"), "1"), (Says("OPEN_SHORT", name="b", rung="rules"), "3"))
    assert decided.flags[:2] == ("b=3:OPEN_SHORT@0.8:rules", "a=1:OPEN_LONG@0.8:primary")
    assert decided.rung == "rules"


def test_an_ensemble_is_what_its_members_are():
    first, second, third = (PromptRef(name="single", version=f"v00{n}", sha256=str(n) * 64) for n in (1, 2, 3))
    asking, all_at_once = Says("HOLD", name="a"), Says("HOLD", name="b")
    asking.kind, asking.prompts = KINDS["llm:single"], (first, second)
    all_at_once.kind, all_at_once.prompts = KINDS["llm:portfolio"], (second, third)
    both = TimedDecider(asking, all_at_once)
    assert both.prompts == (first, second, third)
    assert (both.kind.roles, both.kind.together, both.kind.looks_up) == (("single", "portfolio"), True, False)
    silent = VoteDecider([(Says("HOLD"), Decimal(1)), (Says("HOLD"), Decimal(1))])
    assert (silent.kind.asks_model, silent.kind.together, silent.prompts) == (False, False, ())


class Rates(Says):
    """A policy that likes actions by so much."""

    def __init__(self, **rated: str) -> None:
        super().__init__("HOLD", name="policy")
        self.shares = {action: Decimal(share) for action, share in rated.items()}

    def rated(self, question: Question) -> dict[str, Decimal]:
        return self.shares


def pick(judge: Rates, *members: Says) -> Answer:
    return asked(PickDecider(judge, members))


def test_a_policy_picks_the_member_whose_action_it_likes_best_with_that_ones_numbers():
    judge = Rates(OPEN_LONG="0.6", HOLD="0.3", OPEN_SHORT="0.1")
    decided = pick(judge, Says("OPEN_SHORT", "0.9"), Says("OPEN_LONG", "0.9", size_pct=11), Says("HOLD"))
    assert (decided.decision.action, decided.decision.size_pct) == ("OPEN_LONG", 11)
    assert decided.decision.confidence == Decimal("0.6")
    assert [flag for flag in decided.flags if ":" in flag] == [
        "open_long:OPEN_LONG@0.9:primary", "open_short:OPEN_SHORT@0.9:primary", "hold:HOLD@0.8:primary",
        "policy:HOLD@0.8:primary",
    ]  # fmt: skip


def test_what_a_policy_does_not_know_is_picked_last_and_of_equals_the_first():
    assert pick(Rates(HOLD="0.1"), Says("OPEN_LONG"), Says("HOLD")).decision.action == "HOLD"
    assert pick(Rates(), Says("OPEN_LONG", "0.9"), Says("HOLD")).decision.confidence == 0
    fallback = pick(Rates(OPEN_LONG="1"), Says("OPEN_LONG", rung="rules"), Says("HOLD"))
    assert (fallback.rung, fallback.is_fallback) == ("rules", True)
