"""One way from an answer to orders, one day, one rule for how a cycle ends."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from guard_cases import BTC, GRID, NOON, account, asked, seen

from tasks.core.trading import ledger
from tasks.core.trading.guard.cases import Account
from tasks.core.trading.judge import Judgement, judged, status_of
from tasks.core.trading.orders import cycle_id, derives_from
from tasks.core.types.decision import Answer, Decision, OpenLong, OpenShort, hold
from tasks.core.types.limits import Limits
from tasks.core.types.portfolio import ClosedTrade
from tasks.core.types.question import Question, Reason
from tasks.core.types.record import CycleStatus, Inputs
from tasks.core.types.strategy import FIRST_RULES, Strategy
from tasks.core.types.verdict import Code

CALM = Limits(target_atr_pct=Decimal(5))
STRATEGY = Strategy(symbols=(BTC,), instruments={BTC: GRID}, limits=CALM)


def answer(decision: Decision | None = None, rung: str = "primary") -> Answer:
    return Answer(decision=decision or asked(), source="test", rung=rung)


def broke(way: str, rule: str = "RangeBreak") -> Reason:
    return Reason(rule=rule, symbol=BTC, timeframe="15m", detail=way, as_of=NOON, fingerprint=way)


def test_orders_derive_from_the_strategys_name_symbol_and_close():
    plain = Question(snapshot=seen())
    mine = judged(plain, answer(), account(), STRATEGY, NOON)
    theirs = judged(plain, answer(), account(), STRATEGY.called("default/hold", "hold"), NOON)
    assert mine.cycle_id == cycle_id("default", BTC, NOON) != theirs.cycle_id
    assert derives_from(mine.intents[0].client_order_id, mine.cycle_id)
    assert mine.verdict == theirs.verdict


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"symbols": ("ETH/USDT:USDT",)}, Code.SYMBOL_NOT_ALLOWED),
        ({"limits": Limits(target_atr_pct=Decimal(5), min_confidence=Decimal(1))}, Code.LOW_CONFIDENCE),
    ],
)
def test_what_the_strategy_says_binds(changed, code):
    strategy = STRATEGY.model_copy(update=changed)
    assert code in judged(Question(snapshot=seen()), answer(), account(), strategy, NOON).verdict.codes


def test_a_fallback_rung_may_not_open_and_a_late_answer_neither():
    verdict = judged(Question(snapshot=seen()), answer(rung="cache"), account(), STRATEGY, NOON).verdict
    assert Code.FALLBACK_MAY_NOT_OPEN in verdict.codes
    late = NOON + timedelta(seconds=391)
    assert Code.STALE in judged(Question(snapshot=seen()), answer(), account(), STRATEGY, late).verdict.codes
    assert Code.STALE not in judged(Question(snapshot=seen()), answer(), account(), STRATEGY).verdict.codes


@pytest.mark.parametrize("kind", [OpenLong, OpenShort])
@pytest.mark.parametrize("rule", ["RangeBreak", "BreakHold", "SweepReclaim"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_only_a_breakout_in_its_own_direction_excuses_a_chase(kind, rule, way):
    long = kind is OpenLong
    run = {"rsi": 80.0 if long else 20.0, "price_z20": 2.0 if long else -2.0, "vol_spike": True}
    question = Question(snapshot=seen(**run), reasons=(broke(way, rule),))
    codes = judged(question, answer(asked(kind)), account(), STRATEGY, NOON).verdict.codes
    excused = rule != "SweepReclaim" and (way == "up") == long
    assert (Code.CHASING not in codes) == excused
    # as records of the first rules were judged: any breakout excused
    before = judged(question, answer(asked(kind)), account(), STRATEGY.model_copy(update={"rules": FIRST_RULES}), NOON)
    assert (Code.CHASING not in before.verdict.codes) == (rule != "SweepReclaim")


def test_one_rule_says_how_a_judged_cycle_ends():
    plain = Question(snapshot=seen())
    opens, denied = judged(plain, answer(), account(), STRATEGY), judged(plain, answer(), account(halt="x"), STRATEGY)
    holds = judged(plain, answer(hold(BTC, "waits")), account(), STRATEGY)
    ends = [status_of(each) for each in (opens, denied, holds)]
    assert ends == [CycleStatus.EXECUTED, CycleStatus.DENIED, CycleStatus.HELD]
    assert [status_of(each, dry_run=True) for each in (opens, denied, holds)] == [
        CycleStatus.DRY_RUN, CycleStatus.DENIED, CycleStatus.DRY_RUN,
    ]  # fmt: skip
    assert isinstance(opens, Judgement)


@pytest.mark.parametrize(("seconds", "counts"), [(-1, False), (0, True), (86_399, True)])
def test_a_day_is_from_midnight_to_before_the_next_for_model_and_guard_alike(seconds, counts):
    midnight = datetime(2026, 11, 21, tzinfo=UTC)
    closed = (ClosedTrade(closed_at=midnight + timedelta(seconds=seconds), pnl=Decimal(-250), symbol=BTC),)
    at = midnight + timedelta(seconds=max(0, seconds))
    assert ledger.realized_today(closed, at) == (-250 if counts else 0)
    assert ledger.realized_today_pct(closed, Decimal(10_000), at) == (-2.5 if counts else 0.0)
    guard = Account(account(closed_trades=closed), GRID, BTC, Strategy(limits=CALM), at, "normal")
    assert guard.pnl_today == ledger.realized_today(closed, at)


def test_the_days_pnl_is_unknown_without_the_days_first_equity():
    assert ledger.realized_today_pct((), None, NOON) is None
    assert ledger.realized_today_pct((), Decimal(0), NOON) is None


def test_a_record_of_before_carries_its_terms_whole_as_a_strategy_of_the_first_rules():
    terms = {"symbols": [BTC], "limits": {"leverage": "2"}, "costs": {}, "thresholds": {}, "venue": "v",
             "history_bars": 1000, "tools": None, "tool_rates": None}  # fmt: skip
    inputs = Inputs.model_validate({"terms": terms})
    assert (inputs.strategy.rules, inputs.strategy.venue, inputs.strategy.limits.leverage) == (FIRST_RULES, "v", 2)
    assert inputs.memory is not None  # it said "none" then, not "unknown"
    assert Inputs.model_validate_json(inputs.model_dump_json()) == inputs


def test_a_strategys_hash_changes_with_anything_in_it_and_with_nothing_else():
    again = Strategy.model_validate_json(STRATEGY.model_dump_json())
    assert again.sha256 == STRATEGY.sha256
    others = [
        STRATEGY.called("other", ""), STRATEGY.called("default", "rules"),
        STRATEGY.model_copy(update={"limits": Limits(leverage=Decimal(2))}),
        STRATEGY.model_copy(update={"instruments": {BTC: GRID.model_copy(update={"tick": Decimal(1)})}}),
    ]  # fmt: skip
    assert len({each.sha256 for each in (STRATEGY, *others)}) == 5
