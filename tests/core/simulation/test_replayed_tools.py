"""Tools in a replay answer with what was known then, the same every time, and come out of the records again."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from market_data import walk
from replayed import backtest

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.planner import ToolsDecider
from tasks.core.decision.llm.tools import DESK
from tasks.core.lab.replay import Replayer
from tasks.core.market.market import Market
from tasks.core.simulation.backtest_inputs import FundingRate
from tasks.core.simulation.candle_history import History
from tasks.core.types.decision import ModelCall
from tasks.core.types.limits import ToolLimits, ToolRates
from tasks.core.types.record import CycleRecord
from tasks.core.types.strategy import Told

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
MARKETS = {BTC: Market.from_base(BTC, walk(1800, seed=3)), ETH: Market.from_base(ETH, walk(1800, seed=4))}
LIMITS = ToolLimits(symbols=(BTC, ETH), venue="bybit", calls=9)
OPEN = {"action": "OPEN_LONG", "size_pct": 10, "stop_atr": 2, "tp_atr": 3, "confidence": 0.8, "reasoning": "r"}
ASKED = [
    {"tool": "candles", "symbol": ETH, "timeframe": "30m", "limit": 3},
    *({"tool": tool, "symbol": BTC} for tool in ("order_book", "trades", "funding", "position", "digest")),
    {"tool": "similar_decisions", "symbol": BTC, "limit": 5},
    {"tool": "candles", "symbol": "DOGE/USDT:USDT", "timeframe": "1h"},
]
RATES = [FundingRate(MARKETS[BTC].bars["5m"].index[k].to_pydatetime(), Decimal(k) / 10**6) for k in range(0, 1800, 96)]


class Scripted:
    """Asks every tool once, then opens; a planner's first message decides which it is asked as."""

    async def ask(self, request) -> ModelCall:
        plan = {"reasoning": "to see", "requests": ASKED, "done": True}
        return request.call("openai/x", raw_reply=json.dumps(plan if request.role == "planner" else OPEN))


def replay(**given):
    prompts = {role: load_prompt(role) for role in ("planner", "decision", "single")}
    decider, records = ToolsDecider(Scripted(), prompts, Means(tools=lambda asked: DESK.get()(asked))), []
    given = {"tools": LIMITS, "tool_rates": ToolRates(), "told": Told(), "funding": {BTC: RATES}} | given
    run = backtest(MARKETS, decider, on_record=records.append, **given)
    asyncio.run(run.run())
    return run, records


@pytest.fixture(scope="module")
def replayed():
    return replay()


def answers(record, tool: str) -> list[dict]:
    return [json.loads(call.response or "{}") | {"error": call.error} for call in record.decided.tool_calls
            if call.tool == tool]  # fmt: skip


def closed(text: str, minutes: int) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC) + timedelta(minutes=minutes)


def test_each_tool_answers_from_what_was_known_at_the_close(replayed):
    _, records = replayed
    assert len(records) > 20
    for record in records:
        candles, stranger = answers(record, "candles")
        newest = closed(candles["rows"][0][0], 30)
        assert record.as_of - timedelta(minutes=30) < newest <= record.as_of
        assert "not allowed" in stranger["error"]
        [book], [trades], [funding] = (answers(record, tool) for tool in ("order_book", "trades", "funding"))
        bid, ask = book["rows"][0][0], book["rows"][0][2]
        last = float(MARKETS[BTC].value("5m", "close", record.as_of))
        assert bid < last < ask
        assert book["modelled"]
        assert "no single trades" in trades["error"]
        assert closed(funding["rows"][0][0], 0) <= record.as_of


def test_position_digest_and_similar_decisions_are_those_of_the_replays_own_ledger(replayed):
    run, records = replayed
    about_btc = [record for record in records if record.symbol == BTC]
    held = [answers(record, "position")[0]["position"] for record in about_btc]
    assert [bool(p) for p in held] == [record.inputs.position is not None for record in about_btc]
    assert any(held)
    last = about_btc[-1]
    trades = [o for o in run.outcomes if o.symbol == BTC and o.closed_at <= last.as_of]
    assert answers(last, "digest")[0]["trade_count"] == len(trades) > 0
    assert answers(last, "similar_decisions")[0]["rows"]


def test_the_same_replay_has_the_same_fingerprint(replayed):
    assert replay()[0].fingerprint == replayed[0].fingerprint


def test_recorded_answers_come_out_again_byte_for_byte(replayed):
    run, records = replayed
    again = [CycleRecord.model_validate_json(record.model_dump_json()) for record in records[:12]]
    histories = {symbol: History(symbol, market.bars) for symbol, market in MARKETS.items()}
    known = {run.strategy_id: run.strategy}.__getitem__
    replayer = Replayer(lambda _, symbol: histories[symbol], known, load_prompt, lambda _: None)

    async def all_of_them():
        replayer.read_ahead(again)
        return [result for asked in replayer.questions(again) for result in await replayer.replay(asked)]

    results = asyncio.run(all_of_them())
    assert len(results) == len(again)
    assert [result for result in results if result.differences or result.lacks] == []


def test_under_a_mask_nothing_is_looked_up():
    _, records = replay(told=Told(masked=True), end=MARKETS[BTC].bars["5m"].index[900].to_pydatetime())
    assert records
    for record in records:
        assert not any(call.response for call in record.decided.tool_calls)
        assert "under a mask" in answers(record, "digest")[0]["error"]
