"""Markets that nobody remembers: other names, other weeks, other prices, and the same decisions for whoever only reads.

A mask shifts every time by the same number of whole weeks and multiplies each symbol's prices by a power of two and its
volumes by the inverse one, with tick, step and least quantity along; notional stays, so an account trades as before. A
float times a power of two keeps its digits: every ratio that a rule compares is the same to the last bit. Only what is
rounded to six decimal digits (the ATR the guard sizes with) may move a stop by a tick.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd

from tasks.core.types.bars import COLUMNS
from tasks.core.types.orders import Instrument

PRICES = ("open", "high", "low", "close")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
FEWEST_WEEKS, WEEKS = 60, 300  # back from the market's own
MOST_DOUBLINGS = 3


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

    def price(self, symbol: str, price: Decimal) -> Decimal:
        """Disguise a price of `symbol`, given by its own name."""
        return _scaled(price, self.doublings(symbol))

    def real_price(self, symbol: str, price: Decimal) -> Decimal:
        """Return the price behind a disguised one of `symbol`, given by its own name."""
        return _scaled(price, -self.doublings(symbol))

    def time(self, at: datetime) -> datetime:
        """Disguise a time."""
        return at - self.shift

    def real_time(self, at: datetime) -> datetime:
        """Return the time behind a disguised one."""
        return at + self.shift

    def describe(self, symbols: tuple[str, ...] = ()) -> dict[str, object]:
        """Return all it takes to undo the mask, for the record of a run."""
        each = {
            self.symbol(s): {"symbol": s, "price_times": 2.0 ** self.doublings(s)} for s in symbols
        }  # fmt: skip
        return {"key": self.key, "weeks_back": self.shift.days // 7, "symbols": each}


def mask_bars(bars: pd.DataFrame, symbol: str, mask: Mask) -> tuple[str, pd.DataFrame]:
    """Return the disguised name and candles of `symbol`; `bars` stay as they are."""
    factor = 2.0 ** mask.doublings(symbol)
    columns = {name: bars[name] * (factor if name in PRICES else 1 / factor) for name in COLUMNS}
    masked = pd.DataFrame(columns)
    masked.index = pd.DatetimeIndex(bars.index) - mask.shift
    return mask.symbol(symbol), masked


def mask_instrument(instrument: Instrument, mask: Mask) -> Instrument:
    """Return what the disguised symbol may be traded in: the same steps, seen through the mask."""
    n = mask.doublings(instrument.symbol)
    return instrument.model_copy(
        update={
            "symbol": mask.symbol(instrument.symbol), "tick": _scaled(instrument.tick, n),
            "step": _scaled(instrument.step, -n), "min_quantity": _scaled(instrument.min_quantity, -n),
        }
    )  # fmt: skip


def perturbed(bars: pd.DataFrame, seed: int, strength: float = 1.0) -> pd.DataFrame:
    """Return the candles with noise where a decider should look: who reads them decides otherwise, who remembers not.

    Each close moves by a draw whose deviation is `strength` times that of the 5m returns, each volume by a factor of
    a like draw; opens follow the close before, highs and lows keep their distance in percent.
    """
    rng = np.random.default_rng(seed)
    close = bars["close"].to_numpy()
    deviation = float(np.std(np.diff(np.log(close)))) if len(close) > 1 else 0.0
    moved = np.exp(rng.normal(0, strength * deviation, len(close)))
    before = np.r_[1.0, moved[:-1]]
    body = np.array([bars["open"].to_numpy() * before, close * moved])
    was = np.array([bars["open"].to_numpy(), close])
    above, below = bars["high"].to_numpy() / was.max(axis=0), bars["low"].to_numpy() / was.min(axis=0)
    values = {
        "open": body[0], "close": body[1],
        "high": body.max(axis=0) * above,
        "low": body.min(axis=0) * below,
        "volume": bars["volume"].to_numpy() * np.exp(rng.normal(0, strength * 0.5, len(close))),
    }  # fmt: skip
    return pd.DataFrame({name: values[name] for name in COLUMNS}, index=bars.index)


def _scaled(value: Decimal, doublings: int) -> Decimal:
    """Multiply by a power of two, exactly."""
    factor = Decimal(2) ** abs(doublings)
    return value * factor if doublings > 0 else value * (1 / factor)
