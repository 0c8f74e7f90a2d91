"""R is two words. By hand: buy 1 at 100 with its stop at 90, add 1 at 110 with its stop at 100, sell both at 120.

`r` stands on the first entry alone, so at 110 it is 1.0 before the add and after it. `outcome_r` is what both made, 30,
over what both risked, 10 + 10: 1.5 before fees.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import numpy as np
import pytest
from guard_cases import GRID
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.decision.memory import SettledTrade, memory_text, performance
from tasks.core.market.position_events import Closes, r_path, reasons_at
from tasks.core.pages.decision import _outcome
from tasks.core.trading import followups, ledger
from tasks.core.trading.guard import track_record
from tasks.core.trading.positions import positions_from_fills
from tasks.core.types.limits import EventThresholds
from tasks.core.types.orders import Fill, OrderIntent, OrderType
from tasks.core.types.portfolio import ClosedTrade, HeldPosition, Position, r_at
from tasks.core.types.snapshot import Past

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
BTC = "BTC/USDT:USDT"
FIRST, ADD, OUT = "qd" + "1" * 32 + "e0", "qd" + "2" * 32 + "e0", "qd" + "3" * 32 + "x0"


def look(price):
    return followups.Look(AT, D(price), D(price))


def fold(*trades, side="long", stops=("90", "100")):
    """Book trades of (order, quantity, price, and perhaps a fee), a minute apart; entries bring their stops."""
    into, out = ("buy", "sell") if side == "long" else ("sell", "buy")
    plain = {"symbol": BTC, "type": OrderType.MARKET, "quantity": D(9)}
    entries = {
        order: (cycle, OrderIntent(client_order_id=order, side=into, stop=stop and D(stop), **plain))
        for order, cycle, stop in zip((FIRST, ADD), ("c1", "c2"), stops, strict=True)
    }
    entries[OUT] = "c3", OrderIntent(client_order_id=OUT, side=out, reduce_only=True, **plain)
    fills = [
        Fill(
            fill_id=f"f{n}", venue_order_id=order, client_order_id=order, symbol=BTC, quantity=D(quantity),
            side=out if order == OUT else into, price=D(price), fee=D(fee[0] if fee else 0),
            at=AT + timedelta(minutes=n),
        )
        for n, (order, quantity, price, *fee) in enumerate(trades)
    ]  # fmt: skip
    positions, fold = positions_from_fills(fills, entries, {}, "default")
    assert not fold.foreign
    return positions[-1]


BOUGHT, ADDED, SOLD = (FIRST, 1, 100), (ADD, 1, 110), (OUT, 2, 120)
BEFORE, AFTER = fold(BOUGHT), fold(BOUGHT, ADDED)
DONE = ledger.outcome(fold(BOUGHT, ADDED, SOLD))
PAID = ledger.outcome(fold((*BOUGHT, "0.1"), (*ADDED, "0.11"), (*SOLD, "0.24")))


def test_an_add_leaves_r_where_it_was():
    assert (BEFORE.avg_price, AFTER.avg_price) == (100, 105)
    for price, r in ((90, -1), (100, 0), (110, 1), (120, 2)):
        assert r_at(BEFORE, D(price)) == r_at(AFTER, D(price)) == r


def test_an_outcome_is_measured_by_what_every_entry_risked():
    assert (DONE.pnl, DONE.outcome_r, DONE.trade.outcome_r) == (30, D("1.5"), D("1.5"))
    assert (PAID.pnl, PAID.outcome_r) == (D("29.55"), D("1.4775"))


def test_a_short_mirrors_it():
    trades = (FIRST, 1, 100), (ADD, 1, 90), (OUT, 2, 80)
    short = fold(*trades[:2], side="short", stops=("110", "100"))
    assert [r_at(short, D(price)) for price in (110, 100, 90)] == [-1, 0, 1]
    assert str(r_at(short, D(100))) == "0"  # and not -0
    assert ledger.outcome(fold(*trades, side="short", stops=("110", "100"))).outcome_r == D("1.5")


def test_all_fills_of_the_first_order_are_the_first_entry_also_those_after_an_add():
    parts = fold((FIRST, 1, 100), (FIRST, 1, 102))
    assert (parts.first_price, parts.risk, r_at(parts, D(112))) == (101, 22, 1)
    mixed = fold((FIRST, 1, 100), (ADD, 1, 110), (FIRST, 3, 104))
    assert (mixed.first_price, mixed.first_quantity, mixed.risk) == (103, 4, 10 + 10 + 42)


def test_a_trim_before_the_add_takes_nothing_off_what_was_risked():
    # in: 2 x 10 and 1 x 10 at risk; out: 1 at 110, 2 at 120: 10 + 20 + 10
    done = fold((FIRST, 2, 100), (OUT, 1, 110), (ADD, 1, 110), (OUT, 2, 120))
    assert (done.first_price, done.risk) == (100, 30)
    assert ledger.outcome(done).outcome_r == D(40) / 30


@pytest.mark.parametrize("stops", [("90", None), (None, "100"), ("90", "110"), ("90", "115")])
def test_with_an_entry_that_had_no_stop_or_one_that_bounds_nothing_the_outcome_has_no_r(stops):
    assert ledger.outcome(fold(BOUGHT, ADDED, SOLD, stops=stops)).outcome_r is None
    assert r_at(fold(BOUGHT, ADDED, stops=stops), D(110)) == (1 if stops[0] else None)


def test_breakeven_is_a_loss_after_fees_and_funding():
    even = ledger.outcome(fold((*BOUGHT, "0.1"), (OUT, 1, 100, "0.1")))
    assert (even.pnl, even.outcome_r) == (D("-0.2"), D("-0.02"))


def test_what_learns_from_outcomes_learns_from_outcome_r():
    assert ledger.digest([DONE]).recent_performance_score == 1.5
    assert ledger.digest([PAID]).recent_performance_score == 1.4775
    done = performance("rules", [SettledTrade(each.pnl, each.outcome_r, 0.5, frozenset()) for each in (DONE, PAID)], {})
    assert done.statistics[0].mean_r == pytest.approx(1.48875)
    past = Past(as_of=AT, action="OPEN_LONG", confidence=0.5, outcome_r=float(DONE.outcome_r))
    assert "-> +1.50R" in memory_text(done.replace(recent=(past,)), 1000)
    lost = ledger.outcome(fold(BOUGHT, (OUT, 1, 90)))
    assert lost.outcome_r == -1
    assert track_record.kelly([DONE, lost], 2) == D("0.166666")  # 1/2 - 1/2 / 1.5
    assert "+1.50 R" in _outcome(DONE)


def test_rules_stay_where_they_are_and_a_stop_goes_to_breakeven_of_both_or_to_r():
    even, half, later = followups.parse(
        ["MOVE_STOP: breakeven on +1R", "MOVE_STOP: +0.8R on +1R", "MOVE_STOP: +1R on +2R"]
    )
    rules = tuple(map(str, (even, half, later)))
    for held in (BEFORE, AFTER):
        held = held.replace(followups=rules, stop=D(90))
        assert followups.due(held, look("109.99")) == ()
        assert set(followups.due(held, look(110))) == {even, half}
        assert set(followups.due(held, look(120))) == {even, half, later}
        assert followups.intent(half, held, GRID, look(100)).price == 108
        assert followups.intent(later, held, GRID, look(100)).price == 110
        assert followups.intent(even, held, GRID, look(100)).price == held.avg_price


def test_events_come_at_the_same_closes_before_and_after():
    closes = Closes(np.array([int(AT.timestamp()) + 300 * n for n in (1, 2, 3)]), np.array([109.0, 110.0, 120.0]))
    for held in (BEFORE, AFTER):
        found = reasons_at(held, closes, AT + timedelta(days=1), EventThresholds())
        assert [(str(each), (each.as_of - AT) / timedelta(minutes=5)) for each in found] == [
            ("RMultiple(5m +1.0R)", 2), ("RMultiple(5m +2.0R)", 3)
        ]  # fmt: skip


prices = st.integers(1, 10**6).map(lambda n: D(n) / 100)


@given(prices, prices, st.sampled_from(["long", "short"]), prices, st.lists(prices, min_size=1, max_size=20))
def test_the_path_of_r_is_r_at_every_close(first, added, side, stop, levels):
    held = fold((FIRST, 1, first), (ADD, 1, added), side=side, stops=(stop, None))
    at_s = int(AT.timestamp()) + 300 * np.arange(1, len(levels) + 1)
    path = r_path(held, Closes(at_s, np.array(levels, dtype=float)), AT + timedelta(days=1))
    expected = [r_at(held, level) for level in levels]
    expected = [np.nan if each is None else float(each) for each in expected]
    assert path.level.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


def test_what_was_written_before_is_read_as_it_was_meant():
    """A position without a first price has its average; a closed trade and a memory had an `r_multiple` before fees."""
    old = {name: value for name, value in AFTER.model_dump(mode="json").items() if name not in NEW}
    assert r_at(Position.model_validate(old), D(120)) == 1
    held = HeldPosition(symbol=BTC, side="long", quantity=D(2), avg_price=D(105), initial_stop=D(90))
    assert r_at(held, D(120)) == 1
    trade = ClosedTrade.model_validate_json('{"closed_at": "2026-01-02T03:05:00Z", "pnl": "1", "r_multiple": "0.5"}')
    past = Past.model_validate({"as_of": AT, "action": "HOLD", "confidence": 0.5, "r_multiple": 0.5})
    assert (trade.outcome_r, past.outcome_r) == (None, 0.5)
    assert "r_multiple" not in trade.model_dump().keys() | past.model_dump().keys()


NEW = {"first_price", "first_quantity", "risk"}
