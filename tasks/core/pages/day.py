"""One day in numbers: what the daily report says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from tasks.core.pages.numbers import fixed, money, usd
from tasks.core.types import Answer, CycleStatus, EquityPoint, ModelUse, Outcome, exact_sum


@dataclass(frozen=True)
class Day:
    """What one UTC day of a strategy came to; points: oldest first, baselines: each one's change in percent."""

    day: date
    strategy: str
    currency: str
    points: Sequence[EquityPoint]
    statuses: Mapping[str, int]
    decided: Sequence[tuple[CycleStatus, Answer]]
    outcomes: Sequence[Outcome]
    baselines: Mapping[str, float]
    models: Sequence[ModelUse] = ()

    @property
    def actions(self) -> Mapping[str, int]:
        return Counter(answer.decision.action for _, answer in self.decided)

    @property
    def pnl(self) -> Decimal:
        return exact_sum(outcome.pnl for outcome in self.outcomes)

    @property
    def drawdown_pct(self) -> Decimal | None:
        """Return how far the last equity is below the highest."""
        last = self.points[-1] if self.points else None
        return (1 - last.equity / last.peak) * 100 if last and last.peak else None

    @property
    def headline(self) -> str:
        """Sum up the day in one line, for a message."""
        change = "no equity known"
        if self.points and (first := self.points[0].equity):
            last = self.points[-1].equity
            change = f"equity {money(last, self.currency)} ({fixed((last / first - 1) * 100, sign=True)} %)"
        rs = [outcome.outcome_r for outcome in self.outcomes if outcome.outcome_r is not None]
        total_r = f", {fixed(sum(rs), sign=True)} R" if rs else ""
        return (
            f"{self.day} {self.strategy}: {change}, {len(self.decided)} decisions, {len(self.outcomes)} trades closed"
            f"{total_r}, models {usd(self.models)}, "
            f"{self.statuses.get(CycleStatus.MISSED, 0)} bars missed"
        )
