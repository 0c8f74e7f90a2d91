"""Intents, orders and fills: an id means one order for ever."""

from decimal import Decimal

import pytest
from store_samples import AT, BTC, a_cycle, a_fill, an_intent, an_order, minutes

from tasks.core.errors import StoreError
from tasks.core.types.orders import OrderStatus, OrderType


@pytest.fixture
def begun(store):
    store.cycles.begin(a_cycle("c1"), AT)
    store.cycles.begin(a_cycle("c2", as_of=AT + minutes(5)), AT)
    store.cycles.begin(a_cycle("o1", strategy="other"), AT)
    return store


def test_intents_come_back_in_their_order(begun):
    legs = (an_intent("z", expires_at=AT + minutes(15)), an_intent("a", type=OrderType.STOP, reduce_only=True))
    begun.intents.save("c1", legs, AT)
    assert begun.intents.of_cycle("c1") == legs
    assert begun.intents.of_cycle("c2") == ()


def test_same_intents_again_are_a_no_op_whatever_their_trailing_zeros(begun):
    begun.intents.save("c1", [an_intent()], AT)
    begun.intents.mark("qd-1", "sent")
    begun.intents.save("c1", [an_intent(quantity=Decimal("0.012"))], AT + minutes(1))
    assert [own.state for own in begun.intents.open("default")] == ["sent"]
    assert [(own.persisted_at, own.order_status) for own in begun.intents.recent_entries("default", AT)] == [(AT, None)]


def test_other_content_under_a_known_id_is_refused_and_nothing_of_it_kept(begun):
    begun.intents.save("c1", [an_intent()], AT)
    with pytest.raises(StoreError, match=r"qd-1.*another content"):
        begun.intents.save("c1", [an_intent("qd-2"), an_intent(quantity=Decimal("0.013"))], AT)
    with pytest.raises(StoreError, match="qd-1"):
        begun.intents.save("c2", [an_intent()], AT)
    assert begun.intents.of_cycle("c1") == (an_intent(),)


def test_intent_never_goes_back(begun):
    begun.intents.save("c1", [an_intent()], AT)
    states = []
    for state in ("sent", "persisted", "done", "sent", "rejected"):
        begun.intents.mark("qd-1", state)
        states.append([own.state for own in begun.intents.open("default")])
    assert states == [["sent"], ["sent"], [], [], []]


def test_refused_intent_that_turns_out_done_is_done(begun):
    begun.intents.save("c1", [an_intent()], AT)
    begun.intents.mark("qd-1", "rejected")
    begun.intents.mark("qd-1", "done")
    begun.intents.mark("qd-1", "rejected")
    assert begun.intents.open("default") == []


def test_an_intent_that_was_never_persisted_is_not_marked(begun):
    with pytest.raises(StoreError, match="never persisted"):
        begun.intents.mark("qd-9", "sent")


def test_open_intents_are_those_of_the_strategy_oldest_first(begun):
    begun.intents.save("c2", [an_intent("later")], AT + minutes(5))
    begun.intents.save("c1", [an_intent("first"), an_intent("second")], AT)
    begun.intents.save("o1", [an_intent("other")], AT)
    begun.intents.mark("second", "rejected")
    assert [(own.cycle_id, own.intent, own.state) for own in begun.intents.open("default")] == [
        ("c1", an_intent("first"), "persisted"),
        ("c2", an_intent("later"), "persisted"),
    ]


def test_own_intents_are_all_of_a_strategy_and_symbol_oldest_first_with_what_they_filled(begun):
    begun.intents.save("c2", [an_intent("b"), an_intent("other", symbol="ETH/USDT:USDT")], AT + minutes(5))
    begun.intents.save("c1", [an_intent("a")], AT)
    begun.intents.save("o1", [an_intent("theirs")], AT)
    begun.orders.save(an_order("a", filled=Decimal("0.004")))
    begun.intents.mark("a", "done")
    first, second = begun.intents.own("default", BTC)
    assert (first.intent, first.cycle_id, first.persisted_at) == (an_intent("a"), "c1", AT)
    assert (first.state, first.filled, first.ended) == ("done", Decimal("0.004"), True)
    assert (second.intent.client_order_id, second.state, second.filled) == ("b", "persisted", 0)


def test_recent_entries_are_entries_only_with_what_became_of_their_orders(begun):
    entry, limit = an_intent("market"), an_intent("limit", type=OrderType.LIMIT, price=Decimal(1))
    stop, closing = an_intent("stop", type=OrderType.STOP), an_intent("close", reduce_only=True)
    begun.intents.save("c1", [entry, stop, closing], AT)
    begun.intents.save("c2", [limit], AT + minutes(5))
    begun.orders.save(an_order("market", status=OrderStatus.REJECTED))
    first, second = begun.intents.recent_entries("default", AT)
    assert (first.persisted_at, first.order_status) == (AT, OrderStatus.REJECTED)
    assert (second.persisted_at, second.order_status) == (AT + minutes(5), None)
    assert begun.intents.recent_entries("default", AT + minutes(1)) == [second]


def test_order_is_kept_in_its_newest_state(begun):
    filled = an_order(status=OrderStatus.FILLED, filled=Decimal("0.012"), updated_at=AT + minutes(1))
    begun.orders.save(an_order())
    begun.orders.save(filled)
    begun.orders.save(an_order())
    assert begun.orders.get("qd-1") == filled
    assert begun.orders.get("qd-2") is None


def test_order_without_our_id_is_refused(begun):
    with pytest.raises(StoreError, match="v1 has no client_order_id"):
        begun.orders.save(an_order(""))


def test_a_fill_is_kept_once_as_the_venue_tells_it_by_now(store):
    store.fills.save([a_fill("x1"), a_fill("x2"), a_fill("x1")])
    store.fills.save([a_fill("x3"), a_fill("x2", fee=Decimal("0.5"))])
    store.fills.save([])
    assert {fill.fill_id: fill.fee for fill in store.fills.since(AT - minutes(60))} == {
        "x1": a_fill().fee, "x2": Decimal("0.5"), "x3": a_fill().fee,
    }  # fmt: skip


def test_fills_of_two_symbols_may_have_one_id(store):
    """Binance counts the trades of each symbol by themselves."""
    btc, eth = a_fill("7"), a_fill("7", symbol="ETH/USDT:USDT")
    store.fills.save([btc, eth])
    store.fills.save([btc.replace(fee=Decimal("0.5"))])
    assert store.fills.since(AT, BTC) == [btc.replace(fee=Decimal("0.5"))]
    assert store.fills.since(AT, "ETH/USDT:USDT") == [eth]


def test_fills_are_found_by_symbol_and_time_oldest_first(store):
    late, early = a_fill("x1", at=AT + minutes(5)), a_fill("x2")
    other = a_fill("x3", symbol="ETH/USDT:USDT", at=AT + minutes(9))
    store.fills.save([late, other, early])
    assert store.fills.since(AT) == [early, late, other]
    assert store.fills.since(AT, BTC) == [early, late]
    assert store.fills.since(AT + minutes(5)) == [late, other]
