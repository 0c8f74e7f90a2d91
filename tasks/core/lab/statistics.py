"""How sure a comparison is: intervals, probabilistic and deflated Sharpe ratios, the odds of an overfit pick.

Everything is per period (a UTC day in a comparison), never annualised. Sources:
- Lazarus, Lewis, Stock and Watson, HAR Inference: Recommendations for Practice, Journal of Business and Economic
  Statistics 36 (2018): the variance of a mean from a few cosines, and Student's t with as many degrees of freedom.
- Ledoit and Wolf, Robust Performance Hypothesis Testing with the Sharpe Ratio, Journal of Empirical Finance 15 (2008):
  the Sharpe ratio as a mean.
- Bailey and López de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15 (2012): PSR.
- Bailey and López de Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40 (2014): DSR.
- Bailey, Borwein, López de Prado and Zhu, The Probability of Backtest Overfitting, Journal of Computational Finance 20
  (2017): CSCV and PBO.
"""

import math
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from tasks.core.simulation.sharpe import daily_sharpe
from tasks.core.types import Dto

LEVEL = 0.95
FEWEST = 30  # periods below which no interval covers what it says where they are correlated
PAD = 1.5  # independent periods: without it AR(0.6) and a difference of Sharpe ratios are 1 % short of it at n = 30
COSINES = 0.25  # times n^(2/3): fewer than is best on average, since coverage is what an interval is for
BLOCKS = 16  # of CSCV: 12,870 ways to choose half of them
_EULER = 0.5772156649015329
_NORMAL = NormalDist()


class Interval(Dto):
    """An estimate with its confidence interval; None where there was too little to say.

    effective_n: independent periods that would say as much.
    """

    estimate: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None  # two-sided, that the true value is 0
    n: int = 0
    effective_n: float | None = None

    def scaled(self, factor: float) -> "Interval":
        """Return the interval of `factor` times the value."""
        values = (self.low, self.high)[:: 1 if factor > 0 else -1]
        estimate, low, high = (value if value is None else value * factor for value in (self.estimate, *values))
        return self.replace(estimate=estimate, low=low, high=high)


class Moments(NamedTuple):
    """A return series' Sharpe ratio per period, its length, skewness and (not excess) kurtosis."""

    sharpe: float
    n: int
    skew: float
    kurtosis: float


def sharpe_of(draws: ndarray) -> ndarray:
    """Return the Sharpe ratio per period of each row; 0 without variation."""
    if draws.shape[-1] < 2:
        return np.zeros(draws.shape[:-1])
    deviation = draws.std(axis=-1, ddof=1)
    return np.where(deviation > 1e-15, draws.mean(axis=-1) / np.maximum(deviation, 1e-15), 0.0)


def effective_n(values: ndarray) -> float:
    """Return n over the integrated autocorrelation time of the AR(1) that remembers as much as `values`; at most n.

    values: not all alike.
    """
    x = values - values.mean()
    remembered = max(0.0, float(x[1:] @ x[:-1] / (x @ x)))
    return len(x) * (1 - remembered) / (1 + remembered)


def interval(values: ndarray, level: float = LEVEL) -> Interval:
    """Return the mean of a series, in order of time, with its interval whatever the series remembers.

    Its variance comes from the slowest cosines, which see what is remembered over many periods; PAD adds what few
    independent ones hide. There is none below FEWEST periods or where fewer than two independent ones stand behind each
    cosine: it would cover less than it says.
    """
    n = len(values)
    estimate = float(values.mean()) if n else 0.0
    if n < 2 or not np.ptp(values):
        return Interval(estimate=estimate, n=n, effective_n=n if n < 2 else None)
    effective, cosines = effective_n(values), max(2, int(COSINES * n ** (2 / 3)))
    found = Interval(estimate=estimate, n=n, effective_n=effective)
    if n < FEWEST or effective < 2 * cosines:
        return found
    from scipy.special import stdtr, stdtrit  # slow to import

    waves = np.cos(np.pi * np.outer(np.arange(1, cosines + 1), (np.arange(n) + 0.5) / n))
    error = math.sqrt(2 * np.mean((waves @ values) ** 2)) / n * (1 + PAD / effective)
    reach = error * float(stdtrit(cosines, (1 + level) / 2))  # Student's t
    beyond = 2 * float(stdtr(cosines, -abs(estimate) / error))
    return found.replace(low=estimate - reach, high=estimate + reach, p_value=beyond)


def sharpe_gap(mine: ndarray, theirs: ndarray) -> Interval:
    """Return the difference of the Sharpe ratios of paired series; no estimate where one of them has none."""
    ratios = daily_sharpe(mine), daily_sharpe(theirs)
    if None in ratios:
        return Interval(estimate=None, n=len(mine))
    return interval(_as_mean(mine) - _as_mean(theirs))


def _as_mean(values: ndarray) -> ndarray:
    """Return the series whose mean is the Sharpe ratio of `values` and varies as that does (the delta method)."""
    z, ratio = (values - values.mean()) / values.std(), float(sharpe_of(values))
    return ratio + z - ratio / 2 * (z**2 - 1)


def moments(returns: ndarray) -> Moments | None:
    """Return what PSR needs of a return series; None where that has no Sharpe ratio."""
    if (sharpe := daily_sharpe(returns)) is None:
        return None
    z = (returns - returns.mean()) / returns.std()
    return Moments(sharpe, len(returns), float((z**3).mean()), float((z**4).mean()))


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
    variants: int  # that ever earned or lost anything
    loss: float  # share of splits in which that pick loses money in the other half


def overfitting(returns: ndarray, blocks: int = BLOCKS) -> Overfit | None:
    """Return PBO by CSCV, by Sharpe ratio; None with fewer than two variants or too short a time.

    returns: one row per period, one column per variant; one that never changes is no candidate and is left out. Time is
    cut into `blocks` equal parts; what is left over at the beginning is dropped. Ties count half.
    """
    returns = returns[:, np.ptp(returns, axis=0) > 0] if len(returns) else returns
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
        pbo=np.mean(logits < 0) + np.mean(logits == 0) / 2, splits=len(chosen), variants=variants,
        loss=np.mean(theirs < 0),
    )  # fmt: skip


def _sharpes(sums: ndarray, squares: ndarray, n: int) -> ndarray:
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0) * n / (n - 1)
    return np.where(variance > 1e-18, mean / np.sqrt(np.maximum(variance, 1e-18)), 0.0)
