"""The cache: a reply that was paid for answers exactly its own question; near decisions only those that compare."""

from datetime import timedelta

import pytest
from fake_ladder import HOLD, MESSAGES, REF, Clock, FakeDesk, FakeModel
from moments_sample import moment

from tasks.core.decision.budget import TICKET, Charge, Ticket
from tasks.core.decision.cache import CachedModel, KeptDecision, content_hash, nearest, rules_of
from tasks.core.decision.memory import vector
from tasks.core.ports import ModelRequest
from tasks.core.types.decision import Answer, ModelCall, PromptRef, Why
from tasks.core.types.decision import hold as do_nothing

TTL = timedelta(seconds=3600)
NAMES = ("openai/big", "openai/other")


@pytest.fixture
def ticket():
    one = Ticket(Charge(session="s", symbol="BTC", decision="d"), *[FakeDesk()] * 2, Clock())
    token = TICKET.set(one)
    yield one
    TICKET.reset(token)


async def ask(model: FakeModel, messages=MESSAGES, prompt=REF) -> ModelCall:
    return await CachedModel(model, NAMES, TTL).ask(ModelRequest("single", prompt, messages, {}))


async def test_the_same_question_is_answered_free_when_the_model_fails(ticket):
    first = await ask(FakeModel())
    ticket.clock.wait(600)
    again = await ask(FakeModel(error="unavailable"))
    assert (first.raw_reply, first.cost_usd > 0, [rung.rung for rung in first.tried()]) == (HOLD, True, ["primary"])
    assert (again.raw_reply, again.error, again.cost_usd) == (HOLD, "", 0)
    assert again.attempts == ("openai/big: unavailable",)
    failed, kept = again.tried()
    assert (failed.rung, failed.source, failed.why) == ("primary", "llm:openai/big", Why.PROVIDER_ERROR)
    assert (kept.rung, kept.role, kept.age_s, kept.why) == ("cache", "single", 600, Why.ANSWERED)


async def test_a_model_that_answers_is_never_replaced_by_an_older_reply(ticket):
    await ask(FakeModel(reply="old"))
    assert (await ask(FakeModel(reply="new"))).raw_reply == "new"
    assert (await ask(FakeModel(error="timeout"))).raw_reply == "new"
    assert len(ticket.purse.replies) == 1


async def test_the_reply_of_any_model_of_the_failover_counts(ticket):
    await ask(FakeModel("openai/other"))
    assert (await ask(FakeModel(error="auth"))).model == "openai/other"


async def test_another_question_or_an_old_reply_is_no_answer(ticket):
    await ask(FakeModel())
    failing = FakeModel(error="unavailable")
    other = [*MESSAGES[:1], {"role": "user", "content": "ETH"}]
    assert (await ask(failing, other)).error == "unavailable"
    assert (await ask(failing, prompt=REF.model_copy(update={"sha256": "cd" * 32}))).error == "unavailable"
    ticket.clock.wait(3601)
    late = await ask(failing)
    assert (late.error, [rung.rung for rung in late.tried()]) == ("unavailable", ["primary"])


async def test_an_error_is_not_kept(ticket):
    await ask(FakeModel(error="too_long"))
    assert ticket.purse.replies == {}


def test_the_hash_names_model_prompt_and_messages():
    def asking(messages) -> ModelRequest:
        return ModelRequest("single", REF, messages, {})

    base = content_hash("a", asking(MESSAGES))
    assert base == content_hash("a", asking([dict(reversed(m.items())) for m in MESSAGES]))
    assert len({base, content_hash("b", asking(MESSAGES)), content_hash("a", asking(MESSAGES[:1]))}) == 3


def kept(rsi: float = 50, reasons=("TrendFlip(1h up)",), prompt: PromptRef = REF, side="flat") -> KeptDecision:
    at = moment(rsi, side)
    call = ModelCall(role="single", model="m", prompt=prompt)
    decided = Answer(decision=do_nothing("BTC", "x"), source="llm:m", rung="primary", calls=(call,))
    return KeptDecision(as_of=at.as_of, decided=decided, vector=vector(at), reasons=reasons)


ASKED = frozenset({"single/v001"})
HERE = moment(52, reason_for_call=("TrendFlip(1h down)", "BarClose(15m)"))


def test_the_nearest_decision_for_the_same_rules_is_found_with_its_distance():
    found = nearest(HERE, ASKED, [kept(70), kept(54), kept(40)], 0.15)
    assert found is not None
    assert found[0].vector == vector(moment(54))
    assert 0 < found[1] < 0.1


@pytest.mark.parametrize(
    "other",
    [
        kept(80),
        kept(52, reasons=("StopRun(5m)",)),
        kept(52, reasons=("TrendFlip(1h up)", "StopRun(5m)")),
        kept(52, prompt=REF.model_copy(update={"version": "v002"})),
        kept(52, side="long"),
    ],
)
def test_too_far_other_rules_another_prompt_or_position_is_not_near(other):
    assert nearest(HERE, ASKED, [other], 0.15) is None


def test_without_a_prompt_that_was_asked_nothing_is_near():
    assert nearest(HERE, frozenset(), [kept(52)], 0.15) is None


def test_closed_bars_are_context_and_no_rule():
    assert rules_of(("TrendFlip(1h up)", "TrendFlip(15m up)", "BarClose(1h)")) == {"TrendFlip"}
