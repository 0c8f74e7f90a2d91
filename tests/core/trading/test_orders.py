"""Ids derive from decisions; a verdict becomes exactly the orders that carry it out."""

from datetime import datetime, timedelta, timezone
from decimal import Decimal as D

import pytest
from guard_cases import BTC, NOON, account, asked, holding, judge, seen

from tasks.core.trading import orders
from tasks.core.types.decision import (
    Add,
    CancelTarget,
    CloseAll,
    Entry,
    MoveStop,
    OpenShort,
    Pause,
    SetTarget,
    StopTarget,
    Trim,
    hold,
)
from tasks.core.types.orders import OrderType
from tasks.core.types.strategy import Strategy

CYCLE = orders.cycle_id("default", BTC, NOON)


def planned(decision=None, state=None, snapshot=None):
    state = state or account()
    return orders.plan(judge(decision, state, snapshot), CYCLE, state, NOON, Strategy())


def test_a_cycle_id_is_the_same_for_ever():
    assert CYCLE == "9c811fd9-42d3-57c6-be1f-65b6ef1535e0"


def test_a_cycle_id_does_not_depend_on_the_zone_its_time_is_given_in():
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert orders.cycle_id("default", BTC, elsewhere) == CYCLE


@pytest.mark.parametrize(
    "other", [("b", BTC, NOON), ("default", "ETH/USDT:USDT", NOON), ("default", BTC, NOON + timedelta(minutes=5))]
)
def test_another_strategy_symbol_or_bar_is_another_cycle(other):
    assert orders.cycle_id(*other) != CYCLE


def test_a_time_without_zone_has_no_cycle():
    with pytest.raises(ValueError, match="no timezone"):
        orders.cycle_id("default", BTC, datetime(2026, 11, 21))  # noqa: DTZ001  (the mistake under test)


def test_a_client_order_id_fits_every_venue_and_leads_back_to_its_cycle():
    order_id = orders.client_order_id(CYCLE, "e0")
    assert order_id == "dec09c811fd942d357c6be1f65b60001"
    assert (len(order_id), int(order_id, 16) > 0) == (32, True)  # a 128-bit number at Hyperliquid, 32 letters at OKX
    assert orders.is_ours(order_id)
    assert orders.derives_from(order_id, CYCLE)
    assert not orders.derives_from(order_id, orders.cycle_id("default", BTC, NOON + timedelta(days=9)))


def test_ids_of_before_stay_ours_and_lead_back_to_their_cycle():
    before = "qd9c811fd942d357c6be1f65b6ef1535e0e0"
    assert orders.client_order_id(CYCLE, "e0", rules=3) == before
    assert (orders.is_ours(before), orders.is_protects(before)) == (True, False)
    assert orders.derives_from(before, CYCLE)
    assert orders.is_protects("qd9c811fd942d357c6be1f65b6ef1535e0p0")


@pytest.mark.parametrize(
    "foreign",
    ["", "web-1234", "qd123", "QD" + "0" * 32 + "e0", "qd" + "g" * 32 + "e0", "dec0" + "0" * 28,
     "dec1" + "0" * 24 + "0001", "dec0" + "0" * 24 + "0007", "DEC0" + "0" * 24 + "0001", "x-dec0" + "0" * 24 + "0001"],
)  # fmt: skip
def test_a_foreign_id_is_not_ours(foreign):
    assert not orders.is_ours(foreign)
    assert not orders.is_protects(foreign)
    assert not orders.derives_from(foreign, CYCLE)


def test_protect_orders_differ_by_position_kind_and_sequence():
    ids = {orders.protect_order_id(p, k, n) for p in (CYCLE, "b") for k in ("trim", "flatten") for n in (1, 2)}
    assert len(ids) == 8
    assert all(orders.is_protects(i) and len(i) == 32 for i in ids)


def test_a_market_entry_is_one_order_with_its_protection():
    (order,) = planned()
    assert (order.side, order.type, order.quantity, order.price) == ("buy", OrderType.MARKET, D(10), None)
    assert (order.stop, order.target, order.reduce_only, order.expires_at) == (D(98), D(104), False, None)
    assert order.client_order_id == orders.client_order_id(CYCLE, "e0")


def test_a_limit_entry_expires():
    (order,) = planned(asked(OpenShort, entry=Entry(type="limit", offset_bps=D(10))))
    assert (order.side, order.type, order.price) == ("sell", OrderType.LIMIT, D("100.1"))
    assert order.expires_at == NOON + timedelta(minutes=15)


def test_an_add_goes_the_way_of_its_position():
    short = holding(side="short", stop=D(101), target=D(90))
    (order,) = planned(asked(Add), short)
    assert (order.side, order.stop, order.target, order.reduce_only) == ("sell", D(101), D(96), False)


@pytest.mark.parametrize(
    ("decision", "leg", "kind", "quantity", "price"),
    [
        (CloseAll(symbol=BTC), "x0", OrderType.MARKET, D(10), None),
        (Trim(symbol=BTC, size_pct=D(30)), "x0", OrderType.MARKET, D(3), None),
        (MoveStop(symbol=BTC, to=StopTarget(kind="breakeven")), "s0", OrderType.STOP, D(10), D(100)),
        (SetTarget(symbol=BTC, tp_atr=D(3)), "t0", OrderType.TARGET, D(10), D(106)),
        (CancelTarget(symbol=BTC), "c0", OrderType.CANCEL_TARGET, D(10), None),
    ],
    ids=lambda x: getattr(x, "action", None),
)
def test_everything_but_an_entry_can_only_reduce(decision, leg, kind, quantity, price):
    (order,) = planned(decision, holding(), seen(close=101.0))
    assert order.reduce_only
    assert (order.side, order.type, order.quantity, order.price) == ("sell", kind, quantity, price)
    assert (order.stop, order.target) == (None, None)
    assert order.client_order_id == orders.client_order_id(CYCLE, leg)


def test_a_short_is_closed_by_buying():
    (order,) = planned(CloseAll(symbol=BTC), holding(side="short", stop=D(101), target=D(90)))
    assert order.side == "buy"


@pytest.mark.parametrize("decision", [hold(BTC, "quiet"), Pause(symbol=BTC, minutes=D(5)), asked(confidence=D(0))])
def test_hold_pause_and_a_denial_send_nothing(decision):
    assert planned(decision) == ()


def test_the_same_verdict_plans_the_same_orders():
    assert planned() == planned()
