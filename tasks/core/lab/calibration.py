"""How well confidence is calibrated: what was promised at an entry beside what came of its trade.

Confidence is read as the probability that the trade ends with a gain after costs; the guard lets entries in by it.
Source: Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78 (1950).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from tasks.core.types import Dto

TENTHS = 10


class Promise(NamedTuple):
    """An entry whose trade has ended; `r` after fees, None where it is unknown."""

    confidence: float
    won: bool
    r: float | None


class Group(Dto):
    """Entries of about the same confidence."""

    low: float  # the least confident of them
    high: float
    entries: int
    confidence: float  # mean
    won: float  # share
    expectancy_r: float | None


class Calibration(Dto):
    """How confidence did over the entries whose trade has ended."""

    entries: int
    brier: float  # mean square of confidence less what came, 1 or 0; 0 is clairvoyance
    brier_of_share: float  # of who says the share that won each time: above it confidence says less than nothing
    bins: tuple[Group, ...]  # by tenths of the scale, empty ones left out
    deciles: tuple[Group, ...]  # by tenths of the entries; equal confidence is never parted


def calibration(promises: Sequence[Promise]) -> Calibration | None:
    """Return how well confidence was calibrated; None where no trade has ended."""
    if not promises:
        return None
    said, won = np.array([each.confidence for each in promises]), np.array([each.won for each in promises])
    r = np.array([np.nan if each.r is None else each.r for each in promises])
    ordered = np.sort(said)
    middle = (np.searchsorted(ordered, said, "left") + np.searchsorted(ordered, said, "right")) / 2  # of those alike
    return Calibration(
        entries=len(said),
        brier=((said - won) ** 2).mean(),
        brier_of_share=won.mean() * (1 - won.mean()),
        bins=_groups(np.round(said, 9), said, won, r),
        deciles=_groups(middle / len(said), said, won, r),
    )


def _groups(by: ndarray, said: ndarray, won: ndarray, r: ndarray) -> tuple[Group, ...]:
    tenth = np.minimum((by * TENTHS).astype(int), TENTHS - 1)
    return tuple(_group(said[mine], won[mine], r[mine]) for k in range(TENTHS) if (mine := tenth == k).any())


def _group(said: ndarray, won: ndarray, r: ndarray) -> Group:
    known = r[np.isfinite(r)]
    return Group(
        low=said.min(),
        high=said.max(),
        entries=len(said),
        confidence=said.mean(),
        won=won.mean(),
        expectancy_r=known.mean() if len(known) else None,
    )
