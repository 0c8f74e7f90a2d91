"""Instruments of replays: the kind by the symbol's form, the grids from a file, from `ingest` or from past candles.

What candles tell is read from those that had closed by the first decision: what comes later changes nothing. Prices
lie on the tick and volumes on the step; where floats lie on no grid (sums, disguised markets), the price itself gives a
plausible one. A minimum notional cannot be seen in candles: it is taken to be 5 quote.
"""

from datetime import datetime
from decimal import Decimal
from math import gcd
from typing import NamedTuple

import numpy as np
import pandas as pd

from tasks.core.market.bars import closed_by, infer_timeframe
from tasks.core.types import InputError, Instrument, InstrumentTerms, Kind

PRICES = ["open", "high", "low", "close"]
RECENT = 5_000  # rows looked at: ticks change over the years
FEWEST = 20  # different values that tell a grid
DIGITS = 14  # a float has one or two more, and sums spoil those
NOISE = 10 ** (DIGITS - 1)  # steps in the median volume: all its digits are used, so it lies on no grid
FINEST_STEP = Decimal("1e-8")
FINEST_TICK = Decimal("1e-7")  # share of the price; the finest that venues list are some 1e-7
TICKS = Decimal("1e-5")  # share of the price, where only that is known
LOT = Decimal(200)  # quote that one step is worth at most
MIN_NOTIONAL, LEVERAGE = Decimal(5), Decimal(100)
NOTHING = InstrumentTerms()
OTHER = {"symbol", "maintenance", "contract_size"}  # what a stored instrument says beside these terms


class Resolved(NamedTuple):
    """An instrument and where it comes from; "file+ingested": the first names some terms, the second the rest."""

    instrument: Instrument
    source: str


def kind_of(symbol: str) -> Kind:
    """Return spot for BASE/QUOTE and linear for BASE/QUOTE:SETTLE."""
    return "linear" if ":" in symbol else "spot"


def by_form(symbol: str, tick: Decimal, step: Decimal, named: InstrumentTerms = NOTHING) -> Instrument:
    """Return the instrument with these grids; what `named` leaves out comes by the symbol's form.

    The form wins over what is named: spot is neither sold short nor leveraged.
    """
    linear = kind_of(symbol) == "linear"
    return Instrument(
        symbol=symbol,
        tick=tick,
        step=step,
        min_quantity=Decimal(0) if named.min_quantity is None else named.min_quantity,
        min_notional=MIN_NOTIONAL if named.min_notional is None else named.min_notional,
        max_leverage=(named.max_leverage or LEVERAGE) if linear else Decimal(1),
        shorting=linear and named.shorting is not False,
        kind=kind_of(symbol),
        maintenance=named.maintenance or (),
        max_quantity=named.max_quantity,
    )


def derived(symbol: str, price: Decimal | None, named: InstrumentTerms = NOTHING) -> Resolved | None:
    """Return the instrument of one moment, without a history; None where tick or step would need a price."""
    if named.tick is not None and named.step is not None:
        return Resolved(by_form(symbol, named.tick, named.step, named), "state")
    if price is None or price <= 0:
        return None
    tick, step = named.tick or _power(price * TICKS), named.step or _lot_by_price(price)
    source = "derived from the price" if named == NOTHING else "state, the rest derived from the price"
    return Resolved(by_form(symbol, tick, step, named), source)


def warm_up(bars: pd.DataFrame, first_decision: datetime) -> pd.DataFrame:
    """Return the last rows that had closed by the first possible decision; how long a row lasts is read before it."""
    opened = bars.loc[bars.index < pd.Timestamp(first_decision)]
    if len(opened) < 2:
        return opened.iloc[:0]
    return closed_by(opened, infer_timeframe(opened), first_decision).iloc[-RECENT:]


def infer(symbol: str, bars: pd.DataFrame, named: InstrumentTerms = NOTHING) -> Instrument:
    """Read off the grids that prices and volumes of `bars` lie on what `named` leaves out of tick and step.

    Raises InputError when the prices are too few to tell.
    """
    if named.tick is not None and named.step is not None:
        return by_form(symbol, named.tick, named.step, named)
    prices, volumes = _distinct(bars[PRICES]), _distinct(bars[["volume"]])
    if len(prices) < (FEWEST if named.tick is None else 1):
        raise InputError(
            f"{symbol}: {len(prices)} different prices in the {len(bars)} candles before the first decision do not "
            f'tell its tick: give --instruments FILE, in it {{"{symbol}": {{"tick": ..., "step": ...}}}} with what the '
            "venue says"
        )
    price = _exact(np.median(prices))
    tick = named.tick or max(_grid(prices), _power(price * FINEST_TICK))
    return by_form(symbol, tick, named.step or _lot(volumes, price), named)


def resolve(symbol: str, before: pd.DataFrame, named: InstrumentTerms | None, stored: Instrument | None) -> Resolved:
    """Return the instrument of a replay: each term from a file, else what `ingest` stored, else what `before` tells.

    before: the rows of `warm_up`. Raises InputError where they do not tell, and for an inverse contract.
    """
    base, settled = symbol.partition("/")[0], symbol.partition(":")[2].partition("-")[0]
    if base == settled:
        raise InputError(f"{symbol} is inverse, settled in {settled}: only spot and linear contracts can be replayed")
    named, known = named or NOTHING, {} if stored is None else stored.model_dump(exclude=OTHER)
    needed = {"tick", "step"} if stored is None else known.keys() - {"kind", "shorting"}  # in the form
    parts = ["file"] * (named != NOTHING)
    if None in named.model_dump(include=needed).values():
        parts.append("inferred" if stored is None else "ingested")
    terms = InstrumentTerms(**known | named.model_dump(exclude_none=True))
    instrument = stored if stored and named == NOTHING else infer(symbol, before, terms)
    if len(before) and instrument.tick > (price := _exact(before["close"].median())):
        raise InputError(f"{symbol}: its tick {instrument.tick} is above its price, some {price}: mend the tick")
    return Resolved(instrument, "+".join(parts))


def _distinct(values: pd.DataFrame) -> np.ndarray:
    """Return the different positive numbers, ascending."""
    numbers = values.to_numpy(dtype=float)
    return np.unique(numbers[np.isfinite(numbers) & (numbers > 0)])


def _exact(x: float) -> Decimal:
    """Cross from a candle's float to the Decimal it was before sums spoiled its last digits."""
    return Decimal(f"{x:.{DIGITS}g}")


def _grid(values: np.ndarray) -> Decimal:
    """Return the largest number that all `values` are multiples of."""
    exact = [_exact(x) for x in values.tolist()]
    places = max(0, *(-int(x.normalize().as_tuple().exponent) for x in exact))
    return Decimal(gcd(*(int(x.scaleb(places)) for x in exact))).scaleb(-places)


def _lot(volumes: np.ndarray, price: Decimal) -> Decimal:
    """Return the step the volumes lie on, unless it is noise or worth more than a venue would ask for."""
    if len(volumes) >= FEWEST:
        step = _grid(volumes)
        if step >= FINEST_STEP and step * price <= LOT and _exact(np.median(volumes)) < NOISE * step:
            return step
    return _lot_by_price(price)


def _lot_by_price(price: Decimal) -> Decimal:
    """Return the largest power of ten, 1 at most, that is worth no more than 1 quote."""
    return min(Decimal(1), _power(1 / price))


def _power(x: Decimal) -> Decimal:
    """Return the largest power of ten that is not above x."""
    n = x.adjusted()
    return Decimal(10**n) if n > 0 else Decimal(1).scaleb(n)
