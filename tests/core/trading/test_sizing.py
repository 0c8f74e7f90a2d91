"""Prices, unit losses and quantities of an entry, by hand."""

import math
from decimal import ROUND_FLOOR, Context, localcontext
from decimal import Decimal as D

import pytest
from instrument_cases import linear

from tasks.core.trading.guard import sizing
from tasks.core.types import known
from tasks.core.types.decision import Entry
from tasks.core.types.limits import Costs

COSTS = Costs()
MILLI = D("0.001")


@pytest.mark.parametrize(("number", "crossed"), [(0.1, D("0.1")), (None, None), (math.nan, None), (-math.inf, None)])
def test_only_what_is_a_number_crosses_to_money(number, crossed):
    assert known(number) == crossed


@pytest.mark.parametrize(("side", "price"), [("long", D("99.9")), ("short", D("100.1"))])
def test_a_limit_never_chases_the_market(side, price):
    assert sizing.entry_price(Entry(type="limit", offset_bps=D(5)), side, D(100), D("0.1")) == price


def test_a_market_entry_is_sized_at_the_last_price_as_it_is():
    assert sizing.entry_price(Entry(), "long", D("100.037"), D("0.1")) == D("100.037")


@pytest.mark.parametrize(("side", "price"), [("long", D("98.1")), ("short", D("98.0"))])
def test_protection_is_rounded_in_the_trades_favour(side, price):
    assert sizing.protective_price(side, D("98.05"), D("0.1")) == price


def test_a_unit_loses_its_distance_and_fee_and_half_spread_both_ways():
    assert sizing.loss_per_unit("long", D(100), D(98), COSTS) == D("2.12")  # 6 bps of 100, twice
    assert sizing.loss_per_unit("short", D(100), D(102), COSTS) == D("2.1212")  # 6 bps of 100 and of 102


def test_a_stop_beyond_breakeven_and_costs_loses_nothing():
    assert sizing.loss_per_unit("long", D(100), D("100.1"), COSTS) == D("0.02006")
    assert sizing.loss_per_unit("long", D(100), D(101), COSTS) == 0


def test_quantities_are_floored_to_the_step():
    assert sizing.by_notional(D(10_000), D(20), D("65432.1"), MILLI) == D("0.030")


@pytest.mark.parametrize("quantity", ["0.001", "0.030", "1.999", "7", "123456.789"])
@pytest.mark.parametrize("entry", ["0.00001234", "3", "65432.1"])
def test_the_share_of_a_quantity_buys_that_quantity(quantity, entry):
    with localcontext(Context(prec=34, rounding=ROUND_FLOOR)):
        pct = sizing.pct_of_quantity(D(9_973), D(quantity), D(entry), MILLI)
        assert sizing.by_notional(D(9_973), pct, D(entry), MILLI) == D(quantity)


def test_a_tidy_share_has_six_places():
    assert sizing.pct_of_quantity(D(10_000), D("0.030"), D("65432.1"), MILLI) == D("19.629630")


def test_a_position_is_sold_in_whole_steps_unless_it_is_less_than_one():
    grid = linear(step=MILLI)
    assert sizing.sellable(grid, D("1.2345")) == D("1.234")
    assert sizing.sellable(grid, D("0.0005")) == D("0.0005")


def test_a_rest_is_too_small_by_quantity_or_by_value():
    grid = linear(step=MILLI, min_quantity=D("0.01"), min_notional=D(5))
    assert sizing.too_small(grid, D("0.009"), None)
    assert not sizing.too_small(grid, D("0.01"), None)
    assert sizing.too_small(grid, D("0.01"), D("499.9"))
    assert not sizing.too_small(grid, D("0.01"), D(500))
