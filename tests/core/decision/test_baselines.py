"""`random` and `buy-and-hold`: what any other decider must beat."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from instrument_cases import linear

from tasks.core.decision.baselines import BuyAndHoldDecider, RandomDecider
from tasks.core.decision.rules import SIZE_PCT, STOP_ATR, TP_ATR
from tasks.core.trading.guard import guard
from tasks.core.types.decision import ACTIONS, ENTRIES
from tasks.core.types.portfolio import AccountState, HeldPosition
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Constraints, PositionView, Snapshot, TimeframeView
from tasks.core.types.strategy import Strategy

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
FLAT = ("HOLD", "OPEN_LONG", "OPEN_SHORT", "PAUSE")


def question(pair: str = BTC, at: datetime = AT, allowed: tuple[str, ...] = FLAT, side: str = "flat") -> Question:
    views = {"5m": TimeframeView(close=60_000.0), "15m": TimeframeView(close=60_000.0, atr=180.0, rsi=50.0)}
    limits = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=allowed)
    return Question(
        snapshot=Snapshot(pair=pair, as_of=at, timeframes=views, constraints=limits, position=PositionView(side=side))
    )


def questions(n: int, allowed: tuple[str, ...] = FLAT, pair: str = BTC) -> list[Question]:
    return [question(pair, AT + timedelta(minutes=5 * i), allowed) for i in range(n)]


def actions(decider, asked: list[Question]) -> list[str]:
    return [decided.decision.action for decided in asyncio.run(decider.decide(asked))]


def test_random_gives_the_same_choice_in_any_order_of_calls_and_in_any_process():
    asked = questions(200)
    together = actions(RandomDecider("7"), asked)
    backwards = [actions(RandomDecider("7"), [one])[0] for one in reversed(asked)]
    assert together == backwards[::-1]
    assert together[:8] == [
        "PAUSE", "OPEN_SHORT", "OPEN_LONG", "HOLD", "OPEN_LONG", "HOLD", "PAUSE", "OPEN_SHORT",
    ]  # fmt: skip


def test_random_differs_by_seed_symbol_and_time():
    chosen = actions(RandomDecider("7"), questions(200))
    assert chosen != actions(RandomDecider("8"), questions(200))
    assert chosen != actions(RandomDecider("7"), questions(200, pair=ETH))
    assert len(set(chosen)) > 1


@pytest.mark.parametrize("allowed", [FLAT, ("HOLD", "TRIM", "CLOSE_ALL"), ACTIONS, ("OPEN_LONG", "OPEN_SHORT")])
def test_random_holds_half_of_the_time_and_shares_the_rest_equally(allowed):
    n = 4000
    seen = Counter(actions(RandomDecider(), questions(n, allowed)))
    others = [action for action in allowed if action != "HOLD"]
    assert set(seen) == {"HOLD", *others}
    assert seen["HOLD"] / n == pytest.approx(0.5, abs=0.04)
    assert all(seen[action] / n == pytest.approx(0.5 / len(others), abs=0.04) for action in others)


@pytest.mark.parametrize("allowed", [("HOLD",), ()])
def test_random_holds_where_nothing_else_is_allowed(allowed):
    assert set(actions(RandomDecider(), questions(50, allowed))) == {"HOLD"}


def test_random_enters_with_the_size_stop_and_target_of_the_rules():
    decided = asyncio.run(RandomDecider().decide(questions(400, ACTIONS)))
    entries = [d.decision for d in decided if isinstance(d.decision, ENTRIES)]
    assert {e.action for e in entries} == {"OPEN_LONG", "OPEN_SHORT", "ADD"}
    assert {(e.size_pct, e.stop_atr, e.tp_atr) for e in entries} == {(SIZE_PCT, STOP_ATR, TP_ATR)}
    assert {(d.source, d.decision.source, d.rung) for d in decided} == {("random", "random", "primary")}


def test_buy_and_hold_buys_once_and_then_holds():
    long = question(side="long", allowed=("HOLD", "ADD", "TRIM", "CLOSE_ALL"))
    shut = question(allowed=("HOLD", "PAUSE"))
    odd = question(side="long")
    assert actions(BuyAndHoldDecider(), [question(), long, shut, odd]) == ["OPEN_LONG", "HOLD", "HOLD", "HOLD"]


def test_the_guard_lets_buy_and_hold_in_and_clamps_it_to_the_risk_at_its_far_stop():
    one = question()
    [decided] = asyncio.run(BuyAndHoldDecider().decide([one]))
    verdict = guard.judge(
        decided.decision,
        one.snapshot,
        AccountState(instrument=linear()),
        Strategy(),
        fallback=decided.is_fallback,
    )
    assert verdict.allowed, verdict.codes
    assert {code.value for code in verdict.codes} == {"TRADE_RISK_CLAMPED", "TOTAL_RISK_CLAMPED"}
    assert (verdict.stop, verdict.target) == (Decimal(56_400), Decimal(78_000))
    assert Decimal("0.7") < verdict.trade_risk_pct <= Decimal("0.75")


def test_a_market_wide_enough_to_lose_the_margin_before_the_stop_keeps_buy_and_hold_out():
    one = question()
    wild = one.snapshot.timeframes | {"15m": TimeframeView(close=60_000.0, atr=1_100.0, rsi=50.0)}
    snapshot = one.snapshot.model_copy(update={"timeframes": wild})
    [decided] = asyncio.run(BuyAndHoldDecider().decide([one]))
    verdict = guard.judge(decided.decision, snapshot, AccountState(instrument=linear()), Strategy())
    assert [code.value for code in verdict.codes] == ["STOP_TOO_FAR", "LIQUIDATION_NEAR"]


def test_random_is_judged_like_anyone_and_never_gets_around_the_guard():
    held = HeldPosition(symbol=BTC, side="long", quantity=Decimal(1), avg_price=Decimal(60_000), stop=Decimal(59_000))
    state = AccountState(equity=Decimal(100_000), positions=(held,), halt="test", instrument=linear())
    for one in questions(300, ACTIONS):
        [decided] = asyncio.run(RandomDecider().decide([one]))
        verdict = guard.judge(decided.decision, one.snapshot, state, Strategy())
        assert not (verdict.allowed and isinstance(verdict.decision, ENTRIES))
