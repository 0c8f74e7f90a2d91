"""Orders and positions the ledger does not know, halts from everywhere, venues that take no stop with an entry."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal as D
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from equity_cases import equity_of_fills
from sandbox_cycles import OPEN, START, SYMBOL, die_at, protect_once, recorded, run
from sandbox_positions import limit_entry, manual, opened
from sandbox_server import admin, advance, fault, state

from deployments.cli import cli
from tasks import crash_points, halts
from tasks import protect as stage
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.connections import store, venue
from tasks.core.errors import TradingError
from tasks.core.trading import orders
from tasks.core.types.decision import Add, Entry, OpenLong
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.core.types.verdict import Verdict
from tasks.settings import settings
from tests.closing import close_stores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hasty")]
ANOTHERS = orders.client_order_id(orders.cycle_id("another", SYMBOL, START), "e0")


@pytest.fixture(autouse=True)
def _no_variable_known() -> None:
    halts._asked.clear()


def lose_the_database(home, monkeypatch) -> None:
    close_stores()
    monkeypatch.setenv("QUARTERDECK_DATABASE_URL", f"sqlite:///{home / 'restored.db'}")
    settings.cache_clear()


async def test_a_position_of_ours_that_a_restored_ledger_lacks_is_adopted_with_its_stop(home, exchange, monkeypatch):
    [position] = await opened(home)
    lose_the_database(home, monkeypatch)
    await venue().set_protection(SYMBOL, D(0), None)
    await protect_once()
    [adopted] = store().positions.open("default")
    same = ("position_id", "cycle_id", "quantity", "avg_price", "stop", "target", "initial_stop")
    assert [getattr(adopted, name) for name in same] == [getattr(position, name) for name in same]
    assert state(exchange)["positions"][0]["stopLoss"]
    assert store().halts.newest() is None
    assert "adopted" in store().cycles.get(position.cycle_id).error


async def test_a_trade_that_a_backup_lacks_is_found_though_a_newer_entry_was_written_first(home, exchange, monkeypatch):
    [position] = await opened(home)
    await manual("sell", position.quantity)
    lose_the_database(home, monkeypatch)
    advance(exchange, 3 * 3600)
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at("before_send"))
        with pytest.raises(KeyboardInterrupt):
            await run(recorded(home, (START + timedelta(hours=3), OPEN)))
    await protect_once()
    assert [fill.quantity for fill in store().fills.of_cycle(position.cycle_id)] == [position.quantity]


async def test_what_protect_closed_after_the_backup_is_adopted_too(home, exchange, monkeypatch):
    [position] = await opened(home)
    await stage.flatten(position, position.quantity)
    lose_the_database(home, monkeypatch)
    await protect_once()
    [closed] = store().positions.closed("default")
    assert (closed.position_id, closed.quantity) == (position.position_id, 0)


async def test_a_resting_entry_of_ours_is_adopted_and_ends_in_its_time(home, exchange, monkeypatch):
    record = await run(recorded(home, (START, {**OPEN, "entry": {"type": "limit", "offset_bps": 2}})))
    [order] = record.orders
    lose_the_database(home, monkeypatch)
    await protect_once()
    [own] = store().intents.open("default")
    assert (own.cycle_id, own.intent.client_order_id) == (record.cycle_id, order.client_order_id)
    store().intents.mark(own.intent.client_order_id, "done")  # what is left of it is the market's
    await venue().close()


@pytest.mark.parametrize(("side", "halts"), [("sell", False), ("buy", True)])
async def test_a_difference_of_untold_fills_halts_only_where_the_venue_holds_more(home, exchange, side, halts):
    await opened(home)
    await manual(side, D("0.001"))
    fault(exchange, "http_500", "/v5/execution/list", times=100)
    with pytest.raises(TradingError, match="booking"):
        await protect_once()
    assert (store().halts.newest() is not None) is halts
    admin(exchange, "faults", method="DELETE")
    await protect_once()
    [ours] = store().positions.open("default")
    assert halts or str(ours.quantity) == state(exchange)["positions"][0]["size"]


async def test_an_order_list_that_is_not_answered_at_once_is_asked_for_again(home, exchange):
    await opened(home)
    fault(exchange, "http_500", "/v5/order/realtime", times=2)
    assert (await protect_once())["wrong"] == []


@pytest.mark.parametrize("name", ["theirs-1", ANOTHERS])
async def test_orders_and_positions_of_others_are_reported_and_left(home, exchange, name):
    await manual("buy", D("0.01"))
    await venue().submit(limit_entry().model_copy(update={"client_order_id": name}))
    result = await protect_once()
    assert any(line.startswith(f"foreign order {SYMBOL} buy 0.01") for line in result["wrong"])
    assert any(line.startswith(f"foreign position {SYMBOL}") for line in result["wrong"])
    assert len(state(exchange)["positions"]) == 1
    assert [order.client_order_id for order in await venue().open_orders(SYMBOL)] == [name]
    assert store().intents.get(name) is None
    await venue().close()


async def test_an_order_of_another_strategy_in_the_same_ledger_is_not_foreign(home, exchange):
    entry = limit_entry().model_copy(update={"client_order_id": ANOTHERS})
    store().cycles.begin(CycleRecord(cycle_id="c", strategy="another", symbol=SYMBOL, as_of=START), START)
    store().intents.save("c", (entry,), START)
    await venue().submit(entry)
    assert (await protect_once())["wrong"] == []
    assert [order.client_order_id for order in await venue().open_orders(SYMBOL)] == [ANOTHERS]
    await venue().close()


async def test_a_stop_that_someone_loosened_is_tightened_again(home, exchange):
    [position] = await opened(home)
    await venue().set_protection(SYMBOL, position.stop - D(500), None)
    result = await protect_once()
    assert "looser than ours" in result["wrong"][0]
    assert D(str(state(exchange)["positions"][0]["stopLoss"])) == position.stop


async def test_a_stop_that_someone_tightened_is_theirs_to_keep(home, exchange):
    [position] = await opened(home)
    await venue().set_protection(SYMBOL, position.stop + D(1), None)
    assert (await protect_once())["wrong"] == []
    assert D(str(state(exchange)["positions"][0]["stopLoss"])) == position.stop + D(1)


async def test_the_rest_of_an_entry_goes_with_its_position(home, exchange):
    bid = (await venue().fetch_book(SYMBOL)).bids[0][0]
    cycle_id = orders.cycle_id("default", SYMBOL, START)
    store().cycles.begin(CycleRecord(cycle_id=cycle_id, strategy="default", symbol=SYMBOL, as_of=START), START)
    entry = limit_entry().model_copy(update={"price": bid + D(100)})
    store().intents.save(cycle_id, (entry,), START)
    fault(exchange, "partial_fill", "/v5/order/create")
    order = await venue().submit(entry)
    assert 0 < order.filled < order.quantity
    await protect_once()
    assert store().intents.open("default")
    await manual("sell", order.filled)
    await protect_once()
    assert store().intents.open("default") == []
    assert await venue().open_orders(SYMBOL) == []
    assert [p.quantity for p in store().positions.closed("default")] == [0]
    await venue().close()


@pytest.mark.parametrize(("action", "left"), [("ADD", []), ("OPEN_LONG", ["sent"])])
async def test_an_add_that_filled_nothing_goes_with_its_position_and_a_first_entry_waits(home, exchange, action, left):
    entry = Entry(type="limit", offset_bps=D(2))
    kind = {"ADD": Add, "OPEN_LONG": OpenLong}[action]
    decision = kind(symbol=SYMBOL, size_pct=D(10), entry=entry, stop_atr=D(1), tp_atr=D(2), confidence=D(1))
    verdict, cycle_id = Verdict(allowed=True, decision=decision), orders.cycle_id("default", SYMBOL, START)
    begun = CycleRecord(cycle_id=cycle_id, strategy="default", symbol=SYMBOL, as_of=START, verdict=verdict)
    store().cycles.begin(begun, START)
    store().cycles.save(begun, START)
    store().intents.save(cycle_id, (limit_entry(),), START)
    await venue().submit(limit_entry())
    store().intents.mark(limit_entry().client_order_id, "sent")
    await protect_once()
    assert [own.state for own in store().intents.open("default")] == left
    assert len(await venue().open_orders(SYMBOL)) == len(left)
    await venue().close()


async def test_an_entry_that_fills_while_it_is_cancelled_is_booked_whole(home, exchange, monkeypatch):
    bid = (await venue().fetch_book(SYMBOL)).bids[0][0]
    cycle_id = orders.cycle_id("default", SYMBOL, START)
    store().cycles.begin(CycleRecord(cycle_id=cycle_id, strategy="default", symbol=SYMBOL, as_of=START), START)
    entry = limit_entry().model_copy(update={"price": bid + D(100), "expires_at": START})
    store().intents.save(cycle_id, (entry,), START)
    fault(exchange, "partial_fill", "/v5/order/create")
    assert (await venue().submit(entry)).status == "open"
    monkeypatch.setattr(crash_points, "hook", lambda step: advance(exchange, 300) if step == "before_cancel" else None)
    await protect_once()
    assert store().intents.get(entry.client_order_id).state == "done"
    assert sum(fill.quantity for fill in store().fills.of_cycle(cycle_id)) == entry.quantity
    assert store().halts.newest() is None


async def test_an_order_that_stays_open_is_cancelled_once_in_a_run(home, exchange, monkeypatch):
    cycle_id, cancelled = orders.cycle_id("default", SYMBOL, START), []
    store().cycles.begin(CycleRecord(cycle_id=cycle_id, strategy="default", symbol=SYMBOL, as_of=START), START)
    entry = limit_entry().model_copy(update={"expires_at": START})
    store().intents.save(cycle_id, (entry,), START)
    await venue().submit(entry)

    async def not_noticed(_: object, *order: str) -> None:
        cancelled.append(order)

    with monkeypatch.context() as patch:
        patch.setattr(CcxtVenue, "cancel", not_noticed)
        await protect_once()
    assert cancelled == [(SYMBOL, entry.client_order_id)]
    assert len(store().intents.open("default")) == 1
    await protect_once()
    assert store().intents.open("default") == []


async def test_a_file_halts_until_it_is_gone_and_someone_resumes(home, exchange):
    (home / "HALT").write_text("the news\nlooks odd")
    assert halts.active_halt().reason == "the news looks odd"
    assert halts.active_halt().who == f"file {home / 'HALT'}"
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.DENIED
    said = CliRunner().invoke(cli, ["resume", "--json"])
    assert json.loads(said.stdout)["still_halted_by"] == [
        {"who": f"file {home / 'HALT'}", "reason": "the news looks odd"}
    ]
    assert "remove it and resume again" in said.stderr
    (home / "HALT").unlink()
    assert halts.active_halt() is None


async def test_a_file_that_is_gone_resumes_nothing_by_itself(home, exchange):
    (home / "HALT").touch()
    assert halts.active_halt().reason == "no reason given"
    (home / "HALT").unlink()
    assert halts.active_halt() is not None
    [lifted] = json.loads(CliRunner().invoke(cli, ["resume", "--json"]).stdout)["resumed"]
    assert lifted["reason"] == "no reason given"
    assert halts.active_halt() is None


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "dead link"])
async def test_a_halt_that_cannot_be_read_halts(home, exchange, make):
    make(home / "HALT")
    assert halts.active_halt().reason.startswith("it is there and cannot be read")
    assert (await run(recorded(home, (START, OPEN)))).status is CycleStatus.DENIED


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """Prefect's answer about its variable; without a value it is unset."""
    answer: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if answer and self.path.endswith("/variables/name/quarterdeck_halt") else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setattr(halts, "CACHE_S", 0)
    monkeypatch.setattr(halts, "TIMEOUT_S", 30)
    settings.cache_clear()
    yield answer
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("off", [None, "false", False, ""])
def test_a_prefect_variable_halts_and_its_absence_resumes_nothing(home, variable, off):
    assert halts.active_halt() is None
    variable["value"] = off
    assert halts.active_halt() is None
    variable["value"] = "maintenance"
    assert halts.active_halt().reason == "maintenance"
    variable.clear()
    assert halts.active_halt().reason == "maintenance"


def test_a_prefect_server_that_does_not_answer_halts_nothing(home, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", "http://127.0.0.1:9/api")
    settings.cache_clear()
    assert halts.active_halt() is None


async def test_a_halt_may_ask_for_the_positions_to_be_closed(home, exchange):
    await opened(home)
    said = CliRunner().invoke(cli, ["halt", "--reason", "enough", "--flatten", "--json"])
    assert json.loads(said.stdout)["flatten"] is True
    result = await protect_once()
    assert result["followups"] == [f"{SYMBOL} closed: halted"]
    assert state(exchange)["positions"] == []
    assert store().positions.open("default") == []
    assert halts.active_halt().reason == "enough"


async def test_a_fill_without_its_stop_gets_it_at_once_where_the_venue_takes_none_with_it(home, exchange):
    fault(exchange, "reject_stop", "/v5/order/create")
    venue().attaches_protection = False
    [position] = await opened(home)
    assert D(str(state(exchange)["positions"][0]["stopLoss"])) == position.stop


async def test_a_fill_whose_stop_cannot_be_placed_is_closed(home, exchange):
    fault(exchange, "reject_stop", "/v5/order/create")
    fault(exchange, "reject_stop", "/v5/position/trading-stop", times=9)
    venue().attaches_protection = False
    assert await opened(home) == []
    assert state(exchange)["positions"] == []
    assert len(store().positions.closed("default")) == 1


async def test_a_resting_entry_is_not_sent_where_its_fill_would_be_naked(home, exchange):
    venue().attaches_protection = False
    record = await run(recorded(home, (START, {**OPEN, "entry": {"type": "limit", "offset_bps": 2}})))
    assert record.status is CycleStatus.FAILED
    assert "takes no stop with an entry" in record.error


async def test_protect_takes_the_target_that_the_venue_does_not(home, exchange):
    [position] = await opened(home)
    venue().attaches_protection = False
    assert not await stage.take_exit.fn(position)
    book = await venue().fetch_book(SYMBOL)
    bid, ask = book.bids[0][0], book.asks[0][0]
    assert not await stage.take_exit.fn(position.model_copy(update={"target": ask}))
    assert await stage.take_exit.fn(position.model_copy(update={"target": bid}))
    await venue().close()
    assert state(exchange)["positions"] == []


async def test_the_accounts_equity_comes_out_of_its_fills_to_the_last_digit(home, exchange):
    await opened(home)
    advance(exchange, 8 * 3600 + 300)  # past a funding
    await protect_once()
    if p := store().positions.open("default"):
        await stage.flatten(p[0], p[0].quantity)
    fills = await venue().fills(SYMBOL, START - timedelta(hours=1))
    balance = await venue().balance()
    await venue().close()
    assert equity_of_fills(D(10_000), fills, {}) == balance.equity
