"""Figures of merit from an equity curve and outcomes: plain functions, floats, nothing annualised but Sharpe."""

from collections.abc import Sequence

import numpy as np

from tasks.core.trading.guard.past import net_r
from tasks.core.types.record import Outcome

DAYS_PER_YEAR = 365  # crypto trades every day


def return_pct(equity: np.ndarray) -> float:
    """Return the change from first to last, in percent."""
    return float((equity[-1] / equity[0] - 1) * 100) if len(equity) else 0.0


def max_drawdown_pct(equity: np.ndarray) -> float:
    """Return the deepest fall from a running peak, in percent of that peak (positive)."""
    if not len(equity):
        return 0.0
    return float((1 - equity / np.maximum.accumulate(equity)).max() * 100)


def daily(equity: np.ndarray, closes_s: np.ndarray) -> np.ndarray:
    """Return the equity at each UTC midnight in `closes_s` (seconds), with the first and last point."""
    if not len(equity):
        return equity
    at = np.flatnonzero(closes_s % 86_400 == 0)
    return np.asarray(equity[np.unique(np.r_[0, at, len(equity) - 1])])


def sharpe(daily_equity: np.ndarray) -> float | None:
    """Return the annualised Sharpe ratio of daily returns (risk-free 0); None without variation."""
    if len(daily_equity) < 3:
        return None
    returns = daily_equity[1:] / daily_equity[:-1] - 1
    deviation = returns.std(ddof=1)
    return float(returns.mean() / deviation * np.sqrt(DAYS_PER_YEAR)) if deviation > 0 else None


def win_rate(outcomes: Sequence[Outcome]) -> float | None:
    """Return the share of closed positions that earned something after fees."""
    return sum(o.pnl > 0 for o in outcomes) / len(outcomes) if outcomes else None


def expectancy_r(outcomes: Sequence[Outcome]) -> float | None:
    """Return the mean R after fees over positions whose R is known."""
    known = [float(r) for outcome in outcomes if (r := net_r(outcome)) is not None]
    return float(np.mean(known)) if known else None
