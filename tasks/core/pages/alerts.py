"""From what the store and the watchdog say to what a person is told."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from tasks.core.decision.budget import Spent
from tasks.core.pages.decision import proposed
from tasks.core.pages.desk import Judged, MarkedPosition
from tasks.core.pages.numbers import fixed, money, plain, price
from tasks.core.types import Alert, AlertKind, Budget, CycleRecord, CycleStatus, Finding, Halt, Outcome, quote_of

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


# --- news


def of_opened(positions: Sequence[MarkedPosition]) -> list[Alert]:
    """Tell each position that was opened: at what price, with which stop and target, and why."""
    return [
        Alert(
            kind=AlertKind.OPENED,
            key=p.position_id,
            text=f"opened {p.side} {plain(p.quantity)} {p.symbol} at {price(p.avg_price)}, stop {price(p.stop)}, "
            f"target {price(p.target)}: {_ended(each.opening.thesis or 'no reason was given', each.link)}",
        )
        for each in positions
        for p in (each.position,)
    ]


def of_closed(outcomes: Sequence[Outcome], links: Mapping[str, str]) -> list[Alert]:
    """Tell each position that closed: why, what it brought and after how long; links: to its decision, by cycle."""
    alerts = []
    for one in outcomes:
        brought = f"{money(one.pnl, quote_of(one.symbol), sign=True)}, {fixed(one.outcome_r, sign=True)} R"
        after = f"after {one.hold_seconds // 3600} h {one.hold_seconds // 60 % 60} min"
        text = f"closed {one.symbol} at {price(one.exit_price)} ({one.exit_reason or 'reason not known'}): {brought}, "
        told = text + _ended(after, links.get(one.cycle_id))
        alerts.append(Alert(kind=AlertKind.CLOSED, key=one.position_id, text=told))
    return alerts


def of_proposed(record: CycleRecord, until: datetime, link: str = "") -> list[Alert]:
    """Tell of a decision that waits for a person, until when, and where its form is."""
    by = f"Approve it in Prefect by {until:%H:%M:%S} UTC{link and f': {link}'}"
    text = f"{proposed(record)} {by}, or: quarterdeck approve {record.cycle_id}"
    return [Alert(kind=AlertKind.PROPOSED, key=record.cycle_id, text=text)]


def of_denied(judged: Sequence[Judged], since: datetime, until: datetime) -> list[Alert]:
    """Tell how many entries the guard refused from `since` until `until`, and why, in one message."""
    denied = [each for each in judged if each.status is CycleStatus.DENIED and since <= each.as_of < until]
    if not denied:
        return []
    codes, symbols = Counter(code for each in denied for code in each.codes), {each.symbol for each in denied}
    why = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    when = f"from {since:%H:%M} to {until:%H:%M} UTC in {', '.join(sorted(symbols))}"
    return [Alert(kind=AlertKind.DENIED, key=until.isoformat(), text=f"{len(denied)} entries denied {when}: {why}")]


def _ended(text: str, link: str | None) -> str:
    return f"{text}; {link}" if link else text
