"""Follow-ups in, typed rules out; carried out once each, and only ever to reduce risk."""

from datetime import timedelta
from decimal import Decimal as D

import numpy as np
import pytest
from guard_cases import BTC, GRID, NOON
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.market.position_events import STEP, Closes, r_path
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.trading import followups
from tasks.core.trading.followups import AgeRule, Look, MoveStopRule, RejectedFollowup, TrailRule, TrimRule
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType
from tasks.core.types.portfolio import Position

EVEN, THIRD = "MOVE_STOP: breakeven on +1.0R", "TRIM 30% at +1.5R"
TRAIL, AGE = "TRAIL 2.0 ATR from +1.0R", "CLOSE after 96 bars below +0.5R"


def position(**changed):
    """Long 2 from 100 with its stop at 98: one R is 2 quote."""
    plain = {
        "position_id": "p", "strategy": "default", "cycle_id": "c", "symbol": BTC, "side": "long", "quantity": D(2),
        "entry_quantity": D(2), "avg_price": D(100), "initial_stop": D(98), "stop": D(98), "followups": (THIRD, EVEN),
        "opened_at": NOON,
    }  # fmt: skip
    return Position(**{**plain, **changed})


def at(price, best=None, atr=None, bars=1):
    """What is known `bars` after the position opened."""
    best = price if best is None else best
    return Look(NOON + bars * timedelta(minutes=5), D(price), D(best), atr and D(atr))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (EVEN, MoveStopRule(at_r=D(1))),
        ("move_stop:breakeven at 1R", MoveStopRule(at_r=D(1))),
        ("  Move Stop to break-even   ON + 1 r ", MoveStopRule(at_r=D(1))),
        ("MOVE_STOP: +0.5R on +1.5R", MoveStopRule(at_r=D("1.5"), to_r=D("0.5"))),
        (THIRD, TrimRule(at_r=D("1.5"), size_pct=D(30))),
        ("trim: 30 % on 1.5 R.", TrimRule(at_r=D("1.5"), size_pct=D(30))),
        ("CLOSE_PARTIAL 50% at 2R", TrimRule(at_r=D(2), size_pct=D(50))),
        ("CLOSE_ALL at +3R", TrimRule(at_r=D(3), size_pct=D(100))),
        ("TRAIL 2.0 ATR from +1.0R", TrailRule(at_r=D(1), atr=D(2))),
        ("Trail stop by 2x ATR after +1R", TrailRule(at_r=D(1), atr=D(2))),
        ("Close 50% once 2R", TrimRule(at_r=D(2), size_pct=D(50))),
        ("move stop to breakeven when +1R", MoveStopRule(at_r=D(1))),
        ("trail_stop: 1.5ATR at 0.5 r", TrailRule(at_r=D("0.5"), atr=D("1.5"))),
        ("CLOSE after 96 bars below +0.5R", AgeRule(at_r=D("0.5"), bars=96)),
        ("close all after 1 bar, below -0.2 R.", AgeRule(at_r=D("-0.2"), bars=1)),
    ],
)
def test_a_follow_up_is_read_in_any_case_and_spacing(text, rule):
    assert followups.parse_one(text) == rule


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not understood"), ("sell everything if it rains", "not understood"),
        ("TRIM 30% at +1.5R and double up", "not understood"), ("CLOSE after 1.5R bars", "not understood"),
        ("TRAIL 2%", "not understood"), ("trail 2 ATR", "not understood"), ("close 50 at 2R", "not understood"),
        ("TRIM 30% below 1R", "not understood"), ("MOVE_STOP: 0.5 ATR on +1R", "not understood"),
        ("TRIM 30% at -1R", "profit"), ("TRIM 30% at 0R", "profit"), ("TRIM 0% at 1R", "0%"),
        ("TRIM 101% at 1R", "101%"), ("MOVE_STOP: +2R on +1R", "below its trigger"),
        ("MOVE_STOP: -1R on +1R", "above -1R"), ("TRIM 99999999% at 1R", "not understood"),
        ("TRAIL 1 ATR", "not understood"), ("TRAIL 0 ATR from 1R", "above 0"), ("TRAIL 21 ATR from 1R", "at most 20"),
        ("TRAIL 2 ATR from -1R", "profit"), ("CLOSE after 0 bars below 1R", "at least 1 bar"),
        ("CLOSE after 96 bars below -1R", "above -1R"), ("CLOSE after 96 bars", "not understood"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_returned_with_the_reason(text, why):
    rejected = followups.parse_one(text)
    assert isinstance(rejected, RejectedFollowup)
    assert rejected.text == text
    assert why in rejected.reason


def test_a_rule_prints_in_the_spelling_it_is_parsed_from():
    told = [EVEN, THIRD, "CLOSE_ALL at 2r", "trim 30% on 1.50R", "nonsense", TRAIL, AGE]
    rules = followups.parse(told)
    spelt = ["MOVE_STOP: breakeven on +1R", "TRIM 30% at +1.5R", "TRIM 100% at +2R"]
    assert [str(r) for r in rules] == [*spelt, "TRAIL 2 ATR from +1R", "CLOSE after 96 bars below +0.5R"]
    assert followups.parse(str(r) for r in rules) == rules
    assert [each.text for each in followups.unread(told)] == ["nonsense"]


def test_a_rule_is_due_from_its_r_on_and_once():
    assert followups.due(position(), at("101.99")) == ()
    (even,) = followups.due(position(), at(102))
    assert even == MoveStopRule(at_r=D(1))
    after = followups.mark_done(position(), even)
    assert [str(r) for r in followups.due(after, at(103))] == ["TRIM 30% at +1.5R"]
    assert [str(r) for r in followups.due(position(), at(103))] == ["MOVE_STOP: breakeven on +1R", "TRIM 30% at +1.5R"]


def test_a_rule_done_under_another_spelling_is_done():
    assert len(followups.pending(position(followups_done=("trim 30 % on 1.50R",)))) == 1


def test_a_short_earns_downwards():
    short = position(side="short", initial_stop=D(102), stop=D(102))
    assert followups.due(short, at("98.01")) == ()
    (even,) = followups.due(short, at(98))
    order = followups.intent(even, short, GRID, at(100))
    assert (order.side, order.type, order.price) == ("buy", OrderType.STOP, D(100))


def test_without_a_stop_there_is_no_r_and_nothing_is_due():
    assert followups.due(position(initial_stop=None), at(500)) == ()


def test_a_closed_position_has_nothing_due():
    assert followups.due(position(quantity=D(0), closed_at=NOON), at(110)) == ()


def test_a_stop_goes_to_breakeven_or_further_and_never_back():
    even, half = MoveStopRule(at_r=D(1)), MoveStopRule(at_r=D(1), to_r=D("0.5"))
    order = followups.intent(even, position(), GRID, at(100))
    assert (order.type, order.price, order.quantity, order.reduce_only) == (OrderType.STOP, D(100), D(2), True)
    assert followups.intent(half, position(), GRID, at(100)).price == D(101)
    assert followups.intent(even, position(stop=D(100)), GRID, at(100)) is None
    assert followups.intent(half, position(stop=D("101.5")), GRID, at(100)) is None


def test_a_trim_is_floored_and_never_strands_a_remainder():
    rule = TrimRule(at_r=D(1), size_pct=D(30))
    assert followups.intent(rule, position(), GRID, at(100)).quantity == D("0.6")
    assert followups.intent(rule, position(quantity=D("0.003")), GRID, at(100)) is None
    coarse = GRID.model_copy(update={"step": D("0.1"), "min_quantity": D("0.5")})
    assert followups.intent(TrimRule(at_r=D(1), size_pct=D(80)), position(), coarse, at(100)).quantity == D(2)


@pytest.mark.parametrize("side", ["long", "short"])
def test_a_trail_follows_the_best_close_and_only_tightens(side):
    """One R is 2 from 100: active once a close was 102, then 2 x 0.5 behind the best; a short is its mirror image."""
    sign = 1 if side == "long" else -1
    start = position(side=side, initial_stop=D(100 - 2 * sign), stop=D(100 - 2 * sign), followups=(TRAIL,))
    held, stops = start, []
    closes = [("101.9", "101.9"), ("102", "102"), ("103.3", "103.3"), ("102.5", "103.3"), ("102.3", "103.3")]
    for price, best in closes:
        look = at(100 + sign * (D(price) - 100), 100 + sign * (D(best) - 100), "0.5")
        for rule in followups.due(held, look):
            order = followups.intent(rule, held, GRID, look)
            held = followups.mark_done(held.replace(stop=order.price), rule)
        stops.append(100 + sign * (held.stop - 100))
    assert stops == [98, 101, D("102.3"), D("102.3"), D("102.3")]
    assert [str(rule) for rule in followups.pending(held)] == ["TRAIL 2 ATR from +1R"]  # it goes on
    assert followups.due(start, at(100 + sign * 5, 100 + sign * 5)) == ()  # no ATR is known
    wide = at(100 + sign, 100 + sign * 4, "1.5")
    assert followups.due(start.replace(stop=None), wide) == ()  # the stop would be where the price is
    calmer = at(100 + sign * 3, 100 + sign * D("3.3"), "0.3")
    (rule,) = followups.due(held, calmer)  # a smaller ATR tightens it too
    tighter = followups.intent(rule, held, GRID, calmer)
    assert tighter.price == 100 + sign * D("2.7")
    assert tighter.client_order_id != followups.intent(rule, start, GRID, at(100 + sign * 4, atr="0.5")).client_order_id


def test_a_trade_that_goes_nowhere_is_closed_once_it_is_old_and_below():
    slow = position(followups=(AGE,))
    assert followups.due(slow, at("100.9", bars=95)) == ()
    assert followups.due(slow, at(101, bars=96)) == ()  # 0.5 R
    (rule,) = followups.due(slow, at("100.9", bars=200))
    order = followups.intent(rule, slow, GRID, at("100.9", bars=200))
    assert (order.type, order.quantity, order.reduce_only) == (OrderType.MARKET, D(2), True)
    assert followups.due(followups.mark_done(slow, rule), at(100, bars=201)) == ()


@given(st.lists(st.floats(90, 115), min_size=1, max_size=300), st.floats(0.1, 5), st.sampled_from(["long", "short"]))
def test_no_close_at_which_a_rule_is_due_is_passed_over(closes, atr, side):
    """What a replay looks ahead for, and what is due at each close by itself."""
    held = position(
        side=side, initial_stop=D(98 if side == "long" else 102), stop=None, followups=(EVEN, THIRD, TRAIL, AGE)
    )
    path = Closes(np.array([int(NOON.timestamp()) + STEP * (i + 1) for i in range(len(closes))]), np.array(closes))
    r = r_path(held, path, NOON + timedelta(days=30))
    every = np.full(len(closes), atr)
    ahead = {rule: followups.reached(rule, held, r, every) for rule in followups.pending(held)}
    for i in range(len(closes)):
        look = followups.look(held, Closes(path.at_s[: i + 1], path.level[: i + 1]), lambda at: np.array([atr]))
        assert all(ahead[rule][i] for rule in followups.due(held, look))


@pytest.mark.parametrize("late_s", [0, 7, 299])
def test_bars_are_counted_alike_whenever_within_its_bar_a_position_opened(late_s):
    """A replay fills at the bar's open, a venue some seconds after it, a limit order anywhere in it."""
    slow = position(followups=(AGE,), opened_at=NOON + timedelta(seconds=late_s))
    ages = [bars for bars in range(200) if followups.due(slow, at(100, bars=bars))]
    assert ages[0] == 96
    path = Closes(np.array([int(NOON.timestamp()) + STEP * (i + 1) for i in range(200)]), np.zeros(200))
    ahead = followups.reached(followups.parse_one(AGE), slow, path, path.level)
    assert ahead.argmax() + 1 == 96


@given(
    entry=st.integers(2_000, 900_000), unit=st.integers(1, 3000), digits=st.integers(0, 8),
    side=st.sampled_from([1, -1]), quarters=st.integers(1, 12),
)  # fmt: skip
def test_a_close_exactly_at_its_r_is_not_passed_over(entry, unit, digits, side, quarters):
    """Of such closes a third lie below their R as floats."""
    tick, at_r = D(1).scaleb(-digits), D(quarters) / 4
    held = position(
        side="long" if side > 0 else "short", avg_price=entry * tick, first_price=entry * tick,
        initial_stop=(entry - side * unit * 4) * tick, stop=None,
        followups=(f"TRIM 30% at {at_r}R", f"TRAIL 0.000001 ATR from {at_r}R", f"CLOSE after 1 bar below {at_r}R"),
    )  # fmt: skip
    closes = np.array([float((entry + side * unit * quarters + gap) * tick) for gap in (-1, 0, 1)])
    path = Closes(np.array([int(NOON.timestamp()) + STEP * (i + 1) for i in range(3)]), closes)
    r, atr = r_path(held, path, NOON + timedelta(days=1)), np.full(3, float(tick))
    for i in range(3):
        look = followups.look(held, Closes(path.at_s[: i + 1], closes[: i + 1]), lambda at: atr[:1])
        due = followups.due(held, look)
        assert all(followups.reached(rule, held, r, atr)[i] for rule in due)
        assert (f"TRIM 30% at +{at_r.normalize():f}R" in map(str, due)) == (side * (i - 1) >= 0)


def test_the_same_rule_on_the_same_position_is_the_same_order():
    rule = TrimRule(at_r=D(1), size_pct=D(30))
    first = followups.intent(rule, position(), GRID, at(100))
    assert followups.intent(rule, position(), GRID, at(100)).client_order_id == first.client_order_id
    assert followups.intent(rule, position(position_id="q"), GRID, at(100)).client_order_id != first.client_order_id


def test_two_rules_of_one_kind_are_two_orders_and_both_fill():
    """By the id of its kind alone the second trim would be the first one over again, and never be sent."""
    first, second = followups.parse(["TRIM 30% at 1R", "TRIM 50% at 2R"])
    account = SimulatedAccount(D(10_000), {BTC: GRID}, Costs())
    entry = OrderIntent(client_order_id="e", symbol=BTC, side="buy", type=OrderType.MARKET, quantity=D(2), stop=D(98))
    account.submit(entry, D(100), NOON)
    held, sent = position(followups=(str(first), str(second))), []
    for rule, price, left in ((first, D(102), D("1.4")), (second, D(104), D("0.7"))):
        assert followups.due(held, at(price)) == (rule,)
        order = account.submit(followups.intent(rule, held, GRID, at(100)), price, NOON)
        assert order.status is OrderStatus.FILLED
        sent.append(order.client_order_id)
        held = followups.mark_done(held.model_copy(update={"quantity": left}), rule)
    assert len(set(sent)) == 2
    assert account.position(BTC).quantity == D("0.7")
    assert followups.pending(held) == ()


@pytest.mark.parametrize(
    "other",
    [
        TrimRule(at_r=D(1), size_pct=D(50)), TrimRule(at_r=D(2), size_pct=D(30)), MoveStopRule(at_r=D(1)),
        MoveStopRule(at_r=D(1), to_r=D("0.5")), MoveStopRule(at_r=D(2)),
        TrailRule(at_r=D(1), atr=D(2)), AgeRule(at_r=D(1), bars=30),
    ],
    ids=str,
)  # fmt: skip
def test_what_tells_rules_apart_tells_their_orders_apart(other):
    plain = followups.intent(TrimRule(at_r=D(1), size_pct=D(30)), position(), GRID, at(100))
    assert followups.intent(other, position(), GRID, at(104, atr="0.5")).client_order_id != plain.client_order_id
