"""Under a mask a model is shown a handful of coarse values, and its reply still means what it meant."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from instrument_cases import linear
from market_data import walk
from replayed import strategy

from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision.decider import variables_of
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.portfolio import PortfolioDecider
from tasks.core.decision.llm.role_texts import variables_of_roles
from tasks.core.decision.llm.roles import Proposal, checked_entry
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.decision.masked_question import AT, as_shown
from tasks.core.decision.memory import memory_text
from tasks.core.decision.rules import RulesDecider
from tasks.core.lab.moments import flat_account, flat_question
from tasks.core.market.market import Market
from tasks.core.market.snapshot import to_json
from tasks.core.ports import ModelRequest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types.decision import ModelCall, OpenLong, hold
from tasks.core.types.question import Question, Reason
from tasks.core.types.snapshot import Memory, Past, PositionView, Statistics, TradeDigest
from tasks.core.types.strategy import Strategy, Told

SYMBOL = "ABCD/USDT:USDT"
MARKET = Market.from_base(SYMBOL, walk(14_000, seed=3, price=500.0))
MASKED = strategy(SYMBOL, instruments={SYMBOL: linear(SYMBOL)}, told=Told(masked=True))
VALUES = {  # all that may be told of the market; everything else of it is unknown
    "5m": {"close": {100.0}},
    "15m": {
        "rsi": {25.0, 50.0, 75.0}, "atr": {0.125, 0.5, 2.0}, "atr_pct": {0.125, 0.5, 2.0}, "vol_spike": {True, False},
    },
    "1h": {"cloud_atr": {-2.0, 0.0, 2.0}},
    "4h": {"cloud_atr": {-2.0, 0.0, 2.0}},
}  # fmt: skip


def questions(plan: Strategy = MASKED) -> list[Question]:
    closes = [datetime.fromtimestamp(at, UTC) for at in sorted(set(MARKET.event_closes.tolist()))[-300:]]
    return [
        flat_question(
            MARKET, flat_account(MARKET, plan, at), plan, World(), at, MARKET.reasons(at - timedelta(seconds=1), at)
        )
        for at in closes
    ]


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return questions()


class Answering:
    """Answers with one text, and keeps what it was asked."""

    def __init__(self, reply: dict[str, object]) -> None:
        self.reply, self.asked = json.dumps(reply), list[ModelRequest]()

    async def ask(self, request: ModelRequest) -> ModelCall:
        self.asked.append(request)
        return request.call("m", raw_reply=self.reply)


def test_a_question_without_a_mask_is_shown_as_it_is():
    [plain, *_] = questions(MASKED.replace(told=Told()))
    assert as_shown(plain) is plain


def test_a_mask_leaves_the_strategy_of_others_as_it_was():
    assert MASKED.told.model_dump() == {"memory": True, "news": True, "masked": True}
    assert Told().model_dump(mode="json") == {"memory": True, "news": True}
    kept = MASKED.model_dump_json()
    assert Strategy.model_validate_json(kept).told.masked


def test_of_the_market_a_few_coarse_values_are_shown(asked):
    assert len(asked) == 300
    seen = set()
    for question in asked:
        document = json.loads(to_json(as_shown(question).snapshot))
        for timeframe, view in document["timeframes"].items():
            assert not view.pop("last3", ())
            assert {*view.pop("swing", {}).values()} <= {None}
            known = {name: value for name, value in view.items() if value is not None}
            assert all(value in VALUES[timeframe][name] for name, value in known.items())
            seen |= {(timeframe, name, value) for name, value in known.items()}
        assert set(document["htf_anchors"].values()) == {None}
        assert set(document["orderbook"].values()) == {None}
        assert document["as_of"] == "2000-01-01T00:00:00Z"
        assert len(document["reason_for_call"]) == 1
    assert {("15m", "rsi", 25.0), ("15m", "rsi", 75.0), ("1h", "cloud_atr", 2.0), ("1h", "cloud_atr", -2.0)} <= seen


def test_no_prompt_holds_a_number_of_the_market(asked):
    for question in asked[::10]:
        shown, text = as_shown(question), " ".join(variables_of_roles(question).values())
        prompt = " ".join(variables_of_roles(shown).values())
        assert variables_of(shown).items() <= variables_of_roles(shown).items()
        long_numbers = r"(?<![\w.])\d*\.?\d*\d{4}(?![\d])"
        assert re.search(long_numbers, text)
        assert not [
            n for n in re.findall(long_numbers, prompt.replace(AT.isoformat(), "")) if n not in ("2000", "10000")
        ]  # a year, and the equity to one digit


def test_one_reason_is_named_and_no_event_of_a_calendar(asked):
    at = asked[0].snapshot.as_of
    event = Reason(rule="Calendar", symbol=SYMBOL, detail="FOMC 2024-01-31", as_of=at, fingerprint="c")
    close = Reason(rule="BarClose", symbol=SYMBOL, timeframe="1d", as_of=at, fingerprint="b", context=True)
    both = asked[0].replace(reasons=(close, event, *asked[0].reasons))
    assert as_shown(both).snapshot.reason_for_call == ("Calendar()",)


def test_memory_keeps_what_was_done_and_what_came_of_it_but_no_time_and_no_reason(asked):
    past = Past(
        as_of=datetime(2025, 3, 4, 5, 5, tzinfo=UTC), action="OPEN_LONG", confidence=0.6123,
        reasons=("VwapCross(15m up)",), r_multiple=1.2345, distance=0.1234,
    )  # fmt: skip
    past = past.replace(status="executed", price=500.0, thesis="the flash crash of March")
    done = Statistics(names=("llm:single",), trades=17, win_rate=0.5294, mean_r=0.1234, best_r=1.2345, worst_r=-1.2)
    shown = as_shown(
        asked[0].replace(memory=Memory(days=30, recent=(past,), similar=(past,), statistics=(done,)))
    ).memory
    assert memory_text(shown).splitlines() == [
        "last 30 days llm:single: 20 trades, 50% won, mean +0.10R, best +1.00R, worst -1.00R",
        "similar 01-01 00:00 OPEN_LONG 0.60 executed -> +1.00R (distance 0.10)",
        "last 01-01 00:00 OPEN_LONG 0.60 executed -> +1.00R (distance 0.10)",
    ]


def test_our_own_account_is_told_in_one_digit(asked):
    position = PositionView(
        side="long", size_pct=12.345, avg_price=512.34, unrealized_R=0.4567, age_bars_5m=137, stop_atr=1.23, tp_atr=4.56
    )
    digest = TradeDigest(trade_count=3, realized_pnl=-12.34, avg_entry_price=498.1, last_trade_ts=AT)
    held = asked[0].replace(snapshot=asked[0].snapshot.replace(position=position, digest=digest))
    shown = as_shown(held).snapshot
    assert shown.position == PositionView(
        side="long", size_pct=10.0, unrealized_R=0.5, age_bars_5m=100, stop_atr=1.0, tp_atr=5.0
    )
    assert shown.digest == TradeDigest(trade_count=3, realized_pnl=-10.0)


@pytest.mark.parametrize(("target", "action", "size_pct"), [(0.45, "TRIM", 50), (0.0, "CLOSE_ALL", None)])
def test_a_target_quantity_in_masked_units_is_the_same_share_of_the_position(asked, target, action, size_pct):
    question = asked[-1].replace(quantity=0.9 / asked[-1].last_price * 100)
    question = question.replace(snapshot=question.snapshot.replace(position=PositionView(side="long", size_pct=0.9)))
    said = "flat" if not target else "sell"
    entry = {"instrument": SYMBOL, "action": said, "target_qty": target, "confidence": 0.7, "rationale": "r"}
    model = Answering({"decisions": [entry]})
    decider = PortfolioDecider(model, {"portfolio": load_prompt("portfolio", "v001")}, Means())
    [answer] = asyncio.run(decider.decide([question]))
    assert "Last price: 100.0\nCurrent quantity: 0.9\n" in model.asked[0].messages[1]["content"]
    assert answer.decision.action == action
    assert getattr(answer.decision, "size_pct", None) == size_pct


def test_a_bought_target_is_sized_by_what_it_is_worth(asked):
    entry = {"instrument": SYMBOL, "action": "buy", "target_qty": 20, "stop_atr": 2, "tp_atr": 4, "confidence": 0.7}
    model = Answering({"decisions": [entry | {"rationale": "r"}]})
    decider = PortfolioDecider(model, {"portfolio": load_prompt("portfolio", "v001")}, Means())
    [answer] = asyncio.run(decider.decide([asked[-1]]))
    decision = answer.decision
    assert isinstance(decision, OpenLong)
    assert (decision.symbol, decision.size_pct, decision.stop_atr) == (SYMBOL, 20, 2)  # 20 x 100 of 10,000


def test_a_strategists_prices_become_distances_of_the_market_shown(asked):
    rising = next(
        question for question in map(as_shown, asked)
        if question.role_inputs.timeframes and question.role_inputs.timeframes["1h"].adx == 30
        and question.role_inputs.timeframes["1h"].ema50 > 100 > question.role_inputs.timeframes["1h"].swing_low
    )  # fmt: skip
    atr = rising.snapshot.timeframes["15m"].atr
    swing = rising.role_inputs.timeframes["1h"].swing_low
    assert swing == 100 - 2 * atr
    stop = round(Decimal(repr(swing)) * Decimal("0.975"), 4)
    proposal = Proposal(signal="long", stop=stop, target=Decimal(110), size_pct=Decimal(10), confidence=Decimal("0.6"))
    entry = checked_entry("trend", proposal, rising, 1)
    assert isinstance(entry, OpenLong)
    assert float(entry.stop_atr) == pytest.approx((100 - float(stop)) / atr, rel=1e-4)


def test_whoever_computes_sees_the_whole_question(asked):
    plain = questions(MASKED.replace(told=Told()))
    decisions = [RulesDecider().choose(each) for each in asked]
    assert decisions == [RulesDecider().choose(each) for each in plain]
    assert len({decision.action for decision in decisions}) > 1
    model = Answering(hold(SYMBOL, "h").model_dump(mode="json"))
    single = SingleDecider(model, {"single": load_prompt("single", "v001")}, Means())
    asyncio.run(single.decide(asked[:1]))
    assert "2000-01-01T00:00:00+00:00" in model.asked[0].messages[1]["content"]
