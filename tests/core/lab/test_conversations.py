"""Examples for language models: what was asked and answered, and what of it was better."""

import json
from decimal import Decimal

import pytest
from lab.test_rl import BTC, BUY, point

from tasks.core.lab import conversations as lab
from tasks.core.lab.action_values import ActionValue, Foreseen
from tasks.core.types.decision import Answer, Decision, ModelCall, PromptRef, hold
from tasks.core.types.record import CycleRecord

ASKED = ({"role": "system", "content": "You trade."}, {"role": "user", "content": "Now?"})
REF = PromptRef(name="single", version="v003", sha256="0")
LONG = BUY.replace(reasoning="up", source="llm:m")
ENTRY = {"symbol": BTC, "action": "OPEN_LONG", "size_pct": 20, "stop_atr": 2, "tp_atr": 4, "confidence": 0.7}
SAID = json.dumps(ENTRY | {"reasoning": "up"})
HELD = json.dumps({"symbol": BTC, "action": "HOLD", "confidence": 0.5})


def call(reply: str, sample: int = 0, **more: object) -> ModelCall:
    return ModelCall(role="single", model="m", prompt=REF, messages=ASKED, raw_reply=reply, sample=sample, **more)


def answer(decision: Decision, *calls: ModelCall, **more: object) -> Answer:
    return Answer(**{"decision": decision, "source": "llm:m", "rung": "primary", "model": "m", "calls": calls} | more)


def asked(decided: Answer) -> CycleRecord:
    return point(0, decision=decided.decision, decided=decided, decider="llm:single")


def held() -> Decision:
    return hold(BTC, "").replace(reasoning="", confidence=Decimal("0.5"), source="llm:m")


def test_a_question_is_as_it_was_sent_and_the_reply_as_it_came():
    """In prose and code fences, too: what trains is what our parser reads."""
    fenced = f"Sure.\n```json\n{SAID}\n```"
    record = asked(answer(LONG, call("no idea"), call(fenced)))
    [row] = lab.sft(record, lab.said(record))
    assert row["prompt"] == list(ASKED)
    assert row["completion"] == [{"role": "assistant", "content": fenced}]
    assert row["messages"] == row["prompt"] + row["completion"]
    assert (row["action"], row["decider"], row["prompt_version"]) == ("OPEN_LONG", "llm:single", "single/v003")
    assert None not in row.values()


@pytest.mark.parametrize(
    "decided",
    [
        answer(LONG),
        answer(LONG, call(HELD)),
        answer(held(), call("prose"), rung="hold"),
        answer(LONG.replace(confidence=Decimal("0.56")), call(SAID), rung="cache"),
        answer(LONG, call(SAID.replace('"stop_atr": 2', '"stop_atr": 2.5'))),
    ],
    ids=["no model", "another reply", "fallback", "cache", "other numbers"],
)
def test_what_does_not_read_back_as_the_decision_is_no_example(decided):
    assert lab.said(asked(decided)) == []


def test_of_two_replies_to_one_moment_the_better_is_chosen_and_the_margin_stated():
    """The champion held, a sample of it and a challenger bought; the question is the one that the better answered."""
    record = asked(answer(held(), call(HELD), call(SAID, sample=1), votes=(held(), LONG)))
    earned = {"HOLD": -0.4, "OPEN_LONG": 1.5}
    replies = lab.said(record, (), lambda said: earned[said.decision.action])
    [pair] = lab.dpo(record, replies, 0.2)
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == (SAID, HELD)
    assert (pair["margin"], pair["chosen_r"], pair["rejected_r"]) == (pytest.approx(1.9), 1.5, -0.4)
    assert not list(lab.dpo(record, replies, 2.0)), "they are closer than that"
    other = [("llm:single@v004", answer(LONG, call(SAID)))]
    alone = asked(answer(held(), call(HELD)))
    [pair] = lab.dpo(alone, lab.said(alone, other, lambda said: earned[said.decision.action]), 0.2)
    assert (pair["decider"], pair["rejected_decider"]) == ("llm:single@v004", "llm:single")


def test_samples_that_said_the_very_same_are_one_example():
    record = asked(answer(LONG, call(SAID), call(SAID, sample=1), call(HELD, sample=2), votes=(LONG, LONG, held())))
    assert [each.call.sample for each in lab.said(record)] == [0, 2]


def test_one_reply_or_one_whose_worth_is_unknown_makes_no_pair():
    record = asked(answer(held(), call(HELD), call(SAID, sample=1), votes=(held(), LONG)))
    assert not list(lab.dpo(record, lab.said(record), 0.2))
    assert not list(lab.dpo(record, lab.said(record, (), lambda said: 1.0 if said.decision is LONG else None), 0.2))


@pytest.mark.parametrize(
    ("decided", "r", "long", "label"),
    [
        (answer(LONG, call(SAID)), 1.5, 1.5, True),
        (answer(LONG, call(SAID)), -1.0, -1.0, False),
        (answer(LONG, call(SAID)), 0.1, 0.1, None),
        (answer(held(), call(HELD)), 0.0, -1.0, True),
        (answer(held(), call(HELD)), 0.0, 1.5, False),
    ],
    ids=["won", "lost", "neither", "stayed out of a loss", "missed a gain"],
)
def test_acting_is_measured_by_doing_nothing_and_doing_nothing_by_acting(decided, r, long, label):
    record = asked(decided)
    foreseen = Foreseen({"HOLD": ActionValue(0, 0, "HOLD"), "OPEN_LONG": ActionValue(0, long, "OPEN_LONG")})
    found = [row["label"] for row in lab.kto(record, lab.said(record, (), lambda _: r), foreseen, 0.2)]
    assert found == ([] if label is None else [label])


def test_every_action_has_its_reward_and_one_that_is_not_allowed_that_of_doing_nothing():
    record = asked(answer(held(), call(HELD)))
    nothing = Foreseen({"HOLD": ActionValue(-0.1, -0.5, "HOLD"), "CLOSE_ALL": ActionValue(0, -0.1, "CLOSE_ALL")})
    [row] = lab.grpo(record, lab.said(record), nothing)
    assert (row["reward_HOLD"], row["reward_CLOSE_ALL"], row["reward_OPEN_LONG"]) == (-0.5, -0.1, -0.5)
    assert row["allowed"] == ["HOLD", "CLOSE_ALL"]
    assert "completion" not in row
    assert not list(lab.grpo(record, lab.said(record), Foreseen()))
