"""Every action `reconcile` asks for, what it waits for, and what it never touches."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.trading import ledger, orders
from tasks.core.trading.reconcile import foreign, reconcile, unbooked
from tasks.core.types.alert import AlertKind
from tasks.core.types.orders import Fill, Order, OrderIntent, OrderStatus, OrderType, VenuePosition
from tasks.core.types.portfolio import Position
from tasks.core.types.reconcile import (
    Adopt,
    BookFills,
    CancelOrder,
    EndCycle,
    EndIntent,
    Finding,
    Flatten,
    KeepOrder,
    LedgerView,
    LookAgain,
    OwnIntent,
    SendAgain,
    SetStop,
    ToldFills,
    VenueView,
)
from tasks.core.types.record import CycleRecord, Halt

NOW = datetime(2026, 1, 2, 12, 2, tzinfo=UTC)
CLOSE = NOW - timedelta(minutes=2)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
LATE = timedelta(seconds=390) + 5 * MINUTE
BTC, ETH, SPOT = "BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT"
CYCLE = orders.cycle_id("default", BTC, CLOSE)
ENTRY = orders.client_order_id(CYCLE, "e0")
THEIRS = orders.client_order_id(orders.cycle_id("another", BTC, CLOSE), "e0")
ALL = frozenset({BTC, ETH, SPOT})


def position(symbol=BTC, side="long", quantity="1", stop="90", target="130", **fields):
    return Position(
        position_id=f"p-{symbol}", strategy="default", cycle_id=CYCLE, symbol=symbol, side=side, quantity=D(quantity),
        entry_quantity=D(quantity), avg_price=D(100), stop=stop and D(stop), target=target and D(target),
        opened_at=CLOSE, **fields,
    )  # fmt: skip


def held(symbol=BTC, side="long", quantity="1", stop="90", target="130"):
    return VenuePosition(
        symbol=symbol, side=side, quantity=D(quantity), avg_price=D(100), stop=stop and D(stop),
        target=target and D(target),
    )  # fmt: skip


def own(name=ENTRY, state="sent", at=CLOSE, quantity="1", **fields):
    told = {key: fields.pop(key) for key in ("filled", "booked", "adds") if key in fields}
    wanted = {"symbol": BTC, "side": "buy", "type": OrderType.LIMIT, "quantity": D(quantity), "price": D(100),
              "stop": D(90), "target": D(130)}  # fmt: skip
    intent = OrderIntent(client_order_id=name, **(wanted | fields))
    return OwnIntent(intent=intent, cycle_id=CYCLE, state=state, persisted_at=at, **told)


def order(name=ENTRY, status="open", filled="0", **fields):
    told = {"symbol": BTC, "side": "buy", "type": "limit", "quantity": D(1), "price": D(100), "created_at": NOW,
            "updated_at": NOW, "stop": D(90), "target": D(130)}  # fmt: skip
    return Order(
        client_order_id=name, venue_order_id=f"v-{name}", status=OrderStatus(status), filled=D(filled),
        **(told | fields),
    )  # fmt: skip


def fill(fill_id, name=ENTRY, side="buy", quantity="1", at=NOW, **fields):
    return Fill(
        fill_id=fill_id, venue_order_id="v", client_order_id=name, symbol=BTC, side=side, quantity=D(quantity),
        price=D(100), at=at, **fields,
    )  # fmt: skip


def ours(*positions, **fields):
    return LedgerView(strategy="default", open=positions, **fields)


def look(*positions, booked=ALL, **fields):
    return VenueView(positions=positions, booked=booked, **fields)


def of_orders(*found, booked=frozenset(), **missing):
    return VenueView(orders={o.client_order_id: o for o in found} | missing, booked=booked)


def did(view, seen, earlier=(), now=NOW, patience=timedelta(0)):
    return list(reconcile(view, seen, earlier, now, patience))


def kinds(*given_, **named):
    return [type(action) for action in did(*given_, **named)]


def twice(view, seen, again=None):
    """Return what comes of the same look a second later."""
    earlier = did(view, seen)
    return did(view, again or seen, earlier, now=NOW + SECOND)


# --- stops


@pytest.mark.parametrize("booked", [None, ALL], ids=["from positions alone", "after booking"])
def test_a_missing_stop_is_set_with_its_target_in_the_first_look(booked):
    [action] = did(ours(position()), look(held(stop=None, target=None), booked=booked))
    assert (action.symbol, action.stop, action.target) == (BTC, D(90), D(130))
    assert action.text == f"naked position {BTC}: stop 90 restored"


@pytest.mark.parametrize(("side", "stop", "theirs"), [("long", "90", "89.9"), ("short", "110", "110.1")])
def test_a_looser_stop_is_set_in_the_first_look_after_booking(side, stop, theirs):
    view, seen = ours(position(side=side, stop=stop, target=None)), held(side=side, stop=theirs, target=None)
    [action] = did(view, look(seen))
    assert (type(action), action.stop, action.tell) == (SetStop, D(stop), True)
    assert "looser than ours" in action.text
    moved = view.model_copy(update={"intents": (own(type=OrderType.STOP, at=CLOSE + MINUTE),)})
    assert [a.tell for a in did(moved, look(seen), now=CLOSE + 6 * MINUTE)] == [False]  # the list may be of before
    assert [a.tell for a in did(moved, look(seen), now=CLOSE + 8 * MINUTE)] == [True]
    assert did(view, look(seen, booked=None)) == []  # an ADD that is not booked may have brought its own


@pytest.mark.parametrize(("covers", "flawed"), [("1", False), ("0.99", False), ("0.9", True), ("3", True)])
def test_a_stop_for_more_or_less_than_ours_is_set_anew(covers, flawed):
    seen = look(held(quantity="3").model_copy(update={"stop_quantity": D(covers)}), booked=ALL)
    found = [a for a in did(ours(position(), dust={BTC: D("0.02")}), seen) if isinstance(a, SetStop)]
    assert [action.text for action in found] == [f"stop for {covers} instead of 1 {BTC}: stop 90 restored"] * flawed


@pytest.mark.parametrize(("side", "stop", "theirs"), [("long", "90", "90.1"), ("short", "110", "109.9")])
def test_a_tighter_stop_is_theirs_to_keep(side, stop, theirs):
    assert did(ours(position(side=side, stop=stop)), look(held(side=side, stop=theirs))) == []


@pytest.mark.parametrize("stop", [None, "89"])
def test_where_the_stop_is_refused_no_more_than_ours_is_closed(stop):
    seen = look(held(stop=stop, quantity="3"), refused=frozenset({BTC}))
    flat = did(ours(position()), seen)[0]
    assert (type(flat), flat.quantity, flat.why) == (Flatten, 1, "flatten")
    assert did(ours(position(quantity="3")), seen.model_copy(update={"positions": (held(stop=stop),)}))[0].quantity == 1


def test_a_position_that_never_had_a_stop_is_closed():
    assert kinds(ours(position(stop=None)), look(held(stop=None))) == [Flatten]


def naked(view, **fields):
    return did(view, look(held(stop=None, **fields), booked=None))


def test_a_position_not_booked_yet_gets_the_stop_of_its_newest_entry():
    older = own("qd" + "1" * 32 + "e0", at=CLOSE - MINUTE, stop=D(80))
    for state, filled in (("sent", 0), ("sending", 0), ("done", D("0.5"))):
        [action] = naked(ours(intents=(older, own(state=state, filled=filled))))
        assert (type(action), action.stop, action.target, action.position) == (SetStop, D(90), D(130), None)
    assert naked(ours(intents=(own(),)))[0].symbol == BTC


@pytest.mark.parametrize(
    "intent",
    [own(state="persisted"), own(state="rejected"), own(state="done"), own(side="sell"), own(stop=None),
     own(reduce_only=True), own(symbol=ETH), own(at=CLOSE - MINUTE), own(quantity="0.9")],
    ids=["never sent", "refused", "ended unfilled", "other side", "no stop", "exit", "other symbol",
         "before the last close", "less"],
)  # fmt: skip
def test_a_naked_position_that_no_entry_of_ours_explains_is_left_alone(intent):
    closed = position(closed_at=CLOSE - MINUTE)
    assert naked(ours(intents=(intent,), closed=(closed,))) == []


def test_a_refused_stop_closes_nothing_that_is_not_booked():
    seen = look(held(stop=None), booked=None, refused=frozenset({BTC}))
    assert did(ours(intents=(own(),)), seen) == []


# --- positions that differ

MISSING = (ours(position()), look())
MORE = (ours(position()), look(held(quantity="2")))
LESS = (ours(position()), look(held(quantity="0.5")))
TURNED = (ours(position()), look(held(side="short", stop="110")))
FOREIGN = (ours(), look(held()))


@pytest.mark.parametrize(("view", "seen"), [MISSING, MORE, LESS, TURNED, FOREIGN])
def test_one_odd_look_is_only_looked_at_again(view, seen):
    [again] = did(view, seen)
    assert (type(again), again.symbol, again.since) == (LookAgain, BTC, NOW)


@pytest.mark.parametrize(("view", "seen"), [MISSING, MORE, LESS, TURNED])
def test_a_difference_seen_twice_is_told_and_halts(view, seen):
    [tell] = twice(view, seen)
    assert (tell.kind, tell.symbol, tell.halts) == (AlertKind.MISMATCH, BTC, True)


def test_a_foreign_position_seen_twice_is_told_and_nothing_else():
    [tell] = twice(*FOREIGN)
    assert (type(tell), tell.kind, tell.halts) == (Finding, AlertKind.FOREIGN, False)
    assert tell.text == f"foreign position {BTC} long 1: left alone"


@pytest.mark.parametrize(
    ("mine", "theirs", "beside", "told"),
    [
        ({}, {"quantity": "1.5"}, "0.5", f"foreign position {BTC} long 0.5: left alone"),
        ({"side": "short", "stop": "110"}, {"side": "short", "quantity": "1.5", "stop": "110"}, "0.5",
         f"foreign position {BTC} short 0.5: left alone"),
        ({}, {"quantity": "1.5"}, "0.4", None),
        ({}, {"quantity": "1.5"}, "0", None),
        ({}, {"quantity": "0.5"}, "-0.5", None),
        ({}, {"quantity": "0.5"}, "0.5", None),
        ({}, {"side": "short", "quantity": "0.5", "stop": "110"}, "0.5", None),
    ],
    ids=["added", "added to a short", "more than fills tell", "no fill", "less", "less than ours", "turned"],
)  # fmt: skip
def test_what_fills_tell_a_person_added_is_named_and_halts_nothing(mine, theirs, beside, told):
    view = ours(position(**mine), beside={BTC: D(beside)})
    done = twice(view, look(held(**theirs)))
    [tell] = [action for action in done if isinstance(action, Finding)]
    assert [action.position.quantity for action in done if isinstance(action, SetStop)] == ([1] if told else [])
    assert (tell.kind, tell.halts) == ((AlertKind.FOREIGN, False) if told else (AlertKind.MISMATCH, True))
    assert told in (None, tell.text)


@pytest.mark.parametrize("stop", [None, "89"])
def test_beside_what_a_person_added_the_stop_is_set_for_ours_and_no_more_than_ours_is_closed(stop):
    view, seen = ours(position(), beside={BTC: D("0.5")}), held(quantity="1.5", stop=stop)
    assert [a.position.quantity for a in did(view, look(seen)) if isinstance(a, SetStop)] == [1]
    refused = look(seen, refused=frozenset({BTC}))
    assert [a.quantity for a in did(view, refused) if isinstance(a, Flatten)] == [1]
    halted = Halt(halt_id=1, reason="r", who="w", since=NOW, flatten=True)
    assert [a.quantity for a in did(view.replace(halts=(halted,)), VenueView(prices={}))] == [1]


@pytest.mark.parametrize(
    ("stop", "left", "done"), [("90", "0.5", [0]), ("91", "0.5", []), (None, "0.5", [])], ids=["ours", "theirs", "none"]
)
def test_our_stop_is_taken_off_what_is_a_persons_once_ours_is_closed(stop, left, done):
    view = ours(closed=(position(closed_at=CLOSE - MINUTE),))
    actions = did(view, look(held(quantity=left, stop=stop)))
    assert [action.stop for action in actions if isinstance(action, SetStop)] == done


def test_a_stop_follows_what_a_person_left_of_ours():
    seen = look(held(quantity="0.6").replace(stop_quantity=D(1)))
    [action] = did(ours(position(quantity="0.6")), seen)
    assert (type(action), action.position.quantity) == (SetStop, D("0.6"))


@pytest.mark.parametrize(
    ("intents", "at_venue", "closes"),
    [
        ([own(filled=D(1))], {}, 1),
        ([own(filled=D(1))], {"quantity": "1.5"}, 1),
        ([own(filled=D("0.3"))], {}, D("0.3")),
        ([own()], {}, None),
        ([own(filled=D(1)), "exit"], {"quantity": "0.5"}, None),
        ([own(filled=D(1)), "refused"], {"quantity": "1.5"}, 1),
        ([own(filled=D(1)), "stop"], {"quantity": "1.5"}, 1),
        ([own(filled=D(1), symbol=ETH)], {}, None),
    ],
    ids=["ours", "a person's beside it", "filled in part", "a person's while ours rests", "closed already",
         "its exit was refused", "its stop was moved", "elsewhere"],
)  # fmt: skip
def test_what_no_fill_tells_of_yet_is_closed_as_far_as_our_orders_made_it(intents, at_venue, closes):
    exits = {"exit": exit_(), "refused": exit_(state="rejected"), "stop": exit_(type=OrderType.STOP)}
    view = ours(intents=tuple(exits.get(each, each) if isinstance(each, str) else each for each in intents))
    assert [p.quantity for p in unbooked(view, [held(**at_venue)])] == ([] if closes is None else [closes])


def test_what_was_fine_in_between_or_odd_elsewhere_starts_anew():
    view, seen = MISSING
    assert kinds(view, seen, did(view, look(held()))) == [LookAgain]
    both = ours(position(), position(ETH))
    earlier = did(both, look(held()))  # ETH was missing, BTC was not
    assert [(type(a), getattr(a, "symbol", "")) for a in did(both, look(held(ETH)), earlier)] == [(LookAgain, BTC)]


def test_another_difference_is_looked_at_again_itself():
    view, seen = MORE
    earlier = did(view, seen)
    [other] = [held.model_copy(update={"quantity": held.quantity + 1}) for held in seen.positions]
    changed = seen.model_copy(update={"positions": (other,)})
    assert kinds(view, changed, earlier, now=NOW + SECOND) == [LookAgain]


def test_patience_is_counted_from_the_first_odd_look():
    view, seen = MISSING
    actions, said = (), []
    for seconds in range(4):
        actions = did(view, seen, actions, now=NOW + seconds * SECOND, patience=2 * SECOND)
        said.append([finding.halts for finding in actions if isinstance(finding, Finding)] == [True])
    assert said == [False, False, True, False]  # the look after a fact counts anew


@pytest.mark.parametrize(("case", "halts"), [(MISSING, False), (LESS, False), (MORE, True), (TURNED, True)])
def test_where_fills_are_not_told_only_risk_that_nobody_counts_halts(case, halts):
    view, seen = case
    untold = seen.model_copy(update={"booked": frozenset()})
    assert [finding.halts for finding in twice(view, untold)] == [halts]


def test_a_look_that_asked_for_no_positions_or_fills_finds_no_difference():
    assert did(ours(position()), VenueView()) == []
    assert did(ours(position()), VenueView(booked=ALL)) == []
    assert did(ours(position()), look(booked=None)) == []


def test_a_difference_that_cannot_be_sold_is_none():
    view = ours(position(SPOT), dust={SPOT: D("0.01")})
    assert did(view, look(held(SPOT, quantity="0.9901"))) == []
    assert kinds(view, look(held(SPOT, quantity="0.99"))) == [LookAgain]


def test_coins_beyond_ours_are_a_persons_own_and_none_of_our_business():
    assert did(ours(position(SPOT), dust={SPOT: D("0.01")}), look(held(SPOT, quantity="5"))) == []
    assert did(ours(), look(held(SPOT, quantity="5"))) == []
    assert foreign(ours(), (held(SPOT),), SPOT) == 0


@pytest.mark.parametrize(
    ("mine", "theirs", "beside"),
    [([], {}, 1), ([position()], {}, 0), ([position()], {"quantity": "3"}, 2), ([position()], {"quantity": "0.5"}, 0),
     ([position(side="short")], {}, 1), ([position(ETH)], {}, 1)],
    ids=["all", "ours", "more", "less", "turned", "elsewhere"],
)  # fmt: skip
def test_what_a_contract_holds_beyond_ours_is_foreign(mine, theirs, beside):
    assert foreign(ours(*mine), (held(**theirs), held(ETH, quantity="9")), BTC) == beside


@pytest.mark.parametrize(
    ("intent", "beside"),
    [(own(), 0), (own(quantity="0.4"), D("0.6")), (own(booked=D("0.4")), D("0.4")), (own(state="done"), 1),
     (own(side="sell"), 1), (own(reduce_only=True), 1), (own(symbol=ETH), 1)],
    ids=["on its way", "less", "booked in part", "ended", "other side", "exit", "elsewhere"],
)  # fmt: skip
def test_what_an_order_of_ours_on_its_way_can_have_brought_is_not_foreign(intent, beside):
    assert foreign(ours(intents=(intent,)), (held(),), BTC) == beside


# --- exits


def exit_(at=CLOSE + MINUTE, **fields):
    told = {"state": "sending", "side": "sell", "type": OrderType.MARKET, "reduce_only": True}
    return own("dec0" + "a" * 24 + "0002", at=at, **(told | fields))


def test_an_exit_the_venue_does_not_have_is_sent_again_while_its_position_is_open():
    unknown = of_orders(**{exit_().intent.client_order_id: None})
    view, late = ours(position(), intents=(exit_(),)), CLOSE + 4 * MINUTE
    assert did(view, unknown, now=late) == []  # its own run may be at it, and the venue may tell late
    for after in (SECOND, LATE, 10 * LATE):
        assert did(view, unknown, now=late + after) == [SendAgain(intent=exit_().intent)]
    assert did(ours(position(), intents=(exit_(state="sent"),)), unknown, now=late + SECOND) == []  # acknowledged
    assert kinds(ours(intents=(exit_(),)), unknown, now=CLOSE + LATE + MINUTE + SECOND) == [LookAgain]  # it is closed
    another = ours(position(), intents=(exit_(at=CLOSE - SECOND),))
    assert SendAgain not in kinds(another, unknown, now=CLOSE + LATE)  # decided on the position before this one


# --- orders


@pytest.mark.parametrize(("state", "ends"), [("persisted", "rejected"), ("sending", "done"), ("sent", "done")])
def test_an_order_the_venue_does_not_know_ends_when_it_is_too_late_and_asked_twice(state, ends):
    view, unknown = ours(intents=(own(state=state),)), of_orders(**{ENTRY: None})
    assert did(view, unknown, now=CLOSE + LATE) == []
    [again] = did(view, unknown, now=CLOSE + LATE + SECOND)
    assert again == LookAgain(symbol=BTC, about=ENTRY, since=CLOSE + LATE + SECOND)
    [end] = did(view, unknown, [again], now=CLOSE + LATE + SECOND)
    assert (end.client_order_id, end.state) == (ENTRY, ends)


def test_an_order_whose_fills_were_asked_for_and_that_is_not_found_once_does_not_end():
    view, seen = ours(intents=(own(),)), of_orders(order(status="filled", filled="1"))
    earlier = did(view, seen)
    assert kinds(view, of_orders(**{ENTRY: None}), earlier, now=CLOSE + LATE + SECOND) == [LookAgain]


def test_an_order_that_was_not_asked_for_does_not_end():
    view = ours(intents=(own(),))
    assert did(view, of_orders(), [], now=NOW + 10 * LATE) == []


def test_an_unknown_order_of_protect_waits_for_its_position():
    name = orders.protect_order_id("p", "flatten", 0)
    closing, unknown = own(name, "persisted", reduce_only=True, at=NOW), of_orders(**{name: None})
    earlier = [LookAgain(symbol=BTC, about=name, since=NOW)]
    assert did(ours(position(), intents=(closing,)), unknown, earlier, now=NOW + 10 * LATE) == []
    [end] = did(ours(position(ETH), intents=(closing,)), unknown, earlier)
    assert (type(end), end.state) == (EndIntent, "done")  # it may have filled: nobody notes when it begins to send


def test_a_working_order_is_kept():
    view, seen = ours(intents=(own(expires_at=NOW + SECOND),)), of_orders(order())
    assert did(view, seen) == [KeepOrder(order=order())]


@pytest.mark.parametrize(
    ("intent", "halts", "cancelled"),
    [(own(expires_at=NOW), (), True), (own(), (Halt(halt_id=1, reason="r", who="w", since=NOW),), True),
     (own(reduce_only=True), (Halt(halt_id=1, reason="r", who="w", since=NOW),), False)],
    ids=["past its time", "halted", "an exit under a halt"],
)  # fmt: skip
def test_a_working_entry_is_cancelled_past_its_time_and_under_a_halt(intent, halts, cancelled):
    assert (CancelOrder in kinds(ours(intents=(intent,), halts=halts), of_orders(order()))) is cancelled


REST = {"filled": "0.4"}


def rest_of(intent, found, *positions, booked=frozenset({BTC})):
    return kinds(ours(*positions, intents=(intent,)), of_orders(found, booked=booked))


def test_the_rest_of_an_add_or_of_an_entry_goes_with_its_position():
    for intent, found in ((own(adds=True), order()), (own(booked=D("0.4")), order(**REST))):
        assert rest_of(intent, found, booked=frozenset()) == [KeepOrder, LookAgain]  # first its fills
        assert rest_of(intent, found) == [KeepOrder, CancelOrder]
        assert rest_of(intent, found, position(ETH)) == [KeepOrder, CancelOrder]
        assert rest_of(intent, found, position()) == [KeepOrder]
    assert rest_of(own(), order()) == [KeepOrder]  # a first entry waits for its own position


def test_the_rest_of_an_entry_whose_own_fills_are_not_told_yet_is_not_left_behind():
    assert rest_of(own(), order(**REST)) == [KeepOrder]


def test_an_entry_stays_open_until_its_fills_are_told():
    view, filled = ours(intents=(own(),)), order(status="filled", filled="1")
    assert kinds(view, of_orders(filled)) == [KeepOrder, LookAgain]
    assert kinds(view, of_orders(filled, booked=ALL)) == [KeepOrder]
    assert kinds(view, of_orders(filled, booked=ALL), now=NOW + LATE) == [KeepOrder]
    assert kinds(view, of_orders(filled, booked=ALL), now=NOW + LATE + SECOND) == [KeepOrder, EndIntent]
    in_the_coin = ours(intents=(own(booked=D("0.98")),))
    assert did(in_the_coin, of_orders(filled, booked=ALL))[1] == EndIntent(client_order_id=ENTRY, state="done")
    assert kinds(ours(intents=(own(booked=D("0.97")),)), of_orders(filled, booked=ALL)) == [KeepOrder]


def test_an_order_that_filled_nothing_ends_at_once():
    assert kinds(ours(intents=(own(),)), of_orders(order(status="cancelled"))) == [KeepOrder, EndIntent]


def test_an_intent_that_has_ended_is_left_as_it_is():
    assert did(ours(intents=(own(state="done"),)), of_orders(order())) == []


# --- orders the ledger does not know


def adopted(*found, view=None, resting=True):
    seen = {"resting": {BTC: found}} if resting else {"orders": {o.client_order_id: o for o in found}}
    return did(view or ours(), VenueView(**seen))


@pytest.mark.parametrize("resting", [True, False])
@pytest.mark.parametrize("minutes", [0, 5, 10])
def test_an_entry_whose_id_proves_its_cycle_is_adopted(resting, minutes):
    as_of = CLOSE - minutes * MINUTE
    cycle = orders.cycle_id("default", BTC, as_of)
    [action] = adopted(order(orders.client_order_id(cycle, "e0")), resting=resting)
    assert (action.cycle_id, action.cycle.as_of, action.state) == (cycle, as_of, "sent")
    assert (action.intent.stop, action.intent.target, action.intent.price) == (D(90), D(130), D(100))
    assert action.intent.expires_at == NOW + 15 * MINUTE


def test_a_filled_market_entry_is_adopted_as_done_and_never_expires():
    [action] = adopted(order(type="market", status="filled", filled="1"))
    assert (action.state, action.intent.type, action.intent.price, action.intent.expires_at) == (
        "done", OrderType.MARKET, None, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [THEIRS, "theirs-1", "", orders.client_order_id(orders.cycle_id("default", ETH, CLOSE), "e0"),
     orders.client_order_id(orders.cycle_id("default", BTC, CLOSE - 15 * MINUTE), "e0"),
     orders.client_order_id(orders.cycle_id("default", BTC, CLOSE + 5 * MINUTE), "e0")],
    ids=["another strategy", "a name", "no name", "another symbol", "too long before", "a close to come"],
)  # fmt: skip
def test_an_entry_that_proves_nothing_stays_foreign(name):
    view = ours(intents=(own("qd" + "1" * 32 + "e0"),))  # an entry of ours before it proves nothing for an entry
    [tell] = adopted(order(name), view=view)
    assert (tell.kind, tell.symbol) == (AlertKind.FOREIGN, BTC)
    assert tell.text == f"foreign order {BTC} buy 1 {name or 'v-'}: left alone"


def test_an_exit_of_protect_is_adopted_with_the_entry_before_it():
    name = orders.protect_order_id("p", "flatten", 0)
    closing = order(name, side="sell", type="market", reduce_only=True)
    assert [type(a) for a in adopted(closing)] == [Finding]
    assert [type(a) for a in adopted(closing, view=ours(intents=(own(at=NOW + SECOND),)))] == [Finding]
    assert [type(a) for a in adopted(closing, view=ours(intents=(own(symbol=ETH),)))] == [Finding]
    older = own("qd" + "1" * 32 + "e0", at=CLOSE - MINUTE).model_copy(update={"cycle_id": "before"})
    [action] = adopted(closing, view=ours(intents=(older, own())))
    assert (action.cycle_id, action.cycle, action.intent.reduce_only) == (CYCLE, None, True)
    both = adopted(closing.model_copy(update={"created_at": NOW + SECOND}), order(), resting=False)
    assert [(a.order.client_order_id, a.cycle_id) for a in both] == [(ENTRY, CYCLE), (name, CYCLE)]


def test_attached_stops_and_what_the_ledger_knows_are_not_adopted():
    assert adopted(order(type="stop")) == []
    assert adopted(order(), view=ours(intents=(own(),))) == []
    assert adopted(order(THEIRS), view=ours(known=frozenset({THEIRS}))) == []


# --- fills


def told(*fills, new=None, since=CLOSE):
    ids = frozenset(f.fill_id for f in fills) if new is None else frozenset(new)
    return VenueView(fills={BTC: ToldFills(since=since, fills=fills, new=ids)})


def test_fills_of_ours_are_booked_and_then_there_is_nothing_to_book():
    view = ours(intents=(own(),))
    [book] = did(view, told(fill("a")))
    [opened] = book.positions
    assert (opened.quantity, opened.stop, opened.target, opened.cycle_id) == (1, D(90), D(130), CYCLE)
    assert did(ours(opened, intents=view.intents), told(fill("a"), new=())) == []


def test_fills_of_others_are_told_once_and_make_no_position():
    view = ours(intents=(own(),))
    [book] = did(view, told(fill("x", "theirs-1")))
    assert (book.positions, [f.fill_id for f in book.foreign], book.manual) == ((), ["x"], ())
    assert did(view, told(fill("x", "theirs-1"), new=())) == []
    assert did(ours(), told(fill("x", "theirs-1"))) == []


def test_a_manual_exit_is_booked_and_told():
    [opened] = did(ours(intents=(own(),)), told(fill("a")))[0].positions
    view = ours(opened, intents=(own(),))
    [book] = did(view, told(fill("a"), fill("m", "", "sell", at=NOW + SECOND), new=("m",)))
    assert ([p.quantity for p in book.positions], [f.fill_id for f in book.manual]) == ([0], ["m"])


def test_a_position_that_closed_is_neither_written_nor_opened_again():
    closing = fill("b", "", "sell", at=NOW + SECOND, reason="stop")
    [gone] = did(ours(intents=(own(),)), told(fill("a"), closing))[0].positions
    assert gone.closed_at == NOW + SECOND
    view = ours(intents=(own(),), closed=(gone,))
    assert did(view, told(fill("a"), closing, new=())) == []
    [book] = did(view, told(fill("c", at=NOW + MINUTE), since=gone.closed_at + SECOND))
    assert [p.position_id for p in book.positions] == [ledger.position_id(ENTRY, "c")]


def test_dust_closes_a_position():
    intents, fills = (own(),), told(fill("a"), fill("b", "", "sell", "0.995", at=NOW + SECOND, reason="stop"))
    [book] = did(ours(intents=intents, dust={BTC: D("0.01")}), fills)
    assert book.positions[0].closed_at is not None


# --- exits, cycles

FLAT = Halt(halt_id=1, reason="enough", who="w", since=NOW, flatten=True)


def prices(bid, ask):
    return VenueView(prices={BTC: (bid and D(bid), ask and D(ask))})


@pytest.mark.parametrize(
    ("side", "target", "bid", "ask", "closes"),
    [("long", "130", "130", "131", True), ("long", "130", "129.9", "131", False), ("long", "130", None, "131", False),
     ("short", "70", "69", "70", True), ("short", "70", "69", "70.1", False), ("long", None, "130", "131", False)],
)  # fmt: skip
def test_a_target_that_only_we_can_take_is_taken_at_the_price_we_would_get(side, target, bid, ask, closes):
    view = ours(position(side=side, target=target), attaches_protection=False)
    found = did(view, prices(bid, ask))
    assert [(a.why, a.quantity, a.text) for a in found] == [("target", 1, f"{BTC} closed: target {target}")] * closes
    assert did(view.model_copy(update={"attaches_protection": True}), prices(bid, ask)) == []


def test_only_a_halt_that_asks_for_it_closes_positions_and_needs_no_price():
    view = ours(position(), position(ETH), halts=(FLAT,))
    closing = did(view, VenueView(prices={}))
    assert [(a.symbol, a.why, a.text) for a in closing] == [
        (BTC, "flatten", f"{BTC} closed: halted"), (ETH, "flatten", f"{ETH} closed: halted"),
    ]  # fmt: skip
    kept = view.model_copy(update={"halts": (FLAT.model_copy(update={"flatten": False}),)})
    assert did(kept, VenueView(prices={})) == []
    assert did(view, VenueView()) == []


def test_a_cycle_is_abandoned_when_no_run_can_take_it_up():
    begun = CycleRecord(cycle_id="c", strategy="default", symbol=BTC, as_of=CLOSE)
    view, seen = ours(unfinished=(begun,)), VenueView()
    assert did(view, seen, now=CLOSE + LATE) == []
    [end] = did(view, seen, now=CLOSE + LATE + SECOND)
    assert (type(end), end.record) == (EndCycle, begun)
    assert "abandoned" in end.error


# --- what holds whatever is seen

SYMBOLS, SIDES = st.sampled_from([BTC, ETH]), st.sampled_from(["long", "short"])
AMOUNTS, STOPS = st.sampled_from(["0.5", "1", "2"]), st.sampled_from([None, "80", "90", "110"])
NAMES = st.sampled_from([ENTRY, THEIRS, "theirs-1", "qd" + "9" * 32 + "p0"])
by_symbol = lambda found: tuple({each.symbol: each for each in found}.values())  # noqa: E731
POSITIONS = st.lists(st.builds(position, SYMBOLS, SIDES, AMOUNTS, STOPS), max_size=2).map(by_symbol)
HELD = st.lists(st.builds(held, SYMBOLS, SIDES, AMOUNTS, STOPS), max_size=2).map(by_symbol)
OWN = st.builds(own, NAMES, st.sampled_from(["persisted", "sent", "done", "rejected"]), quantity=AMOUNTS,
                filled=st.sampled_from([D(0), D(1)]), adds=st.booleans(), reduce_only=st.booleans())  # fmt: skip
ORDERS = st.builds(order, NAMES, st.sampled_from(["open", "filled", "cancelled"]), st.sampled_from(["0", "1"]),
                   reduce_only=st.booleans(), created_at=st.sampled_from([NOW, NOW - LATE]))  # fmt: skip
LEDGERS = st.builds(
    lambda positions, intents, flat, attaches: ours(
        *positions, intents=tuple({each.intent.client_order_id: each for each in intents}.values()),
        halts=(FLAT,) * flat, attaches_protection=attaches,
    ),
    POSITIONS, st.lists(OWN, max_size=3), st.booleans(), st.booleans(),
)  # fmt: skip
LOOKS = st.builds(
    lambda positions, found, booked, refused, fills: VenueView(
        positions=positions, booked=booked, refused=refused, resting={BTC: tuple(found)},
        orders={each.client_order_id: each for each in found}, prices={BTC: (D(1000), D(1))},
        fills={BTC: ToldFills(since=CLOSE, fills=tuple({f.fill_id: f for f in fills}.values()))},
    ),
    HELD, st.lists(ORDERS, max_size=3), st.sampled_from([None, frozenset(), ALL]),
    st.sampled_from([frozenset(), frozenset({BTC})]),
    st.lists(st.sampled_from([fill("a"), fill("b", "theirs-1"), fill("c", "", "sell", reason="stop")])),
)  # fmt: skip


@given(LEDGERS, LOOKS, st.booleans())
def test_no_action_touches_what_is_not_ours(view, seen, asked_before):
    earlier = did(view, seen) if asked_before else ()
    known = {each.intent.client_order_id: each for each in view.intents}
    for action in did(view, seen, earlier, now=NOW + 2 * LATE):
        if isinstance(action, Flatten):
            assert action.position in view.open
            assert 0 < action.quantity <= action.position.quantity
        elif isinstance(action, SetStop):
            [at_venue] = [each for each in seen.positions if each.symbol == action.symbol]
            mine = sum(each.intent.quantity for each in view.intents if each.intent.symbol == action.symbol)
            ours_there = view.position(action.symbol, at_venue.side)
            assert ours_there == action.position
            assert ours_there or mine >= at_venue.quantity
        elif isinstance(action, CancelOrder | EndIntent):
            assert not known[action.client_order_id].ended
        elif isinstance(action, KeepOrder):
            assert action.order.client_order_id in known
        elif isinstance(action, Adopt):
            assert action.order.client_order_id not in known
            assert action.order.client_order_id == ENTRY or action.order.reduce_only
        elif isinstance(action, BookFills):
            entries = {name for name, each in known.items() if not each.intent.reduce_only}
            opening = {ledger.position_id(name) for name in entries}
            opening |= {ledger.position_id(name, f) for name in entries for f in "abc"}
            assert {p.position_id for p in action.positions} <= opening


@given(POSITIONS)
def test_agreeing_views_give_nothing(positions):
    mirrored = [held(p.symbol, p.side, p.quantity, p.stop or D(95)) for p in positions]
    seen = look(*mirrored, resting={BTC: (order(),)}, prices={})
    assert did(ours(*positions, intents=(own(),)), seen) == []


@given(LEDGERS, LOOKS)
def test_what_was_done_is_not_asked_for_again(view, seen):
    stops = {a.symbol: a.stop for a in did(view, seen) if isinstance(a, SetStop)}
    set_now = [p.model_copy(update={"stop": stops.get(p.symbol, p.stop)}) for p in seen.positions]
    again = did(view, seen.model_copy(update={"positions": tuple(set_now)}))
    assert not [a for a in again if isinstance(a, SetStop)]
