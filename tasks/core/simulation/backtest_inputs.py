"""What a backtest is given besides its strategy and candles: window, latency, funding, calendar, headlines."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from tasks.core.market.calendar import CalendarEvent
from tasks.core.market.position_events import STEP
from tasks.core.types import Headline, InputError, News

USUAL_INTERVAL_S, JITTER_S = 8 * 3600, 60  # between funding times, and how far beside them venues book it
HEADLINES = 20  # the newest that are told, as many as a live fetch keeps


class FundingRate(NamedTuple):
    """What a long pays a short at `at`, as a share of notional."""

    at: datetime
    rate: Decimal


def coverage(rates: Sequence[FundingRate], start: datetime, end: datetime) -> float:
    """Return the share of [start, end] whose funding is known: no more than 8 h, or their own interval, from a rate."""
    if not rates:
        return 0.0
    paid = np.array([rate.at.timestamp() for rate in rates])
    longest = max(USUAL_INTERVAL_S, float(np.median(np.diff(paid, append=paid[-1])))) + JITTER_S
    edges = np.append(paid, paid[-1] + longest)
    begins = edges - np.minimum(np.diff(edges, prepend=-np.inf), longest)
    known = np.diff(np.clip([begins, edges], start.timestamp(), end.timestamp()), axis=0).sum()
    return round(float(known / (end - start).total_seconds()), 6)


@dataclass(frozen=True)
class World:
    """The window of a replay, and what the world says in it besides candles.

    latency_s: from a decision's close to its orders' arrival, less than a bar. funding: rates by symbol; those of a
    symbol that is missing are unknown. headlines: oldest first, each with its time; None: news are unknown.
    """

    start: datetime | None = None
    end: datetime | None = None
    latency_s: float = 0.0
    calendar: tuple[CalendarEvent, ...] = ()
    funding: Mapping[str, Sequence[FundingRate]] = field(default_factory=dict)
    headlines: tuple[Headline, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < STEP:
            raise InputError(f"latency {self.latency_s:g} s: must be from 0 to less than {STEP}, one 5m bar")

    def news(self, as_of: datetime) -> News | None:
        """Return the newest headlines that were out at as_of, newest first; None where there is no file of them."""
        if self.headlines is None:
            return None
        out = bisect_right(self.headlines, as_of, key=lambda headline: headline.published_at or as_of)
        return News(headlines=self.headlines[max(0, out - HEADLINES) : out][::-1])
