"""`llm:portfolio`: target positions in one reply become the same actions, and what does not add up holds."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from instrument_cases import linear

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.actions import parse_as, wire_fields
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.portfolio import SCHEMA, PortfolioDecider, PortfolioReply, Target, read_targets, to_action
from tasks.core.decision.llm.prompt import parse_prompt
from tasks.core.errors import InputError
from tasks.core.market import lean
from tasks.core.market.market import Market
from tasks.core.trading.guard import guard
from tasks.core.trading.question import question as put
from tasks.core.types.decision import Answer, Decision, ModelCall
from tasks.core.types.limits import Limits
from tasks.core.types.portfolio import AccountState, HeldPosition, Position
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Constraints, OrderBookView, PositionView, Snapshot, TimeframeView
from tasks.core.types.strategy import Strategy

BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
ALL = ("HOLD", "OPEN_LONG", "OPEN_SHORT", "ADD", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL")
PROMPT = load_prompt("portfolio", "v001")


def question(
    pair: str = BTC, held: float | None = 0.0, last: float | None = 64_123.45, equity: float | None = 10_000.0
) -> Question:
    side = "flat" if held == 0 else "long" if held is None or held > 0 else "short"
    close = None if last is None else float(f"{last:.6g}")  # a snapshot rounds
    snapshot = Snapshot(
        pair=pair, as_of=AT, reason_for_call=(f"TrendFlip({pair[:3]})",), position=PositionView(side=side),
        timeframes={
            "5m": TimeframeView(close=close), "15m": TimeframeView(close=close, atr=200.0, rsi=50.0),
            "1h": TimeframeView(ma_stack="50>20>200"),
        },
        constraints=Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=ALL),
    )  # fmt: skip
    return Question(snapshot=snapshot, equity=equity, last_price=last, quantity=held)


def entry(instrument: str = BTC, action: str = "buy", qty: object = 0.03, **more: object) -> dict[str, object]:
    told = {"instrument": instrument, "action": action, "target_qty": qty, "stop_atr": 1.5, "tp_atr": 3}
    return told | {"confidence": 0.7, "rationale": "trend up, pullback held"} | more


class OneReply:
    """Answers with one text, and counts how often it was asked."""

    def __init__(self, raw: str, **more: object) -> None:
        self.raw, self.more, self.asked = raw, more, []

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, schema, *_ = request
        self.asked.append((role, prompt, messages, schema))
        told = {
            "raw_reply": self.raw, "latency_ms": 12.5, "cost_usd": Decimal("0.02"), "tokens_in": 900, "tokens_out": 80,
            "prompt": prompt, "messages": tuple(messages),
        }  # fmt: skip
        return ModelCall(role=role, model="openai/x", **(told | self.more))


def decide(reply: object, *questions: Question, **more: object) -> list[Answer]:
    raw = reply if isinstance(reply, str) else json.dumps({"decisions": reply})
    decider = PortfolioDecider(OneReply(raw, **more), {"portfolio": PROMPT}, Means())
    return asyncio.run(decider.decide(questions or [question()]))


def decision(reply: dict[str, object], held: float = 0.0) -> Decision:
    [decided] = decide([reply], question(held=held))
    assert decided.rung == "primary", decided.errors
    return decided.decision


def why(reply: dict[str, object], one: Question | None = None) -> str:
    [decided] = decide([reply], one or question())
    assert (decided.decision.action, decided.rung, decided.source) == ("HOLD", "hold", "hold")
    assert not decided.calls[0].error
    return decided.errors[0]


@pytest.mark.parametrize(
    ("held", "action", "target", "expected"),
    [
        (0.0, "buy", 0.03, "OPEN_LONG"),
        (0.0, "sell", -0.03, "OPEN_SHORT"),
        (0.02, "buy", 0.03, "ADD"),
        (-0.02, "sell", -0.03, "ADD"),
        (0.04, "sell", 0.03, "TRIM"),
        (-0.04, "buy", -0.03, "TRIM"),
        (0.04, "sell", 0, "CLOSE_ALL"),
        (-0.04, "flat", 0, "CLOSE_ALL"),
        (0.04, "flat", None, "CLOSE_ALL"),
        (0.04, "flat", 0.04, "CLOSE_ALL"),
        (0.04, "sell", -0.03, "CLOSE_ALL"),
        (-0.04, "buy", 0.03, "CLOSE_ALL"),
        (0.03, "buy", 0.03, "HOLD"),
        (0.0, "flat", None, "HOLD"),
        (0.04, "noop", None, "HOLD"),
        (0.0, "noop", 5, "HOLD"),
    ],
)
def test_target_minus_current_becomes_the_action(held, action, target, expected):
    made = decision(entry(action=action, qty=target), held)
    assert (made.action, made.symbol, made.source) == (expected, BTC, "llm:openai/x")
    assert (made.confidence, made.comment) == (Decimal("0.7"), made.comment)
    assert made.reasoning.startswith("trend up, pullback held")


def test_an_opening_is_the_target_s_notional_as_a_share_of_equity():
    made = decision(entry(qty=0.03))
    assert float(made.size_pct) == pytest.approx(0.03 * 64_123.45 / 10_000 * 100, rel=1e-14)
    assert (made.stop_atr, made.tp_atr) == (Decimal("1.5"), Decimal(3))


def test_an_addition_is_only_the_difference_and_a_trim_its_share_of_the_position():
    assert float(decision(entry(qty=0.05), 0.02).size_pct) == pytest.approx(0.03 * 64_123.45 / 100, rel=1e-14)
    assert decision(entry(action="sell", qty=0.01), 0.04).size_pct == 75
    assert decision(entry(action="buy", qty=-0.03), -0.04).size_pct == 25


def test_going_through_zero_closes_and_says_that_the_opening_waits():
    made = decision(entry(action="sell", qty=-0.03), 0.04)
    assert made.reasoning == (
        "trend up, pullback held [through zero to -0.03: closes now, the opening waits for the next cycle]"
    )
    assert made.comment.startswith("through zero to -0.03")


@pytest.mark.parametrize(("held", "action", "target"), [(0.0, "sell", 0.5), (0.0, "buy", -0.5), (0.2, "sell", 0.5)])
def test_a_word_against_its_own_target_adds_no_risk(held, action, target):
    assert why(entry(action=action, qty=target), question(held=held)).startswith(f"contradiction: {action} from")


def test_a_target_that_reduces_is_followed_whatever_the_word():
    assert decision(entry(action="buy", qty=0.03), 0.04).action == "TRIM"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (entry(qty=None), "missing:target_qty"),
        (entry(stop_atr=None), "invalid:stop_atr"),
        (entry(tp_atr=0), "invalid:tp_atr"),
        (entry(stop_atr=-1), "invalid:stop_atr"),
        (entry(confidence=1.5), "ambiguous:confidence"),
        (entry(qty=1_000_000), "invalid:size_pct"),
        (entry(qty="lots"), "invalid:target_qty: 'lots' is not a number"),
        (entry(qty=[0.03]), "invalid:target_qty"),
        (entry(action="hold"), "invalid:action"),
        (entry(action=None), "missing:action"),
        (entry(leverage=10), "invalid: unknown field leverage"),
        (entry(rationale=[[[]]]), "invalid:rationale"),
    ],
)
def test_an_entry_that_cannot_be_used_holds_its_instrument_and_says_why(reply, said):
    assert why(reply).startswith(said)


def test_a_confidence_is_read_as_it_is_meant_and_the_record_says_so():
    percent = decision(entry(confidence=70))
    assert (percent.confidence, percent.read_as) == (Decimal("0.7"), ("confidence 70 as 0.7",))
    missing = decision(entry(confidence=None))
    assert (missing.confidence, missing.read_as) == (Decimal("0.5"), ("confidence missing as 0.5",))
    assert why(entry(read_as=["x"])).startswith("invalid: unknown field read_as")


def test_an_order_that_equals_the_prompts_own_example_is_an_echo_where_it_adds_risk():
    example = {"qty": 0.025, "stop_atr": 1.5, "tp_atr": 3, "confidence": 0.62}
    assert why(entry(**example)).startswith("ECHO: an example of portfolio/v001")
    assert why(entry(ETH, **example), question(ETH)).startswith("ECHO")  # whatever it is about
    assert decision(entry(**example | {"confidence": 0.63})).action == "OPEN_LONG"
    assert decision(entry(**example), 0.05).action == "TRIM"  # what reduces risk is never an echo


def test_a_missing_number_of_the_account_is_never_taken_for_zero():
    assert why(entry(), question(equity=None)).startswith("unknown_size")
    assert why(entry(), question(equity=0.0)).startswith("unknown_size")
    assert why(entry(), question(equity=float("nan"))).startswith("unknown_size")
    assert why(entry(), question(last=None)).startswith("unknown_size")
    assert why(entry(), question(held=None)).startswith("unknown_quantity")
    assert decide([entry(action="flat", qty=None)], question(held=None))[0].decision.action == "CLOSE_ALL"


def test_a_brief_without_the_unrounded_price_uses_the_snapshot_s_close():
    one = question().model_copy(update={"last_price": None})
    assert float(decide([entry()], one)[0].decision.size_pct) == pytest.approx(0.03 * 64_123.4 / 100, rel=1e-14)


def test_one_call_answers_all_and_is_paid_for_once():
    model = OneReply(json.dumps({"decisions": [entry(ETH, "sell", -1.0), entry(BTC, "noop", None)]}))
    asked = [question(BTC), question(ETH, last=3_000.0), question(SOL, last=150.0)]
    first, second, third = asyncio.run(PortfolioDecider(model, {"portfolio": PROMPT}, Means()).decide(asked))
    assert len(model.asked) == 1
    assert [d.decision.symbol for d in (first, second, third)] == [BTC, ETH, SOL]
    assert [d.decision.action for d in (first, second, third)] == ["HOLD", "OPEN_SHORT", "HOLD"]
    assert [d.flags for d in (first, second, third)] == [
        ("portfolio",), ("shared_call", "portfolio"), ("not_mentioned", "shared_call", "portfolio"),
    ]  # fmt: skip
    assert [d.cost_usd for d in (first, second, third)] == [Decimal("0.02"), 0, 0]
    assert [d.tokens for d in (first, second, third)] == [980, 0, 0]
    assert [len(d.calls) for d in (first, second, third)] == [1, 1, 1]
    assert {(d.calls[0].raw_reply, d.calls[0].prompt) for d in (first, second, third)} == {(model.raw, PROMPT.ref)}
    assert sum(d.calls[0].cost_usd for d in (first, second, third)) == Decimal("0.02")


def test_the_prompt_shows_every_instrument_with_what_is_held_and_the_schema_is_flat():
    model = OneReply("")
    asked = [question(BTC, held=0.04), question(ETH, held=-2.0, last=3_000.0)]
    asyncio.run(PortfolioDecider(model, {"portfolio": PROMPT}, Means()).decide(asked))
    [(role, ref, messages, schema)] = model.asked
    assert (role, ref, schema) == ("portfolio", PROMPT.ref, SCHEMA)
    assert messages[1]["content"].split("\n\n") == [
        "As of: 2026-01-02T03:05:00+00:00\nEquity: 10000.00 (quote currency)\nRisk at the stop: at most 0.75 % of "
        "equity for one trade, 1.5 % for all open risk.",
        f"### {BTC}\nWhy you are asked: TrendFlip(BTC)\nAllowed now: {', '.join(ALL)}\nLast price: 64123.45\n"
        f"Current quantity: 0.04\n{lean.encode_first(asked[0].snapshot)}",
        f"### {ETH}\nWhy you are asked: TrendFlip(ETH)\nAllowed now: {', '.join(ALL)}\nLast price: 3000.0\n"
        f"Current quantity: -2.0\n{lean.encode_first(asked[1].snapshot)}",
    ]


def test_every_object_of_the_schema_is_strict():
    items = SCHEMA["properties"]["decisions"]["items"]
    assert SCHEMA["type"] == items["type"] == "object"
    assert SCHEMA["additionalProperties"] is items["additionalProperties"] is False
    assert SCHEMA["required"] == ["decisions"]
    assert items["required"] == list(items["properties"]) == list(wire_fields(Target))
    assert items["properties"]["action"]["anyOf"][0]["enum"] == ["buy", "sell", "flat", "noop"]
    assert all("null" in str(field.get("type") or field["anyOf"]) for field in items["properties"].values())


def test_an_instrument_nobody_asked_about_is_ignored_and_named():
    reply = [entry("DOGE/USDT"), entry(BTC), entry("\x00\ud800" + "x" * 90)] + [entry(f"X{n}") for n in range(30)]
    [decided] = decide(reply)
    assert decided.decision.action == "OPEN_LONG"
    assert decided.flags[:3] == ("portfolio", "not_asked:DOGE/USDT", "not_asked:\\x00\\ud800" + "x" * 30)
    assert len(decided.flags) == 11
    Answer.model_validate_json(decided.model_dump_json())


def test_a_second_entry_for_an_instrument_holds_it_and_leaves_the_others_alone():
    reply = [entry(BTC), entry(ETH, "buy", 1), entry(BTC, "noop", None)]
    first, second = decide(reply, question(BTC), question(ETH, last=3_000.0))
    assert (first.decision.action, first.errors, first.rung) == ("HOLD", (f"duplicate: {BTC}",), "hold")
    assert (second.decision.action, second.errors, second.rung) == ("OPEN_LONG", (), "primary")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("I would wait.", "no_json"),
        (json.dumps([entry()]), "array"),
        (json.dumps(entry()), "invalid: unknown field instrument"),
        ('{"decisions": {"BTC/USDT:USDT": {}}}', "invalid:decisions"),
        ('{"decisions": [1]}', "invalid:decisions"),
        ('{"decisions": [], "note": "x"}', "invalid: unknown field note"),
        ("{}", "missing:decisions"),
        ('{"decisions": [{"instrument": "BTC/USDT:USDT", "target_qty": 1e999999}]}', "not_finite"),
        ('{"decisions": [{"instrument": "BTC/USDT:USDT", "action": "buy"', "truncated_json"),
        ('{"decisions": [], "decisions": []}', "duplicate_key"),
    ],
)
def test_a_reply_that_cannot_be_used_holds_everything(raw, said):
    both = decide(raw, question(BTC), question(ETH))
    assert [d.decision.action for d in both] == ["HOLD", "HOLD"]
    assert all(d.errors[0].startswith(said) and d.rung == "hold" for d in both)
    assert both[0].calls[0].raw_reply == raw


def test_a_model_that_does_not_answer_holds_everything_and_a_failover_is_labelled():
    timed_out = decide("", question(BTC), question(ETH), error="timeout", attempts=("openai/x: timeout",))
    assert [(d.decision.action, d.errors) for d in timed_out] == [("HOLD", ("timeout",))] * 2
    [second] = decide([entry()], attempts=("openai/a: timeout",))
    assert (second.rung, second.errors, second.decision.action) == ("failover", ("openai/a: timeout",), "OPEN_LONG")


def test_nothing_asked_is_nothing_sent():
    model = OneReply("")
    assert asyncio.run(PortfolioDecider(model, {"portfolio": PROMPT}, Means()).decide([])) == []
    assert not model.asked


def test_a_prompt_with_a_variable_nobody_fills_is_refused_before_any_call():
    text = PROMPT.text.replace("${equity}", "${pair}").replace("equity, ", "pair, ", 1)
    with pytest.raises(InputError, match="unknown variable pair"):
        PortfolioDecider(OneReply(""), {"portfolio": parse_prompt(text, "portfolio/v001")}, Means())


STEP = Decimal("0.001")
steps = st.integers(min_value=-40, max_value=40).map(lambda n: n * STEP)


@given(steps, steps, st.integers(min_value=1_000_000, max_value=9_999_999), st.integers(50_000, 5_000_000))
def test_what_the_guard_sizes_is_target_minus_current_to_the_step(held, wanted, cents, equity):
    """With room for all of it; and nothing but the through-zero case ends elsewhere than at the target."""
    last, equity = Decimal(cents) / 100, Decimal(equity)
    one = question(held=float(held), last=float(last), equity=float(equity))
    word = "buy" if wanted > held else "sell"
    target = Target(
        instrument=BTC, action=word, target_qty=wanted, stop_atr=Decimal(1), tp_atr=Decimal(3), confidence=Decimal(1)
    )
    made = to_action(target, one)
    assert not hasattr(made, "reason"), made
    if wanted == held:
        assert made.action == "HOLD"
        return
    verdict = guard.judge(made, one.snapshot, account(held, last, equity), Strategy(limits=OPEN_LIMITS))
    assert verdict.allowed, verdict.codes
    crossed = held * wanted < 0
    assert verdict.quantity == (abs(held) if crossed else abs(wanted - held))


OPEN_LIMITS = Limits(
    max_trade_risk_pct=Decimal(1), max_total_risk_pct=Decimal(5), max_gross_pct=Decimal(10_000),
    max_net_pct=Decimal(10_000), leverage=Decimal(20), min_confidence=Decimal(0), opens_per_hour=100,
    max_symbol_pct=Decimal(10_000), target_atr_pct=Decimal(100),
)  # fmt: skip


def account(held: Decimal, last: Decimal, equity: Decimal) -> AccountState:
    stop = last - 200 if held > 0 else last + 200
    side = "long" if held > 0 else "short"
    position = HeldPosition(symbol=BTC, side=side, quantity=abs(held), avg_price=last, stop=stop) if held else None
    return AccountState(
        equity=equity, last_price=last, positions=(position,) if position else (),
        instrument=linear(tick=Decimal("0.01"), step=STEP, min_notional=Decimal(0)),
    )  # fmt: skip


def as_entry(value: object) -> str:
    told = {"instrument": BTC, "action": "buy", "target_qty": value, "rationale": value}
    return json.dumps({"decisions": [told]})


anything = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), st.lists)


@given(st.text(max_size=300) | anything.map(as_entry))
def test_no_reply_makes_it_raise(raw):
    [decided] = decide(raw)
    Answer.model_validate_json(decided.model_dump_json())


def test_a_deeply_nested_entry_is_refused_not_raised():
    deep = "[" * 450 + "]" * 450
    raw = f'{{"decisions": [{{"instrument": "{BTC}", "action": "buy", "target_qty": 1, "rationale": {deep}}}]}}'
    answers, _ = read_targets(parse_as(raw, PortfolioReply), [BTC])
    assert answers[BTC].reason in ("too_deep", "invalid:rationale")


def test_a_brief_says_what_the_account_holds():
    frame = Market.from_base(BTC, _bars())
    state = AccountState(equity=Decimal("12345.67"), last_price=Decimal("64123.45"))
    flat = put(Strategy(), frame, state, OrderBookView(), None, None, (), AT)
    assert (flat.equity, flat.last_price, flat.quantity) == (12345.67, 64123.45, 0.0)
    short = Position(
        position_id="p", strategy="s", cycle_id="c", symbol=BTC, side="short", quantity=Decimal("0.031"),
        entry_quantity=Decimal("0.05"), avg_price=Decimal(64_000), opened_at=AT,
    )  # fmt: skip
    assert put(Strategy(), frame, state, OrderBookView(), None, None, (), AT, position=short).quantity == -0.031


def _bars():
    import numpy as np

    from tasks.core.market.bars import bar_frame

    ts = int(AT.timestamp() * 1000) - np.arange(400, 0, -1) * 300_000
    flat = np.full(400, 64_000.0)
    return bar_frame(ts, {"open": flat, "high": flat + 5, "low": flat - 5, "close": flat, "volume": flat * 0 + 1})


def test_a_target_in_other_letters_is_taken_and_a_flat_one_is_not_lost_over_its_confidence():
    raw = {"instrument": BTC, "action": "Flat", "confidence": "high"}
    answers, _ = read_targets(parse_as(json.dumps({"decisions": [raw]}), PortfolioReply), [BTC])
    assert (answers[BTC].action, answers[BTC].read_as) == ("flat", ("action Flat as flat", "confidence high as 0.5"))
    buy = raw | {"action": "BUY", "target_qty": 1, "stop_atr": "1.5 ATR", "tp_atr": 3}
    answers, _ = read_targets(parse_as(json.dumps({"decisions": [buy | {"confidence": "70%"}]}), PortfolioReply), [BTC])
    assert (answers[BTC].action, str(answers[BTC].stop_atr), str(answers[BTC].confidence)) == ("buy", "1.5", "0.7")
    for unsure in (buy, buy | {"confidence": 8}):
        answers, _ = read_targets(parse_as(json.dumps({"decisions": [unsure]}), PortfolioReply), [BTC])
        assert answers[BTC].reason.endswith(":confidence")
