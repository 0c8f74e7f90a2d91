"""Prices of an entry, what a unit of it can lose, and how many units a size or a budget buys.

Quantity = min(equity x size_pct / entry, what loses the budget at the stop), floored to the step. A loss is quantity x
(|entry - stop| + fees + spread), and size impact, which grows with its square. The guard takes the two terms one by
one, so that its verdict says which of them was binding. Everything is Decimal.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from tasks.core.types import (
    HUNDRED,
    ZERO,
    Costs,
    Entry,
    Instrument,
    PositionSide,
    Price,
    Quantity,
    bps,
    direction,
    floor_to_step,
    round_to_tick,
)

MILLION = Decimal(1_000_000)
TIDY_PLACES = (6, 12, 18)


def entry_price(entry: Entry, side: PositionSide, last: Decimal, tick: Decimal) -> Price:
    """Return `last` for a market entry, else the limit price: rounded away from the market, never chasing it."""
    if entry.type == "market":
        return Price(last)
    limit = last - direction(side) * bps(last, entry.offset_bps)
    return round_to_tick(limit, tick, ROUND_FLOOR if side == "long" else ROUND_CEILING)


def protective_price(side: PositionSide, price: Decimal, tick: Decimal) -> Price:
    """Round a stop or target to the tick in the trade's favour: less at risk, and never less reward per risk."""
    return round_to_tick(price, tick, ROUND_CEILING if side == "long" else ROUND_FLOOR)


def tighter(side: PositionSide, *stops: Decimal | None) -> Decimal | None:
    """Return the stop that loses least; None where there is none."""
    return max((stop for stop in stops if stop is not None), key=lambda stop: direction(side) * stop, default=None)


def loss_per_unit(side: PositionSide, entry: Decimal, stop: Decimal, costs: Costs) -> Decimal:
    """Return what one unit loses when it is stopped out, fees and spread included, size impact not.

    Never below 0 (a stop beyond breakeven).
    """
    way_lost = entry - stop if side == "long" else stop - entry
    # taker fee and half spread, in and out; the way out at the dearer of both prices
    paid = bps(entry + max(entry, stop), costs.taker_bps + costs.half_spread_bps)
    return max(way_lost + paid, ZERO)


def impact_per_unit2(price: Decimal, costs: Costs) -> Decimal:
    """Return what an order at `price` pays in size impact, in quote per base squared."""
    return bps(price * price, costs.impact_bps_per_million) / MILLION


def lost(quantity: Decimal, per_unit: Decimal, per_unit2: Decimal) -> Decimal:
    """Return quantity x per_unit + quantity^2 x per_unit2: what `quantity` loses at its stop."""
    loss = quantity * per_unit
    return loss + quantity * quantity * per_unit2 if per_unit2 else loss  # + 0 would add digits


def by_risk(budget: Decimal, per_unit: Decimal, per_unit2: Decimal) -> Decimal:
    """Return the quantity of which quantity x per_unit + quantity^2 x per_unit2 is the budget."""
    if not per_unit2:
        return budget / per_unit
    return 2 * budget / (per_unit + (per_unit * per_unit + 4 * per_unit2 * budget).sqrt())


def by_notional(equity: Decimal, size_pct: Decimal, entry: Decimal, step: Decimal) -> Quantity:
    """Return the quantity whose notional is `size_pct` percent of equity, floored to the step."""
    return floor_to_step(equity * size_pct / HUNDRED / entry, step)


def pct_of_quantity(equity: Decimal, quantity: Decimal, entry: Decimal, step: Decimal) -> Decimal:
    """Return the shortest `size_pct` that buys exactly `quantity`, so that a clamped decision reads as it is sent."""
    share = quantity * entry * HUNDRED / equity
    for places in TIDY_PLACES:
        tidy = share.quantize(Decimal(1).scaleb(-places), ROUND_CEILING)
        if by_notional(equity, tidy, entry, step) == quantity:
            return tidy
    return share


def in_one_order(instrument: Instrument, quantity: Quantity) -> Quantity:
    """Return as much of `quantity` as the venue takes in one market order, in whole steps."""
    most = instrument.max_quantity
    return quantity if most is None or quantity <= most else floor_to_step(most, instrument.step)


def sellable(instrument: Instrument, quantity: Decimal) -> Quantity:
    """Return a position's quantity in whole steps; less than one step goes as it is, for the venue to close."""
    return floor_to_step(quantity, instrument.step) or Quantity(quantity)


def part_of(instrument: Instrument, quantity: Decimal, size_pct: Decimal) -> Quantity | None:
    """Return `size_pct` percent of a position, all where the rest could not be sold; None: less than can be sold."""
    part = floor_to_step(quantity * size_pct / HUNDRED, instrument.step)
    if too_small(instrument, part, None):
        return None
    return sellable(instrument, quantity) if too_small(instrument, quantity - part, None) else part


def too_small(instrument: Instrument, rest: Decimal, last: Decimal | None) -> bool:
    """Return whether what would remain of a position could not be sold on its own later."""
    below = rest < max(instrument.step, instrument.min_quantity)
    return below or (last is not None and rest * last < instrument.min_notional)
