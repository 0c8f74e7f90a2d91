"""What cycles on the sandbox made comes out again from their records and the stored candles, byte for byte."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_replies import asks, panel, plan
from model_server import ModelServer, Reply
from sandbox_server import advance, running_sandbox

from deployments.cli import cli
from flows.trade import Request, run_cycles
from tasks.adapters.model import toolbox
from tasks.connections import store, venue
from tasks.core.types.record import CycleRecord
from tasks.settings import settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = datetime(2025, 1, 23, 4, 0, tzinfo=UTC)  # seed 3: 1h ADX 32.6, EMA50 above EMA200
OPEN = {
    "symbol": BTC, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market"}, "stop_atr": 1.5,
    "tp_atr": 3, "confidence": 0.8, "comment": "a test opens",
}  # fmt: skip
TARGETS = {
    "decisions": [
        {"instrument": symbol, "action": action, "target_qty": quantity, "stop_atr": 1.5, "tp_atr": 3,
         "confidence": 0.8, "rationale": "trend"}
        for symbol, action, quantity in ((ETH, "noop", 0), (BTC, "buy", 0.01), ("DOGE/USDT:USDT", "buy", 1))
    ]
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with running_sandbox(symbols=(BTC, ETH), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{BTC},{ETH}")
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_MODEL", "openai/test")
        settings.cache_clear()
        toolbox.meter.cache_clear()
        yield url


async def cycles(server: ModelServer, monkeypatch: pytest.MonkeyPatch, decider: str) -> list[CycleRecord]:
    monkeypatch.setenv("QUARTERDECK_MODEL_BASE_URL", server.url)
    settings.cache_clear()
    try:
        return await run_cycles(Request(symbols=(BTC, ETH), decider=decider, reason="a test asks"))
    finally:
        await venue().close()


async def replayed(*arguments: str) -> dict:
    """Run the command on the store; its document, with the exit code in it."""
    words = ["replay", *(arguments or ("--all",)), "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, cli, words, catch_exceptions=False)
    return {"exit": result.exit_code, **json.loads(result.stdout)}


async def test_cycles_hours_apart_come_out_again_though_each_saw_other_candles(exchange, home):
    settings.cache_clear()
    actions = set()
    try:
        for _ in range(3):
            for record in await run_cycles(Request(symbols=(BTC, ETH), decider="random:3", reason="a test asks")):
                actions.add(record.decided.decision.action)
                assert record.snapshot.timeframes["1m"].close is not None
            advance(exchange, 2 * 3600)
    finally:
        await venue().close()
    told = await replayed()
    assert told["differences"] == []
    assert (told["exit"], told["match"], told["records"]) == (0, 6, 6)
    assert len(actions) > 1


async def test_every_decider_that_asks_models_comes_out_again(exchange, monkeypatch):
    late = [asks("candles", symbol=BTC, timeframe="1h", limit=5000), asks("order_book", symbol=BTC, limit=5),
            asks("candles", symbol="DOGE/USDT:USDT", timeframe="1h"), asks("digest", symbol=BTC)]  # fmt: skip

    def tools(request):
        text = json.dumps(request["messages"])
        return (
            plan(*late, done=True) if "rounds" in text.lower() and "supersede" not in text else Reply(json.dumps(OPEN))
        )

    answers = {
        "llm:single": lambda _: Reply(json.dumps(OPEN)), "llm:panel": panel,
        "llm:portfolio": lambda _: Reply(json.dumps(TARGETS)), "llm:tools": tools,
    }  # fmt: skip
    made = []
    for i, (decider, answer) in enumerate(answers.items()):
        monkeypatch.setenv("QUARTERDECK_STRATEGY", f"s{i}")
        with ModelServer([answer] * 30) as server:
            made += await cycles(server, monkeypatch, decider)
    assert {record.decided.decision.action for record in made} >= {"OPEN_LONG", "HOLD"}
    told = await replayed()
    assert told["differences"] == []
    assert (told["exit"], told["match"], told["not_replayable"]) == (0, 8, {})


async def test_a_failed_model_its_fallback_and_a_tampered_record_are_told_apart(exchange, monkeypatch):
    with ModelServer([], default=Reply("no json at all")) as server:
        [btc, _] = await cycles(server, monkeypatch, "llm:single")
    assert (await replayed(btc.cycle_id))["match"] == 1
    forged = btc.decided.model_copy(update={"decision": btc.decided.decision.model_copy(update={"comment": "other"})})
    store().cycles.save(btc.model_copy(update={"decided": forged}), datetime.now(UTC) + timedelta(seconds=1))
    told = await replayed(btc.cycle_id)
    assert (told["exit"], told["differ"]) == (1, 1)
    assert {each["path"] for each in told["differences"][0]["differences"]} == {"decided.decision.comment"}
