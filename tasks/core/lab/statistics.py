"""How sure a comparison is: bootstrap intervals, probabilistic and deflated Sharpe ratios, the odds of an overfit pick.

Everything is per period (a UTC day in a comparison), never annualised, in plain numpy. Sources:
- Politis and Romano, The Stationary Bootstrap, JASA 89 (1994).
- Politis and White, Automatic Block-Length Selection for the Dependent Bootstrap, Econometric Reviews 23 (2004), with
  the correction of Patton, Politis and White, Econometric Reviews 28 (2009).
- Bailey and López de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15 (2012): PSR.
- Bailey and López de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40 (2014): DSR.
- Bailey, Borwein, López de Prado and Zhu, The Probability of Backtest Overfitting, Journal of Computational Finance 20
  (2017): CSCV and PBO.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tasks.core.types.base import Dto

DRAWS, LEVEL, SEED = 2000, 0.95, 20_240_101
CHUNK = 2_000_000  # drawn values at a time: bounded memory
FEWEST = 8  # paired periods below which no interval is given
BLOCKS = 16  # of CSCV: 12,870 ways to choose half of them
_EULER = 0.5772156649015329
_NORMAL = NormalDist()

Statistic = Callable[[np.ndarray], Any]
MEAN: Statistic = partial(np.mean, axis=-1)


class Interval(Dto):
    """An estimate with its confidence interval; None where there was too little to say."""

    estimate: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None  # two-sided, that the true value is 0
    n: int = 0
    block: float | None = None

    def __neg__(self) -> "Interval":
        low, high = self.high and -self.high, self.low and -self.low
        return self.replace(estimate=-self.estimate, low=low, high=high)


class Moments(NamedTuple):
    """A return series' Sharpe ratio per period, its length, skewness and (not excess) kurtosis."""

    sharpe: float
    n: int
    skew: float
    kurtosis: float


def sharpe_of(draws: np.ndarray) -> np.ndarray:
    """Return the Sharpe ratio per period of each row; 0 without variation."""
    if draws.shape[-1] < 2:
        return np.zeros(draws.shape[:-1])
    deviation = draws.std(axis=-1, ddof=1)
    return np.where(deviation > 1e-15, draws.mean(axis=-1) / np.maximum(deviation, 1e-15), 0.0)


def block_length(values: np.ndarray) -> float:
    """Return the expected block length that suits the stationary bootstrap of this series' mean, at least 1.

    values: at least FEWEST, not all alike.
    """
    x = values - values.mean()
    n = len(x)
    most = min(math.ceil(math.sqrt(n)) + max(5, math.ceil(math.log10(n))), n - 1)
    covariance = np.array([x[: n - k] @ x[k:] for k in range(most + 1)]) / n
    lags = min(2 * _last_correlated(covariance / covariance[0], n), most)
    k = np.abs(np.arange(-lags, lags + 1))
    flat_top = np.clip(2 * (1 - k / max(lags, 1)), 0, 1)  # 1 up to half the lags, then down to 0
    weighted = flat_top * covariance[k]
    g, spectrum = float(np.sum(k * weighted)), float(np.sum(weighted))
    if spectrum <= 0:
        return 1.0
    best = (g**2 / spectrum**2) ** (1 / 3) * n ** (1 / 3)
    return float(np.clip(best, 1.0, math.ceil(min(3 * math.sqrt(n), n / 3))))


def _last_correlated(correlation: np.ndarray, n: int) -> int:
    """Return the lag after which max(5, sqrt(log10 n)) correlations in a row are within noise; at least 1."""
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    noisy = np.abs(correlation[1:]) < 2 * math.sqrt(math.log10(n) / n)
    starts = np.flatnonzero(sliding_window_view(noisy, run).all(axis=1))
    return max(int(starts[0]), 1) if len(starts) else int(np.flatnonzero(~noisy)[-1]) + 1


def resample(n: int, block: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return `draws` rows of n indices: blocks of geometric length with mean `block`, wrapping around the end."""
    fresh = rng.random((draws, n)) < 1 / block
    fresh[:, 0] = True
    starts = rng.integers(0, n, (draws, n))
    at = np.arange(n)
    began = np.maximum.accumulate(np.where(fresh, at, 0), axis=1)
    return (np.take_along_axis(starts, began, axis=1) + at - began) % n


def interval(
    values: np.ndarray, other: np.ndarray | None = None, statistic: Statistic = MEAN, draws: int = DRAWS,
    level: float = LEVEL, seed: int = SEED,
) -> Interval:  # fmt: skip
    """Bootstrap `statistic` of a series, or its difference to a paired one: both are drawn on the same days."""
    if not len(values):
        return Interval(estimate=0.0)
    n, both = len(values), (values, np.zeros(len(values)) if other is None else other)  # a statistic of zeros is 0
    estimate, difference = float(np.subtract(*map(statistic, both))), both[0] - both[1]
    if n < FEWEST or not np.ptp(difference):
        return Interval(estimate=estimate, n=n)
    block, rng, size = block_length(difference), np.random.default_rng(seed), max(1, CHUNK // n)
    parts = (resample(n, block, min(size, draws - begun), rng) for begun in range(0, draws, size))
    drawn = np.concatenate([np.subtract(*(statistic(series[at]) for series in both)) for at in parts])
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    beyond = (1 + min(np.sum(drawn <= 0), np.sum(drawn >= 0))) / (draws + 1)
    return Interval(
        estimate=estimate, low=float(low), high=float(high), p_value=min(1.0, 2 * float(beyond)), n=n, block=block
    )


def moments(returns: np.ndarray) -> Moments | None:
    """Return what PSR needs of a return series; None when it is too short or never varies."""
    if len(returns) < 3 or returns.std() < 1e-15:
        return None
    z = (returns - returns.mean()) / returns.std()
    return Moments(float(sharpe_of(returns)), len(returns), float((z**3).mean()), float((z**4).mean()))


def probabilistic_sharpe(seen: Moments, benchmark: float = 0.0) -> float | None:
    """Return the probability that the true Sharpe ratio exceeds `benchmark`; None where the moments allow none."""
    variance = 1 - seen.skew * seen.sharpe + (seen.kurtosis - 1) / 4 * seen.sharpe**2
    if variance <= 0:
        return None
    return _NORMAL.cdf((seen.sharpe - benchmark) * math.sqrt(seen.n - 1) / math.sqrt(variance))


def best_sharpe_by_luck(variance: float, trials: int) -> float:
    """Return the Sharpe ratio that the best of `trials` without skill is expected to show: the benchmark of DSR."""
    if trials < 2:
        return 0.0
    one, rare = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - _EULER) * one + _EULER * rare)


def deflated_sharpe(seen: Moments, variance: float, trials: int) -> float | None:
    """Return PSR against the best of `trials` whose Sharpe ratios have `variance` (both per period): DSR."""
    return probabilistic_sharpe(seen, best_sharpe_by_luck(variance, trials))


class Overfit(Dto):
    """How often the best of one half of time is below the median of the other half."""

    pbo: float
    splits: int
    loss: float  # share of splits in which that pick loses money in the other half
    median_logit: float


def overfitting(returns: np.ndarray, blocks: int = BLOCKS) -> Overfit | None:
    """Return PBO by CSCV, by Sharpe ratio; None with fewer than two variants or too short a time.

    returns: one row per period, one column per variant. Time is cut into `blocks` equal parts; what is left over at
    the beginning is dropped. Ties count half.
    """
    size, variants = len(returns) // blocks, returns.shape[1]
    if variants < 2 or size < 2:
        return None
    parts = returns[len(returns) - size * blocks :].reshape(blocks, size, variants)
    sums, squares = parts.sum(axis=1), (parts**2).sum(axis=1)
    halves = np.array(list(combinations(range(blocks), blocks // 2)))
    chosen = np.zeros((len(halves), blocks))
    np.put_along_axis(chosen, halves, 1.0, axis=1)
    seen, unseen = (_sharpes(half @ sums, half @ squares, size * blocks // 2) for half in (chosen, 1 - chosen))
    best = seen.argmax(axis=1)[:, None]
    theirs = np.take_along_axis(unseen, best, axis=1)
    rank = (unseen < theirs).sum(axis=1) + ((unseen == theirs).sum(axis=1) + 1) / 2
    share = rank / (variants + 1)
    logits = np.log(share / (1 - share))
    return Overfit(
        pbo=float(np.mean(logits < 0) + np.mean(logits == 0) / 2), splits=len(chosen), loss=float(np.mean(theirs < 0)),
        median_logit=float(np.median(logits)),
    )  # fmt: skip


def _sharpes(sums: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0) * n / (n - 1)
    return np.where(variance > 1e-18, mean / np.sqrt(np.maximum(variance, 1e-18)), 0.0)
