"""Panel and portfolio from the question to the order, on the real sandbox and a local model server over HTTP."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from model_replies import panel
from model_server import ModelServer, Reply
from sandbox_server import running_sandbox, state

from flows.trade import Request, run_cycles
from tasks.connections import store, venue
from tasks.core.pages import decision
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.settings import settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = datetime(2025, 1, 23, 4, 0, tzinfo=UTC)  # seed 3: 1h ADX 32.6, EMA50 above EMA200

pytestmark = pytest.mark.slow


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_sandbox(symbols=(BTC, ETH), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{BTC},{ETH}")
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        yield url


async def cycles(
    decider: str, symbols: tuple[str, ...], answer: Callable[[Any], Reply], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[CycleRecord], list[Any]]:
    with ModelServer([answer] * 20) as server:
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        try:
            return await run_cycles(Request(symbols=symbols, decider=decider, reason="a test asks")), server.requests
        finally:
            await venue().close()


async def test_the_panel_goes_from_six_voices_to_one_order_and_its_page_says_who_said_what(home, exchange, monkeypatch):
    [record], requests = await cycles("llm:panel", (BTC,), panel, monkeypatch)
    assert record.status is CycleStatus.EXECUTED, (record.decided.flags, record.decided.errors, record.error)
    assert record.decided.decision.action == "OPEN_LONG"
    assert "shrunk" in record.decided.flags
    assert len(requests) == len(record.decided.calls) == 5  # no news: sentiment is not asked
    assert state(exchange)["positions"][0]["stopLoss"]
    page = decision.to_markdown(record)
    for name in ("technical", "orderbook", "trend", "reversion", "risk"):
        assert name in page
    assert store().cycles.get(record.cycle_id).model_dump_json() == record.model_dump_json()


async def test_the_portfolio_answers_for_every_symbol_in_one_call(home, exchange, monkeypatch):
    target = {"stop_atr": 1.5, "tp_atr": 3, "confidence": 0.8, "rationale": "a test"}
    content = {
        "decisions": [
            {"instrument": BTC, "action": "buy", "target_qty": 0.01, **target},
            {"instrument": ETH, "action": "sell", "target_qty": -0.2, **target},
        ]
    }
    records, requests = await cycles("llm:portfolio", (BTC, ETH), lambda _: Reply(json.dumps(content)), monkeypatch)
    assert len(requests) == 1
    assert [record.status for record in records] == [CycleStatus.EXECUTED] * 2, [record.error for record in records]
    held = {each["symbol"]: (each["side"], float(each["size"])) for each in state(exchange)["positions"]}
    assert held[BTC] == ("long", 0.01)
    side, size = held[ETH]
    assert side == "short"
    assert 0.19 <= size <= 0.2  # the first order's fee came out of the equity: one lot less, never more
