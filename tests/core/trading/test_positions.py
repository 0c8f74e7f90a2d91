"""Fills become positions whatever order their ids put them in, and nobody else's orders open one."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from tasks.core.trading.positions import is_manual, positions_from_fills
from tasks.core.types.orders import Fill, OrderIntent, OrderType

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
BTC = "BTC/USDT:USDT"
ENTRY, EXIT, AGAIN = "qd" + "1" * 32 + "e0", "qd" + "2" * 32 + "p0", "qd" + "3" * 32 + "e0"


def intent(order, side="buy", **fields):
    return OrderIntent(
        client_order_id=order, symbol=BTC, side=side, quantity=D(1),
        **({"type": OrderType.MARKET, "stop": D(90)} | fields),
    )  # fmt: skip


def fill(fill_id, order, side, quantity=1, minute=0, **fields):
    return Fill(
        fill_id=fill_id, venue_order_id=fill_id, client_order_id=order, symbol=BTC, side=side, quantity=D(quantity),
        price=D(100), at=AT + timedelta(minutes=minute), **fields,
    )  # fmt: skip


OURS = {
    ENTRY: ("c1", intent(ENTRY)),
    EXIT: ("c1", intent(EXIT, "sell", stop=None, reduce_only=True)),
    AGAIN: ("c2", intent(AGAIN)),
}


def book(*fills):
    positions, fold = positions_from_fills(fills, OURS, {}, "default")
    return positions, fold.foreign


@pytest.mark.parametrize(("entry_id", "exit_id"), [("b", "a"), ("a", "b")])
def test_an_entry_and_its_exit_at_one_instant_are_one_closed_long(entry_id, exit_id):
    [position], foreign = book(fill(entry_id, ENTRY, "buy"), fill(exit_id, EXIT, "sell"))
    assert (position.side, position.quantity, position.closed_at) == ("long", 0, AT)
    assert not foreign


@pytest.mark.parametrize(("entry_id", "exit_id"), [("b", "a"), ("a", "b")])
def test_an_exit_and_the_next_entry_at_one_instant_are_two_positions(entry_id, exit_id):
    first = fill("0", ENTRY, "buy")
    positions, _ = book(first, fill(exit_id, EXIT, "sell", minute=5), fill(entry_id, AGAIN, "buy", minute=5))
    assert [p.quantity for p in positions] == [0, 1]
    assert [p.cycle_id for p in positions] == ["c1", "c2"]


def test_funding_of_the_instant_of_an_exit_was_paid_on_what_was_open():
    paid = fill("z", "", "buy", minute=5, reason="funding", fee=D("0.3"))
    [position], foreign = book(fill("0", ENTRY, "buy"), fill("a", EXIT, "sell", minute=5), paid)
    assert (position.quantity, position.fees) == (0, D("0.3"))
    assert not foreign


def test_an_order_in_several_fills_is_entered_whole_before_it_is_left():
    halves = [fill("b", ENTRY, "buy", "0.5"), fill("d", ENTRY, "buy", "0.5")]
    exits = [fill("a", EXIT, "sell", "0.5"), fill("c", EXIT, "sell", "0.5")]
    [position], foreign = book(*exits, *halves)
    assert (position.entry_quantity, position.quantity) == (1, 0)
    assert not foreign


@pytest.mark.parametrize("order", [EXIT, ""], ids=["our reduce-only order", "an attached stop"])
def test_an_exit_never_opens_a_position(order):
    stray = fill("a", order, "sell", reason="" if order else "stop")
    assert book(stray) == ([], [stray])


def test_an_exit_never_adds_to_a_position():
    [position], foreign = book(fill("a", ENTRY, "buy"), fill("b", "", "buy", minute=1, reason="stop"))
    assert position.quantity == 1
    assert [f.fill_id for f in foreign] == ["b"]


def test_a_stop_that_also_closes_what_others_added_closes_ours_and_no_more():
    [position], foreign = book(
        fill("a", ENTRY, "buy"),
        fill("b", "manual-1", "buy", "0.5", minute=1),
        fill("c", "", "sell", "1.5", minute=2, reason="stop", fee=D("0.3")),
    )
    assert (position.quantity, position.fees) == (0, D("0.2"))
    assert [(f.fill_id, f.quantity) for f in foreign] == [("b", D("0.5")), ("c", D("0.5"))]


@pytest.mark.parametrize("order", ["manual-1", ""], ids=["a named order", "the venue's own page"])
def test_a_manual_exit_of_no_more_than_we_hold_is_taken_over(order):
    [position], foreign = book(fill("a", ENTRY, "buy"), fill("b", order, "sell", "0.4", minute=1))
    assert position.quantity == D("0.6")
    assert not foreign


def test_what_others_added_comes_off_before_ours():
    mine, add = fill("a", ENTRY, "buy"), fill("b", "manual-1", "buy", "0.5", minute=1)
    [position], _ = book(mine, add, fill("c", "manual-2", "sell", "0.5", minute=2))
    assert position.quantity == 1
    [position], _ = book(mine, add, fill("c", "manual-2", "sell", "0.7", minute=2))
    assert position.quantity == D("0.8")


def persons(*trades, side="buy", symbol=BTC):
    """Return the fold of our entry of 1, of what a person then trades (`+` buys), and of exits of ours (`x`, stop)."""
    named = {
        "+": ("manual", "buy"),
        "-": ("manual", "sell"),
        "x": (EXIT, "sell"),
        "s": ("", "sell"),
        "e": (AGAIN, side),
    }
    turned = {"buy": "sell", "sell": "buy"} if side == "sell" else {}
    orders = {
        name: (cycle, each.replace(symbol=symbol, side=turned.get(each.side, each.side)))
        for name, (cycle, each) in OURS.items()
    }
    fills = []
    for n, (what, quantity) in enumerate(((trade[0], trade[1:]) for trade in ("E1", *trades)), 1):
        order, way = (ENTRY, "buy") if what == "E" else named[what]
        way = way if what == "e" else turned.get(way, way)
        fills.append(
            fill(str(n), order, way, quantity, minute=n, reason="stop" if what == "s" else "").replace(symbol=symbol)
        )
    return positions_from_fills(fills, orders, {}, "default")[1]


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize(
    ("trades", "ours", "theirs", "taken"),
    [
        (["+0.5"], 1, "0.5", []),
        (["+0.5", "+0.2"], 1, "0.7", []),
        (["+0.5", "-0.5"], 1, 0, []),
        (["+0.5", "-0.7"], "0.8", 0, ["0.2"]),
        (["-0.4", "+0.5"], "0.6", "0.5", ["0.4"]),
        (["-0.4", "-0.1"], "0.5", 0, ["0.4", "0.1"]),
        (["-1"], None, 0, ["1"]),
        (["-1.5"], None, "-0.5", ["1"]),
        (["+0.5", "-2"], None, "-0.5", ["1"]),
        (["-1.5", "+0.5"], None, 0, ["1"]),
        (["+0.5", "s1"], None, "0.5", []),
        (["+0.5", "s1.5"], None, 0, []),
        (["+0.5", "s0.75"], "0.25", "0.5", []),
        (["+0.5", "x1"], None, "0.5", []),
        (["+0.5", "x1", "-0.5"], None, 0, []),
        (["+0.5", "x1", "e1"], 1, "0.5", []),
        (["-1.5", "e1"], 1, 0, ["1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)  # fmt: skip
def test_what_a_person_added_is_counted_apart_and_what_a_person_closed_is_booked(side, trades, ours, theirs, taken):
    fold = persons(*trades, side=side)
    assert (fold.position and fold.position.quantity) == (ours and D(ours))
    on_our_side = 1 if fold.position or side == "buy" else -1
    assert fold.theirs == D(theirs) * on_our_side
    assert [each.quantity for each in fold.manual] == [D(each) for each in taken]


def test_what_a_person_opened_while_our_entry_rested_is_theirs_and_funding_is_no_trade():
    early = fill("0", "manual", "buy", "0.4", minute=-1), fill("f", "", "buy", "9", minute=-1, reason="funding")
    for side, theirs in (("buy", "0.4"), ("sell", 0)):
        ours = {**OURS, ENTRY: ("c1", intent(ENTRY, side))}
        [position], fold = positions_from_fills([*early, fill("a", ENTRY, side)], ours, {}, "default")
        assert (position.quantity, fold.theirs) == (1, D(theirs))


def test_on_spot_a_person_who_sells_more_than_ours_sold_their_own_coins():
    fold = persons("-1.5", symbol="BTC/USDT")
    assert (fold.position.quantity, fold.manual) == (1, [])
    fold = persons("+0.5", "-0.5", symbol="BTC/USDT")
    assert (fold.position.quantity, fold.theirs) == (1, 0)


@pytest.mark.parametrize("kind", ["Settle", "Delivery", "MovePosition", "CorporateAction", "something new"])
def test_what_is_no_trade_is_told_and_changes_nothing(kind):
    odd = fill("b", "", "sell", "0.4", minute=1, reason=kind)
    assert not is_manual(odd, OURS)
    assert book(fill("a", ENTRY, "buy"), odd) == (book(fill("a", ENTRY, "buy"))[0], [odd])
    assert book(odd) == ([], [odd])


@pytest.mark.parametrize(
    ("order", "quantity"),
    [("qd" + "9" * 32 + "x0", "0.5"), ("qd" + "9" * 32 + "x0", 2)],
    ids=["another strategy", "more than ours"],
)
def test_other_exits_are_left_alone(order, quantity):
    [position], foreign = book(fill("a", ENTRY, "buy"), fill("b", order, "sell", quantity, minute=1))
    assert position.quantity == 1
    assert [f.fill_id for f in foreign] == ["b"]


REST = {**OURS, ENTRY: ("c1", intent(ENTRY, type=OrderType.LIMIT, price=D(100), target=D(130)))}


def test_the_rest_of_an_entry_that_fills_after_its_position_closed_is_another_position():
    fills = [fill("a", ENTRY, "buy", "0.4"), fill("b", "", "sell", "0.4", minute=1, reason="stop"),
             fill("c", ENTRY, "buy", "0.6", minute=2)]  # fmt: skip
    first, second = positions_from_fills(fills, REST, {}, "default")[0]
    assert (first.quantity, first.closed_at, second.quantity) == (0, AT + timedelta(minutes=1), D("0.6"))
    assert first.position_id != second.position_id
    assert (second.stop, second.cycle_id) == (D(90), "c1")


def test_a_position_that_ended_is_not_opened_again_when_only_the_later_fills_are_gone_through():
    fills = [fill("a", ENTRY, "buy", "0.4"), fill("b", "", "sell", "0.4", minute=1, reason="stop"),
             fill("c", ENTRY, "buy", "0.6", minute=2)]  # fmt: skip
    first, second = positions_from_fills(fills, REST, {}, "default")[0]
    [again], *_ = positions_from_fills(fills[2:], REST, {}, "default", {first.position_id})
    assert again == second


def test_a_later_fill_never_undoes_what_was_set_since():
    adds = {**REST, AGAIN: ("c2", intent(AGAIN, stop=D(92), target=D(140)))}
    halves = [fill("a", ENTRY, "buy", "0.4"), fill("b", ENTRY, "buy", "0.6", minute=1)]
    [first], *_ = positions_from_fills(halves[:1], adds, {}, "default")
    moved = {first.position_id: first.replace(stop=D(95), target=D(150))}
    [whole], *_ = positions_from_fills(halves, adds, moved, "default")
    assert (whole.quantity, whole.stop, whole.target) == (1, D(95), D(150))
    [added], *_ = positions_from_fills([*halves, fill("c", AGAIN, "buy", "0.5", minute=2)], adds, moved, "default")
    assert (added.stop, added.target) == (D(95), D(140))  # an ADD's target is a new one, its stop only if it is tighter
    kept = {added.position_id: added.replace(target=D(160))}
    rest = [fill("c", AGAIN, "buy", "0.5", minute=2), fill("d", AGAIN, "buy", "0.5", minute=3)]
    [full], *_ = positions_from_fills([*halves, *rest], adds, kept, "default")
    assert (full.quantity, full.stop, full.target) == (2, D(95), D(160))


def test_an_entry_of_the_other_side_that_reduces_leaves_the_stop_as_it_is():
    short = {**OURS, AGAIN: ("c2", intent(AGAIN, "sell", stop=D(110), target=D(80)))}
    fills = [fill("a", ENTRY, "buy"), fill("b", AGAIN, "sell", "0.4", minute=1)]
    [position], *_ = positions_from_fills(fills, short, {}, "default")
    assert (position.side, position.quantity, position.stop, position.target) == ("long", D("0.6"), D(90), None)


def test_an_entry_of_the_other_side_that_is_larger_closes_and_opens_with_its_own_stop():
    short = {**OURS, AGAIN: ("c2", intent(AGAIN, "sell", stop=D(110)))}
    fills = [fill("a", ENTRY, "buy"), fill("b", AGAIN, "sell", "1.5", minute=1, fee=D("0.3"))]
    (closed, opened), fold = positions_from_fills(fills, short, {}, "default")
    assert (closed.quantity, closed.fees, closed.closed_at) == (0, D("0.2"), AT + timedelta(minutes=1))
    assert (opened.side, opened.quantity, opened.fees, opened.stop) == ("short", D("0.5"), D("0.1"), D(110))
    assert not fold.foreign


def test_what_a_fee_in_the_coin_leaves_below_the_smallest_order_closes_with_the_exit_at_its_price():
    bought, sold = fill("1", ENTRY, "buy", "0.999"), fill("2", EXIT, "sell", "0.99", minute=1, fee=D(1))
    [position], fold = positions_from_fills([bought, sold], OURS, {}, "default", dust=D("0.01"))
    assert (position.quantity, position.closed_at, position.realized_pnl, position.fees) == (0, sold.at, 0, 1)
    [left], *_ = positions_from_fills([bought, sold], OURS, {}, "default", dust=D("0.009"))
    assert (left.quantity, left.closed_at) == (D("0.009"), None)
    again = fill("3", AGAIN, "buy", "0.999", minute=2), fill("4", EXIT, "sell", "1.002", minute=3)
    _, second = positions_from_fills([bought, sold, *again], OURS, {}, "default", dust=D("0.01"))[0]
    assert (second.quantity, second.closed_at) == (0, again[1].at)
    assert not fold.foreign


def test_dust_earns_what_the_rest_of_its_exit_earns():
    bought, out = fill("1", ENTRY, "buy", 2), fill("2", EXIT, "sell", 1, minute=1)
    last = fill("3", EXIT, "sell", "0.9", minute=2).model_copy(update={"price": D(110)})
    [position], *_ = positions_from_fills([bought, out, last], OURS, {}, "default", dust=D("0.2"))
    assert (position.quantity, position.realized_pnl, position.exit_price) == (0, 10, 105)
