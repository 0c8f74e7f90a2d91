"""Panel and portfolio from the question to the order, on the real sandbox and a local model server over HTTP."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from model_replies import panel
from model_server import ModelServer, Reply
from sandbox_server import advance, running_sandbox, state

from flows.trade import Request, run_cycles
from tasks.connections import store, venue
from tasks.core.pages import decision
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.kept_history import store_replayer
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
    decider: str,
    symbols: tuple[str, ...],
    answer: Callable[[Any], Reply],
    monkeypatch: pytest.MonkeyPatch,
    **how: str,
) -> tuple[list[CycleRecord], list[Any]]:
    with ModelServer([answer] * 20) as server:
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
        settings.cache_clear()
        try:
            request = Request(symbols=symbols, decider=decider, **(how or {"reason": "a test asks"}))
            return await run_cycles(request), server.requests
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


async def test_an_event_asks_the_portfolio_once_about_all_that_changed_and_shows_the_rest(home, exchange, monkeypatch):
    def changed(symbol: str, at: datetime) -> None:
        mark = f"{symbol} {at}"
        reason = Reason(rule="Calendar", symbol=symbol, as_of=at, fingerprint=mark)
        store().events.add("default", [reason])

    async def rung(symbol: str) -> tuple[list[CycleRecord], list[Any]]:
        noop = Reply(json.dumps({"decisions": [{"instrument": BTC, "action": "noop"}]}))
        return await cycles("llm:portfolio", (symbol,), lambda _: noop, monkeypatch, trigger="event")

    changed(BTC, START)
    [btc], requests = await rung(BTC)
    assert (btc.symbol, btc.status, len(requests)) == (BTC, CycleStatus.HELD, 1)
    assert [each.symbol for each in btc.inputs.others] == [ETH]
    assert btc.inputs.ledger is not None
    text = btc.decided.calls[0].messages[1]["content"]
    shown = text.partition("The other symbols")[2]
    assert re.search(rf"{ETH} [\d.]+; 15m rsi=", shown)
    assert shown.count("/USDT:USDT ") == 1
    [again] = await store_replayer().replay([btc])
    assert again.differences == ()
    assert store().cycles.last("default", ETH) is None  # it was shown: its next event still finds the bar free

    at = START + timedelta(minutes=5)
    advance(exchange, 300)
    changed(BTC, at)
    changed(ETH, at)
    both, requests = await rung(BTC)
    assert ([each.symbol for each in both], len(requests)) == ([BTC, ETH], 1)
    assert not any(each.inputs.others for each in both)
    _, requests = await rung(ETH)  # the other bell finds its cycle done
    assert requests == []
