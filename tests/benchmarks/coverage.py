"""How often the intervals that `compare` prints hold the truth, beside what they claim, where the truth is known."""

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from tasks.core.lab import statistics
from tasks.core.lab.statistics import LEVEL, Interval

PERIODS, SERIES = (30, 120, 600), 4000
Draw = Callable[[np.random.Generator, int], np.ndarray]


def remembering(rho: float) -> Draw:
    """Return a draw of an AR(1) series of deviation 1 that has forgotten its start."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        noise = rng.normal(size=n + 100) * np.sqrt(1 - rho**2)
        return np.asarray(lfilter([1], [1, -rho], noise)[100:])

    return draw


WORLDS: dict[str, Draw] = {
    "iid normal": remembering(0),
    "AR(0.3)": remembering(0.3),
    "AR(0.6)": remembering(0.6),
    "t(3)": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
}


def mean(draw: Draw, rng: np.random.Generator, n: int) -> tuple[Interval, float]:
    """Return the interval of a mean, and the truth."""
    return statistics.interval(0.1 + draw(rng, n)), 0.1


def sharpe_gap(draw: Draw, rng: np.random.Generator, n: int) -> tuple[Interval, float]:
    """Return the interval of two paired series' difference in Sharpe ratio, and the truth; they share a market."""
    market, own = draw(rng, n), draw(rng, n)
    return statistics.sharpe_gap(0.1 + market, 0.6 * market + 0.8 * own - 0.05), 0.15


def coverage(kind: Callable[..., tuple[Interval, float]], draw: Draw, n: int, series: int) -> tuple[float, float]:
    """Return how often an interval was given, and how often those held the truth."""
    rng = np.random.default_rng(n)
    found = [kind(draw, rng, n) for _ in range(series)]
    held = [each.low <= truth <= each.high for each, truth in found if each.low is not None and each.high is not None]
    return len(held) / series, float(np.mean(held)) if held else float("nan")


def main() -> None:
    """Print a table: world by number of periods, for a mean and for a difference of Sharpe ratios."""
    print(f"claimed {LEVEL:.0%}; {SERIES} series each: share that is given an interval, its coverage")
    for kind in (mean, sharpe_gap):
        print(f"{kind.__name__:12}" + "".join(f"{f'n = {n}':>18}" for n in PERIODS))
        for name, draw in WORLDS.items():
            cells = (coverage(kind, draw, n, SERIES) for n in PERIODS)
            print(f"  {name:10}" + "".join(f"{f'{given:.1%}  {held:.1%}':>18}" for given, held in cells))
