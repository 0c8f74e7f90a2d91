"""Planner -> tools -> decision through a whole cycle on a real sandbox: what was cut or refused is known everywhere."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from model_replies import asks, plan
from model_server import Fault, ModelServer, Reply
from sandbox_server import running_sandbox, state

from flows.trade import Request, run_cycles
from tasks.adapters.model import toolbox
from tasks.connections import store, venue
from tasks.core.market import lean
from tasks.core.types.record import CycleStatus
from tasks.settings import settings

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
OPEN = {
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market"}, "stop_atr": 1.5,
    "tp_atr": 3, "confidence": 0.8, "comment": "a test opens",
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        settings.cache_clear()
        toolbox.meter.cache_clear()
        yield url


async def run(server: ModelServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
    settings.cache_clear()
    try:
        return (await run_cycles(Request(symbols=(SYMBOL,), decider="llm:tools", reason="a test asks")))[0]
    finally:
        await venue().close()


def texts(request: dict) -> str:
    return "\n".join(message["content"] for message in request["messages"])


async def test_what_was_clamped_cut_and_refused_reaches_model_decision_and_record(exchange, monkeypatch):
    first = plan(
        asks("candles", timeframe="1h", limit=5000), asks("candles", "DOGE/USDT:USDT", timeframe="1h", limit=5)
    )
    second = plan(asks("order_book", limit=5), asks("position"), done=True)
    with ModelServer([first, second, Reply(json.dumps(OPEN))]) as server:
        record = await run(server, monkeypatch)
        planner, again, decision = server.requests
    assert record.status is CycleStatus.EXECUTED, record.error
    assert [(order["side"], order["orderLinkId"]) for order in state(exchange)["orders"] if order["orderLinkId"]] == [
        ("buy", record.intents[0].client_order_id)
    ]
    decided = record.decided
    assert (decided.decision.action, decided.rung) == ("OPEN_LONG", "primary")
    assert [call.role for call in decided.calls] == ["planner", "planner", "decision"]
    assert [call.prompt.name for call in decided.calls] == ["planner", "planner", "decision"]

    candles, refused, book, position = decided.tool_calls
    assert decided.flags == ("clamped:candles", "truncated")
    assert (candles.flags, candles.truncated) == (("clamped:candles", "truncated"), True)
    assert candles.parameters["limit"] == "200"
    assert 0 < candles.bytes <= settings().tool_bytes
    assert json.loads(candles.response)["rows"][0][0] == "2025-03-10T11:00:00Z"
    assert refused.error == f"symbol 'DOGE/USDT:USDT' is not allowed; allowed: {SYMBOL}"
    assert json.loads(book.response)["observed_at"] == "2025-03-10T12:00:00Z"
    assert json.loads(position.response)["position"] is None
    assert all(call.trace_id and call.latency_ms >= 0 for call in decided.tool_calls)

    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()
    assert store().decisions.of([record.cycle_id])[record.cycle_id].tool_calls == decided.tool_calls
    assert record.verdict.allowed

    summary = lean.encode_first(record.snapshot)
    assert summary in texts(planner)
    assert not any(line in texts(decision) for line in summary.splitlines())
    assert "supersede the snapshot" in texts(decision)
    assert candles.response in texts(decision)
    assert refused.error not in texts(planner)
    assert refused.error in texts(again)
    assert '"flags":["clamped:candles","truncated"]' in texts(again)


async def test_calls_over_the_rate_are_dropped_and_the_decision_goes_on(exchange, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_TOOL_RATES__CANDLES", "1")
    wanted = [asks("candles", timeframe=timeframe, limit=3) for timeframe in ("15m", "1h")]
    with ModelServer([plan(*wanted, done=True), Reply(json.dumps(OPEN))]) as server:
        record = await run(server, monkeypatch)
    assert record.status is CycleStatus.EXECUTED, record.error
    assert record.decided.flags == ("dropped:candles",)
    [first, dropped] = store().decisions.of([record.cycle_id])[record.cycle_id].tool_calls
    assert (first.error, dropped.error) == ("", "dropped: at most 1 candles calls a minute")


async def test_a_decision_that_cannot_be_used_trades_nothing_and_keeps_what_was_asked(exchange, monkeypatch):
    with ModelServer([plan(asks("digest"), done=True), Reply("I would wait.")]) as server:
        record = await run(server, monkeypatch)
    assert record.decided.decision.action == "HOLD"
    assert any("no_json" in error for error in record.decided.errors)
    assert state(exchange)["orders"] == []
    assert [call.tool for call in store().decisions.of([record.cycle_id])[record.cycle_id].tool_calls] == ["digest"]


async def test_one_deadline_spans_planner_tools_and_decision(exchange, monkeypatch):
    from tasks.adapters.model.litellm_model import prepare

    await prepare()
    monkeypatch.setenv("QUARTERDECK_DECISION_DEADLINE_S", "1.5")
    with ModelServer([], default=Fault("hang")) as server:
        record = await run(server, monkeypatch)
    assert record.decided.decision.action == "HOLD"
    assert "late:planner" in record.decided.flags
    assert 1400 < sum(call.latency_ms for call in record.decided.calls) < 2500
    assert state(exchange)["orders"] == []
