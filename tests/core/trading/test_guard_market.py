"""What the guard makes of the market it would enter, of positions that move alike, and of what was lost lately."""

import math
from decimal import Decimal as D

import pytest
from guard_cases import BTC, ETH, account, asked, beside, holding, judge, lost, pending, seen

from tasks.core.types.decision import Add, Entry, OpenShort
from tasks.core.types.verdict import Code


def test_a_limit_above_the_last_close_chases_and_one_at_it_does_not():
    limit = Entry(type="limit", offset_bps=D(10))
    assert Code.CHASING in judge(asked(entry=limit), account(last_price=D("100.3"))).codes
    assert judge(asked(entry=limit), account(last_price=D(100))).allowed
    assert Code.CHASING in judge(asked(OpenShort, entry=limit), account(last_price=D("99.7"))).codes


def test_what_has_run_is_not_bought_at_market_unless_it_breaks_out_on_volume():
    ran, up, down = {"rsi": 80.0, "price_z20": 2.0}, frozenset({1}), frozenset({-1})
    assert Code.CHASING in judge(snapshot=seen(**ran), breakouts=up).codes
    assert Code.CHASING in judge(snapshot=seen(**ran, vol_spike=True)).codes
    assert judge(snapshot=seen(**ran, vol_spike=True), breakouts=up).allowed
    assert Code.CHASING in judge(snapshot=seen(**ran, vol_spike=True), breakouts=down).codes
    assert judge(asked(OpenShort), snapshot=seen(**ran)).allowed
    fell = {"rsi": 20.0, "price_z20": -2.0}
    assert Code.CHASING in judge(asked(OpenShort), snapshot=seen(**fell)).codes
    assert judge(asked(OpenShort), snapshot=seen(**fell, vol_spike=True), breakouts=down).allowed
    assert Code.CHASING in judge(asked(OpenShort), snapshot=seen(**fell, vol_spike=True), breakouts=up).codes
    assert judge(snapshot=seen(**fell)).allowed


def test_an_entry_at_market_needs_to_know_that_the_price_has_not_run():
    assert Code.CHASING in judge(snapshot=seen(rsi=None, price_z20=None)).codes
    assert judge(snapshot=seen(rsi=None, price_z20=1.5)).allowed


def test_without_a_book_spread_and_slippage_are_the_modelled_ones_and_a_thin_one_denies():
    blind = seen(spread=None, slippage=None)
    assert judge(snapshot=blind).allowed
    assert judge(asked(entry=Entry(type="limit", offset_bps=D(3))), snapshot=blind).allowed
    assert judge(asked(entry=Entry(type="limit", offset_bps=D("3.1"))), snapshot=blind).codes == (Code.OFFSET_TOO_FAR,)
    assert judge(snapshot=seen(slippage=None)).codes == (Code.SLIPPAGE_TOO_HIGH,)
    assert judge(asked(entry=Entry(type="limit", offset_bps=D(1))), snapshot=seen(slippage=None)).allowed


@pytest.mark.parametrize(("stack", "allowed"), [("200>50>20", True), ("20>50>200", False), (None, False)])
def test_a_second_one_alike_is_not_stacked_while_the_regime_runs_that_way(stack, allowed):
    state = beside(0.9, symbol=ETH, stop=D("99.9"), initial_stop=D(98), mark_price=D("101.9"))
    verdict = judge(state=state, snapshot=seen(stack=stack))
    assert (verdict.allowed, Code.STACKED in verdict.codes) == (allowed, not allowed)
    strong = beside(0.9, symbol=ETH, stop=D(100), initial_stop=D(98), mark_price=D(102))
    assert judge(state=strong, snapshot=seen(stack=stack)).allowed
    assert judge(asked(OpenShort), state=state, snapshot=seen(stack=stack)).allowed


def test_what_was_added_to_has_earned_by_the_r_of_its_first_entry():
    """First at 100 with its stop at 90: 1 R is 110, and stays there when the average is 105."""
    added = {"symbol": ETH, "avg_price": D(105), "first_price": D(100), "initial_stop": D(90), "stop": D(105)}
    for mark, fires in ((D("109.9"), True), (D(110), False)):
        state = beside(0.9, **added, mark_price=mark)
        assert (Code.STACKED in judge(state=state, snapshot=seen(stack=None)).codes) == fires


def test_a_losing_position_is_not_added_to_whatever_the_regime():
    assert judge(asked(Add), holding(), seen(close=99.9)).codes == (Code.STACKED,)
    assert judge(asked(Add), holding(), seen(close=100.0)).allowed


def test_a_correlation_nobody_could_tell_counts_as_close_and_an_opposite_one_as_the_same_bet():
    state = beside(0.0, symbol=ETH, stop=D("94.7"))
    for unknown in ({}, {ETH: math.nan}):
        assert Code.CORRELATION_CLAMPED in judge(state=state.model_copy(update={"correlations": unknown})).codes
    mirrored = beside(-0.9, symbol=ETH, side="short", stop=D("105.3"))
    assert Code.CORRELATION_CLAMPED in judge(state=mirrored).codes
    assert judge(asked(OpenShort), state=state.model_copy(update={"correlations": {ETH: 0.9}})).codes == ()


def test_what_is_pending_alike_is_part_of_the_same_risk():
    state = account(pending=(pending(stop=D("94.7")),), correlations={ETH: 0.9})
    assert judge(state=state).codes == (Code.CORRELATION_CLAMPED,)
    assert Code.STACKED in judge(state=state, snapshot=seen(stack="20>50>200")).codes


def test_after_two_losses_a_clear_market_is_sized_in_full():
    assert judge(state=lost(minutes=59), snapshot=seen(votes=4)).codes == ()
    assert judge(state=lost(minutes=59), snapshot=seen(votes=-4)).codes == (Code.COOL_OFF_CLAMPED,)
    assert judge(state=lost(minutes=59), snapshot=seen(votes=5), limits={"cool_off": "pause"}).codes == (Code.COOL_OFF,)


def test_a_decider_without_an_edge_trades_the_smallest_risk():
    verdict = judge(asked(size_pct=D(100)), account(kelly=D(-1)))
    assert verdict.codes == (Code.TRADE_RISK_CLAMPED, Code.TOTAL_RISK_CLAMPED, Code.KELLY_CLAMPED)
    assert D("0.0999") < verdict.trade_risk_pct <= D("0.1")


def test_half_of_what_halts_trading_tightens_risk():
    for state in (account(peak_equity=D("10811")), account(day_start_equity=D("10153"))):
        assert judge(state=state).codes == (Code.SIZE_CLAMPED,)
    assert judge(state=account(peak_equity=D("10810"), day_start_equity=D("10152"))).codes == ()


def test_a_symbol_of_its_own_limits_keeps_to_them():
    own = {"per_symbol": {BTC: {"leverage": D(2), "max_pct": D(5)}}}
    assert judge(limits=own).codes == (Code.SYMBOL_CLAMPED,)
    assert judge(limits=own).quantity == 5
    assert judge(limits={"per_symbol": {ETH: {"max_pct": D(5)}}}).codes == ()
    assert judge(state=account(available=D(500)), limits=own).quantity == 5
    assert Code.AVAILABLE_CLAMPED in judge(state=account(available=D(200)), limits=own).codes


def test_a_book_one_tick_wide_leaves_room_for_a_limit_of_three_modelled_spreads():
    narrow = seen(spread=0.016)
    assert judge(asked(entry=Entry(type="limit", offset_bps=D(3))), snapshot=narrow).allowed
    denied = judge(asked(entry=Entry(type="limit", offset_bps=D("3.1"))), snapshot=narrow)
    assert denied.codes == (Code.OFFSET_TOO_FAR,)
