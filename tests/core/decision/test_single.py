"""`llm:single`, `hold` and `recorded`: every question gets a decision, whatever came back."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from prompt_sample import PROMPT

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.baselines import HoldDecider, RecordedDecider
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.errors import InputError
from tasks.core.market import lean
from tasks.core.types.decision import Hold, ModelCall, OpenLong
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Constraints, Snapshot

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
OPEN = '{"action":"OPEN_LONG","size_pct":20,"stop_atr":1.5,"tp_atr":3,"confidence":0.6}'


class ScriptedModel:
    """Answers each symbol with a call of its own."""

    def __init__(self, **calls: ModelCall) -> None:
        self.calls, self.asked = calls, []

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, schema, *_ = request
        self.asked.append((role, prompt, messages, schema))
        return self.calls[messages[1]["content"][:3]]


def question(pair: str = BTC) -> Question:
    limits = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD", "OPEN_LONG"))
    reasons = ("TrendFlip(1h)", "Calendar()")
    return Question(snapshot=Snapshot(pair=pair, as_of=AT, reason_for_call=reasons, timeframes={}, constraints=limits))


def call(raw: str = OPEN, error: str = "", attempts: tuple[str, ...] = ()) -> ModelCall:
    return ModelCall(
        role="single", model="openai/x", raw_reply=raw, error=error, attempts=attempts,
        latency_ms=12.5, cost_usd=Decimal("0.01"), tokens_in=100, tokens_out=20,
    )  # fmt: skip


async def decide(answer: ModelCall):
    [decided] = await SingleDecider(ScriptedModel(BTC=answer), {"single": PROMPT}, Means()).decide([question()])
    return decided


async def test_a_good_reply_is_the_primary_rung_and_names_its_model():
    decided = await decide(call())
    assert isinstance(decided.decision, OpenLong)
    assert (decided.decision.symbol, decided.decision.source) == (BTC, "llm:openai/x")
    assert (decided.source, decided.rung, decided.errors) == ("llm:openai/x", "primary", ())
    assert (decided.tokens, decided.cost_usd, decided.latency_ms) == (120, Decimal("0.01"), 12.5)
    assert decided.calls == (call(),)


@pytest.mark.parametrize("changed", [{}, {"symbol": BTC, "reasoning": "mine", "comment": "", "size_pct": 15.0}])
async def test_the_prompts_own_example_is_nobodys_decision(changed):
    prompt = load_prompt("single", "v001")
    example = json.loads(re.search(r"\{.reasoning.*\}", prompt.system, re.DOTALL)[0])

    async def decide(raw):
        decider = SingleDecider(
            ScriptedModel(**{f"Pair: {BTC}"[:3]: call(json.dumps(raw))}), {"single": prompt}, Means()
        )
        return (await decider.decide([question()]))[0]

    decided = await decide(example | changed)
    assert decided.decision.action == "HOLD"
    assert decided.errors == ("ECHO: an example of single/v001, number by number",)
    other = await decide(example | {"confidence": 0.63})
    assert other.decision.action == "OPEN_LONG"
    closes = await decide(example | {"action": "CLOSE_ALL"})
    assert closes.decision.action == "CLOSE_ALL"


async def test_an_older_strategys_replies_are_read_as_they_stood():
    percent = OPEN.replace("0.6", "60")
    line = json.dumps({"as_of": AT.isoformat(), "symbol": BTC, "reply": percent})
    decider = SingleDecider(ScriptedModel(BTC=call(percent)), {"single": PROMPT}, Means(literal=True))
    for old in (await decider.decide([question()]), await RecordedDecider([line], literal=True).decide([question()])):
        assert old[0].errors[0].startswith("invalid:confidence")
    [new] = await RecordedDecider([line]).decide([question()])
    assert new.decision.read_as == ("confidence 60 as 0.6",)


async def test_a_reply_after_failed_attempts_is_the_failover_rung():
    decided = await decide(call(attempts=("openai/a: timeout",)))
    assert (decided.rung, decided.errors) == ("failover", ("openai/a: timeout",))


@pytest.mark.parametrize(
    ("answer", "errors"),
    [
        (call(raw="I would hold."), ("no_json: I would hold.",)),
        (call(raw=f"[{OPEN}]"), ("array: a list where one object was asked for",)),
        (call(raw="", error="timeout"), ("timeout",)),
        (call(raw=OPEN, error="too_long", attempts=("a: too_long",)), ("too_long",)),
        (call(raw="x", attempts=("a: timeout",)), ("a: timeout", "no_json: x")),
    ],
)
async def test_a_reply_that_cannot_be_used_holds_and_is_kept(answer, errors):
    decided = await decide(answer)
    assert isinstance(decided.decision, Hold)
    assert (decided.source, decided.rung, decided.errors) == ("hold", "hold", errors)
    assert decided.calls == (answer,)


async def test_each_brief_gets_its_own_answer_in_order_with_the_prompt_filled_in():
    model = ScriptedModel(BTC=call(), ETH=call(raw='{"action":"HOLD"}'))
    first, second = await SingleDecider(model, {"single": PROMPT}, Means()).decide([question(ETH), question(BTC)])
    assert (first.decision.symbol, first.decision.action) == (ETH, "HOLD")
    assert (second.decision.symbol, second.decision.action) == (BTC, "OPEN_LONG")
    role, ref, messages, schema = model.asked[1]
    assert (role, ref, schema["type"]) == ("single", PROMPT.ref, "object")
    assert messages[0] == {"role": "system", "content": "You trade."}
    expected = f"{BTC}|2026-01-02T03:05:00+00:00|TrendFlip(1h); Calendar()|HOLD, OPEN_LONG|0.75|1.5|"
    assert messages[1]["content"] == expected + lean.encode_first(question(BTC).snapshot)


def test_a_prompt_with_a_variable_nobody_fills_is_refused_before_any_call():
    prompt = PROMPT.model_copy(update={"variables": ("pair", "news")})
    with pytest.raises(InputError, match="unknown variable news"):
        SingleDecider(ScriptedModel(), {"single": prompt}, Means())


async def test_hold_holds():
    [decided] = await HoldDecider().decide([question()])
    assert (decided.decision.action, decided.decision.symbol, decided.rung) == ("HOLD", BTC, "primary")


def line(reply: str, symbol: str = BTC, as_of: str = "2026-01-02T03:05:00Z") -> str:
    return json.dumps({"as_of": as_of, "symbol": symbol, "reply": reply})


async def test_a_recorded_reply_goes_through_the_same_parser():
    lines = [line(f"```json\n{OPEN}\n```"), "", line("nonsense", ETH, "2026-01-02T04:05:00+01:00")]
    opened, bad = await RecordedDecider(lines).decide([question(BTC), question(ETH)])
    assert (opened.decision.action, opened.source, opened.rung) == ("OPEN_LONG", "recorded", "primary")
    assert (bad.decision.action, bad.rung, bad.errors) == ("HOLD", "hold", ("no_json: nonsense",))
    assert bad.calls[0].raw_reply == "nonsense"


async def test_a_decision_point_without_a_record_holds():
    [decided] = await RecordedDecider([line(OPEN, as_of="2026-01-02T03:10:00Z")]).decide([question()])
    assert (decided.decision.action, decided.errors) == ("HOLD", ("no_record",))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "line 1"),
        (['{"as_of":"2026-01-02T03:05:00Z","symbol":"x"}'], "line 1: reply: Field required"),
        ([line(OPEN, as_of="2026-01-02T03:05:00")], "line 1: as_of: .*timezone"),
        ([line(OPEN), line(OPEN)], "line 2: a second reply for BTC/USDT:USDT"),
    ],
)
def test_a_malformed_recording_is_refused_with_its_line(lines, said):
    with pytest.raises(InputError, match=said):
        RecordedDecider(lines)
