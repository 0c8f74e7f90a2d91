"""The whole story on a real sandbox over HTTP: from candles to an order with its stop, and what can go wrong."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from model_server import Fault, ModelServer, Reply
from sandbox_cycles import (
    CLOSE,
    OPEN,
    START,
    SYMBOL,
    die_at,
    killed_after_the_intents_were_written,
    protect_once,
    recorded,
    run,
)
from sandbox_server import advance, fault, state

from flows.settle import settle_all
from flows.trade import Request, run_cycles, trade
from tasks import crash_points, execute
from tasks.adapters.store.store import Store
from tasks.connections import store, venue
from tasks.core.errors import OrderRejected, VenueUnavailable
from tasks.core.types.orders import Order, OrderIntent
from tasks.core.types.record import CycleStatus
from tasks.leases import Leases, symbol_lease
from tasks.settings import settings
from tests.forked import raced

pytestmark = pytest.mark.slow


async def test_a_decision_becomes_one_order_with_its_stop_and_target(home, exchange):
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.EXECUTED, record.error
    seen = state(exchange)
    sent = [order for order in seen["orders"] if order["orderLinkId"]]
    assert [order["orderLinkId"] for order in sent] == [intent.client_order_id for intent in record.intents]
    assert seen["positions"][0]["stopLoss"]
    assert seen["positions"][0]["takeProfit"]
    assert seen["unprotected_s"][SYMBOL] == 0
    [position] = store().positions.open("default")
    assert position.cycle_id == record.cycle_id
    assert position.quantity == Decimal(str(seen["positions"][0]["size"]))
    assert position.followups == ("MOVE_STOP: breakeven on +1.0R",)
    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()


async def test_running_the_same_bar_again_orders_once(home, exchange):
    decider = recorded(home, (START, OPEN))
    first = await run(decider)
    again = await run(decider, trigger="event")
    assert again.model_dump_json() == first.model_dump_json()
    assert len([o for o in state(exchange)["orders"] if o["orderLinkId"]]) == 1


async def test_a_symbol_that_is_named_twice_is_decided_on_once(home, exchange):
    request = Request(symbols=(SYMBOL, SYMBOL), decider=recorded(home, (START, OPEN)), reason="a test asks")
    [record] = await run_cycles(request)
    await venue().close()
    assert store().cycles.get(record.cycle_id).status is CycleStatus.EXECUTED


async def test_an_order_whose_answer_was_lost_is_found_and_not_sent_twice(home, exchange):
    fault(exchange, "timeout_after_accept", "/v5/order/create", times=1, seconds=0.2)
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.EXECUTED
    assert len([o for o in state(exchange)["orders"] if o["orderLinkId"]]) == 1


async def test_a_position_closes_and_its_outcome_lands_on_the_decision(home, exchange):
    later = START + timedelta(minutes=15)
    decider = recorded(home, (START, OPEN), (later, CLOSE))
    opened = await run(decider)
    advance(exchange, 900)
    closed = await run(decider)
    assert closed.status is CycleStatus.EXECUTED
    await protect_once()
    result = await settle_all()
    await venue().close()
    assert result["outcomes"] == 1
    [outcome] = store().outcomes.newest("default")
    assert outcome.cycle_id == opened.cycle_id
    fills = state(exchange)["fills"]
    paid = sum(Decimal(str(fill["fee"])) for fill in fills)
    assert outcome.fees == paid
    assert not state(exchange)["positions"]


async def test_protect_restores_a_stop_that_someone_removed(home, exchange):
    await run(recorded(home, (START, OPEN)))
    await venue().set_protection(SYMBOL, Decimal(0), None)
    assert not state(exchange)["positions"][0]["stopLoss"]
    result = await protect_once()
    assert "restored" in result["wrong"][0]
    assert state(exchange)["positions"][0]["stopLoss"]


async def test_who_asks_with_a_reason_is_answered_after_a_quiet_cycle_of_the_same_bar_and_once(home, exchange):
    quiet = await run("hold")  # takes the reasons of the first bar
    while quiet.status is not CycleStatus.QUIET:
        advance(exchange, 300)
        [quiet] = await run_cycles(Request(symbols=(SYMBOL,), decider="hold"))
        await venue().close()
    decider = recorded(home, (quiet.as_of, OPEN))
    asked = await run(decider)
    assert (asked.status, asked.cycle_id) == (CycleStatus.EXECUTED, quiet.cycle_id)
    assert (await run(decider)).status is CycleStatus.EXECUTED
    assert len(state(exchange)["orders"]) == 1


async def test_a_dry_run_goes_as_far_as_the_guard(home, exchange):
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    assert record.status is CycleStatus.DRY_RUN
    assert record.intents
    assert state(exchange)["orders"] == []


async def test_a_halt_denies_entries(home, exchange):
    store().halts.add("a test", "tester", START)
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.DENIED
    assert "HALTED" in record.verdict.codes
    assert state(exchange)["orders"] == []


async def test_an_exchange_that_answers_html_quarantines_the_symbol(home, exchange):
    fault(exchange, "html", "/v5/market/kline", times=200)
    record = await run("hold")
    assert record.status is CycleStatus.QUARANTINED
    assert any(failure.expectation == "fetched" for failure in record.failures)


async def test_a_cycle_that_comes_too_late_is_stale(home, exchange):
    record = await run("hold", as_of=START - timedelta(minutes=30))
    assert record.status is CycleStatus.STALE


BAD_REPLIES = {
    "prose": Reply("I would rather wait and see."),
    "truncated": Reply('{"symbol": "BTC/USDT:USDT", "action": "OPEN_LO'),
    "a list": Reply(json.dumps([OPEN])),
    "another schema": Reply(json.dumps({"signal": "buy", "size": 1})),
    "10 MB": Reply("x" * 10_000_000),
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES)
async def test_a_bad_reply_is_a_hold_with_its_reason_and_the_raw_text_is_kept(home, exchange, monkeypatch, reply):
    with ModelServer([], default=reply) as server:
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        record = await run("llm:single")
    assert record.status is CycleStatus.HELD
    assert record.decided.decision.action == "HOLD"
    assert record.decided.errors
    assert record.decided.calls[0].raw_reply
    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()


async def test_a_good_reply_is_a_decision(home, exchange, monkeypatch):
    with ModelServer([], default=Reply("Here it is:\n```json\n" + json.dumps(OPEN) + "\n```")) as server:
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        record = await run("llm:single")
        prompt = json.dumps(server.requests[0])
    assert record.status is CycleStatus.EXECUTED
    assert record.decided.source == "llm:openai/test"
    assert record.decided.calls[0].prompt.version == "v003"
    assert "AdHoc" in prompt
    assert store().memory.remembered("default", SYMBOL, START + timedelta(days=1)).recent[0].past.action == "OPEN_LONG"


async def test_a_model_that_does_not_answer_is_a_hold(home, exchange, monkeypatch):
    with ModelServer([], default=Fault("status", status=500)) as server:
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        record = await run("llm:single")
    assert record.status is CycleStatus.HELD
    assert record.decided.is_fallback
    assert record.decided.errors == ("unavailable",)
    assert store().budget.spent(datetime.now(UTC)).calls == 1


async def test_the_whole_flow_runs_under_prefect_and_leaves_its_page(home, exchange, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    decider = recorded(home, (START, OPEN))
    done = await trade(symbols=[SYMBOL], decider=decider, reason="a test asks", as_of=START, return_state=True)
    await venue().close()
    assert done.is_completed(), done.message
    assert state(exchange)["positions"]
    async with get_client() as client:
        pages = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["decision-btc-usdt-usdt"]))
        )
        named = await client.read_flow_run(done.state_details.flow_run_id)
    assert named.name == f"trade BTC {START:%H:%M} (adhoc)"
    [page] = [each for each in pages if each.flow_run_id == done.state_details.flow_run_id]  # others used this server
    assert "OPEN_LONG" in page.data
    assert page.description == f"{SYMBOL} {START:%Y-%m-%d %H:%M} UTC: OPEN_LONG, executed"
    [cycle] = store().cycles.at("default", START)
    assert store().decisions.pages((cycle.cycle_id,)) == {cycle.cycle_id: str(page.id)}


async def test_a_cycle_killed_before_sending_is_finished_by_the_next_run(home, exchange, monkeypatch):
    decider = await killed_after_the_intents_were_written(home, monkeypatch)
    assert state(exchange)["orders"] == []
    record = await run(decider)
    assert record.status is CycleStatus.EXECUTED
    assert len([o for o in state(exchange)["orders"] if o["orderLinkId"]]) == 1
    assert record.decided.decision.action == "OPEN_LONG"


async def test_a_cycle_killed_before_sending_is_not_sent_when_it_is_too_late(home, exchange, monkeypatch):
    decider = await killed_after_the_intents_were_written(home, monkeypatch)
    advance(exchange, 3600)
    record = await run(decider, as_of=START)
    assert record.status is CycleStatus.FAILED
    assert "stale" in record.error
    assert state(exchange)["orders"] == []


async def test_two_runs_of_one_cycle_at_once_ask_once_and_order_once(home, exchange, monkeypatch):
    from tasks import decide

    asked: list[object] = []
    wanted: list[str] = []
    both = asyncio.Event()
    decided, taken = decide.decide.fn, Leases.take

    async def slow(*arguments: object):
        asked.append(arguments)
        await asyncio.wait_for(both.wait(), 60)
        return await decided(*arguments)

    async def take(self: Leases, name: str):
        wanted.append(name)
        if wanted.count(symbol_lease(SYMBOL)) == 2:
            both.set()
        return await taken(self, name)

    monkeypatch.setattr(decide.decide, "fn", slow)
    monkeypatch.setattr(Leases, "take", take)
    request = Request(symbols=(SYMBOL,), decider=recorded(home, (START, OPEN)), reason="a test asks")
    await asyncio.gather(run_cycles(request), run_cycles(request))
    await venue().close()
    [kept] = store().cycles.newest("default")
    assert kept.status is CycleStatus.EXECUTED
    assert len(asked) == 1
    assert len([o for o in state(exchange)["orders"] if o["orderLinkId"]]) == 1


async def test_a_stop_that_a_decision_moved_is_the_ledgers_too(home, exchange):
    later = START + timedelta(minutes=5)
    move = {"symbol": SYMBOL, "action": "MOVE_STOP", "to": {"kind": "atr", "x": -1}, "confidence": 0.9}
    decider = recorded(home, (START, OPEN), (later, move))
    await run(decider)
    advance(exchange, 300)
    moved = await run(decider)
    assert moved.status is CycleStatus.EXECUTED, moved.error or moved.verdict.codes
    [position] = store().positions.open("default")
    assert position.stop == Decimal(str(state(exchange)["positions"][0]["stopLoss"]))
    assert position.stop > position.initial_stop


async def test_a_dry_run_takes_neither_the_bar_nor_the_reasons(home, exchange):
    decider = recorded(home, (START, OPEN))
    dry = await run(decider, dry_run=True)
    real = await run(decider)
    assert (dry.status, real.status) == (CycleStatus.DRY_RUN, CycleStatus.EXECUTED)
    assert dry.cycle_id != real.cycle_id


async def test_a_market_that_ran_away_is_not_chased(home, exchange, monkeypatch):
    def runs_away(step: str) -> None:
        if step == "intents_saved":  # the guard has let it through
            monkeypatch.setenv("QUARTERDECK_LIMITS__MAX_SLIPPAGE_BPS", "0.01")
            settings.cache_clear()

    monkeypatch.setattr(crash_points, "hook", runs_away)
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.FAILED
    assert "slippage" in record.error
    assert state(exchange)["orders"] == []


async def test_an_odd_as_of_is_the_bar_it_lies_in(home, exchange):
    decider = recorded(home, (START, OPEN))
    await run(decider, as_of=START)
    again = await run(decider, as_of=START + timedelta(minutes=3, seconds=17))
    assert again.as_of == START
    assert len([o for o in state(exchange)["orders"] if o["orderLinkId"]]) == 1


async def test_a_run_that_loses_its_lease_before_sending_sends_nothing_and_says_so(home, exchange, monkeypatch):
    other = Store(settings().store_url)

    def taken_over(step: str) -> None:
        if step == "guard_released":
            name = symbol_lease(SYMBOL)
            other.leases.release(other.leases.get(name))  # as if its time were up
            assert other.leases.acquire(name, "another", timedelta(minutes=5))

    monkeypatch.setattr(crash_points, "hook", taken_over)
    record = await run(recorded(home, (START, OPEN)))
    other.close()
    assert record.status is CycleStatus.FAILED
    assert "was taken over by another with token 2; nothing more was sent" in record.error
    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()
    assert state(exchange)["orders"] == []
    assert store().intents.open("default") == []


async def test_what_another_run_has_ended_is_not_sent_by_the_one_that_resumes(home, exchange, monkeypatch):
    decider = await killed_after_the_intents_were_written(home, monkeypatch)
    [cycle] = store().cycles.newest("default")
    store().intents.drop(cycle.cycle_id)
    record = await run(decider)
    assert record.status is CycleStatus.FAILED
    assert "ended by another run" in record.error
    assert state(exchange)["orders"] == []


async def test_no_second_request_goes_out_while_the_first_may_still_arrive(home, exchange, monkeypatch):
    """Not every venue refuses the id of an order that has filled: only time tells a lost request from a slow one."""
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    [intent] = record.intents
    sent, looks = [], []

    class Silent:
        keeps_ids = True

        async def find_order(self, *_: str) -> None:
            looks.append(len(sent))

        async def submit(self, intent: OrderIntent) -> Order:
            sent.append(asyncio.get_running_loop().time())
            raise VenueUnavailable("no answer")

    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.5)
    monkeypatch.setattr(execute, "PAUSES", (0.01, 0.01, 0.6))
    with pytest.raises(VenueUnavailable, match="no answer"):
        await execute.send(Silent(), intent)
    assert looks == [0, 1, 1, 1]
    assert len(sent) == 2
    assert sent[1] - sent[0] >= 0.5


async def test_a_refusal_ends_nothing_while_what_another_run_has_sent_may_still_arrive(home, exchange, monkeypatch):
    """Else an order that fills seconds later is one that the ledger calls rejected. Found by a simulated world."""
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    [intent] = record.intents
    store().cycles.begin(record, START)
    store().intents.save(record.cycle_id, (intent,), START)
    lease = store().leases.acquire("cycle", "another", timedelta(minutes=1))
    assert store().intents.begin_sending(intent.client_order_id, lease)
    refused, arrives = [], []

    class Busy:
        keeps_ids = True

        async def find_order(self, *_: str) -> str | None:
            return "the first one's" if arrives else None

        async def submit(self, _: OrderIntent) -> Order:
            refused.append(asyncio.get_running_loop().time())
            raise OrderRejected("not now")

    monkeypatch.setattr(execute, "IN_FLIGHT_S", 1.0)
    monkeypatch.setattr(execute, "PAUSES", (0.01,))
    with pytest.raises(VenueUnavailable, match="may still arrive"):
        await execute.send(Busy(), intent)
    assert len(refused) == 1
    monkeypatch.setattr(execute, "PAUSES", (0.01, 1.0))
    with pytest.raises(OrderRejected, match="not now"):  # nothing can arrive any more
        await execute.send(Busy(), intent)
    assert refused[2] - refused[1] >= 1.0
    arrives.append(True)
    assert await execute.send(Busy(), intent) == "the first one's"


async def test_a_refused_order_that_another_run_has_sent_at_that_moment_is_not_rejected(home, exchange, monkeypatch):
    """Else one that has filled is rejected in the ledger. Found by a simulated world."""
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    [intent] = record.intents
    sent = Order(
        client_order_id=intent.client_order_id, venue_order_id="1", symbol=SYMBOL, side=intent.side, type="market",
        status="filled", quantity=intent.quantity, filled=intent.quantity, created_at=START, updated_at=START,
    )  # fmt: skip
    looks = iter([None, sent])

    class Two:
        keeps_ids = True

        async def find_order(self, *_: str) -> Order | None:
            return next(looks)

        async def submit(self, _: OrderIntent) -> Order:
            raise OrderRejected("reduces nothing")

    assert await execute.send(Two(), intent) is sent


async def test_an_exit_that_another_run_was_sending_waits_where_its_id_can_be_used_twice(home, exchange, monkeypatch):
    """Else a trim that was held up is done twice over. Found by a simulated world."""
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    intent = record.intents[0].replace(reduce_only=True, stop=None, target=None)
    store().cycles.begin(record, START)
    store().intents.save(record.cycle_id, (intent,), START)
    lease = store().leases.acquire("cycle", "another", timedelta(minutes=1))
    assert store().intents.begin_sending(intent.client_order_id, lease)
    began, sent = asyncio.get_running_loop().time(), []

    class Forgetful:
        keeps_ids = False

        async def find_order(self, *_: str) -> None:
            return None

        async def submit(self, intent: OrderIntent) -> str:
            sent.append(asyncio.get_running_loop().time() - began)
            return "ours"

    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.3)
    monkeypatch.setattr(execute, "PAUSES", (0.01, 0.01, 0.4))
    assert await execute.send(Forgetful(), intent) == "ours"
    assert [seconds >= 0.3 for seconds in sent] == [True]


async def test_a_request_that_reaches_the_venue_after_the_look_up_is_still_one_order(home, exchange, monkeypatch):
    record = await run(recorded(home, (START, OPEN)), dry_run=True)
    [intent] = record.intents
    real, late = venue(), []

    class Slow:
        """The first request is on its way while the venue is asked; it arrives just before the second."""

        keeps_ids, find_order = True, staticmethod(real.find_order)

        async def submit(self, intent: OrderIntent) -> Order:
            if not late:
                late.append(intent)
                raise VenueUnavailable("no answer")
            await real.submit(late[0])
            return await real.submit(intent)

    monkeypatch.setattr(execute, "PAUSES", (0.01,))
    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.0)
    order = await execute.send(Slow(), intent)
    await venue().close()
    assert order.status == "filled"
    [sent] = [each for each in state(exchange)["orders"] if each["orderLinkId"]]
    assert sent["orderLinkId"] == intent.client_order_id


async def test_two_processes_on_one_bar_make_one_decision_and_one_order(home, exchange):
    imported = "import great_expectations\nimport flows.trade\nimport ccxt.async_support\nfrom deployments import cli"
    command = [
        "quarterdeck", "cycle", "--symbol", SYMBOL, "--as-of", START.isoformat(),
        "--decider", recorded(home, (START, OPEN)), "--json",
    ]  # fmt: skip
    said = [json.loads(each) for each in raced(imported, f"sys.argv = {command}\ncli.main()", count=2)]
    assert [one["status"] for one in said] == ["executed", "executed"]
    assert said[0]["cycle_id"] == said[1]["cycle_id"]
    assert store().counts()["decisions"] == 1
    assert len([order for order in state(exchange)["orders"] if order["orderLinkId"]]) == 1


@pytest.mark.parametrize("step", ["lease_proven", "sent", "order_saved", "executed"])
async def test_a_run_that_died_anywhere_in_sending_is_finished_with_one_order(home, exchange, monkeypatch, step):
    decider = recorded(home, (START, OPEN))
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at(step))
        with pytest.raises(KeyboardInterrupt):
            await run(decider)
    record = await run(decider)
    assert record.status is CycleStatus.EXECUTED, record.error
    assert record.error.startswith("resumed: the run that wrote the intents ended")
    assert len([order for order in state(exchange)["orders"] if order["orderLinkId"]]) == 1
    assert state(exchange)["positions"][0]["stopLoss"]
    [position] = store().positions.open("default")
    assert position.cycle_id == record.cycle_id
