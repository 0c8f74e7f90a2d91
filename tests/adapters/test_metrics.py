"""Metrics of a real store, scraped over HTTP and read by Prometheus' own parser; the dashboard asks for no others."""

import json
import re
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from store_samples import BTC, a_cycle, a_decision, a_full_cycle, a_position, a_verdict, an_intent, minutes

from tasks.adapters.metrics import Exporter
from tasks.core.decision.budget import Charge
from tasks.core.types.alert import Alert, AlertKind
from tasks.core.types.decision import ToolCall
from tasks.core.types.limits import Budget
from tasks.core.types.record import CycleStatus, EquityPoint
from tasks.core.types.verdict import Code
from tasks.settings import ROOT

DASHBOARD = ROOT / "infra" / "grafana" / "dashboards" / "quarterdeck.json"


def scraped(url: str, **budgets: Budget) -> dict[str, dict[tuple[str, ...], float]]:
    """Serve the exporter, scrape it once and return its samples: name, then label values by the labels' names."""
    registry = CollectorRegistry()
    registry.register(Exporter(url, budgets or {"default": Budget()}))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def fill(store) -> datetime:
    """Keep a day's life: one executed, one denied, one quiet and one missed cycle, a position, a halt, an alert."""
    now = datetime.now(UTC).replace(microsecond=0)
    close = now.replace(minute=0, second=0)
    denied = a_verdict().model_copy(update={"allowed": False, "codes": (Code.SIZE_CLAMPED,)})
    records = (
        a_full_cycle("c1", as_of=close), a_full_cycle("c2", symbol="ETH/USDT:USDT", as_of=close,
                                                      status=CycleStatus.DENIED, verdict=denied, error="refused"),
        a_cycle("c3", symbol="SOL/USDT:USDT", as_of=close, status=CycleStatus.QUIET, trigger="event"),
        a_cycle("c4", symbol="XRP/USDT:USDT", as_of=close, status=CycleStatus.MISSED),
    )  # fmt: skip
    for n, record in enumerate(records):
        store.cycles.begin(record.model_copy(update={"status": CycleStatus.STARTED}), close + minutes(n))
        store.cycles.save(record, close + minutes(n + 1))
    store.intents.save("c1", (an_intent(),), now)
    store.intents.mark("qd-1", "rejected")
    store.positions.save(a_position())
    store.equity.save(EquityPoint(at=now, strategy="default", equity=Decimal(9500), peak=Decimal(10000)))
    store.halts.add("by hand", "a person", now)
    store.alerts.note(Alert(kind=AlertKind.HALT, key="1", text="halted"), now)
    return close


def test_scrape_says_what_the_store_knows(store, store_url):
    close = fill(store)
    found = scraped(store_url)
    assert found["quarterdeck_store_up"] == {(): 1}
    assert found["quarterdeck_cycles_total"] == {
        ("denied", "default", "schedule"): 1,
        ("executed", "default", "schedule"): 1,
        ("missed", "default", "schedule"): 1,
        ("quiet", "default", "event"): 1,
    }
    assert found["quarterdeck_decisions_total"] == {
        ("OPEN_LONG", "primary", "llm:openai/gpt-4o", "denied", "default"): 1,
        ("OPEN_LONG", "primary", "llm:openai/gpt-4o", "executed", "default"): 1,
    }
    assert found["quarterdeck_denials_total"] == {(Code.SIZE_CLAMPED.value, "default"): 1}
    assert found["quarterdeck_intents_total"] == {("rejected", "default"): 1}
    assert found["quarterdeck_last_close_timestamp_seconds"] == {("default",): close.timestamp()}
    assert (
        found["quarterdeck_cycle_stage_seconds"][("1.0", "late", "default")] == 120
    )  # the quiet one; a missed one never began
    assert found["quarterdeck_equity"] == {("default",): 9500}
    assert found["quarterdeck_drawdown_ratio"] == {("default",): 0.05}
    assert found["quarterdeck_exposure"] == {("long", "default", BTC): 0.012 * 65000.1}
    assert round(found["quarterdeck_open_risk"][("long", "default", BTC)], 6) == round(0.012 * 1000.1, 6)
    assert found["quarterdeck_halts"] == {(): 1}
    assert found["quarterdeck_alerts"] == {("halt",): 1}


def test_each_strategy_has_its_own_numbers_and_what_has_no_table_any_more_those_of_its_positions(store, store_url):
    close = fill(store)
    record = a_full_cycle("t1", strategy="trend", symbol="SOL/USDT:USDT", as_of=close - minutes(60))
    store.cycles.begin(record.replace(status=CycleStatus.STARTED), close - minutes(59))
    store.cycles.save(record, close - minutes(55))
    store.intents.save("t1", (an_intent("qd-2", symbol="SOL/USDT:USDT"),), close)
    store.equity.save(EquityPoint(at=close, strategy="trend", equity=Decimal(10200), peak=Decimal(10200)))
    for number, (name, symbol) in enumerate({"trend": "SOL/USDT:USDT", "gone": "XRP/USDT:USDT"}.items(), 2):
        held = a_position(f"p{number}", strategy=name, symbol=symbol, quantity=Decimal(number))
        store.positions.save(held.replace(avg_price=Decimal(100), stop=Decimal(98)))
    charge = Charge(session="s", symbol="SOL/USDT:USDT", decision="t1")
    own = Budget(purse="trend", calls_per_day=8, usd_per_day=None)
    for _ in range(2):
        store.budget.reserve(charge, Decimal(0), own, datetime.now(UTC))
    found = scraped(store_url, default=Budget(), trend=own)
    assert found["quarterdeck_cycles_total"]["executed", "trend", "schedule"] == 1
    assert found["quarterdeck_cycles_total"]["executed", "default", "schedule"] == 1
    assert found["quarterdeck_intents_total"] == {("rejected", "default"): 1, ("persisted", "trend"): 1}
    closes = {("default",): close.timestamp(), ("trend",): close.timestamp() - 3600}
    assert found["quarterdeck_last_close_timestamp_seconds"] == closes
    assert found["quarterdeck_cycle_stage_seconds"]["1.0", "late", "trend"] == 60
    assert found["quarterdeck_cycle_stage_seconds"]["1.0", "cycle", "trend"] == 240
    assert found["quarterdeck_equity"] == {("default",): 9500, ("trend",): 10200}
    assert found["quarterdeck_drawdown_ratio"] == {("default",): 0.05, ("trend",): 0}
    assert found["quarterdeck_exposure"]["long", "trend", "SOL/USDT:USDT"] == 200
    assert found["quarterdeck_open_risk"]["long", "trend", "SOL/USDT:USDT"] == 4
    assert found["quarterdeck_exposure"]["long", "gone", "XRP/USDT:USDT"] == 300
    calls = {key[3:]: n for key, n in found["quarterdeck_model_calls_total"].items()}
    assert calls == {("trader", "default"): 4, ("trader", "trend"): 2}
    ratios = {("default", "calls"): 0, ("default", "usd"): 0, ("trend", "calls"): 0.25}
    assert found["quarterdeck_budget_used_ratio"] == ratios
    assert found["quarterdeck_halts"] == {(): 1}  # the account's


def test_model_calls_are_counted_by_provider_model_and_role(store, store_url):
    fill(store)
    found = scraped(store_url)
    who = ("gpt-4o", "openai", "trader", "default")
    assert found["quarterdeck_model_calls_total"] == {("gpt-4o", "openai", "ok", "trader", "default"): 4}
    assert found["quarterdeck_model_tokens_total"] == {("in", *who): 3600, ("out", *who): 320}
    assert found["quarterdeck_model_cost_usd_total"][who] == pytest.approx(0.00492)
    assert found["quarterdeck_model_seconds_sum"][who] == pytest.approx(3.249)
    within = {key[0]: n for key, n in found["quarterdeck_model_seconds_bucket"].items()}
    assert within == {"0.5": 0, "1.0": 4, "2.0": 4, "5.0": 4, "10.0": 4, "20.0": 4, "30.0": 4, "60.0": 4, "+Inf": 4}


def test_what_planners_asked_is_counted_by_tool_and_what_became_of_it(store, store_url):
    tools = (
        ToolCall(trace_id="a", tool="candles", response="{}", bytes=2),
        ToolCall(trace_id="b", tool="candles", error="dropped: at most 1 candles calls a minute", dropped=True),
        ToolCall(trace_id="c", tool="trades", error="timeout", late=True),
        ToolCall(trace_id="d", tool="withdraw", error="unknown tool"),
    )
    planned = a_decision()
    calls = (planned.calls[0].replace(role="planner"),)
    now = datetime.now(UTC)
    store.cycles.begin(a_cycle("c9", as_of=now), now)
    store.decisions.keep("c9", planned.replace(calls=calls, tool_calls=tools), now)
    assert scraped(store_url)["quarterdeck_tool_calls_total"] == {
        ("answered", "default", "candles"): 1,
        ("dropped", "default", "candles"): 1,
        ("late", "default", "trades"): 1,
        ("refused", "default", "withdraw"): 1,
    }


def test_store_that_does_not_answer_is_a_metric_not_a_failed_scrape(tmp_path):
    assert scraped(f"sqlite:///{tmp_path}/no/such/folder/store.db") == {"quarterdeck_store_up": {(): 0}}


def test_dashboard_asks_only_for_metrics_that_exist(store, store_url):
    fill(store)
    offered = set(scraped(store_url))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {name for panel in panels for target in panel.get("targets", ())
             for name in re.findall(r"quarterdeck_\w+", target["expr"])}  # fmt: skip
    assert asked - offered == set()
    assert len(panels) > 10
    parts = {"quarterdeck_model_seconds_sum", "quarterdeck_model_seconds_count"}
    assert offered - asked <= {"quarterdeck_lease_held"} | parts
