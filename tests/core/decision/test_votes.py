"""One question asked several times: who decides, what is a vote, what it costs, what is replayed."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from decision.test_single import AT, BTC, question
from fake_ladder import FakeDesk, FakePrices
from prompt_sample import PROMPT

from tasks.adapters.model.request_form import Form
from tasks.core.decision.budget import BudgetedModel, Tier
from tasks.core.decision.cache import content_hash
from tasks.core.decision.kinds import Means
from tasks.core.decision.ladder import Breaker, Ladder, Shared
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.votes import SampledModel, VotedDecider
from tasks.core.lab.recorded_replies import RecordedReplies
from tasks.core.ports import ModelRequest
from tasks.core.types.decision import ModelCall
from tasks.core.types.limits import Budget

OPEN = {"action": "OPEN_LONG", "size_pct": 20, "stop_atr": 1.5, "tp_atr": 3, "confidence": 0.6}
LONG, HOLD = json.dumps(OPEN), '{"action":"HOLD","confidence":0.5}'


class Drawing:
    """Answers each sample with its own reply."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = replies, []

    async def ask(self, request: ModelRequest) -> ModelCall:
        self.asked.append(request)
        reply = self.replies[request.sample]
        return request.call("m", raw_reply=reply, cost_usd=Decimal("0.1"), tokens_in=10, tokens_out=2, latency_ms=5.0)


def voted(model, count: int) -> VotedDecider:
    samples = [SampledModel(model, k) for k in range(count)]
    return VotedDecider([SingleDecider(each, {"single": PROMPT}, Means()) for each in samples])


async def decided(*replies: str):
    [answer] = await voted(Drawing(*replies), len(replies)).decide([question()])
    return answer


def names(answer) -> list[str | None]:
    return [vote and vote.action for vote in answer.votes]


async def test_the_first_answer_decides_and_every_sample_is_a_vote_and_is_paid():
    answer = await decided(HOLD, LONG, LONG, "prose")
    assert answer.decision.action == "HOLD"
    assert names(answer) == ["HOLD", "OPEN_LONG", "OPEN_LONG", None]
    assert [call.sample for call in answer.calls] == [0, 1, 2, 3]
    assert (answer.cost_usd, answer.tokens) == (Decimal("0.4"), 48)
    assert (answer.latency_ms, answer.errors) == (5.0, ()), "the decision's own"


async def test_of_what_could_not_be_read_no_votes_are_asked_for():
    model = Drawing("prose", LONG)
    [answer] = await voted(model, 2).decide([question()])
    assert (answer.rung, answer.votes, len(model.asked)) == ("hold", (), 1)


async def test_asked_once_there_are_no_votes_and_the_record_is_as_before():
    [answer] = await voted(Drawing(LONG), 1).decide([question()])
    assert "votes" not in answer.model_dump_json()
    assert "sample" not in answer.model_dump_json()


@pytest.mark.parametrize(("most", "votes"), [(3, 3), (2, 2), (1, 0)])
async def test_what_the_budget_refuses_is_no_vote_and_the_decision_stands(most, votes):
    """Five are wanted, and the purse has three calls, two, or the decision's alone."""
    model, desk = Drawing(*[LONG] * 5), FakeDesk()
    budgeted = BudgetedModel([Tier(model, ("m",))], FakePrices(), Budget(usd_per_day=None, calls_per_day=most))
    ladder = Ladder(
        voted(budgeted, 5), RulesDecider(), Shared(desk, desk, desk, desk), lambda: AT, "default",
        Breaker(3, timedelta(minutes=5)), timedelta(hours=1), 0.1,
    )  # fmt: skip
    [answer] = await ladder.decide([question()])
    assert (answer.rung, answer.decision.action) == ("primary", "OPEN_LONG")
    assert (len(answer.votes), len(model.asked)) == (votes, most)
    assert sum(not call.error for call in answer.calls) == most


async def test_each_sample_has_a_seed_and_a_name_of_its_own():
    """A kept reply, or a provider's seed, would make every sample the first."""
    model = Drawing(LONG, LONG)
    await voted(model, 2).decide([question()])
    first, second = model.asked
    assert first.messages == second.messages
    assert [Form().parameters(each, "", 0)["seed"] for each in (first, second)] == [7, 8]
    assert content_hash("m", first) != content_hash("m", second)
    assert content_hash("m", first) == content_hash("m", first._replace(sample=0))


async def test_recorded_samples_come_out_again_in_any_order():
    answer = await decided(HOLD, LONG, "prose", LONG)
    shuffled = answer.replace(calls=(answer.calls[0], *reversed(answer.calls[1:])))
    [again] = await voted(RecordedReplies(shuffled), 4).decide([question()])
    assert again == answer
    assert BTC in again.calls[0].messages[1]["content"]
