"""Where a person is to approve, nothing is sent before they have, and what is sent is judged by the account then."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from sandbox_cycles import CLOSE, OPEN, START, SYMBOL, protect_once, recorded, run
from sandbox_server import advance, fault, state

from deployments.cli import cli
from flows import approve
from flows.approve import answer
from tasks import approval
from tasks.connections import store, venue
from tasks.core.errors import InputError
from tasks.core.types.money import floor_to_step
from tasks.core.types.verdict import Code
from tasks.settings import settings

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def asks(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_APPROVE", "entries")
    settings.cache_clear()


def orders(exchange):
    return [order for order in state(exchange)["orders"] if order["orderLinkId"]]


async def proposed(home, **more):
    record = await run(recorded(home, (START, OPEN | more)))
    assert record.status == "proposed"
    return record


async def replayed():
    """Replay everything; returns how many came out the same."""
    await venue().close()
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["replay", "--all", "--json"])
    found = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, found["differ"]) == (0, 0), result.stdout
    return found["match"]


async def test_an_entry_waits_and_is_sent_when_it_is_approved(home, exchange):
    record = await proposed(home)
    assert (orders(exchange), store().intents.of_cycle(record.cycle_id)) == ([], ())
    [told] = [text for _, kind, text in store().alerts.since(START) if kind == "proposed"]
    assert told.startswith(f"OPEN_LONG {SYMBOL}, 0.")
    assert told.endswith(f"or: quarterdeck approve {record.cycle_id}")
    assert await replayed() == 1
    done = await answer(record.cycle_id, "ann", D(100))
    assert (done.status, done.approval.who, len(done.fills)) == ("executed", "ann", 1)
    assert [intent.quantity for intent in done.intents] == [intent.quantity for intent in record.intents]
    assert [order["orderLinkId"] for order in orders(exchange)] == [done.intents[0].client_order_id]
    [position] = store().positions.open("default")
    assert position.cycle_id == record.cycle_id
    assert (await protect_once())["wrong"] == []
    with pytest.raises(InputError, match="it is executed; waiting: none"):
        await answer(record.cycle_id, "bob", D(100))
    assert len(orders(exchange)) == 1
    assert await replayed() == 1


async def test_less_of_it_is_sent_when_a_person_says_so_in_a_shell(home, exchange):
    record = await proposed(home, size_pct=8)
    await venue().close()
    words = ["approve", record.cycle_id, "--share", "50", "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, cli, words)
    done = json.loads(result.stdout)
    assert (done["status"], done["approval"]["share"], done["strategy"]) == ("executed", 50, "default")
    [position] = store().positions.open("default")
    whole = record.verdict.quantity
    assert abs(position.quantity - whole / 2) <= D("0.001")
    assert store().cycles.get(record.cycle_id).decided == record.decided
    assert await replayed() == 1


@pytest.mark.parametrize("share", [D(100), D(50), D("33.3")])
async def test_never_more_is_sent_than_that_share_of_what_was_shown(home, exchange, share):
    store().pauses.reduce("default", START + timedelta(seconds=60))
    record = await proposed(home, size_pct=90)
    shown = record.verdict.quantity
    advance(exchange, 90)  # what halved it is over
    done = await answer(record.cycle_id, "ann", share)
    assert done.status == "executed"
    [position] = store().positions.open("default")
    assert position.quantity == floor_to_step(shown * share / 100, D("0.001")) < D(1)
    assert await replayed() == 1
    assert store().cycles.get(record.cycle_id).decided == record.decided


async def test_a_share_too_small_to_be_bought_is_refused_and_the_proposal_still_waits(home, exchange):
    record = await proposed(home)
    with pytest.raises(InputError, match=r"share 0.001: of 0\.\d+ BTC/USDT:USDT that is too small to be bought"):
        await answer(record.cycle_id, "ann", D("0.001"))
    assert store().cycles.get(record.cycle_id).status == "proposed"


async def test_what_is_refused_is_never_sent_and_says_so(home, exchange):
    record = await proposed(home)
    done = await answer(record.cycle_id, "ann", D(0))
    kept = store().cycles.get(record.cycle_id)
    assert (done.status, kept.verdict.codes[-1], kept.intents) == ("denied", Code.NOT_APPROVED, ())
    [refusal] = store().cycles.refusals("default", START + (START - START).resolution)
    assert refusal.codes == ("NOT_APPROVED",)
    assert orders(exchange) == []
    assert await replayed() == 1


async def test_nobody_in_time_is_a_refusal_also_when_the_run_that_asked_has_died(home, exchange):
    record = await proposed(home)
    advance(exchange, 300)
    await protect_once()
    assert store().cycles.get(record.cycle_id).status == "proposed"
    advance(exchange, 300)
    await protect_once()
    kept = store().cycles.get(record.cycle_id)
    assert (kept.status, kept.approval.who, orders(exchange)) == ("denied", "nobody in time", [])
    with pytest.raises(InputError, match="it is denied"):
        await answer(record.cycle_id, "ann", D(100))


async def test_the_guard_looks_again_after_the_word(home, exchange):
    record = await proposed(home)
    store().halts.add("not today", "bob", START)
    done = await answer(record.cycle_id, "ann", D(100))
    assert (done.status, done.verdict.codes, orders(exchange)) == ("denied", (Code.HALTED,), [])
    assert await replayed() == 1


@pytest.mark.parametrize(("kind", "times"), [("drop", 4), ("timeout_after_accept", 1)])
async def test_a_venue_that_does_not_answer_is_asked_again_and_the_order_is_there_once(
    home, exchange, hasty, monkeypatch, kind, times
):
    monkeypatch.setattr(approve, "PAUSES", (0.01,))
    record = await proposed(home)
    fault(exchange, kind, path="/v5/order/create", times=times)
    done = await answer(record.cycle_id, "ann", D(100))
    assert (done.status, done.approval.who, len(done.fills)) == ("executed", "ann", 1)
    assert [order["orderLinkId"] for order in orders(exchange)] == [done.intents[0].client_order_id]
    assert len(store().positions.open("default")) == 1
    assert await replayed() == 1


async def test_of_two_who_answer_at_once_one_is_told_and_what_they_said_is_done_once(home, exchange):
    record = await proposed(home)
    said = await asyncio.gather(
        answer(record.cycle_id, "ann", D(100)), answer(record.cycle_id, "bob", D(50)), return_exceptions=True
    )
    [done] = [each for each in said if not isinstance(each, Exception)]
    [refusal] = [each for each in said if isinstance(each, InputError)]
    assert f"cycle '{record.cycle_id}': it is" in str(refusal)
    assert store().cycles.get(record.cycle_id).approval == done.approval
    assert len(orders(exchange)) == 1


async def test_an_answer_at_the_moment_the_watchdog_gives_up_leaves_it_nothing_to_complain_of(
    home, exchange, monkeypatch
):
    record = await proposed(home)
    advance(exchange, 600)
    refuse = approval.refuse

    def after_ann(record, who):
        refuse(record, "ann")
        return refuse(record, who)

    monkeypatch.setattr(approval, "refuse", after_ann)
    await protect_once()
    assert store().cycles.get(record.cycle_id).approval.who == "ann"


async def test_too_late_for_its_bar_it_is_not_sent_any_more(home, exchange):
    record = await proposed(home)
    advance(exchange, 400)
    done = await answer(record.cycle_id, "ann", D(100))
    assert Code.STALE in done.verdict.codes
    assert (done.status, orders(exchange)) == ("denied", [])


@pytest.mark.parametrize(("policy", "status"), [("entries", "executed"), ("all", "proposed"), ("never", "executed")])
async def test_exits_are_asked_about_only_where_all_are(home, exchange, monkeypatch, policy, status):
    record = await proposed(home)
    await answer(record.cycle_id, "ann", D(100))
    monkeypatch.setenv("QUARTERDECK_APPROVE", policy)
    settings.cache_clear()
    advance(exchange, 300)
    later = START.replace(minute=START.minute + 5)
    closed = await run(recorded(home, (START, OPEN), (later, CLOSE)))
    assert closed.status == status
    if status == "proposed":
        done = await answer(closed.cycle_id, "ann", D(30))
        assert (done.status, store().positions.open("default")) == ("executed", [])


@pytest.mark.parametrize(("share", "what"), [(D(101), "share 101"), (D(-1), "share -1")])
async def test_a_share_that_is_none_is_refused_and_the_proposal_still_waits(home, exchange, share, what):
    record = await proposed(home)
    with pytest.raises(InputError, match=what):
        await answer(record.cycle_id, "ann", share)
    with pytest.raises(InputError, match=f"there is no such cycle; waiting: {record.cycle_id}"):
        await answer("x", "ann", D(100))
    assert store().cycles.get(record.cycle_id).status == "proposed"
