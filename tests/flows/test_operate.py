"""What keeps people informed: missed bars, alerts told once, the automations that send them, the day's page."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr
from sandbox_server import advance
from store_samples import a_cycle, a_full_cycle, a_position, an_outcome

from deployments import automations
from deployments.orchestrator import Orchestrator
from deployments.supervisor import Supervisor
from flows.clock import to_the_end
from flows.trade import Request, run_cycles
from flows.watch import look
from tasks import alerts, record
from tasks.adapters import alerts as messages
from tasks.adapters.venue import ccxt_venue as venues
from tasks.connections import store
from tasks.core.decision.budget import Spent
from tasks.core.pages import alerts as pages
from tasks.core.pages.day import Day
from tasks.core.types.alert import Alert, AlertKind
from tasks.core.types.limits import Budget
from tasks.core.types.reconcile import Finding
from tasks.core.types.record import CycleStatus, EquityPoint
from tasks.report import write_report
from tasks.settings import load

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
QUARTER = timedelta(minutes=15)


@pytest.fixture
def inbox() -> Iterator[tuple[list[dict[str, Any]], SecretStr]]:
    """A server that takes what Apprise sends, and its address."""
    taken: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield taken, SecretStr(f"json://127.0.0.1:{server.server_port}/a-secret-token")
    server.shutdown()
    server.server_close()
    thread.join()


# --- missed bars


def missed() -> list[datetime]:
    return store().cycles.missed("default", START - timedelta(days=2))


def test_five_closes_that_went_by_are_recorded_once_as_missed(home):
    for minutes in (0, 15, 35):  # the last one an event's
        store().cycles.begin(a_cycle(f"c{minutes}", as_of=START + timedelta(minutes=minutes)), START)
    back = START + timedelta(minutes=105)
    assert [record.record_missed.fn((SYMBOL,), back) for _ in range(2)] == [5, 0]
    assert missed() == [START + n * QUARTER for n in (2, 3, 4, 5, 6)]
    assert store().cycles.by_status("default")["missed"] == 5


def test_symbol_that_has_never_run_has_missed_nothing(home):
    store().cycles.begin(a_cycle("c", as_of=START), START)
    assert record.record_missed.fn(("ETH/USDT:USDT",), START + timedelta(hours=9)) == 0


def test_at_most_a_day_is_looked_back(home):
    store().cycles.begin(a_cycle("c", as_of=START), START)
    assert record.record_missed.fn((SYMBOL,), START + timedelta(days=9)) == 95


def test_close_that_is_being_worked_on_is_not_missed(home):
    store().cycles.begin(a_cycle("a", as_of=START), START)
    store().cycles.begin(a_cycle("b", as_of=START + QUARTER), START)
    assert record.record_missed.fn((SYMBOL,), START + 2 * QUARTER) == 0


@pytest.mark.slow
async def test_after_an_outage_of_five_bars_one_cycle_runs_and_people_are_told_once(home, exchange):
    request = Request(symbols=(SYMBOL,), decider="hold", trigger="schedule")
    [before] = await run_cycles(request)
    advance(exchange, 6 * 900)
    [now] = await to_the_end(run_cycles(request))
    assert (before.as_of, now.as_of) == (START, START + 6 * QUARTER)
    assert now.status in (CycleStatus.QUIET, CycleStatus.HELD)
    assert missed() == [START + n * QUARTER for n in range(1, 6)]
    for _ in range(2):
        await look(as_of=now.as_of)
    await to_the_end(look(as_of=now.as_of))
    told = [(kind, text) for _, kind, text in store().alerts.since(datetime.now(UTC) - timedelta(hours=1))]
    assert told == [("missed", "5 scheduled closes were missed in the last day, 2025-03-10 12:15 to 13:15 UTC")]
    assert venues._open == {}  # every run has closed its connections


# --- what is told, and how often


def halted() -> Alert:
    return Alert(kind=AlertKind.HALT, key="1", text="new entries halted by a person: by hand")


def test_alert_is_told_once_while_it_lasts_and_again_when_it_comes_back(home):
    kept, at = store(), datetime.now(UTC)
    seen = [0, 1, 2, 50, 100, 130, 200]
    assert [m for m in seen if kept.alerts.note(halted(), at + timedelta(minutes=m))] == [0, 200]


def test_halts_the_budget_and_fallbacks_are_found_in_the_store(home, caplog):
    at = datetime.now(UTC)
    store().halts.add("by hand", "a person", at)
    decided = a_full_cycle().decided.model_copy(update={"rung": "rules"})
    cycle = a_full_cycle("c", as_of=START, decided=decided)
    store().cycles.begin(cycle, at)
    store().cycles.save(cycle, at)
    assert alerts.look_around.fn(START) == 2
    assert alerts.look_around.fn(START) == 0
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert any("kind=halt" in line and "by hand" in line for line in errors)
    assert any("kind=fallback key=rules" in line for line in errors)


@pytest.mark.parametrize(
    ("usd", "calls", "keys"),
    [("1.59", 0, []), ("1.60", 0, ["d:USD:80"]), ("2", 0, ["d:USD:100"]), ("0", 85, ["d:calls:80"]),
     ("2.5", 100, ["d:calls:100", "d:USD:100"])],
)  # fmt: skip
def test_budget_is_told_at_80_and_at_100_percent(usd, calls, keys):
    found = pages.of_budget(Spent(usd=Decimal(usd), calls=calls), Budget(), "d")
    assert [alert.key for alert in found] == keys


def test_budget_without_caps_tells_nothing():
    assert pages.of_budget(Spent(usd=Decimal(9), calls=9), Budget(usd_per_day=None, calls_per_day=None), "d") == []


def test_what_protect_found_is_told_by_kind_and_symbol():
    kinds = (AlertKind.EXPOSED, AlertKind.FOREIGN, AlertKind.MISMATCH)
    found = pages.of_protection([Finding(kind=kind, symbol=SYMBOL, text=f"any words: {kind}") for kind in kinds])
    assert [(alert.kind, alert.key) for alert in found] == [(kind, SYMBOL) for kind in kinds]


# --- sent


def test_message_goes_directly_to_every_address_and_none_is_logged(inbox, caplog):
    taken, url = inbox
    nobody = SecretStr("json://127.0.0.1:1/another-secret-token")
    assert messages.send((url, nobody, SecretStr("nonsense://secret")), "Quarterdeck: dead", "worker ended") == 2
    assert [(m["title"], m["message"]) for m in taken] == [("Quarterdeck: dead", "worker ended")]
    assert "secret" not in caplog.text


@pytest.mark.slow
async def test_alert_event_is_sent_on_by_prefect_s_automation(prefect_server, inbox, home):
    taken, url = inbox
    api = Orchestrator(PREFECT_API_URL.value(), home)

    async def ensure(*urls: SecretStr) -> None:
        there = await automations.existing(api)
        before = await automations.released(api, (url,), ())
        await automations.ensure(api, await automations.released(api, urls, ()), before, there, [])

    for _ in range(2):  # a second `deploy` leaves one of each
        await ensure(url)
    names = ["quarterdeck: alerts", "quarterdeck: failed runs", "quarterdeck: trades"]
    named = {"automations": {"name": {"any_": names}}}
    found = await api.call("POST", "automations/filter", named)
    assert sorted(one["name"] for one in found) == names
    assert "a-secret-token" not in json.dumps(found)
    blocks = await api.call("POST", "block_documents/filter", {})
    assert "a-secret-token" not in json.dumps(blocks)
    event = {
        "id": "0198c0de-0000-7000-8000-000000000001", "occurred": datetime.now(UTC).isoformat(), "related": [],
        "event": "quarterdeck.alert.halt", "resource": {"prefect.resource.id": "quarterdeck.alert.halt:1"},
        "payload": {"kind": "halt", "text": "halted by hand", "strategy": "default"},
    }  # fmt: skip
    deadline = time.monotonic() + 60
    while not taken and time.monotonic() < deadline:  # the automation may be loaded a moment after it was made
        await api.call("POST", "events", [event | {"occurred": datetime.now(UTC).isoformat()}])
        await asyncio.sleep(2)
    assert taken[0]["title"] == "Quarterdeck: halt"
    assert taken[0]["message"] == "halted by hand (strategy default)"
    await ensure()
    assert await api.call("POST", "automations/filter", named) == []


# --- the day's page


@pytest.mark.slow
async def test_report_is_one_page_that_says_what_the_day_was(home, exchange):
    kept, day = store(), START - timedelta(days=1)
    for n, worth in enumerate((10_000, 10_050, 10_100)):
        at, peak = day + timedelta(hours=n), Decimal(10_100)
        kept.equity.save(EquityPoint(at=at, strategy="default", equity=Decimal(worth), peak=peak))
    comment = {"comment": "<script>alert(1)</script>"}
    decided = a_full_cycle().decided
    decided = decided.model_copy(update={"decision": decided.decision.model_copy(update=comment)})
    cycle = a_full_cycle("c1", as_of=day, decided=decided)
    kept.cycles.begin(cycle, day)
    kept.cycles.save(cycle, day)
    kept.positions.save(a_position(closed_at=day, opened_at=day))
    kept.outcomes.save(an_outcome(closed_at=day))
    path = await to_the_end(write_report(None))
    page = path.read_text()
    assert path == home / "reports" / "default-2025-03-09.html"
    assert "2025-03-09 default: equity 10,100.00 USDT (+1.00 %), 1 decisions, 1 trades closed, +0.96 R" in page
    assert "data:image/png;base64," in page
    assert "<script>alert" not in page
    assert "http" not in page.replace("data:image", "")
    assert "Open positions" in page
    assert f"{day:%m-%d %H:%M}" in page  # the decision's time
    assert "trader@v001" in page
    [(_, kind, text)] = kept.alerts.since(datetime.now(UTC) - timedelta(hours=1))
    assert (kind, text.endswith(str(path))) == ("report", True)


def test_report_of_a_day_without_anything_says_so():
    empty = Day(date(2026, 1, 2), "default", "USDT", [], {}, [], [], {})
    assert empty.headline == (
        "2026-01-02 default: no equity known, 0 decisions, 0 trades closed, models 0 USD, 0 bars missed"
    )


# --- the supervisor


def test_dead_process_is_told_once_by_the_supervisor_itself(home, inbox, monkeypatch):
    taken, url = inbox
    monkeypatch.setenv("QUARTERDECK_ALERT_URLS", url.get_secret_value())
    store()
    for _ in range(2):
        Supervisor(load())._tell("worker", "worker ended by itself with code -9")
    assert [m["message"] for m in taken] == ["worker ended by itself with code -9"]
    [(_, kind, _)] = store().alerts.since(datetime.now(UTC) - timedelta(hours=1))
    assert kind == "dead"


def test_dead_process_is_told_although_the_store_does_not_answer(home, inbox, monkeypatch):
    taken, url = inbox
    monkeypatch.setenv("QUARTERDECK_ALERT_URLS", url.get_secret_value())
    monkeypatch.setenv("QUARTERDECK_DATABASE_URL", f"sqlite:///{home}/no/such/folder/store.db")
    Supervisor(load())._tell("prefect", "prefect ended")
    assert [m["message"] for m in taken] == ["prefect ended"]


def test_addresses_are_never_shown():
    shown = load(alert_urls="json://127.0.0.1/a-secret-token")
    assert "a-secret-token" not in f"{shown!r} {shown.model_dump_json()}"
