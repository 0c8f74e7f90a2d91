"""Intents, orders and fills: an id means one order for ever."""

from decimal import Decimal

import pytest
from store_samples import AT, BTC, a_cycle, a_fill, an_intent, an_order, minutes

from tasks.core.errors import StoreError
from tasks.core.types.orders import OrderStatus, OrderType


@pytest.fixture
def begun(store):
    store.begin_cycle(a_cycle("c1"), AT)
    store.begin_cycle(a_cycle("c2", as_of=AT + minutes(5)), AT)
    store.begin_cycle(a_cycle("o1", strategy="other"), AT)
    return store


def test_intents_come_back_in_their_order(begun):
    legs = (an_intent("z", expires_at=AT + minutes(15)), an_intent("a", type=OrderType.STOP, reduce_only=True))
    begun.save_intents("c1", legs, AT)
    assert begun.intents("c1") == legs
    assert begun.intents("c2") == ()


def test_same_intents_again_are_a_no_op_whatever_their_trailing_zeros(begun):
    begun.save_intents("c1", [an_intent()], AT)
    begun.mark_intent("qd-1", "sent", AT)
    begun.save_intents("c1", [an_intent(quantity=Decimal("0.012"))], AT + minutes(1))
    assert [state for _, _, state in begun.open_intents("default")] == ["sent"]
    assert begun.recent_entries("default", AT) == [(AT, None)]


def test_other_content_under_a_known_id_is_refused_and_nothing_of_it_kept(begun):
    begun.save_intents("c1", [an_intent()], AT)
    with pytest.raises(StoreError, match=r"qd-1.*another content"):
        begun.save_intents("c1", [an_intent("qd-2"), an_intent(quantity=Decimal("0.013"))], AT)
    with pytest.raises(StoreError, match="qd-1"):
        begun.save_intents("c2", [an_intent()], AT)
    assert begun.intents("c1") == (an_intent(),)


def test_intent_never_goes_back(begun):
    begun.save_intents("c1", [an_intent()], AT)
    states = []
    for state in ("sent", "persisted", "done", "sent", "rejected"):
        begun.mark_intent("qd-1", state, AT)
        states.append([kept for _, _, kept in begun.open_intents("default")])
    assert states == [["sent"], ["sent"], [], [], []]


def test_refused_intent_that_turns_out_done_is_done(begun):
    begun.save_intents("c1", [an_intent()], AT)
    begun.mark_intent("qd-1", "rejected", AT)
    begun.mark_intent("qd-1", "done", AT)
    begun.mark_intent("qd-1", "rejected", AT)
    assert begun.open_intents("default") == []


def test_unknown_state_or_intent_is_refused(begun):
    begun.save_intents("c1", [an_intent()], AT)
    with pytest.raises(StoreError, match="'lost' is none of persisted, sent, done, rejected"):
        begun.mark_intent("qd-1", "lost", AT)
    with pytest.raises(StoreError, match="never persisted"):
        begun.mark_intent("qd-9", "sent", AT)


def test_open_intents_are_those_of_the_strategy_oldest_first(begun):
    begun.save_intents("c2", [an_intent("later")], AT + minutes(5))
    begun.save_intents("c1", [an_intent("first"), an_intent("second")], AT)
    begun.save_intents("o1", [an_intent("other")], AT)
    begun.mark_intent("second", "rejected", AT)
    assert begun.open_intents("default") == [
        ("c1", an_intent("first"), "persisted"),
        ("c2", an_intent("later"), "persisted"),
    ]


def test_own_intents_are_all_of_a_strategy_and_symbol_oldest_first_with_what_they_filled(begun):
    begun.save_intents("c2", [an_intent("b"), an_intent("other", symbol="ETH/USDT:USDT")], AT + minutes(5))
    begun.save_intents("c1", [an_intent("a")], AT)
    begun.save_intents("o1", [an_intent("theirs")], AT)
    begun.save_order(an_order("a", filled=Decimal("0.004")), "c1")
    begun.mark_intent("a", "done", AT)
    first, second = begun.own_intents("default", BTC)
    assert (first.intent, first.cycle_id, first.persisted_at) == (an_intent("a"), "c1", AT)
    assert (first.state, first.filled, first.ended) == ("done", Decimal("0.004"), True)
    assert (second.intent.client_order_id, second.state, second.filled) == ("b", "persisted", 0)


def test_recent_entries_are_entries_only_with_what_became_of_their_orders(begun):
    entry, limit = an_intent("market"), an_intent("limit", type=OrderType.LIMIT, price=Decimal(1))
    stop, closing = an_intent("stop", type=OrderType.STOP), an_intent("close", reduce_only=True)
    begun.save_intents("c1", [entry, stop, closing], AT)
    begun.save_intents("c2", [limit], AT + minutes(5))
    begun.save_order(an_order("market", status=OrderStatus.REJECTED), "c1")
    assert begun.recent_entries("default", AT) == [(AT, "rejected"), (AT + minutes(5), None)]
    assert begun.recent_entries("default", AT + minutes(1)) == [(AT + minutes(5), None)]


def test_order_is_kept_in_its_newest_state(begun):
    filled = an_order(status=OrderStatus.FILLED, filled=Decimal("0.012"), updated_at=AT + minutes(1))
    begun.save_order(an_order(), "c1")
    begun.save_order(filled, "c1")
    begun.save_order(an_order(), "c1")
    assert begun.order("qd-1") == filled
    assert begun.order("qd-2") is None


def test_order_without_a_cycle_takes_that_of_its_intent_and_keeps_it(begun):
    begun.save_intents("c1", [an_intent("qd-1")], AT)
    begun.save_order(an_order("qd-1"), None)
    begun.save_order(an_order("qd-2"), "c2")
    begun.save_order(an_order("qd-2", filled=Decimal("0.001")), None)
    begun.save_order(an_order("qd-3"), "o1")
    begun.save_order(an_order("unknown"), None)
    begun.save_order(an_order("qd-4", status=OrderStatus.CANCELLED), "c1")
    assert {order.client_order_id for order in begun.open_orders_known("default")} == {"qd-1", "qd-2"}


def test_order_without_our_id_is_refused(begun):
    with pytest.raises(StoreError, match="v1 has no client_order_id"):
        begun.save_order(an_order(""), "c1")


def test_only_new_fills_are_returned(store):
    assert store.save_fills([a_fill("x1"), a_fill("x2"), a_fill("x1")]) == [a_fill("x1"), a_fill("x2")]
    assert store.save_fills([a_fill("x3"), a_fill("x2")]) == [a_fill("x3")]
    assert store.save_fills([]) == []


def test_fills_are_found_by_symbol_and_time_oldest_first(store):
    late, early = a_fill("x1", at=AT + minutes(5)), a_fill("x2")
    other = a_fill("x3", symbol="ETH/USDT:USDT", at=AT + minutes(9))
    store.save_fills([late, other, early])
    assert store.fills() == [early, late, other]
    assert store.fills(symbol=BTC) == [early, late]
    assert store.fills(since=AT + minutes(5)) == [late, other]
