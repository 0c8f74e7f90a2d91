"""Markets that nobody remembers: other names, other weeks, other prices, and the same decisions for whoever only reads.

A mask shifts every time by the same number of whole weeks and multiplies each symbol's prices by a power of two and its
volumes by the inverse one, with tick, step and least quantity along; notional stays, so an account trades as before. A
float times a power of two keeps its digits: every ratio that a rule compares is the same to the last bit. Only what is
rounded to six decimal digits (the ATR the guard sizes with) may move a stop by a tick.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd

from tasks.core.types import COLUMNS, Instrument, JsonObject, Texts

PRICES = COLUMNS[:4]
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
FEWEST_WEEKS, WEEKS = 60, 300  # back from the market's own
MOST_DOUBLINGS = 3
STRONG = "strong"  # the key whose mask perturbs the tape too
# how often a nearest neighbour in five histories has the right symbol, within a day: `make bench ARGS=mask`
LOOK_UP = "symbol and date of 8.1 % (llm:panel 17.2 %), under a strong mask of 1.5 % (llm:panel 2.4 %)"


@dataclass(frozen=True)
class Mask:
    """One way to disguise every symbol; all of it follows from `key`."""

    key: str

    def _draw(self, what: str, below: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.key}|{what}".encode()).digest()[:8]) % below

    @property
    def shift(self) -> timedelta:
        """Return what is taken off every time: whole weeks, so that weekdays and hours stay."""
        return timedelta(weeks=FEWEST_WEEKS + self._draw("weeks", WEEKS))

    def symbol(self, symbol: str) -> str:
        """Return another base currency of four letters; quote and settlement stay."""
        base, _, rest = symbol.partition("/")
        letters = (LETTERS[self._draw(f"{base}|{i}", len(LETTERS))] for i in range(4))
        return f"{''.join(letters)}/{rest}"

    def doublings(self, symbol: str) -> int:
        """Return the power of two that prices are multiplied by; never 0."""
        drawn = self._draw(f"{symbol}|doublings", 2 * MOST_DOUBLINGS) - MOST_DOUBLINGS
        return drawn if drawn < 0 else drawn + 1

    def describe(self, symbols: Texts = ()) -> JsonObject:
        """Return all it takes to undo the mask, for the record of a run."""
        each = {self.symbol(s): {"symbol": s, "price_times": 2.0 ** self.doublings(s)} for s in symbols}
        return {"key": self.key, "weeks_back": self.shift.days // 7, "symbols": each, "look_up": LOOK_UP}


def mask_bars(bars: pd.DataFrame, symbol: str, mask: Mask) -> tuple[str, pd.DataFrame]:
    """Return the disguised name and candles of `symbol`; `bars` stay as they are."""
    factor = 2.0 ** mask.doublings(symbol)
    columns = {name: bars[name] * (factor if name in PRICES else 1 / factor) for name in COLUMNS}
    return mask.symbol(symbol), pd.DataFrame(columns).set_axis(pd.DatetimeIndex(bars.index) - mask.shift)


def mask_instrument(instrument: Instrument, mask: Mask) -> Instrument:
    """Return what the disguised symbol may be traded in: the same steps, seen through the mask."""
    n = mask.doublings(instrument.symbol)
    steps = {"tick": n, "step": -n, "min_quantity": -n}
    # a power of two, and its inverse, are exact
    scaled = {name: getattr(instrument, name) * Decimal(2.0**doublings) for name, doublings in steps.items()}
    return instrument.replace(symbol=mask.symbol(instrument.symbol), **scaled)


def perturbed(bars: pd.DataFrame, seed: int, strength: float = 1.0) -> pd.DataFrame:
    """Return the candles with noise where a decider should look: who reads them decides otherwise, who remembers not.

    Each close moves by a draw whose deviation is `strength` times that of the 5m returns, each volume by a factor of
    a like draw; opens follow the close before, highs and lows keep their distance in percent.
    """
    rng = np.random.default_rng(seed)
    close, count = bars["close"].to_numpy(), len(bars)
    deviation = np.diff(np.log(close)).std() if count > 1 else 0.0
    moved = np.exp(rng.normal(0, strength * deviation, count))
    noise = rng.normal(0, strength * 0.5, count)
    bodies = bars[["open", "close"]] * np.array([np.r_[1.0, moved[:-1]], moved]).T
    return bodies.assign(
        high=bodies.max(axis=1) * (bars["high"] / bars[["open", "close"]].max(axis=1)),
        low=bodies.min(axis=1) * (bars["low"] / bars[["open", "close"]].min(axis=1)),
        volume=bars["volume"] * np.exp(noise),
    )[list(COLUMNS)]
