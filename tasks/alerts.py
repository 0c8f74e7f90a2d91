"""Tell people: an alert is an event that Prefect's automation sends on, an ERROR in the log, a row in the store."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from prefect.events import emit_event
from prefect.runtime import flow_run

from tasks import clock
from tasks.connections import log, store
from tasks.core.pages import alerts, inert
from tasks.core.types import Alert, AlertKind, Finding, TradingError
from tasks.halts import active_halts
from tasks.settings import settings
from tasks.stage import stage

EVENT, NEWS = "quarterdeck.alert", "quarterdeck.news"
# may be so of several strategies at once
OF_STRATEGY = {AlertKind.BUDGET, AlertKind.FALLBACK, AlertKind.MISSED, AlertKind.DENIED, AlertKind.REPORT}
LATELY, A_DAY = timedelta(minutes=30), timedelta(days=1)


def tell(raised: Sequence[Alert]) -> int:
    """Tell what was not told yet, and say how much that was; outside a Prefect run only log and store have it."""
    new, name = 0, settings().strategy
    for alert in raised:
        if alert.kind in OF_STRATEGY and name != settings.account.strategy:
            alert = alert.replace(key=f"{name} {alert.key}", text=f"{name}: {alert.text}")
        if not store().alerts.note(alert, clock.now()):
            continue
        new += 1
        level = log().info if alert.kind.is_news else log().error
        level("alert kind=%s key=%s %s", alert.kind, alert.key, alert.text)
        if flow_run.id is not None:
            _ring(alert)
    return new


def tell_refused(deployment: str, text: str) -> None:
    """Tell, in a worker, of a run it refused, once an hour for each deployment; also when the store does not answer."""
    alert = Alert(kind=AlertKind.REFUSED, key=deployment, text=text)
    try:
        if not store().alerts.note(alert, clock.now()):
            return
    except TradingError as e:
        log().error("the alert could not be noted, it is sent all the same: %s", e)
    _ring(alert)


def _ring(alert: Alert) -> None:
    key, text = (inert.line(inert.plain(each)) for each in (alert.key, alert.text))
    family = NEWS if alert.kind.is_news else EVENT
    resource = {"prefect.resource.id": f"{family}.{alert.fingerprint}", "prefect.resource.name": key}
    payload = {"kind": alert.kind, "text": text, "strategy": settings().strategy}
    emit_event(event=f"{family}.{alert.kind}", resource=resource, payload=payload)


@stage
def look_around(as_of: datetime) -> int:
    """Tell what the store says: halts, the budget, fallback rungs, missed bars."""
    kept, s, now = store(), settings(), clock.now()
    return tell(
        [
            *alerts.of_halts(active_halts()),
            *alerts.of_budget(kept.budget.spent(now, s.budget.purse), s.budget, now.date().isoformat()),
            *alerts.of_rungs(Counter(answer.rung for _, answer in kept.decisions.between(s.strategy, as_of - LATELY))),
            *alerts.of_missed(kept.cycles.missed(s.strategy, as_of - A_DAY)),
        ]
    )


@stage
def tell_protection(wrong: Sequence[Finding]) -> None:
    """Tell what `protect` found wrong."""
    tell(alerts.of_protection(wrong))
