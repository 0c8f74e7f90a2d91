"""The tools and the planner: what may be asked, what is cut, dropped and refused, and what the decision is made on."""

import asyncio
import itertools
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stepped_time import SteppedPolicy

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.decider import within_deadline
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.planner import PLAN_SCHEMA, ToolsDecider
from tasks.core.decision.llm.tools import (
    TOOLS,
    Listed,
    Meter,
    Stored,
    ToolDesk,
    ToolLimits,
    checked,
    described,
    fit,
    shown,
)  # fmt: skip
from tasks.core.errors import DataError
from tasks.core.market import lean
from tasks.core.market.bars import WORKING_TIMEFRAMES
from tasks.core.types.decision import ModelCall
from tasks.core.types.limits import ToolRates
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Constraints, PositionView, Snapshot, TimeframeView

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
LIMITS = ToolLimits(symbols=(BTC, ETH), venue="bybit", response_bytes=300, deadline_s=30)
OPEN = '{"action":"OPEN_LONG","size_pct":20,"stop_atr":1.5,"tp_atr":3,"confidence":0.6}'
CANDLES = {"tool": "candles", "symbol": BTC, "timeframe": "1h", "limit": 5}


@pytest.fixture(scope="module")
def event_loop_policy() -> SteppedPolicy:
    """No test here takes the time it speaks of."""
    return SteppedPolicy()


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Shelf:
    """Answers each tool with `rows` numbered rows; `slow` seconds late, or with an error."""

    def __init__(self, rows: int = 3, slow: float = 0, error: str = "") -> None:
        self.rows, self.slow, self.error, self.ran = rows, slow, error, []

    async def run(self, tool, parameters, as_of):
        self.ran.append((tool, parameters, as_of))
        await asyncio.sleep(self.slow)
        if self.error:
            raise DataError(self.error)
        return json.dumps({"rows": [[number, "x" * 20] for number in range(self.rows)], "columns": ["n", "x"]})


def desk(shelf=None, clock=None, **rates: int) -> ToolDesk:
    return ToolDesk(shelf or Shelf(), LIMITS, Meter(ToolRates(**rates), clock or Clock()))


async def answer(asked, one=None):
    return await (one or desk()).answer(asked, AT, "trace", 5)


# --- one request


async def test_an_allowed_request_is_answered_and_recorded():
    shelf = Shelf()
    call = await answer({**CANDLES, "venue": None, "until": None}, desk(shelf))
    assert (call.tool, call.error, call.flags, call.truncated, call.trace_id) == ("candles", "", (), False, "trace")
    assert call.parameters == {"symbol": BTC, "timeframe": "1h", "limit": "5"}
    assert json.loads(call.response)["columns"] == ["n", "x"]
    assert call.bytes == len(call.response.encode())
    [(tool, parameters, as_of)] = shelf.ran
    assert (tool, parameters.limit, as_of) == ("candles", 5, AT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tool": "rm -rf"}, "unknown tool 'rm -rf'; there are candles, order_book"),
        ({"tool": ["candles"]}, "unknown tool"),
        ({"tool": None}, "unknown tool"),
        ({"symbol": "DOGE/USDT:USDT"}, "symbol 'DOGE/USDT:USDT' is not allowed; allowed: BTC/USDT:USDT, ETH/USDT:USDT"),
        ({"symbol": None}, "symbol: Field required"),
        ({"venue": "binance"}, "venue 'binance' is not allowed; allowed: bybit"),
        ({"timeframe": "1m"}, "timeframe: Input should be"),
        ({"timeframe": None}, "timeframe: Field required"),
        ({"limit": 0}, "limit: Input should be greater than or equal to 1"),
        ({"limit": Decimal("2.5")}, "limit: "),
        ({"limit": "many"}, "limit: "),
        ({"until": (AT + timedelta(seconds=1)).isoformat()}, "at most 1100 days before as_of, not after"),
        ({"until": "0001-01-01T00:00:00Z"}, "at most 1100 days before as_of"),
        ({"until": "2026-01-02T03:00:00"}, "no timezone"),
        ({"until": "9999-12-31T23:59:59-05:00"}, "until: "),
        ({"side": "buy"}, "side: Extra inputs are not permitted"),
        ({"tool": "position"}, "Extra inputs are not permitted"),
    ],
)
async def test_what_is_not_allowed_is_refused_with_an_error_and_never_runs(change, said):
    shelf = Shelf()
    call = await answer(CANDLES | change, desk(shelf))
    assert said in call.error
    assert (shelf.ran, call.response) == ([], "")
    assert json.loads(shown(call))["error"] == call.error


async def test_only_what_had_happened_by_as_of_may_be_asked():
    for until in (AT, AT - timedelta(hours=1)):
        assert (await answer(CANDLES | {"until": until.isoformat()})).error == ""


@pytest.mark.parametrize("tool", [tool for tool, cls in TOOLS.items() if issubclass(cls, Listed)])
async def test_a_limit_above_the_most_is_clamped_and_flagged(tool):
    shelf, most = Shelf(), TOOLS[tool].most
    asked = {"tool": tool, "symbol": BTC} | ({"timeframe": "1h"} if tool == "candles" else {})
    exact = await answer(asked | {"limit": most}, desk(shelf))
    more = await answer(asked | {"limit": Decimal("1E+20")}, desk(shelf))
    assert [parameters.limit for _, parameters, _ in shelf.ran] == [most, most]
    assert (exact.flags, more.flags) == ((), (f"clamped:{tool}",))
    assert more.parameters["limit"] == str(most)


async def test_a_long_answer_is_cut_to_whole_rows_within_the_budget_and_flagged():
    call = await answer(CANDLES, desk(Shelf(rows=50)))
    assert (call.truncated, call.flags) == (True, ("truncated",))
    assert 250 < call.bytes <= 300
    rows = json.loads(call.response)["rows"]
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert json.loads(shown(call))["flags"] == ["truncated"]


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(0, 600))
def test_cutting_never_exceeds_the_budget_and_leaves_json(rows, budget):
    text, cut = fit(json.dumps({"rows": rows, "a": 1}, ensure_ascii=False), budget)
    assert len(text.encode("utf-8", "surrogatepass")) <= budget
    if text:
        assert json.loads(text)["rows"] == rows[: len(json.loads(text)["rows"])]
    assert cut or json.loads(text)["rows"] == rows


async def test_an_answer_that_cannot_be_cut_is_an_error():
    call = await answer(CANDLES, ToolDesk(Shelf(), LIMITS.model_copy(update={"response_bytes": 10}), desk().meter))
    assert (call.response, call.truncated) == ("", True)
    assert "does not fit into 10 bytes" in call.error


async def test_calls_over_the_rate_are_dropped_recorded_and_allowed_again_a_minute_later():
    shelf, clock = Shelf(), Clock()
    one = desk(shelf, clock, candles=2)
    calls = [await answer(CANDLES, one) for _ in range(3)]
    assert [call.flags for call in calls] == [(), (), ("dropped:candles",)]
    assert calls[2].error == "dropped: at most 2 candles calls a minute"
    assert (await answer({"tool": "digest", "symbol": BTC}, one)).error == ""
    clock.time = 60.0
    assert (await answer(CANDLES, one)).error == ""
    assert len(shelf.ran) == 4


async def test_a_tool_that_fails_or_hangs_is_answered_with_its_error():
    failed = await answer(CANDLES, desk(Shelf(error="the venue is down \ud800")))
    assert failed.error.startswith("the venue is down")
    failed.model_dump_json()
    late = await desk(Shelf(slow=60)).answer(CANDLES, AT, "trace", 0.02)
    assert late.error == "timeout"


async def test_work_that_ignores_its_cancellation_does_not_hold_anyone_up():
    async def stubborn():
        while True:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                if next(count):
                    raise

    count = itertools.count()
    assert await within_deadline(stubborn(), 0.02) is None


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text()))))
def test_whatever_is_asked_gets_an_answer_that_can_be_stored(asked):
    limits = LIMITS.model_copy(update={"symbols": ()})
    call = asyncio.run(ToolDesk(Shelf(), limits, desk().meter).answer(asked | {"symbol": "\ud800\0"}, AT, "t", 1))
    assert call.error
    call.model_dump_json().encode()


def test_every_working_timeframe_may_be_asked_and_every_tool_is_described():
    assert get_args(Stored) == WORKING_TIMEFRAMES
    text = described(LIMITS)
    for tool, cls in TOOLS.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"- {tool}(")]
        assert all(name in line for name in cls.model_fields)
        assert not issubclass(cls, Listed) or f"limit 1-{cls.most}" in line
    assert set(TOOLS) == set(ToolRates.model_fields)


def test_the_wire_schema_is_strict_and_names_every_parameter():
    schema = PLAN_SCHEMA
    items = schema["properties"]["requests"]["items"]
    assert schema["additionalProperties"] is items["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    named = {name for cls in TOOLS.values() for name in cls.model_fields}
    assert set(items["properties"]) == named | {"tool"}
    assert items["required"] == list(items["properties"])


def test_a_model_that_asks_with_nothing_but_the_wire_schema_is_understood():
    wire = dict.fromkeys(PLAN_SCHEMA["properties"]["requests"]["items"]["properties"])
    for tool, cls in TOOLS.items():
        needed = {"tool": tool, "symbol": BTC} | ({"timeframe": "4h"} if tool == "candles" else {})
        assert isinstance(checked(wire | needed, LIMITS, AT), cls)


# --- the planner


class Script:
    """Answers with the next reply; keeps what was asked."""

    def __init__(self, *replies: str | dict | ModelCall, slow: float = 0) -> None:
        self.replies, self.asked, self.slow = list(replies), [], slow

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, schema, *_ = request
        self.asked.append((role, prompt.name, messages, schema))
        reply = self.replies.pop(0)
        if isinstance(reply, float):
            await asyncio.sleep(reply)
            reply = {"action": "HOLD"}
        if isinstance(reply, ModelCall):
            return reply
        raw = reply if isinstance(reply, str) else json.dumps(reply)
        spent = {"cost_usd": Decimal("0.01"), "tokens_in": 100, "tokens_out": 10}
        return ModelCall(role=role, model="openai/x", prompt=prompt, messages=tuple(messages), raw_reply=raw, **spent)


def question() -> Question:
    limits = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD", "OPEN_LONG"))
    views = {"15m": TimeframeView(close=100.5, rsi=61.8, atr=0.7, atr_pct=0.69)}
    held = PositionView(side="long", size_pct=12.5)
    return Question(snapshot=Snapshot(pair=BTC, as_of=AT, timeframes=views, constraints=limits, position=held))


def plan(*requests: dict, done: bool = False) -> dict:
    return {"reasoning": "to see", "requests": list(requests), "done": done}


async def decide(model: Script, shelf: Shelf | None = None, limits: ToolLimits = LIMITS, **rates: int):
    prompts = {role: load_prompt(role) for role in ("planner", "decision", "single")}
    loop = asyncio.get_running_loop()
    meter, shelf = Meter(ToolRates(**rates), loop.time), shelf or Shelf()
    decider = ToolsDecider(model, prompts, Means(tools=lambda b: ToolDesk(shelf, limits, meter)))
    [decided] = await decider.decide([question()])
    return decided


def said(asked) -> str:
    return "\n".join(message["content"] for message in asked[2])


async def test_the_planner_asks_sees_the_answers_and_the_model_decides_on_them():
    model = Script(plan(CANDLES), plan(done=True), OPEN)
    decided = await decide(model)
    assert (decided.decision.action, decided.rung, decided.source) == ("OPEN_LONG", "primary", "llm:openai/x")
    assert [call.role for call in decided.calls] == ["planner", "planner", "decision"]
    assert [call.tool for call in decided.tool_calls] == ["candles"]
    assert (decided.cost_usd, decided.tokens, decided.errors, decided.flags) == (Decimal("0.03"), 330, (), ())
    first, second, last = map(said, model.asked)
    assert lean.encode_first(question().snapshot) in first
    assert decided.tool_calls[0].response in second
    assert decided.tool_calls[0].response in last
    assert model.asked[0][3] == PLAN_SCHEMA
    assert "action" in model.asked[2][3]["properties"]


async def test_the_decision_prompt_has_no_summary_but_our_state_and_says_what_supersedes_what():
    model = Script(plan(CANDLES, done=True), '{"action":"HOLD"}')
    await decide(model)
    role, name, _, _ = model.asked[-1]
    text = said(model.asked[-1])
    assert (role, name) == ("decision", "decision")
    assert lean.encode(question().snapshot) not in text
    assert "61.8" not in text
    assert "they supersede the snapshot" in text
    assert '"side":"long"' in text
    assert '"atr_15m":0.7' in text


async def test_done_ends_the_asking_after_its_requests():
    model = Script(plan(CANDLES, done=True), '{"action":"HOLD"}')
    decided = await decide(model)
    assert [call.role for call in decided.calls] == ["planner", "decision"]
    assert len(decided.tool_calls) == 1


async def test_a_planner_that_asks_for_nothing_leaves_a_decision_on_the_snapshot():
    model = Script(plan(), OPEN)
    decided = await decide(model)
    assert [asked[1] for asked in model.asked] == ["planner", "single"]
    assert model.asked[1][0] == "decision"
    assert lean.encode(question().snapshot) in said(model.asked[1])
    assert (decided.rung, decided.tool_calls) == ("primary", ())


async def test_refusals_are_seen_in_the_next_prompt_and_in_the_decision():
    model = Script(plan(CANDLES | {"symbol": "DOGE/USDT:USDT"}), plan({"tool": "guess"}, done=True), OPEN)
    decided = await decide(model)
    assert "symbol 'DOGE/USDT:USDT' is not allowed" in said(model.asked[1])
    assert lean.encode(question().snapshot) in said(model.asked[2])
    assert "unknown tool 'guess'" in said(model.asked[2])
    assert [bool(call.error) for call in decided.tool_calls] == [True, True]


async def test_rounds_are_limited():
    model = Script(*[plan(CANDLES)] * 2, OPEN)
    decided = await decide(model, limits=LIMITS.model_copy(update={"rounds": 2}))
    assert [call.role for call in decided.calls] == ["planner", "planner", "decision"]
    assert "Rounds left: 1. Calls left: 5." in said(model.asked[1])


async def test_tool_calls_are_limited_over_all_rounds():
    model = Script(plan(*[CANDLES] * 4), plan(*[CANDLES] * 4, done=True), OPEN)
    shelf = Shelf()
    decided = await decide(model, shelf)
    assert len(shelf.ran) == 6
    assert [call.error for call in decided.tool_calls[6:]] == ["at most 6 tool calls per decision"] * 2


async def test_flags_of_every_call_reach_the_decision_once():
    many = {**CANDLES, "limit": 10_000}
    decided = await decide(Script(plan(many, many, CANDLES, done=True), OPEN), Shelf(rows=50), candles=2)
    assert decided.flags == ("clamped:candles", "truncated", "dropped:candles")
    assert [call.truncated for call in decided.tool_calls] == [True, True, False]
    assert [call.dropped for call in decided.tool_calls] == [False, False, True]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("Let me think.", "planner: no_json"),
        ('{"requests":[{"tool":"candles"', "planner: truncated_json"),
        (OPEN, "planner: invalid: unknown field action"),
        ({"requests": "candles", "done": False}, "planner: invalid:requests"),
        ({"requests": [CANDLES] * 21, "done": False}, "planner: invalid:requests"),
        (ModelCall(role="planner", model="m", error="rate_limited"), "planner: rate_limited"),
    ],
)
async def test_an_unusable_plan_costs_the_data_not_the_decision(reply, error):
    decided = await decide(Script(reply, OPEN))
    assert decided.decision.action == "OPEN_LONG"
    assert decided.errors[0].startswith(error)
    assert decided.tool_calls == ()


@pytest.mark.parametrize("reply", ["I would wait.", '{"action":"OPEN_LO', f"[{OPEN}]", '{"signal":"buy"}'])
async def test_an_unusable_decision_holds_and_keeps_every_call(reply):
    decided = await decide(Script(plan(CANDLES, done=True), reply))
    assert (decided.decision.action, decided.rung) == ("HOLD", "hold")
    assert decided.errors
    assert [call.role for call in decided.calls] == ["planner", "decision"]
    assert decided.calls[-1].raw_reply == reply
    assert len(decided.tool_calls) == 1


async def test_a_slow_planner_or_tool_may_use_half_of_the_deadline():
    limits = LIMITS.model_copy(update={"deadline_s": 0.2})
    late_plan = await decide(Script(9.0, OPEN), limits=limits)
    assert (late_plan.decision.action, late_plan.flags) == ("OPEN_LONG", ("late:planner",))
    assert late_plan.errors == ("planner: timeout",)
    assert late_plan.calls[0].messages
    late_tool = await decide(Script(plan(CANDLES), OPEN), Shelf(slow=9), limits)
    assert (late_tool.decision.action, late_tool.flags) == ("OPEN_LONG", ("late:planner",))
    assert late_tool.tool_calls[0].error == "timeout"


async def test_everything_ends_at_the_deadline_with_a_hold():
    decided = await decide(Script(90.0, 90.0), limits=LIMITS.model_copy(update={"deadline_s": 0.2}))
    assert (decided.decision.action, decided.rung, decided.errors) == ("HOLD", "hold", ("planner: timeout", "timeout"))


async def test_what_takes_long_once_is_prepared_before_the_deadline_starts():
    async def prepare():
        await asyncio.sleep(0.15)

    prompts = {role: load_prompt(role) for role in ("planner", "decision", "single")}
    limits = LIMITS.model_copy(update={"deadline_s": 0.2})
    meter = Meter(ToolRates(), asyncio.get_running_loop().time)
    model = Script(plan(CANDLES, done=True), OPEN)
    decider = ToolsDecider(model, prompts, Means(60, prepare, lambda b: ToolDesk(Shelf(slow=0.05), limits, meter)))
    [decided] = await decider.decide([question()])
    assert decided.tool_calls[0].error == ""
