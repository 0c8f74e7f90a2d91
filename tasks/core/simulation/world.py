"""What a replay is given besides its strategy, and what it gives back."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from tasks.core.errors import InputError
from tasks.core.market.calendar import CalendarEvent
from tasks.core.simulation import performance
from tasks.core.simulation.tape import STEP, Grid
from tasks.core.types.record import Outcome
from tasks.core.types.snapshot import Headline, News

HEADLINES = 20  # the newest that are told, as many as a live fetch keeps


class FundingRate(NamedTuple):
    """What a long pays a short at `at`, as a share of notional."""

    at: datetime
    rate: Decimal


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


@dataclass
class Result:
    """What came out; `equity` has one value per 5m close of the grid."""

    grid: Grid
    equity: np.ndarray
    candles: int
    cycles: int
    fingerprint: str
    outcomes: list[Outcome]
    by_action: Counter[str]
    rejected_by_code: Counter[str]
    calls: int
    fees: Decimal
    cost_usd: Decimal
    funding_paid: Decimal = Decimal(0)
    funding_unknown: tuple[str, ...] = ()
    halted_at: datetime | None = None

    def summary(self) -> dict[str, Any]:
        """Return the figures that `quarterdeck backtest --json` prints, but for the time it took.

        halted_at: the first decision at which the drawdown limit denied entries; as in live nothing lifts it but a
        new peak, which without entries never comes.
        """
        closes = self.grid.start_s + (np.arange(len(self.equity)) + 1) * STEP
        return {
            "candles": self.candles,
            "cycles": self.cycles,
            "calls": self.calls,
            "decisions": sum(self.by_action.values()),
            "by_action": dict(sorted(self.by_action.items())),
            "trades": len(self.outcomes),
            "return_pct": performance.return_pct(self.equity),
            "sharpe": performance.sharpe(performance.daily(self.equity, closes)),
            "max_drawdown_pct": performance.max_drawdown_pct(self.equity),
            "win_rate": performance.win_rate(self.outcomes),
            "expectancy_r": performance.expectancy_r(self.outcomes),
            "fees_quote": self.fees,
            "llm_cost_usd": self.cost_usd,
            "rejected_by_code": dict(sorted(self.rejected_by_code.items())),
            "halted_at": self.halted_at,
            "funding": "unknown" if self.funding_unknown else "known",
            "funding_unknown": self.funding_unknown,
            "funding_quote": self.funding_paid,
            "fingerprint": self.fingerprint,
        }
