"""Follow-ups in, typed rules out; carried out once each, and only ever to reduce risk."""

from decimal import Decimal as D

import pytest
from guard_cases import BTC, GRID, NOON

from tasks.core.simulation.account import SimulatedAccount
from tasks.core.trading import followups
from tasks.core.trading.followups import MoveStopRule, RejectedFollowup, TrimRule
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType
from tasks.core.types.portfolio import Position

EVEN, THIRD = "MOVE_STOP: breakeven on +1.0R", "TRIM 30% at +1.5R"


def position(**changed):
    """Long 2 from 100 with its stop at 98: one R is 2 quote."""
    plain = {
        "position_id": "p", "strategy": "default", "cycle_id": "c", "symbol": BTC, "side": "long", "quantity": D(2),
        "entry_quantity": D(2), "avg_price": D(100), "initial_stop": D(98), "stop": D(98), "followups": (THIRD, EVEN),
        "opened_at": NOON,
    }  # fmt: skip
    return Position(**{**plain, **changed})


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
    ],
)
def test_a_follow_up_is_read_in_any_case_and_spacing(text, rule):
    assert followups.parse_one(text) == rule


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not understood"), ("sell everything if it rains", "not understood"),
        ("TRIM 30% at +1.5R and double up", "not understood"), ("MOVE_STOP: 0.5 ATR on +1R", "not understood"),
        ("TRIM 30% at -1R", "profit"), ("TRIM 30% at 0R", "profit"), ("TRIM 0% at 1R", "0%"),
        ("TRIM 101% at 1R", "101%"), ("MOVE_STOP: +2R on +1R", "below its trigger"),
        ("MOVE_STOP: -1R on +1R", "above -1R"), ("TRIM 99999999% at 1R", "not understood"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_returned_with_the_reason(text, why):
    rejected = followups.parse_one(text)
    assert isinstance(rejected, RejectedFollowup)
    assert rejected.text == text
    assert why in rejected.reason


def test_a_rule_prints_in_the_spelling_it_is_parsed_from():
    rules = followups.parse([EVEN, THIRD, "CLOSE_ALL at 2r", "trim 30% on 1.50R", "nonsense"])
    assert [str(r) for r in rules] == ["MOVE_STOP: breakeven on +1R", "TRIM 30% at +1.5R", "TRIM 100% at +2R"]
    assert followups.parse(str(r) for r in rules) == rules


def test_a_rule_is_due_from_its_r_on_and_once():
    assert followups.due(position(), D("101.99")) == ()
    (even,) = followups.due(position(), D(102))
    assert even == MoveStopRule(at_r=D(1))
    after = followups.mark_done(position(), even)
    assert [str(r) for r in followups.due(after, D(103))] == ["TRIM 30% at +1.5R"]
    assert [str(r) for r in followups.due(position(), D(103))] == ["MOVE_STOP: breakeven on +1R", "TRIM 30% at +1.5R"]


def test_a_rule_done_under_another_spelling_is_done():
    assert len(followups.pending(position(followups_done=("trim 30 % on 1.50R",)))) == 1


def test_a_short_earns_downwards():
    short = position(side="short", initial_stop=D(102), stop=D(102))
    assert followups.due(short, D("98.01")) == ()
    (even,) = followups.due(short, D(98))
    order = followups.intent(even, short, GRID)
    assert (order.side, order.type, order.price) == ("buy", OrderType.STOP, D(100))


def test_without_a_stop_there_is_no_r_and_nothing_is_due():
    assert followups.due(position(initial_stop=None), D(500)) == ()


def test_a_closed_position_has_nothing_due():
    assert followups.due(position(quantity=D(0), closed_at=NOON), D(110)) == ()


def test_a_stop_goes_to_breakeven_or_further_and_never_back():
    even, half = MoveStopRule(at_r=D(1)), MoveStopRule(at_r=D(1), to_r=D("0.5"))
    order = followups.intent(even, position(), GRID)
    assert (order.type, order.price, order.quantity, order.reduce_only) == (OrderType.STOP, D(100), D(2), True)
    assert followups.intent(half, position(), GRID).price == D(101)
    assert followups.intent(even, position(stop=D(100)), GRID) is None
    assert followups.intent(half, position(stop=D("101.5")), GRID) is None


def test_a_trim_is_floored_and_never_strands_a_remainder():
    rule = TrimRule(at_r=D(1), size_pct=D(30))
    assert followups.intent(rule, position(), GRID).quantity == D("0.6")
    assert followups.intent(rule, position(quantity=D("0.003")), GRID) is None
    coarse = GRID.model_copy(update={"step": D("0.1"), "min_quantity": D("0.5")})
    assert followups.intent(TrimRule(at_r=D(1), size_pct=D(80)), position(), coarse).quantity == D(2)


def test_the_same_rule_on_the_same_position_is_the_same_order():
    rule = TrimRule(at_r=D(1), size_pct=D(30))
    first = followups.intent(rule, position(), GRID)
    assert followups.intent(rule, position(), GRID).client_order_id == first.client_order_id
    assert followups.intent(rule, position(position_id="q"), GRID).client_order_id != first.client_order_id


def test_two_rules_of_one_kind_are_two_orders_and_both_fill():
    """By the id of its kind alone the second trim would be the first one over again, and never be sent."""
    first, second = followups.parse(["TRIM 30% at 1R", "TRIM 50% at 2R"])
    account = SimulatedAccount(D(10_000), {BTC: GRID}, Costs())
    entry = OrderIntent(client_order_id="e", symbol=BTC, side="buy", type=OrderType.MARKET, quantity=D(2), stop=D(98))
    account.submit(entry, D(100), NOON)
    held, sent = position(followups=(str(first), str(second))), []
    for rule, price, left in ((first, D(102), D("1.4")), (second, D(104), D("0.7"))):
        assert followups.due(held, price) == (rule,)
        order = account.submit(followups.intent(rule, held, GRID), price, NOON)
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
    ],
    ids=str,
)  # fmt: skip
def test_what_tells_rules_apart_tells_their_orders_apart(other):
    plain = followups.intent(TrimRule(at_r=D(1), size_pct=D(30)), position(), GRID)
    assert followups.intent(other, position(), GRID).client_order_id != plain.client_order_id
