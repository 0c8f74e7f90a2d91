"""The Sharpe ratio of daily returns, and when there is none: one rule for replays, comparisons and what they log."""

import numpy as np

SHARPE_DAYS, DAYS_PER_YEAR = 30, 365


def sharpe(equity: np.ndarray, closes_s: np.ndarray) -> float | None:
    """Return the annualised Sharpe ratio of daily returns; None where `daily_sharpe` gives none.

    A day ends at UTC midnight in `closes_s` (seconds); crypto trades on each of a year's.
    """
    at = np.unique(np.r_[0, np.flatnonzero(closes_s % 86_400 == 0), len(equity) - 1])
    ratio = daily_sharpe(equity[at[1:]] / equity[at[:-1]] - 1)
    return None if ratio is None else ratio * DAYS_PER_YEAR**0.5


def daily_sharpe(returns: np.ndarray) -> float | None:
    """Return the Sharpe ratio per day (risk-free 0); None below SHARPE_DAYS on which the account moved.

    Two trades of an hour in a year of days are two days, and two days have no Sharpe ratio.
    """
    if np.count_nonzero(returns) < SHARPE_DAYS:
        return None
    deviation = returns.std(ddof=1)
    return float(returns.mean() / deviation) if deviation > 1e-15 else None
