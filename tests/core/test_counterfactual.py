"""Scores of decisions that were, or were not, sent: worked by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from instrument_cases import linear

from tasks.core.evaluation.counterfactual import FREE, PaperBook, score
from tasks.core.market.bars import bar_frame
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderType
from tasks.core.types.portfolio import AccountState, HeldPosition

SYMBOL = "BTC/USDT:USDT"
AT = datetime(2025, 1, 1, 12, tzinfo=UTC)
FLAT = AccountState(equity=Decimal(10_000), instrument=linear(SYMBOL))
LONG = HeldPosition(symbol=SYMBOL, side="long", quantity=Decimal(10), avg_price=Decimal(90), stop=Decimal(95))


def bars(*closes: float):
    opens = np.r_[100.0, closes[:-1]]
    values = {
        "open": opens, "close": np.array(closes), "high": np.maximum(opens, closes), "low": np.minimum(opens, closes),
        "volume": np.ones(len(closes)),
    }  # fmt: skip
    return bar_frame(int(AT.timestamp() * 1000) + np.arange(len(closes)) * 300_000, values)


def entry(stop: str = "95", target: str = "110") -> OrderIntent:
    return OrderIntent(
        client_order_id="e", symbol=SYMBOL, side="buy", type=OrderType.MARKET, quantity=Decimal(10),
        stop=Decimal(stop), target=Decimal(target),
    )  # fmt: skip


def close_all() -> OrderIntent:
    return OrderIntent(
        client_order_id="x", symbol=SYMBOL, side="sell", type=OrderType.MARKET, quantity=Decimal(10), reduce_only=True
    )


def test_an_entry_that_reaches_its_target_earns_the_distance():
    result = score(FLAT, SYMBOL, [entry()], bars(104, 109, 111, 50), FREE)
    assert result.return_pct == Decimal(1)  # 10 x (110 - 100) on 10,000
    assert (result.bars, result.closed) == (3, True)


def test_an_entry_that_is_stopped_loses_the_distance_and_the_costs():
    costs = Costs(half_spread_bps=Decimal(0), impact_bps_per_million=Decimal(0))
    result = score(FLAT, SYMBOL, [entry()], bars(97, 94, 120), costs)
    fees = (Decimal(100) + Decimal(95)) * 10 * Decimal("0.00055")
    assert result.return_pct == (Decimal(-50) - fees) / 100


def test_hold_without_a_position_earns_nothing():
    result = score(FLAT, SYMBOL, [], bars(104, 50), FREE)
    assert result.return_pct == 0


def test_closing_and_holding_are_measured_from_the_same_account():
    state = FLAT.model_copy(update={"positions": (LONG,)})
    held = score(state, SYMBOL, [], bars(104, 108), FREE)
    closed = score(state, SYMBOL, [close_all()], bars(104, 108), FREE)
    assert held.return_pct == Decimal("0.8")  # from the open at 100, not from the entry at 90
    assert closed.return_pct == 0
    assert closed.bars == 1


def test_without_a_bar_there_is_no_score():
    assert score(FLAT, SYMBOL, [entry()], bars(104).iloc[:0], FREE) is None


def test_a_paper_book_in_two_sittings_is_the_same_as_in_one():
    instruments = {SYMBOL: linear(SYMBOL)}
    tape = bars(104, 103, 102, 107, 111, 105)
    due = [(AT + timedelta(minutes=5), SYMBOL, [entry(target="108")])]
    whole = PaperBook(Decimal(10_000), instruments, Costs())
    once = whole.run({SYMBOL: tape}, due)
    first = PaperBook(Decimal(10_000), instruments, Costs())
    first.run({SYMBOL: tape.iloc[:3]}, due)
    second = PaperBook(Decimal(10_000), instruments, Costs(), first.engine.dump())
    assert second.run({SYMBOL: tape.iloc[3:]}, []) == once
    assert once > 10_000
    assert [fill.reason for fill in whole.engine.fills] == ["entry", "target"]


@pytest.mark.parametrize("n", [1, 300])
def test_no_more_than_the_horizon_is_looked_at(n):
    result = score(FLAT, SYMBOL, [entry(stop="1", target="900")], bars(*([101.0] * n)), FREE)
    assert result.bars == min(n, 288)
    assert not result.closed
