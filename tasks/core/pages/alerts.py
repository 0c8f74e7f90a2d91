"""From what the store and the watchdog say to what a person is told."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from tasks.core.decision.budget import Spent
from tasks.core.types import Alert, AlertKind, Budget, Finding, Halt

NEARLY = Decimal("0.8")


def of_halts(halts: Sequence[Halt]) -> list[Alert]:
    """Tell each halt once."""
    return [
        Alert(kind=AlertKind.HALT, key=str(halt.halt_id), text=f"new entries halted by {halt.who}: {halt.reason}")
        for halt in halts
    ]


def of_budget(spent: Spent, budget: Budget, day: str) -> list[Alert]:
    """Tell at 80 % and at 100 % of the day's money or calls, once a day each."""
    uses = [(Decimal(spent.calls), budget.calls_per_day, "calls"), (spent.usd, budget.usd_per_day, "USD")]
    alerts = []
    for used, cap, unit in uses:
        if cap is not None and used >= NEARLY * cap:
            level = 100 if used >= cap else 80
            text = f"models have used {used} of {cap} {unit} today, {level} % or more"
            alerts.append(Alert(kind=AlertKind.BUDGET, key=f"{day}:{unit}:{level}", text=text))
    return alerts


def of_rungs(rungs: Mapping[str, int]) -> list[Alert]:
    """Tell that answers came from below the first rung; rungs: how many lately, by rung."""
    return [
        Alert(kind=AlertKind.FALLBACK, key=rung, text=f"{count} decisions of the last half hour came from rung {rung}")
        for rung, count in sorted(rungs.items())
        if rung != "primary"
    ]


def of_missed(closes: Sequence[datetime]) -> list[Alert]:
    """Tell how many closes went by unseen, once for each outage."""
    if not closes:
        return []
    first, last = min(closes), max(closes)
    text = f"{len(closes)} scheduled closes were missed in the last day, {first:%Y-%m-%d %H:%M} to {last:%H:%M} UTC"
    return [Alert(kind=AlertKind.MISSED, key=last.isoformat(), text=text)]


def of_protection(findings: Sequence[Finding]) -> list[Alert]:
    """Tell what `protect` found wrong, once for each kind and symbol."""
    return [Alert.of(finding, key=finding.symbol) for finding in findings]
