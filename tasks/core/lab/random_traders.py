"""What luck would have earned with the same turnover: a variant's own trades, at other times.

Each seed keeps a variant's trades as they were (symbol, side, quote size, holding time, fee rate) and moves them: in
random order, with random pauses between them, never two at once in a symbol. So it buys and sells exactly as much, as
long and as often, and all that differs is when. Prices are the market's opens, moved by half the spread and the impact
as the fill engine does; a test carries the same trades out in that engine. Seeds are drawn as arrays: 200 of them cost
less than one replay.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from tasks.core.lab.statistics import sharpe_of
from tasks.core.simulation.sharpe import DAYS_PER_YEAR, daily_sharpe
from tasks.core.types import Costs, Dto

STEP = 300


class Trade(NamedTuple):
    """One closed position; money in quote, times in epoch seconds."""

    symbol: str
    side: str
    notional: float
    opened_s: int
    closed_s: int
    pnl: float
    fees: float
    outcome_r: float | None
    decided_s: int


class TradedBars(NamedTuple):
    """The bars of one symbol that traded: opens, closes and the second each closed."""

    opens: ndarray
    closes: ndarray
    close_s: ndarray


class Chance(Dto):
    """Where a variant stands among seeds of equal turnover; returns in percent, Sharpe ratios annualised."""

    seeds: int
    trades: int
    median_return_pct: float
    low_return_pct: float
    high_return_pct: float
    median_sharpe: float | None  # None where the variant has none
    beaten: float  # share of seeds with a lower return than the variant


def random_returns(
    trades: Sequence[Trade], paths: Mapping[str, TradedBars], days: ndarray, cash: float, costs: Costs, seeds: int
) -> ndarray:
    """Return one row of returns between `days` (epoch seconds, ascending) for each seed."""
    equity = np.full((seeds, len(days)), cash)
    for symbol, path in sorted(paths.items()):
        mine = [trade for trade in trades if trade.symbol == symbol]
        inside = (path.close_s > days[0] - STEP) & (path.close_s <= days[-1])
        part = TradedBars(*(column[inside] for column in path))
        if mine and len(part.opens) > 1:
            for seed in range(seeds):
                at = place(mine, len(part.opens), np.random.default_rng((seed, len(mine))))
                equity[seed] += earned(mine, at, part, days, costs)
    return returns_of(equity)


class Placed(NamedTuple):
    """Trades in their new order: which one, the bar at whose open it enters, and the one at whose open it ends."""

    order: ndarray
    entry: ndarray
    exit: ndarray


def place(trades: Sequence[Trade], bars: int, rng: np.random.Generator) -> Placed:
    """Draw a random order and random pauses; what does not fit into the bars is cut at their end."""
    order = rng.permutation(len(trades))
    lengths = np.array([max(1, round((t.closed_s - t.opened_s) / STEP)) for t in trades])[order]
    free = max(0, bars - 1 - int(lengths.sum()))
    pauses = np.sort(rng.integers(0, free + 1, len(trades)))
    entry = pauses + np.r_[0, np.cumsum(lengths)[:-1]]
    return Placed(order, np.minimum(entry, bars - 2), np.minimum(entry + lengths, bars - 1))


def earned(trades: Sequence[Trade], at: Placed, path: TradedBars, days: ndarray, costs: Costs) -> ndarray:
    """Return the profit at each of `days`, realized and open, of trades carried out at the placed bars."""
    columns = [(1.0 if t.side == "long" else -1.0, t.notional, t.fees / (2 * t.notional)) for t in trades]
    sign, notional, rate = np.array(columns)[at.order].T
    quantity = notional / path.opens[at.entry]
    bought = _slipped(path.opens[at.entry], sign, quantity, costs)
    sold = _slipped(path.opens[at.exit], -sign, quantity, costs)
    paid_in, paid_out = rate * quantity * bought, rate * quantity * sold
    realized = np.r_[0.0, np.cumsum(sign * quantity * (sold - bought) - paid_in - paid_out)]
    seen = np.searchsorted(path.close_s, days, side="right") - 1  # the last bar that had closed
    last = np.searchsorted(at.entry, seen, side="right") - 1  # the last trade that had begun
    done = np.searchsorted(at.exit, seen, side="right")
    open_ = (last >= 0) & (done == last)
    i, mark = np.maximum(last, 0), path.closes[np.maximum(seen, 0)]
    floating = sign[i] * quantity[i] * (mark - bought[i]) - paid_in[i]
    return realized[done] + np.where(open_, floating, 0.0)


def _slipped(price: ndarray, sign: ndarray, quantity: ndarray, costs: Costs) -> ndarray:
    """Move the price against the order, as `simulation.account` does."""
    impact = float(costs.impact_bps_per_million) * quantity * price / 1e6
    return price * (1 + sign * (float(costs.half_spread_bps) + impact) / 1e4)


def standing(returns: ndarray, seeds: ndarray, trades: int) -> Chance:
    """Return the rank of a variant's returns among the seeds' rows; a tie counts half."""
    total, mine = total_pct(seeds), total_pct(returns)
    low, median, high = np.quantile(total, (0.05, 0.5, 0.95))
    sharpe = np.median(sharpe_of(seeds)) * DAYS_PER_YEAR**0.5
    return Chance(
        seeds=len(seeds), trades=trades, median_return_pct=median, low_return_pct=low,
        high_return_pct=high, median_sharpe=None if daily_sharpe(returns) is None else sharpe,
        beaten=np.mean(total < mine) + np.mean(total == mine) / 2,
    )  # fmt: skip


def returns_of(equity: ndarray) -> ndarray:
    """Return the returns between the points of an equity curve, or of each row of curves."""
    return equity[..., 1:] / equity[..., :-1] - 1


def total_pct(returns: ndarray) -> ndarray:
    """Compound returns, or each row of them, into percent."""
    return (np.prod(1 + returns, axis=-1) - 1) * 100
