"""Budgets: what does not fit is not asked, what was asked is settled, whatever became of it."""

import asyncio
from decimal import Decimal

import pytest
from fake_ladder import MESSAGES, REF, Clock, FakeDesk, FakeModel, FakePrices
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.decision.budget import SCOPES, TICKET, BudgetedModel, Charge, Spent, Ticket, Tier, refusal, settled
from tasks.core.errors import InputError
from tasks.core.ports import ModelRequest
from tasks.core.types.decision import Rung, Why
from tasks.core.types.limits import Budget
from tasks.settings import load

CHARGE = Charge(session="s/day", symbol="BTC", decision="d")
UNUSED = dict.fromkeys(SCOPES, Spent())
ONE = Decimal(1)


def ask(budget: Budget, desk: FakeDesk, *tiers: Tier):
    ticket = Ticket(CHARGE, desk, desk, Clock())

    async def once():
        TICKET.set(ticket)
        return await BudgetedModel(tiers, FakePrices(), budget).ask(ModelRequest("single", REF, MESSAGES, {}))

    return asyncio.run(once()), ticket


@pytest.mark.parametrize("scope", SCOPES)
def test_each_cap_refuses_what_would_break_it_and_nothing_less(scope):
    free = {name: None for name in Budget.model_fields if "_per_" in name and "1k" not in name}
    money = Budget(**free | {f"usd_per_{scope}": ONE})
    assert refusal(money, UNUSED, ONE) == ""
    assert refusal(money, UNUSED, Decimal("1.000000001")) == f"usd_per_{scope} 0 + 1.000000001 > 1"
    calls = Budget(**free | {f"calls_per_{scope}": 2})
    assert refusal(calls, UNUSED | {scope: Spent(calls=1)}, Decimal(99)) == ""
    assert refusal(calls, UNUSED | {scope: Spent(calls=2)}, Decimal(0)) == f"calls_per_{scope} 2 + 1 > 2"


def test_caps_can_be_lifted_and_tightened_in_the_settings(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_BUDGET__USD_PER_DAY", "none")
    monkeypatch.setenv("QUARTERDECK_BUDGET__CALLS_PER_SYMBOL_DAY", "7")
    monkeypatch.setenv("QUARTERDECK_CHEAP_MODEL", "openai/a, openai/b")
    found = load()
    assert (found.budget.usd_per_day, found.budget.calls_per_day, found.budget.calls_per_symbol_day) == (None, 100, 7)
    assert found.cheap_model == ("openai/a", "openai/b")
    monkeypatch.setenv("QUARTERDECK_BUDGET__USD_PER_DAY", "-1")
    with pytest.raises(InputError, match="QUARTERDECK_BUDGET__USD_PER_DAY"):
        load()


def test_a_call_is_reserved_at_its_worst_case_and_settled_at_its_cost():
    desk, seen = FakeDesk(), []

    class Looking(FakeModel):
        async def ask(self, *args):
            seen.append(dict(desk.usd))
            return await super().ask(*args)

    call, ticket = ask(Budget(), desk, Tier(Looking(), ("openai/big",)))
    assert (call.error, seen, desk.usd) == ("", [{1: ONE}], {1: Decimal("0.25")})
    assert desk.charges == [CHARGE]
    assert ([rung.rung for rung in call.tried()], ticket.refused) == (["primary"], False)


class Assuming(FakePrices):
    """Knows no price: a third of a USD for 1,000 tokens."""

    def cost(self, call) -> Decimal:
        return Decimal(call.tokens_in + call.tokens_out) / 3000


def test_what_a_budget_books_is_what_the_call_says_it_cost_to_the_last_digit_and_that_it_was_assumed():
    request, made = ModelRequest("single", REF, MESSAGES, {}), Rung(rung="primary", source="llm:m", tokens=1000)
    told = request.call("m", tokens_in=900, tokens_out=100, trail=(made,))
    call = settled(told, ONE, Assuming())
    assert (call.cost_usd, call.pricing) == (Decimal("0.333333334"), "assumed")
    assert call.trail[-1].cost_usd == call.cost_usd
    late = settled(request.call("m", error="timeout"), ONE, FakePrices())
    assert (late.cost_usd, late.pricing) == (ONE, "assumed")
    known = settled(told.replace(cost_usd=Decimal("0.0031")), ONE, FakePrices())
    assert (str(known.cost_usd), known.pricing) == ("0.0031", "")
    assert settled(request.call("m", error="auth"), ONE, FakePrices()).pricing == ""


def test_a_call_that_does_not_fit_is_not_made_and_says_which_cap():
    model, desk = FakeModel(), FakeDesk()
    call, ticket = ask(Budget(usd_per_day=Decimal("0.99")), desk, Tier(model, ("openai/big",)))
    assert call.error == "budget usd_per_day 0 + 1 > 0.99"
    assert (call.prompt, call.messages, call.cost_usd) == (REF, tuple(MESSAGES), 0)
    assert (model.asked, desk.usd, ticket.refused) == (0, {}, True)
    assert [(rung.rung, rung.why) for rung in call.tried()] == [("primary", Why.BUDGET_REFUSED)]


def test_the_cheap_model_is_asked_when_only_it_fits_and_the_primary_while_it_fits():
    tiers = [Tier(FakeModel(), ("openai/big",)), Tier(FakeModel("openai/cheap"), ("openai/cheap",))]
    call, ticket = ask(Budget(usd_per_day=Decimal("0.99")), FakeDesk(), *tiers)
    assert (call.model, ticket.refused) == ("openai/cheap", False)
    refused, made = call.tried()
    assert (refused.rung, refused.source, refused.why) == ("primary", "llm:openai/big", Why.BUDGET_REFUSED)
    assert (made.rung, made.source, made.why) == ("cheap", "llm:openai/cheap", Why.ANSWERED)
    call, ticket = ask(Budget(usd_per_day=ONE), FakeDesk(), *tiers)
    assert (call.model, [rung.rung for rung in call.tried()]) == ("openai/big", ["primary"])


def test_every_model_of_a_failover_is_in_the_worst_case():
    call, _ = ask(Budget(usd_per_day=Decimal("1.99")), FakeDesk(), Tier(FakeModel(), ("openai/big", "openai/other")))
    assert call.error == "budget usd_per_day 0 + 2 > 1.99"


def test_an_error_costs_what_is_known_and_a_timeout_the_worst():
    for error, usd in (("unavailable", 0), ("timeout", 1)):
        desk = FakeDesk()
        ask(Budget(), desk, Tier(FakeModel(error=error), ("openai/big",)))
        assert desk.usd == {1: usd}


def test_an_answer_whose_cost_nobody_told_is_booked_at_its_worst_case_each_time():
    class Silent(FakeModel):
        async def ask(self, request):
            return (await super().ask(request)).replace(unmetered=2)

    desk = FakeDesk()
    ask(Budget(), desk, Tier(Silent(usd="0.25"), ("openai/big",)))
    assert desk.usd == {1: Decimal("2.25")}


async def test_a_cancelled_call_is_taken_to_have_cost_its_worst_case():
    begun = asyncio.Event()

    class Hanging:
        async def ask(self, *args):
            begun.set()
            await asyncio.Event().wait()

    desk = FakeDesk()
    TICKET.set(Ticket(CHARGE, desk, desk, Clock()))
    model = BudgetedModel([Tier(Hanging(), ("openai/big",))], FakePrices(), Budget())
    asked = asyncio.create_task(model.ask(ModelRequest("single", REF, MESSAGES, {})))
    await asyncio.wait_for(begun.wait(), 60)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert desk.usd == {1: ONE}


usd = st.decimals(min_value=0, max_value=3, places=4)


@given(cap=usd, calls=st.lists(st.tuples(usd, usd), max_size=30), most=st.integers(0, 20))
def test_no_sequence_of_calls_spends_more_than_its_caps(cap, calls, most):
    desk, budget = FakeDesk(), Budget(usd_per_day=cap, calls_per_day=most)
    for worst, part in calls:
        held = desk.reserve(CHARGE, worst, budget, None)
        if not held.refused:
            desk.settle(held.budget_id, min(worst, part))
    assert sum(desk.usd.values()) <= cap
    assert len(desk.usd) <= most
