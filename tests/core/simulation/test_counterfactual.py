"""Scores of decisions that were, or were not, sent: worked by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from instrument_cases import linear

from tasks.core.market.bars import bar_frame
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.simulation.counterfactual import score
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.core.types.portfolio import AccountState, HeldPosition

SYMBOL, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
STEP = timedelta(minutes=5)
FREE = Costs(**dict.fromkeys(("taker_bps", "maker_bps", "half_spread_bps", "impact_bps_per_million"), Decimal(0)))
AT = datetime(2025, 1, 1, 12, tzinfo=UTC)
GRID = linear(SYMBOL, min_quantity=Decimal("0.001"))
FLAT = AccountState(equity=Decimal(10_000), instrument=GRID)
LONG = HeldPosition(symbol=SYMBOL, side="long", quantity=Decimal(10), avg_price=Decimal(90), stop=Decimal(95))


def bars(*closes: float):
    opens = np.r_[100.0, closes[:-1]]
    values = {
        "open": opens, "close": np.array(closes), "high": np.maximum(opens, closes), "low": np.minimum(opens, closes),
        "volume": np.full(len(closes), 1000.0),
    }  # fmt: skip
    return bar_frame(int(AT.timestamp() * 1000) + np.arange(len(closes)) * 300_000, values)


def entry(stop: str = "95", target: str = "110") -> OrderIntent:
    return OrderIntent(
        client_order_id="e", symbol=SYMBOL, side="buy", type=OrderType.MARKET, quantity=Decimal(10),
        stop=Decimal(stop), target=Decimal(target),
    )  # fmt: skip


def entry_in(symbol: str, stop: str = "10") -> OrderIntent:
    return entry(stop=stop, target="900").model_copy(update={"symbol": symbol, "client_order_id": f"e-{symbol}"})


def close_all() -> OrderIntent:
    return OrderIntent(
        client_order_id="x", symbol=SYMBOL, side="sell", type=OrderType.MARKET, quantity=Decimal(10), reduce_only=True
    )


def test_an_entry_that_reaches_its_target_earns_the_distance():
    earned = score(FLAT, SYMBOL, [entry()], bars(104, 109, 111, 50), FREE)
    assert earned == Decimal(1)  # 10 x (110 - 100) on 10,000


def test_an_entry_that_is_stopped_loses_the_distance_and_the_costs():
    costs = Costs(half_spread_bps=Decimal(0), impact_bps_per_million=Decimal(0))
    earned = score(FLAT, SYMBOL, [entry()], bars(97, 94, 120), costs)
    fees = (Decimal(100) + Decimal(95)) * 10 * Decimal("0.00055")
    assert earned == (Decimal(-50) - fees) / 100


def test_hold_without_a_position_earns_nothing():
    assert score(FLAT, SYMBOL, [], bars(104, 50), FREE) == 0


def test_closing_and_holding_are_measured_from_the_same_account():
    state = FLAT.model_copy(update={"positions": (LONG,)})
    held = score(state, SYMBOL, [], bars(104, 108), FREE)
    closed = score(state, SYMBOL, [close_all()], bars(104, 108), FREE)
    assert held == Decimal("0.8")  # from the open at 100, not from the entry at 90
    assert closed == 0


@pytest.mark.parametrize("quantity", ["10", "0.0005"])
def test_what_is_held_takes_nothing_of_the_first_bar_and_may_be_small(quantity):
    held = LONG.model_copy(update={"quantity": Decimal(quantity), "target": Decimal(103)})
    state, few = FLAT.model_copy(update={"positions": (held,)}), bars(104, 108, 50)
    few["volume"] = 100.0  # of which 10 may be taken
    assert score(state, SYMBOL, [close_all()], few, FREE) == 0
    assert score(state, SYMBOL, [], few, FREE) == Decimal("0.03") * Decimal(quantity)  # its target, within that bar


def test_without_a_bar_there_is_no_score():
    assert score(FLAT, SYMBOL, [entry()], bars(104).iloc[:0], FREE) is None


def an_account() -> SimulatedAccount:
    return SimulatedAccount(Decimal(10_000), {s: GRID.model_copy(update={"symbol": s}) for s in (SYMBOL, OTHER)}, FREE)


def test_an_account_that_is_stored_between_bars_ends_as_the_one_that_is_not():
    tape = bars(104, 103, 102, 107, 111, 105)
    due = [(AT + timedelta(minutes=5), SYMBOL, [entry(target="108")])]
    whole, first, second = an_account(), an_account(), an_account()
    whole.pass_bars({SYMBOL: tape}, STEP, due)
    first.pass_bars({SYMBOL: tape.iloc[:3]}, STEP, due)
    second.load(first.dump())
    second.pass_bars({SYMBOL: tape.iloc[3:]}, STEP)
    assert second.balance({}) == whole.balance({})
    assert second.balance({}).equity > 10_000
    assert [fill.reason for fill in whole.fills] == ["entry", "target"]


@pytest.mark.parametrize(("minute", "bar"), [(0, 0), (2, 1), (5, 1), (6, 2)])
def test_a_decisions_orders_meet_the_first_bar_that_opens_at_or_after_it(minute, bar):
    """One made at 12:02 knows nothing of what the bar of 12:00 was going to do: it fills at 12:05."""
    tape, made = bars(104, 103, 102, 107), an_account()
    made.pass_bars({SYMBOL: tape}, STEP, [(AT + timedelta(minutes=minute), SYMBOL, [entry(target="900")])])
    [fill] = made.fills
    assert (fill.at, fill.price) == (AT + timedelta(minutes=5 * bar), Decimal(str(tape["open"].iloc[bar])))


def test_a_decision_about_one_symbol_does_not_meet_anothers_bar():
    made = an_account()
    made.pass_bars({SYMBOL: bars(104, 103), OTHER: bars(50, 51).iloc[1:]}, STEP, [(AT, OTHER, [entry_in(OTHER)])])
    assert [(fill.symbol, fill.at) for fill in made.fills] == [(OTHER, AT + timedelta(minutes=5))]


def test_two_decisions_of_one_time_are_carried_out_in_their_order():
    made = an_account()
    made.pass_bars({SYMBOL: bars(104, 103)}, STEP, [(AT, SYMBOL, [entry(target="900")]), (AT, SYMBOL, [close_all()])])
    assert [fill.client_order_id for fill in made.fills] == ["e", "x"]


def test_funding_is_paid_on_what_is_open_then_and_only_on_that():
    """10 at a mark of 103 pay 1 bp: 0.103. What was due before the entry, or in another symbol, costs nothing."""
    dues = [
        (AT - timedelta(minutes=5), SYMBOL, Decimal("0.01")),
        (AT + timedelta(minutes=10), OTHER, Decimal("0.01")),
        (AT + timedelta(minutes=10), SYMBOL, Decimal("0.0001")),
    ]
    made = an_account()
    made.pass_bars({SYMBOL: bars(104, 103, 110)}, STEP, [(AT, SYMBOL, [entry(target="900")])], dues)
    equity = made.balance({}).equity
    assert equity == 10_100 - Decimal("0.103")
    assert [fill.reason for fill in made.fills] == ["entry", "funding"]


def test_equity_is_reckoned_at_each_symbols_own_last_close():
    made = an_account()
    tapes = {SYMBOL: bars(104, 103), OTHER: bars(90, 80).iloc[:1]}
    made.pass_bars(tapes, STEP, [(AT, SYMBOL, [entry(target="900")]), (AT, OTHER, [entry_in(OTHER, stop="1")])])
    equity = made.balance({}).equity
    assert equity == 10_000 + 30 - 100


@pytest.mark.parametrize(("n", "earned"), [(287, "0.1"), (288, "0.5"), (300, "0.5")])
def test_no_more_than_the_horizon_is_looked_at(n, earned):
    """The price is 101, 105 with the close of the 288th bar, and 200 after that."""
    tape = [*[101.0] * 287, 105.0, *[200.0] * 12][:n]
    assert score(FLAT, SYMBOL, [entry(stop="1", target="900")], bars(*tape), FREE) == Decimal(earned)


def test_the_horizon_is_a_day_whatever_candles_are_missing_in_it():
    holed = bars(*[101.0] * 287, 102.0, *[150.0] * 20).drop(index=bars(*[101.0] * 200).index[100:150])
    assert score(FLAT, SYMBOL, [entry(target="900")], holed, FREE) == Decimal("0.2")  # 10 x (102 - 100) on 10,000
