"""Every code of the guard: one case that fires it, one just inside that does not."""

import math
from datetime import datetime, timedelta
from decimal import Decimal as D

import pytest
from guard_cases import (
    BTC,
    ETH,
    LATE,
    NOON,
    STEP,
    account,
    ago,
    asked,
    beside,
    closed,
    five,
    grid,
    holding,
    judge,
    lost,
    many,
    move,
    position,
    seen,
)

from tasks.core.trading.guard import guard
from tasks.core.types.decision import (
    Add,
    CloseAll,
    Entry,
    OpenShort,
    Trim,
)
from tasks.core.types.limits import Limits
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Code, Verdict

EARNING = holding(initial_stop=D(98), stop=D(100))
ADD_LOWER = asked(Add, entry=Entry(type="limit", offset_bps=D(100)))

# code: (arguments that fire it, arguments just inside)
DENIALS = {
    Code.HALTED: ({"state": account(halt="ledger mismatch")}, {"state": account(halt=False)}),
    Code.PAUSED: ({"state": account(paused_until=NOON + STEP)}, {"state": account(paused_until=NOON)}),
    Code.STALE: ({"now": LATE + STEP}, {"now": LATE}),
    Code.SYMBOL_NOT_ALLOWED: ({"symbols": (ETH,)}, {"symbols": (ETH, BTC)}),
    Code.SYMBOL_MISMATCH: ({"snapshot": seen(pair=ETH)}, {"snapshot": seen(pair=BTC)}),
    Code.DATA_MISSING: ({"snapshot": seen(atr=None)}, {"snapshot": seen(atr=2.0)}),
    Code.ACTION_NOT_ALLOWED: (
        {"snapshot": seen(offered=("HOLD", "OPEN_SHORT"))},
        {"snapshot": seen(offered=("OPEN_LONG",))},
    ),
    Code.SHORTING_NOT_ALLOWED: (
        {"decision": asked(OpenShort), "state": grid(shorting=False)},
        {"decision": asked(OpenShort), "state": grid(shorting=True)},
    ),
    Code.LOW_CONFIDENCE: ({"decision": asked(confidence=D("0.49"))}, {"decision": asked(confidence=D("0.5"))}),
    Code.FOREIGN_POSITION: ({"state": account(foreign=D(1))}, {"state": account(foreign=D(0))}),
    Code.POSITION_EXISTS: ({"state": holding()}, {"state": holding(symbol=ETH)}),
    Code.NO_POSITION: ({"decision": asked(Add)}, {"decision": asked(Add), "state": holding()}),
    Code.MAX_POSITIONS: ({"state": five(5)}, {"state": five(4)}),
    # an add keeps the tighter stop, which here meets the limit entry at 99
    Code.STOP_WRONG_SIDE: (
        {"decision": ADD_LOWER, "state": holding(stop=D(99)), "limits": {"min_stop_atr": D("0.05")}},
        {"decision": ADD_LOWER, "state": holding(stop=D("98.9")), "limits": {"min_stop_atr": D("0.05")}},
    ),
    Code.STOP_TOO_CLOSE: (
        {"decision": asked(stop_atr=D("0.2"))},
        {"decision": asked(stop_atr=D("0.25"), entry=Entry(type="market"))},
    ),
    Code.STOP_TOO_FAR: (
        {"decision": asked(stop_atr=D("10.05"), tp_atr=D(30))},
        {"decision": asked(stop_atr=D(10), tp_atr=D(30))},
    ),
    # at leverage 5 the margin of 20 less 0.5 of maintenance is gone 19.5 away, and a fifth of that is kept clear: 15.6
    Code.LIQUIDATION_NEAR: (
        {"decision": asked(stop_atr=D("7.85"), tp_atr=D(30)), "limits": {"leverage": D(5)}},
        {"decision": asked(stop_atr=D("7.8"), tp_atr=D(30)), "limits": {"leverage": D(5)}},
    ),
    Code.TARGET_WRONG_SIDE: (
        {"decision": asked(OpenShort, tp_atr=D(50))},
        {"decision": asked(OpenShort, tp_atr=D("49.9"))},
    ),
    Code.REWARD_RISK_TOO_LOW: ({"decision": asked(tp_atr=D("1.45"))}, {"decision": asked(tp_atr=D("1.5"))}),
    # ETH loses 14.88 (14.86) and 0.12 of costs on each of 10 units; the limit is 150
    Code.TOTAL_RISK_EXCEEDED: (
        {"state": holding(symbol=ETH, stop=D("85.12"))},
        {"state": holding(symbol=ETH, stop=D("85.14"))},
    ),
    Code.GROSS_EXCEEDED: (
        {"state": holding(symbol=ETH, quantity=D(100), stop=D("99.9"))},
        {"state": holding(symbol=ETH, quantity=D("99.9"), stop=D("99.9"))},
    ),
    Code.BELOW_MIN_QUANTITY: ({"state": grid(min_quantity=D("10.001"))}, {"state": grid(min_quantity=D(10))}),
    Code.BELOW_MIN_NOTIONAL: ({"state": grid(min_notional=D("1000.1"))}, {"state": grid(min_notional=D(1000))}),
    Code.OPENS_PER_HOUR: ({"state": many(3, minutes=59)}, {"state": many(3, minutes=60)}),
    Code.OPENS_PER_DAY: ({"state": many(12, hours=23)}, {"state": many(12, hours=24)}),
    Code.REENTRY_COOLDOWN: (
        {"state": account(closed_trades=(closed(closed_at=ago(minutes=59)),))},
        {"state": account(closed_trades=(closed(closed_at=ago(minutes=60)),))},
    ),
    Code.DAILY_LOSS: (
        {"state": account(day_start_equity=D("10309.3"))},
        {"state": account(day_start_equity=D("10309.2"))},
    ),
    Code.DRAWDOWN: (
        {"state": account(peak_equity=D("11764.8"))},
        {"state": account(peak_equity=D("11764.7"))},
    ),
    Code.STALE_PRICE: (
        {"state": account(last_price_at=ago(seconds=391))},
        {"state": account(last_price_at=ago(seconds=390))},
    ),
    Code.VENUE_NOT_ALLOWED: (
        {"state": account(venue="paper"), "limits": {"venues": ("bybit",)}},
        {"state": account(venue="bybit"), "limits": {"venues": ("bybit",)}},
    ),
    Code.COOL_OFF: (
        {"state": lost(minutes=59), "limits": {"cool_off": "pause"}},
        {"state": lost(minutes=60), "limits": {"cool_off": "pause"}},
    ),
    Code.REJECTION_STREAK: ({"state": account(rejections=3)}, {"state": account(rejections=2)}),
    Code.LIQUIDATED: (
        {"state": account(last_liquidation=ago(minutes=1439))},
        {"state": account(last_liquidation=ago(minutes=1440))},
    ),
    # 10 from 100 with 2 at risk once, its stop at breakeven: up 0.95 R, up 1 R
    Code.STACKED: (
        {"decision": asked(Add), "state": EARNING, "snapshot": seen(stack="20>50>200", close=101.9)},
        {"decision": asked(Add), "state": EARNING, "snapshot": seen(stack="20>50>200", close=102.0)},
    ),
    Code.CHASING: ({"snapshot": seen(rsi=75.1, price_z20=1.51)}, {"snapshot": seen(rsi=75.0, price_z20=1.51)}),
    # three times the book's 50 bps
    Code.OFFSET_TOO_FAR: (
        {"decision": asked(entry=Entry(type="limit", offset_bps=D("150.1")))},
        {"decision": asked(entry=Entry(type="limit", offset_bps=D(150)))},
    ),
    Code.SLIPPAGE_TOO_HIGH: ({"snapshot": seen(slippage=15.1)}, {"snapshot": seen(slippage=15.0)}),
    Code.FALLBACK_MAY_NOT_OPEN: ({"fallback": True}, {"fallback": True, "limits": {"fallback_may_open": True}}),
    Code.STOP_WOULD_LOOSEN: (
        {"decision": move("atr", "-0.55"), "state": holding()},
        {"decision": move("atr", "-0.5"), "state": holding()},
    ),
}  # fmt: skip

CLAMPS = {
    Code.SIZE_CLAMPED: ({"snapshot": seen(mode="tighten")}, {"snapshot": seen(mode="normal", score=-0.5)}),
    # 75 / 2.12 = 35.377 units
    Code.TRADE_RISK_CLAMPED: ({"decision": asked(size_pct=D("35.38"))}, {"decision": asked(size_pct=D("35.37"))}),
    # 150 less the 130 (120) + 1.2 of ETH leaves 18.8 (28.8): 8.867 (13.58) units
    Code.TOTAL_RISK_CLAMPED: (
        {"state": holding(symbol=ETH, stop=D(87))},
        {"state": holding(symbol=ETH, stop=D(88))},
    ),
    Code.GROSS_CLAMPED: (
        {"state": holding(symbol=ETH, quantity=D("90.01"), stop=D("99.9")), "limits": {"max_net_pct": D(200)}},
        {"state": holding(symbol=ETH, quantity=D(90), stop=D("99.9")), "limits": {"max_net_pct": D(200)}},
    ),
    Code.NET_CLAMPED: ({"limits": {"max_net_pct": D("9.99")}}, {"limits": {"max_net_pct": D(10)}}),
    # a third of 100 as margin and 0.06 to get in: 33.3933.. a unit
    Code.AVAILABLE_CLAMPED: ({"state": account(available=D("333.9"))}, {"state": account(available=D("334"))}),
    Code.LARGEST_ORDER_CLAMPED: ({"state": grid(max_quantity=D("9.9999"))}, {"state": grid(max_quantity=D(10))}),
    Code.SYMBOL_CLAMPED: ({"limits": {"max_symbol_pct": D("9.99")}}, {"limits": {"max_symbol_pct": D(10)}}),
    # ETH's 10 x 5.42 leaves 20.8 of one trade's 75, and 10 units lose 21.2
    Code.CORRELATION_CLAMPED: (
        {"state": beside(0.81, symbol=ETH, stop=D("94.7"))},
        {"state": beside(0.80, symbol=ETH, stop=D("94.7"))},
    ),
    # a quarter of it: 21 and 21.25 of 10,000
    Code.KELLY_CLAMPED: ({"state": account(kelly=D("0.0084"))}, {"state": account(kelly=D("0.0085"))}),
    # 14.5 bps at 5 a million
    Code.SLIPPAGE_CLAMPED: ({"state": account(equity=D(29_001_000))}, {"state": account(equity=D(29_000_000))}),
    # ATR is 2 % of the price
    Code.VOLATILITY_CLAMPED: ({"limits": {"target_atr_pct": D("1.99")}}, {"limits": {"target_atr_pct": D(2)}}),
    Code.COOL_OFF_CLAMPED: ({"state": lost(minutes=59)}, {"state": lost(minutes=60)}),
    Code.CONFIDENCE_CLAMPED: (
        {"decision": asked(confidence=D("0.99")), "limits": {"size_by_confidence": True}},
        {"decision": asked(confidence=D(1)), "limits": {"size_by_confidence": True}},
    ),
    Code.REDUCED_CLAMPED: (
        {"state": account(reduced_until=NOON + timedelta(minutes=1))}, {"state": account(reduced_until=NOON)},
    ),
    # 99.8 % leaves 0.02 BTC = 2 quote, below 5; 99.5 % leaves exactly 5
    Code.REMAINDER_CLOSED: (
        {"decision": Trim(symbol=BTC, size_pct=D("99.8")), "state": holding()},
        {"decision": Trim(symbol=BTC, size_pct=D("99.5")), "state": holding()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", DENIALS, ids=str)
def test_a_denial_fires_beyond_its_limit_and_not_just_inside(code):
    fires, inside = DENIALS[code]
    denied, allowed = judge(**fires), judge(**inside)
    assert code in denied.codes
    assert not denied.allowed
    assert denied.quantity == 0
    assert denied.decision == fires.get("decision", asked())
    assert code not in allowed.codes
    assert allowed.allowed, allowed.codes


@pytest.mark.parametrize("code", CLAMPS, ids=str)
def test_a_clamp_fires_beyond_its_limit_and_not_just_inside(code):
    fires, inside = CLAMPS[code]
    clamped, plain = judge(**fires), judge(**inside)
    assert clamped.codes == (code,)
    assert clamped.allowed
    assert plain.codes == ()
    assert plain.allowed


def test_without_a_cooldown_an_exit_right_after_the_close_keeps_nothing_out():
    just_now = account(closed_trades=(closed(closed_at=ago(seconds=-5)),))
    assert Code.REENTRY_COOLDOWN in judge(state=just_now).codes
    assert Code.REENTRY_COOLDOWN not in judge(state=just_now, limits={"reentry_cooldown_min": 0}).codes


def test_every_code_is_covered():
    assert {*DENIALS, *CLAMPS} == set(Code) - {Code.NOT_APPROVED}  # that one is a person's


def test_an_allowed_entry_says_its_final_prices_and_risk():
    verdict = judge()
    assert (verdict.quantity, verdict.price, verdict.stop, verdict.target) == (D(10), D(100), D(98), D(104))
    assert verdict.trade_risk_pct == D("0.212010")  # 10 x 2.12, and 10^2 x 0.00001 of size impact
    assert verdict.total_risk_pct == D("0.212010")


def test_a_clamped_decision_reads_as_it_is_sent():
    verdict = judge(asked(size_pct=D(500)))
    assert verdict.quantity == D("35.371")
    assert verdict.decision.size_pct == D("35.371")
    assert verdict.trade_risk_pct <= D("0.75")


def test_a_short_is_sized_with_the_costs_of_its_dearer_exit():
    verdict = judge(asked(OpenShort, size_pct=D(500)))
    per_unit = D(2) + (D(100) + D(102)) * D("0.0006")
    assert verdict.stop == D(102)
    assert verdict.target == D(96)
    assert verdict.quantity == D("35.351")  # 75 / 2.1212 = 35.3573.., less for size impact

    def lost(quantity: D) -> D:
        return quantity * per_unit + quantity**2 * (D(100) ** 2 + D(102) ** 2) * D("5e-10")

    assert lost(verdict.quantity) <= 75 < lost(verdict.quantity + D("0.002"))


def test_a_strategy_of_before_impact_counted_is_sized_as_it_was():
    """So that its records replay byte for byte: 75 / 2.12, where an ATR of 2 % is nothing out of the ordinary."""
    strategy = Strategy(limits=Limits(target_atr_pct=D(5)), rules=2)
    verdict = guard.judge(asked(size_pct=D(500)), seen(), account(), strategy)
    assert (verdict.quantity, verdict.trade_risk_pct) == (D("35.377"), D("0.749993"))


def test_all_that_fired_is_said_at_once():
    verdict = judge(asked(confidence=D(0), tp_atr=D(1)), account(halt=True), now=LATE + STEP)
    assert {Code.HALTED, Code.STALE, Code.LOW_CONFIDENCE, Code.REWARD_RISK_TOO_LOW} <= set(verdict.codes)
    assert {c.code for c in verdict.checks if c.fired} == set(verdict.codes)
    assert all(c.inputs for c in verdict.checks)


@pytest.mark.parametrize("broken", [{"close": None}, {"close": math.nan}, {"atr": math.inf}, {"atr": 0.0}])
def test_numbers_that_are_none_deny_an_entry(broken):
    assert judge(snapshot=seen(**broken)).codes == (Code.DATA_MISSING,)


def test_a_snapshot_without_timeframes_denies_an_entry():
    assert Code.DATA_MISSING in judge(snapshot=seen().model_copy(update={"timeframes": {}})).codes


def test_an_account_without_equity_denies_an_entry_and_may_still_close():
    assert Code.DATA_MISSING in judge(state=account(equity=D(0))).codes
    assert judge(CloseAll(symbol=BTC), account(equity=D(-5), positions=(position(),))).allowed


def test_numbers_beyond_computing_are_denied_not_raised():
    verdict = judge(state=account().replace(equity=D("9E+999999")))
    assert not verdict.allowed
    assert verdict.codes == (Code.DATA_MISSING,)


@pytest.mark.parametrize("close", [1e31, 5e-324])
def test_a_price_that_cannot_be_written_down_is_none_and_a_position_still_closes(close):
    assert judge(snapshot=seen(close=close)).codes == (Code.DATA_MISSING,)
    closing = judge(CloseAll(symbol=BTC), account(positions=(position(),)), seen(close=close))
    assert (closing.allowed, closing.price) == (True, None)


def test_a_now_without_timezone_is_stale():
    assert judge(now=datetime(2026, 11, 21, 12)).codes == (Code.STALE,)  # noqa: DTZ001  (the mistake under test)


def test_a_snapshot_from_the_future_is_stale():
    assert judge(now=NOON - timedelta(seconds=391)).codes == (Code.STALE,)


def test_lateness_is_not_judged_without_a_now():
    assert not any(c.fired for c in judge().checks if c.code is Code.STALE)


def test_a_verdict_reads_back_as_it_was_written_and_as_earlier_records_have_it():
    verdict = judge()
    text = verdict.model_dump_json()
    assert Verdict.model_validate_json(text).model_dump_json() == text
    earlier = [{"code": c.code, "fired": c.fired, "inputs": c.inputs} for c in verdict.checks]
    told = verdict.model_dump(mode="json") | {"checks": earlier}
    assert Verdict.model_validate(told).model_dump_json() == text
