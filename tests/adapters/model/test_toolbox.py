"""The tools' real data: the store on both databases, a real sandbox over HTTP, and nothing after as_of."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from sandbox_server import advance, running_sandbox
from store_samples import (
    AT,
    BTC,
    a_cycle,
    a_decision,
    a_full_cycle,
    a_hold,
    a_position,
    a_snapshot,
    an_outcome,
    minutes,
)

from tasks.adapters.model.toolbox import DataToolbox, limits_of, public_market
from tasks.core.decision.llm.tools import Meter, ToolDesk
from tasks.core.errors import VenueUnavailable
from tasks.core.market.bars import bar_frame
from tasks.core.types.decision import ToolCall
from tasks.core.types.limits import ToolRates
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Memory, Past
from tasks.settings import load


class Market:
    """The name and the clock of a venue."""

    name = "bybit-sandbox"

    def __init__(self, at: datetime = AT) -> None:
        self.at = at

    async def now(self) -> datetime:
        return self.at

    def has_timeframe(self, _: str) -> bool:
        return True


def desk(store, market=None, question=None, now=False, **settings: object) -> ToolDesk:
    chosen, market = load(symbols=(BTC, "ETH/USDT:USDT"), **settings), market or Market()
    toolbox = DataToolbox(store, lambda: market, chosen, question, now=now)
    return ToolDesk(toolbox, limits_of(chosen), Meter(ToolRates(), time.monotonic))


async def ask(one: ToolDesk, tool: str, as_of: datetime = AT, **parameters: object) -> dict:
    call = await one.answer({"tool": tool, "symbol": BTC, **parameters}, as_of, "trace", 10)
    assert not call.error, call.error
    return json.loads(call.response)


async def refused(one: ToolDesk, tool: str, as_of: datetime = AT, **parameters: object) -> str:
    return (await one.answer({"tool": tool, "symbol": BTC, **parameters}, as_of, "trace", 10)).error


def save_hours(store, count: int, symbol: str = BTC) -> None:
    """Keep `count` hourly bars, the last one closing at AT; the close of each is the hours from its close to AT."""
    opened = [AT - timedelta(hours=count - i) for i in range(count)]
    values = {name: np.arange(count - 1.0, -1.0, -1.0) for name in ("open", "high", "low", "close", "volume")}
    ms = np.array([int(t.timestamp() * 1000) for t in opened], dtype="int64")
    store.candles.save("bybit-sandbox", {(symbol, "1h"): bar_frame(ms, values)}, AT)


async def test_candles_are_the_last_closed_ones_newest_first(store):
    save_hours(store, 30)
    found = await ask(desk(store), "candles", timeframe="1h", limit=3)
    assert found["columns"] == ["open_time", "open", "high", "low", "close", "volume"]
    assert [row[0] for row in found["rows"]] == ["2026-11-20T11:00:00Z", "2026-11-20T10:00:00Z", "2026-11-20T09:00:00Z"]
    assert [row[4] for row in found["rows"]] == [0, 1, 2]


async def test_no_candle_that_closes_after_as_of_or_until_is_told(store):
    save_hours(store, 30)
    early = AT - minutes(61)
    found = await ask(desk(store), "candles", as_of=early, timeframe="1h", limit=30)
    assert found["rows"][0][0] == "2026-11-20T09:00:00Z"
    until = await ask(desk(store), "candles", timeframe="1h", limit=1, until=early.isoformat())
    assert until["rows"][0][0] == "2026-11-20T09:00:00Z"


async def test_candles_that_are_not_kept_are_an_error(store):
    assert "no 4h candles of BTC/USDT:USDT" in await refused(desk(store), "candles", timeframe="4h")


class Odd(Market):
    """A venue without candles of 30 minutes, but with trades: one in each of the last hours' ten minutes."""

    def has_timeframe(self, timeframe: str) -> bool:
        return timeframe != "30m"

    async def fetch_trades(self, symbol: str, limit: int) -> list[tuple[datetime, str, float, float]]:
        return [(AT + minutes(4 - 10 * i), "buy", 100.0 + i, 2.0) for i in range(10)]


async def test_where_a_venue_lacks_the_timeframe_candles_are_made_of_its_trades(store):
    found = await ask(desk(store, Odd()), "candles", timeframe="30m", limit=5)
    assert found["made_of"] == "trades"
    assert found["rows"] == [  # the forming one and the first, which may lack trades, are left out
        ["2026-11-20T11:30:00Z", 103.0, 103.0, 101.0, 101.0, 6.0],
        ["2026-11-20T11:00:00Z", 106.0, 106.0, 104.0, 104.0, 6.0],
    ]
    assert "no 4h candles" in await refused(desk(store, Odd()), "candles", timeframe="4h")
    assert "as of now" in await refused(desk(store, Odd()), "candles", AT - minutes(600), timeframe="30m")


async def test_a_long_list_of_candles_keeps_the_newest(store):
    save_hours(store, 200)
    call = await desk(store, tool_bytes=1000).answer(
        {"tool": "candles", "symbol": BTC, "timeframe": "1h", "limit": 500}, AT, "trace", 10
    )
    assert (call.flags, call.truncated) == (("clamped:candles", "truncated"), True)
    assert call.bytes <= 1000
    assert [row[4] for row in json.loads(call.response)["rows"]][:3] == [0, 1, 2]


async def test_position_is_our_ledgers(store):
    store.positions.save(a_position("p1"))
    store.positions.save(a_position("p2", symbol="ETH/USDT:USDT", side="short"))
    found = (await ask(desk(store), "position"))["position"]
    assert (found["side"], found["avg_price"], found["stop"]) == ("long", "65000.1", "64000")
    assert not {"cycle_id", "position_id"} & set(found)
    store.positions.save(a_position("p1", closed_at=AT, quantity=Decimal(0)))
    assert (await ask(desk(store), "position"))["position"] is None


async def test_digest_and_similar_decisions_know_only_outcomes_of_before(store):
    for number in range(4):
        cycle_id = f"c{number}"
        store.cycles.save(a_full_cycle(cycle_id, as_of=AT - minutes(600 - number * 60)), AT)
        store.memory.keep(cycle_id, a_snapshot(), a_full_cycle().decided.decision)
        store.positions.save(a_position(f"p{number}", cycle_id=cycle_id, closed_at=AT))
        closed = AT - minutes(90 - number * 60)  # the third and fourth close after AT
        store.outcomes.save(an_outcome(f"p{number}", cycle_id=cycle_id, closed_at=closed))
    assert (await ask(desk(store), "digest"))["trade_count"] == 2
    rows = (await ask(desk(store), "similar_decisions"))["rows"]
    assert [row["as_of"] for row in rows] == ["2026-11-20T03:00:00Z", "2026-11-20T02:00:00Z"]
    assert rows[0] | {"as_of": ""} == {
        "as_of": "", "action": "OPEN_LONG", "confidence": 0.7, "reasons": ["TrendFlip(1h)"], "outcome_r": 0.96,
        "status": "executed", "codes": [], "price": 100.125, "thesis": "trend",
    }  # fmt: skip
    assert len((await ask(desk(store), "similar_decisions", limit=1))["rows"]) == 1


async def test_what_was_remembered_for_this_decision_is_what_is_similar_in_its_symbol(store):
    past = [Past(as_of=AT, action=f"A{number}", confidence=0.5, distance=number) for number in range(3)]
    one = desk(store, question=Question(snapshot=a_snapshot(), memory=Memory(similar=tuple(past))))
    found = await ask(one, "similar_decisions", limit=2)
    assert [row["action"] for row in found["rows"]] == ["A0", "A1"]
    assert (await ask(one, "similar_decisions", symbol="ETH/USDT:USDT"))["rows"] == []


@pytest.mark.parametrize("tool", ["order_book", "trades", "funding", "position", "digest"])
async def test_what_is_known_only_as_of_now_is_refused_to_a_replay(store, tool):
    error = await refused(desk(store), tool, as_of=AT - minutes(7))
    assert error == "known only as of now, 2026-11-20T12:00:00Z, not as of 2026-11-20T11:53:00Z"


async def test_a_venue_that_is_down_is_an_error_and_our_own_data_is_still_told_now(store):
    class Down(Market):
        async def now(self) -> datetime:
            raise VenueUnavailable("ask the clock: no answer")

    assert await refused(desk(store, Down()), "order_book") == "ask the clock: no answer"
    assert await refused(desk(store, Down()), "position") == "ask the clock: no answer"
    assert (await ask(desk(store, Down(), now=True), "position"))["position"] is None


# --- the record of the calls


def a_call(number: int, **fields: object) -> ToolCall:
    values = {
        "trace_id": f"t{number}", "tool": "candles", "parameters": {"symbol": BTC, "limit": "5"},
        "response": '{"rows":[]}', "bytes": 11, "latency_ms": 1.25,
    }  # fmt: skip
    return ToolCall(**(values | fields))


def test_tool_calls_come_back_in_order_as_they_were(store):
    calls = (
        a_call(0, truncated=True, flags=("clamped:candles", "truncated")),
        a_call(1, error="timeout", late=True, response="", bytes=0),
        a_call(2, tool="x", parameters={}, error="unknown tool"),
    )
    decided = a_decision().model_copy(update={"tool_calls": calls, "flags": ("truncated",)})
    store.cycles.save(a_full_cycle(decided=decided), AT)
    assert store.cycles.get("c1").decided.tool_calls == calls
    assert store.cycles.get("c1").decided.flags == ("truncated",)


def test_tool_calls_are_those_of_the_decision_that_counts(store):
    first = a_hold().model_copy(update={"tool_calls": (a_call(0),)})
    store.cycles.begin(a_cycle(), AT)
    store.decisions.keep("c1", first, AT)
    store.decisions.keep("c1", first.model_copy(update={"tool_calls": (a_call(1), a_call(2))}), AT)
    store.cycles.save(a_cycle(decided=first), AT)
    assert store.decisions.of(["c1"])["c1"].tool_calls == (a_call(0),)


# --- the venue


@pytest.mark.slow
async def test_book_trades_and_funding_come_from_the_venue_as_of_now(store):
    start = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
    with running_sandbox(symbols=(BTC,), start=start, stepped=True, seed=3) as url:
        chosen = load(sandbox_url=url)
        market = public_market(chosen)
        one = desk(store, market)
        try:
            book, trades, funding = await asyncio.gather(
                ask(one, "order_book", start, limit=3), ask(one, "trades", start, limit=5),
                ask(one, "funding", start, limit=4),
            )  # fmt: skip
            advance(url, 600)
            late = await refused(one, "trades", start)
        finally:
            await market.close()
    assert book["observed_at"] == "2025-03-10T12:00:00Z"
    bids, _, asks, _ = zip(*book["rows"], strict=True)
    assert len(bids) == 3
    assert bids[0] > bids[1] > bids[2]
    assert asks[2] > asks[1] > asks[0] > bids[0]
    at, side, price, size = trades["rows"][0]
    assert [row[0] for row in trades["rows"]] == sorted((row[0] for row in trades["rows"]), reverse=True)
    assert at <= "2025-03-10T12:00:00Z"
    assert side in ("buy", "sell")
    assert 0.99 * bids[0] < price < 1.01 * asks[0]
    assert size > 0
    assert funding["rows"][0] == ["2025-03-10T16:00:00Z", 0.0001]
    assert [row[0] for row in funding["rows"][1:]] == [
        "2025-03-10T08:00:00Z", "2025-03-10T00:00:00Z", "2025-03-09T16:00:00Z",
    ]  # fmt: skip
    assert "known only as of now" in late


def test_the_public_client_has_no_key_whatever_the_profile(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_VENUE_KEY", "abcdefgh")
    monkeypatch.setenv("QUARTERDECK_VENUE_SECRET", "abcdefgh")
    for profile in ("paper", "testnet", "live"):
        market = public_market(load(profile=profile, live_account="1"))
        assert not market.client.apiKey
        assert market.name == f"bybit-{profile}"
        assert not hasattr(market, "submit")
