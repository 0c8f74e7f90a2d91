"""One day in numbers: what the daily report says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal

from tasks.core.types.base import Dto, Exact
from tasks.core.types.decision import Answer
from tasks.core.types.record import CycleStatus, EquityPoint, Outcome


class Day(Dto):
    """What one UTC day of a strategy came to."""

    day: date
    strategy: str
    equity: Exact | None
    change_pct: float | None
    drawdown_pct: float | None
    statuses: dict[str, int]
    actions: dict[str, int]
    rungs: dict[str, int]
    trades: int
    pnl: Exact
    total_r: float | None
    cost_usd: Exact
    costs: dict[str, str]
    baselines: dict[str, float]

    @property
    def headline(self) -> str:
        """Say the day in one line, for a message."""
        change = (
            "no equity known" if self.change_pct is None else f"equity {self.equity:.2f} ({self.change_pct:+.2f} %)"
        )
        total_r = "" if self.total_r is None else f", {self.total_r:+.2f} R"
        missed = self.statuses.get(CycleStatus.MISSED, 0)
        return (
            f"{self.day} {self.strategy}: {change}, {sum(self.actions.values())} decisions, {self.trades} trades closed"
            f"{total_r}, models {self.cost_usd:.4f} USD, {missed} bars missed"
        )


def day_of(
    day: date,
    strategy: str,
    points: Sequence[EquityPoint],
    statuses: Mapping[str, int],
    decided: Sequence[tuple[CycleStatus, Answer]],
    outcomes: Sequence[Outcome],
    baselines: Mapping[str, float],
) -> Day:
    """Put the day together; points: the day's, oldest first; baselines: each one's change in percent."""
    first, last = (points[0], points[-1]) if points else (None, None)
    rs = [float(outcome.r_multiple) for outcome in outcomes if outcome.r_multiple is not None]
    answers = [answer for _, answer in decided]
    costs: dict[str, Decimal] = {}
    for call in (call for answer in answers for call in answer.calls):
        costs[call.model] = costs.get(call.model, Decimal(0)) + call.cost_usd
    return Day(
        day=day, strategy=strategy, equity=last.equity if last else None,
        change_pct=float((last.equity / first.equity - 1) * 100) if first and last and first.equity else None,
        drawdown_pct=float((1 - last.equity / last.peak) * 100) if last and last.peak else None,
        statuses=dict(sorted(statuses.items())),
        actions=dict(Counter(answer.decision.action for answer in answers)),
        rungs=dict(Counter(answer.rung for answer in answers)),
        trades=len(outcomes), pnl=sum((outcome.pnl for outcome in outcomes), Decimal(0)),
        total_r=sum(rs) if rs else None, cost_usd=sum(costs.values(), Decimal(0)),
        costs={model: f"{usd:.6f}" for model, usd in sorted(costs.items())}, baselines=dict(baselines),
    )  # fmt: skip
