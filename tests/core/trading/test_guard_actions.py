"""What the guard makes of each action: exits, protection, entries, and what it offers the model."""

from datetime import timedelta
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
    closed,
    five,
    grid,
    holding,
    judge,
    many,
    move,
    pending,
    position,
    seen,
)
from instrument_cases import linear

from tasks.core.trading.guard import guard
from tasks.core.types.decision import (
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    Entry,
    Hold,
    OpenShort,
    Pause,
    Reduce,
    SetTarget,
    Trim,
    hold,
)
from tasks.core.types.limits import SymbolLimits
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Code, Verdict

# --- getting out is never blocked


WAYS_OUT = [
    CloseAll(symbol=BTC),
    Trim(symbol=BTC, size_pct=D(30)),
    ClosePartial(symbol=BTC, size_pct=D(30)),
    move("atr", "-0.25"),
    SetTarget(symbol=BTC, tp_atr=D(3)),
    CancelTarget(symbol=BTC),
]


@pytest.mark.parametrize("decision", WAYS_OUT, ids=lambda d: d.action)
def test_nothing_that_blocks_entries_blocks_a_way_out(decision):
    state = holding().model_copy(
        update={
            "halt": "everything", "paused_until": NOON + timedelta(days=1), "day_start_equity": D(20_000),
            "peak_equity": D(50_000), "opens": (NOON,) * 50, "closed_trades": (closed(closed_at=NOON, pnl=D(-9000)),),
        }
    )  # fmt: skip
    verdict = judge(decision, state, seen(mode="pause"), now=LATE + timedelta(hours=9), symbols=(ETH,))
    assert verdict.allowed, verdict.codes


def test_close_all_is_allowed_even_when_it_was_not_offered():
    assert judge(CloseAll(symbol=BTC), holding(), seen(offered=("HOLD",), close=None, atr=None), fallback=True).allowed


@pytest.mark.parametrize("decision", WAYS_OUT, ids=lambda d: d.action)
def test_an_exit_without_position_is_denied(decision):
    assert Code.NO_POSITION in judge(decision).codes


@pytest.mark.parametrize("decision", [hold(BTC, "quiet"), Pause(symbol=ETH, minutes=D(30))], ids=lambda d: d.action)
def test_hold_and_pause_are_always_allowed(decision):
    verdict = judge(decision, account(halt=True), seen(offered=(), close=None), now=LATE + STEP, fallback=True)
    assert verdict.allowed
    assert verdict.codes == ()


@pytest.mark.parametrize("decision", WAYS_OUT, ids=lambda d: d.action)
def test_a_fallback_rung_may_reduce_risk_and_nothing_else(decision):
    reduces = decision.action not in ("SET_TP", "CANCEL_TP")
    assert judge(decision, holding(), fallback=True).allowed is reduces


# --- exits


def test_a_trim_is_floored_to_the_step():
    verdict = judge(Trim(symbol=BTC, size_pct=D("33.3333")), holding())
    assert verdict.quantity == D("3.333")
    assert verdict.trade_risk_pct == D("0.074675")  # 6.667 left x 1.12, and 6.667^2 x 0.00001 of impact = 7.46748 quote


def test_a_trim_below_a_step_is_denied():
    assert judge(Trim(symbol=BTC, size_pct=D("0.009")), holding()).codes == (Code.BELOW_MIN_QUANTITY,)


def test_a_trim_that_would_strand_a_remainder_closes_all():
    verdict = judge(ClosePartial(symbol=BTC, size_pct=D("99.99"), comment="nearly out"), holding())
    assert verdict.decision == CloseAll(symbol=BTC, comment="nearly out")
    assert verdict.quantity == 10
    assert verdict.total_risk_pct == 0


def test_dust_beyond_the_step_is_left_and_less_than_a_step_goes_as_it_is():
    assert judge(CloseAll(symbol=BTC), holding(quantity=D("0.0109989"))).quantity == D("0.01")
    assert judge(CloseAll(symbol=BTC), holding(quantity=D("0.0009"))).quantity == D("0.0009")


# --- protection


def test_breakeven_is_rounded_in_the_trades_favour():
    held = holding(avg_price=D("99.97"))
    assert judge(move(), held, seen(close=101.0)).stop == D("100.0")
    short = holding(side="short", avg_price=D("100.03"), stop=D(101), target=D(90))
    assert judge(move(), short, seen(close=99.0)).stop == D("100.0")


def test_a_stop_through_the_market_is_denied():
    assert judge(move(), holding(), seen(close=100.0)).codes == (Code.STOP_WRONG_SIDE,)
    assert judge(move(), holding(), seen(close=100.1)).allowed


def test_a_position_without_stop_may_get_any_on_the_right_side():
    verdict = judge(move("atr", -3), holding(stop=None))
    assert verdict.stop == D(94)
    assert verdict.total_risk_pct == D("0.612010")  # 10 x 6.12, and 0.001 of impact


def test_moving_a_stop_by_atr_needs_the_atr_and_breakeven_does_not():
    assert Code.DATA_MISSING in judge(move("atr", "-0.25"), holding(), seen(atr=None)).codes
    assert judge(move(), holding(), seen(atr=None, close=101.0)).allowed


def test_a_target_behind_the_market_is_denied():
    reached = judge(SetTarget(symbol=BTC, tp_atr=D(2)), holding(), seen(close=104.0))
    assert reached.codes == (Code.TARGET_WRONG_SIDE,)
    assert judge(SetTarget(symbol=BTC, tp_atr=D(2)), holding(), seen(close=103.9)).target == D(104)


# --- entries


def test_a_limit_entry_is_rounded_away_from_the_market():
    long = judge(asked(entry=Entry(type="limit", offset_bps=D(7))))
    short = judge(asked(OpenShort, entry=Entry(type="limit", offset_bps=D(7))))
    assert (long.price, short.price) == (D("99.9"), D("100.1"))


def test_the_accounts_last_price_goes_before_the_snapshots_close():
    assert judge(state=account(last_price=D("101.5"))).price == D("101.5")


def test_rounding_to_a_coarse_tick_never_widens_the_stop_nor_spoils_the_reward():
    verdict = judge(asked(stop_atr=D("1.3"), tp_atr=D("1.95")), grid(tick=D(1)))
    assert (verdict.stop, verdict.target) == (D(98), D(104))
    assert verdict.allowed


def test_an_add_keeps_the_tighter_stop_and_takes_the_side_of_its_position():
    verdict = judge(asked(Add), holding())
    assert verdict.stop == D(99)
    assert verdict.target == D(104)


def test_an_add_gets_what_the_units_already_held_leave_of_the_trades_risk():
    verdict = judge(asked(Add, size_pct=D(80)), holding(quantity=D(50)))
    assert verdict.quantity == D(
        "16.931"
    )  # q x (1.12 + 2 x 50 x 0.000005) + q^2 x 0.00001 = 75 - 50 x 1.12 - 50^2 x 0.00001
    assert verdict.codes == (Code.TRADE_RISK_CLAMPED, Code.GROSS_CLAMPED, Code.SYMBOL_CLAMPED, Code.NET_CLAMPED)
    assert verdict.trade_risk_pct <= D("0.75")


def test_a_position_counts_at_todays_price_toward_the_gross():
    verdict = judge(asked(Add), holding(quantity=D(80), stop=D("100.5")), seen(close=120.0))
    assert verdict.codes == (Code.GROSS_CLAMPED, Code.SYMBOL_CLAMPED, Code.NET_CLAMPED)
    assert verdict.quantity == D("3.333")  # 10,000 less 80 x 120 leaves 400


def test_a_position_without_stop_counts_at_its_full_notional():
    naked = judge(state=holding(symbol=ETH, stop=None, quantity=D("1.5")))
    assert Code.TOTAL_RISK_EXCEEDED in naked.codes
    assert judge(state=holding(symbol=ETH, stop=None, quantity=D("1.2"))).allowed


def test_a_pending_entry_counts_as_risk_and_as_a_position():
    assert Code.TOTAL_RISK_CLAMPED in judge(state=account(pending=(pending(stop=D(87)),))).codes
    assert Code.POSITION_EXISTS in judge(state=account(pending=(pending(symbol=BTC),))).codes


def test_a_pending_short_gives_a_long_no_room():
    state = account(pending=(pending(side="short", quantity=D(20), stop=D("100.1")),))
    waiting = judge(state=state, limits={"max_net_pct": D(9)})
    assert (waiting.codes, waiting.quantity) == ((Code.NET_CLAMPED,), D(9))
    short = account(positions=(position(symbol=ETH, side="short", quantity=D(20), stop=D("100.1")),))
    assert Code.NET_CLAMPED not in judge(state=short, limits={"max_net_pct": D(9)}).codes


def test_a_pending_entry_on_the_same_side_elsewhere_leaves_less_room_by_the_net():
    waiting = account(pending=(pending(quantity=D(5), stop=D("99.9")),))
    verdict = judge(state=waiting, limits={"max_net_pct": D(12)})  # 1,200, of which the 5 at 100 take 500
    assert (verdict.codes, verdict.quantity) == ((Code.NET_CLAMPED,), D(7))
    assert judge(state=waiting, limits={"max_net_pct": D(15)}).codes == ()


def test_a_pending_entry_on_either_side_leaves_less_room_by_the_gross():
    for side, stop in (("long", D("99.9")), ("short", D("100.1"))):
        waiting = account(pending=(pending(side=side, quantity=D(5), stop=stop),))
        verdict = judge(state=waiting, limits={"max_gross_pct": D(12)})
        assert (verdict.codes, verdict.quantity) == ((Code.GROSS_CLAMPED,), D(7))


def test_a_pending_entry_of_the_own_symbol_leaves_an_add_less_of_the_symbol():
    """10 of BTC at 100 are held and 5 more rest: 1,700 less 1,500."""
    more = holding().model_copy(update={"pending": (pending(symbol=BTC, quantity=D(5)),)})
    verdict = judge(asked(Add), more, limits={"max_symbol_pct": D(17)})
    assert (verdict.codes, verdict.quantity) == ((Code.SYMBOL_CLAMPED,), D(2))
    assert judge(asked(Add), more, limits={"max_symbol_pct": D(25)}).codes == ()


def test_a_pending_entry_that_moves_alike_leaves_less_of_one_trades_risk():
    """10 ETH at 100 with their stop at 94.7 lose 10 x (5.3 + 0.12), up to rounding 54.2 of one trade's 75."""
    state = account(pending=(pending(stop=D("94.7")),), correlations={ETH: 0.81})
    verdict = judge(state=state, snapshot=seen(stack="50>20>200"))
    assert verdict.codes == (Code.CORRELATION_CLAMPED,)
    assert verdict.quantity == D("9.810")  # 20.799 left at 2.12 a unit, and impact


def test_an_adds_kelly_share_counts_the_units_already_held():
    """A quarter of 0.0128 is 32 of 10,000, the 10 held at 99 risk 11.2: 20.8 left at 1.12 a unit, and impact."""
    verdict = judge(asked(Add, size_pct=D(50)), holding().model_copy(update={"kelly": D("0.0128")}))
    assert Code.KELLY_CLAMPED in verdict.codes
    assert verdict.quantity == D("18.565")


@pytest.mark.parametrize(
    ("side", "price", "near", "clear"),
    [("long", 110, D("92.8"), D("92.9")), ("short", 90, D("104.1"), D("104.0"))],
)
def test_an_adds_liquidation_is_reckoned_from_the_worse_of_its_two_prices(side, price, near, clear):
    """At leverage 5 the margin is 19.5 % of the price, and four fifths of that may be used: 15.6 %.

    Long 10 from 110, 100 now: the stop may be 17.16 below 110, not 15.6 below 100. Short from 90: 14.04 above 90.
    """
    for kept, denied in ((near, True), (clear, False)):
        held = holding(side=side, avg_price=D(price), quantity=D("0.1"), stop=kept, target=None)
        verdict = judge(asked(Add, stop_atr=D(10), tp_atr=D(30)), held, limits={"leverage": D(5)})
        assert (Code.LIQUIDATION_NEAR in verdict.codes) is denied
        assert verdict.stop in (None, kept)


def test_tightened_risk_halves_the_size_whichever_limit_binds():
    for size in (D(10), D(500)):
        whole, half = judge(asked(size_pct=size)), judge(asked(size_pct=size), snapshot=seen(mode="tighten"))
        assert 0 <= half.quantity * 2 - whole.quantity <= D("0.01"), "impact grows with the square of the size"
    assert judge(snapshot=seen(score=-0.51)).quantity == 5
    assert judge(snapshot=seen(score=-0.51, mode="tighten")).quantity == 5


def test_what_the_model_was_told_binds_where_it_is_less_than_the_limits():
    verdict = judge(asked(size_pct=D(90)), snapshot=seen(told=(0.3, 1.5)))
    assert verdict.trade_risk_pct <= D("0.3")


@pytest.mark.parametrize(
    "state", [account(closed_trades=(closed(pnl=D(-300), symbol=""),)), account(day_start_equity=D(10_400))]
)
def test_a_days_loss_counts_from_trades_or_equity_or_the_snapshot(state):
    assert Code.DAILY_LOSS in judge(state=state).codes
    assert Code.DAILY_LOSS in judge(snapshot=seen(daily=-3.0)).codes
    assert judge(snapshot=seen(daily=-2.99)).allowed


def test_yesterdays_losses_are_yesterdays():
    trades = (closed(pnl=D(-300), closed_at=ago(hours=13)),)
    assert judge(state=account(closed_trades=trades)).allowed


def test_a_pause_by_risk_mode_denies_entries():
    assert judge(snapshot=seen(mode="pause")).codes == (Code.PAUSED,)


def test_spot_is_not_shorted_nor_levered():
    assert Code.SHORTING_NOT_ALLOWED in judge(asked(OpenShort), grid(kind="spot")).codes
    spot = judge(asked(stop_atr=D("0.25"), size_pct=D(300)), grid(kind="spot"), limits={"max_gross_pct": D(300)})
    assert spot.quantity * 100 <= D(10_000)


@pytest.mark.parametrize(
    ("instrument", "limits"),
    [({"max_leverage": D(1)}, {}), ({}, {"per_symbol": {BTC: SymbolLimits(leverage=D(1))}}), ({}, {"leverage": D(1)})],
)
def test_the_gross_is_bound_by_the_least_leverage_in_force(instrument, limits):
    wide = {"max_gross_pct": D(300), "max_net_pct": D(300), "max_symbol_pct": D(300)}
    large = asked(stop_atr=D("0.25"), size_pct=D(110))  # 110 units risk 68 of 75, and are worth 11,000
    assert Code.GROSS_CLAMPED in judge(large, grid(**instrument), limits=wide | limits).codes
    assert judge(large, limits=wide).codes == ()


def test_reduce_is_taken_where_the_question_is_about_the_account_and_halves_entries_until_then():
    less = Reduce(symbol=BTC)
    assert judge(less, snapshot=seen(offered=("HOLD",))).codes == (Code.ACTION_NOT_ALLOWED,)
    assert judge(less, snapshot=seen(offered=("HOLD", "REDUCE"))).allowed
    whole, half = judge(), judge(state=account(reduced_until=NOON + timedelta(minutes=1)))
    assert half.codes == (Code.REDUCED_CLAMPED,)
    assert half.quantity == whole.quantity / 2
    assert judge(state=account(reduced_until=NOON)).quantity == whole.quantity


@pytest.mark.parametrize("decision", [hold(BTC, "wait"), Pause(symbol=BTC, minutes=D(60))], ids=lambda d: d.action)
def test_numbers_beyond_arithmetic_deny_neither_a_hold_nor_a_pause(decision):
    beyond = account().replace(equity=D("9E+999999"), peak_equity=D("9E+999999"))
    assert judge(decision, beyond) == Verdict(allowed=True, decision=decision)


# --- what is offered to the model


def offered(state, risk_mode="normal", **terms):
    return guard.allowed_actions(state, BTC, Strategy(**terms), NOON, risk_mode)


def test_a_flat_account_is_offered_entries_and_no_exits():
    assert offered(account()) == ("HOLD", "OPEN_LONG", "OPEN_SHORT", "PAUSE")
    assert offered(grid(shorting=False)) == ("HOLD", "OPEN_LONG", "PAUSE")


def test_a_position_is_offered_everything_but_a_second_one():
    everything = ("HOLD", "ADD", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP", "SET_TP", "CANCEL_TP", "PAUSE")
    assert offered(holding()) == everything


@pytest.mark.parametrize(
    "state",
    [
        account(halt="x"), account(paused_until=NOON + STEP), many(3, minutes=1), five(5),
        account(peak_equity=D(20_000)),
        account(closed_trades=(closed(closed_at=ago(minutes=1)),)), account(day_start_equity=D(12_000)),
        account(rejections=3), account(last_liquidation=ago(hours=1)), account(last_price_at=ago(hours=1)),
        holding(symbol=ETH, stop=None), holding(symbol=ETH, quantity=D(100)), account(equity=D(0)),
    ],
)  # fmt: skip
def test_an_account_at_its_limits_is_offered_no_entry(state):
    assert offered(state) == ("HOLD", "PAUSE")


def test_a_paused_risk_mode_and_a_foreign_symbol_are_offered_no_entry():
    assert offered(account(), risk_mode="pause") == offered(account(), symbols=(ETH,)) == ("HOLD", "PAUSE")


def test_the_same_input_gives_the_same_verdict():
    assert judge() == judge()
    assert judge().model_dump_json() == judge().model_dump_json()
    assert Verdict.model_validate_json(judge().model_dump_json()).model_dump() == judge().model_dump()


@pytest.mark.parametrize("decision", [asked(), asked(Add), move(), CloseAll(symbol=BTC)])
def test_without_an_instrument_nothing_is_offered_or_allowed_but_to_wait(decision):
    state = account(instrument=None, positions=(position(),))
    assert offered(state) == ("HOLD", "PAUSE")
    verdict = judge(decision, state)
    assert (verdict.allowed, verdict.codes) == (False, (Code.DATA_MISSING,))
    assert verdict.checks[0].inputs == {"instrument": "None"}
    assert judge(Hold(symbol=BTC), state).allowed


@pytest.mark.parametrize(("decision", "asked_for"), [(CloseAll(symbol=BTC), 10), (Trim(symbol=BTC, size_pct=D(50)), 5)])
def test_an_exit_larger_than_the_largest_order_goes_in_part_and_says_so(decision, asked_for):
    state = holding(quantity=D(10)).replace(instrument=linear(max_quantity=D("4.0005")))
    verdict = judge(decision, state)
    assert (verdict.allowed, verdict.codes, verdict.quantity) == (True, (Code.LARGEST_ORDER_CLAMPED,), D("4"))
    assert [D(c.inputs["asked"]) for c in verdict.checks if c.fired] == [D(asked_for)]
    whole = judge(decision, holding(quantity=D(10)))
    assert verdict.total_risk_pct > whole.total_risk_pct  # the rest stays at risk
