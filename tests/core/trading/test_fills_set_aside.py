"""A fill that fits nowhere is set aside by its name, and the others are booked without it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from tasks.core.trading.positions import positions_from_fills
from tasks.core.trading.reconcile import reconcile
from tasks.core.types.limits import Limits
from tasks.core.types.orders import Fill, OrderIntent, OrderType
from tasks.core.types.reconcile import BookFills, LedgerView, OwnIntent, ToldFills, VenueView

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
BTC, ENTRY, EXIT = "BTC/USDT:USDT", "qd" + "1" * 32 + "e0", "qd" + "2" * 32 + "p0"


def intent(order, side="buy", **fields):
    wanted = {"client_order_id": order, "symbol": BTC, "side": side, "type": OrderType.MARKET, "quantity": D(2)}
    return OrderIntent(**wanted | fields)


def fill(fill_id, order=ENTRY, side="buy", minute=0, **fields):
    told = {"quantity": D(1), "price": D(100), "at": AT + timedelta(minutes=minute)} | fields
    return Fill.trusted(fill_id=fill_id, venue_order_id=fill_id, client_order_id=order, symbol=BTC, side=side, **told)


OURS = {ENTRY: ("c1", intent(ENTRY, stop=D(90))), EXIT: ("c1", intent(EXIT, "sell", reduce_only=True))}
ODD = {
    "the sum beyond all": (fill("odd", quantity=D("9e999999"), price=D("9e999999")), "odd"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("minute", [0, 1, 3], ids=["before", "between", "after"])
def test_the_others_are_booked_without_it_wherever_it_stands(name, minute):
    odd, said = ODD[name]
    others = [fill("a", minute=0), fill("b", minute=2)]
    without = positions_from_fills(others, OURS, {}, "default")
    positions, fold = positions_from_fills(
        [*others, odd.replace(at=AT + timedelta(minutes=minute))], OURS, {}, "default"
    )
    assert (positions, fold.foreign) == (without[0], without[1].foreign)
    assert [each.partition(" ")[0] for each in fold.aside] == ["odd"]
    assert said in fold.aside[0]


def test_a_fill_whose_outcome_cannot_be_reckoned_leaves_the_position_open():
    entry, exit_ = fill("a", price=D(0)), fill("b", EXIT, "sell", minute=1)
    [position], fold = positions_from_fills([entry, exit_], OURS, {}, "default")
    assert (position.quantity, position.closed_at, fold.foreign) == (1, None, [])
    assert [each.partition(" ")[0] for each in fold.aside] == ["b"]


def test_what_is_set_aside_is_told_with_what_is_booked_at_every_look():
    odd, _ = ODD["the sum beyond all"]
    own = OwnIntent(intent=OURS[ENTRY][1], cycle_id="c1", state="sent", persisted_at=AT)
    ledger = LedgerView(strategy="default", limits=Limits(), open=(), closed=(), intents=(own,))
    told = ToldFills(since=AT, fills=(fill("a"), odd), new=frozenset())
    [book] = reconcile(ledger, VenueView(fills={BTC: told}), (), AT)
    assert isinstance(book, BookFills)
    assert [position.quantity for position in book.positions] == [1]
    assert len(book.aside) == 1
