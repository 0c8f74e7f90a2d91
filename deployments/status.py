"""What `quarterdeck status` says: the processes by their state file, the trading by the store. Needs nothing to run."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psutil

from deployments import up_state
from deployments.services import answers
from tasks.adapters.store.database import exists
from tasks.adapters.store.store import Store
from tasks.core.errors import StoreError
from tasks.core.pages.decision import summary_line
from tasks.settings import Settings


def status(settings: Settings) -> dict[str, Any]:
    """Return the whole status as plain values and DTOs."""
    now = up_state.state(settings.home)
    report = {
        "running": now is not None,
        "phase": now.phase if now else "down",
        "started_at": now and now.started_at,
        "services": {  # a worker has no address: it is healthy while it lives
            name: {
                "pid": service.pid,
                "healthy": answers(service.health) if service.health else psutil.pid_exists(service.pid),
                "url": service.url,
            }
            for name, service in (now.services if now else {}).items()
        },
        "profile": (now or settings).profile,
        "strategy": settings.strategy,
        "home": settings.home,
        "cycles": {"total": 0, "by_status": {}},
        "last_cycle": None,
        "open_positions": [],
        **dict.fromkeys(("equity", "halt", "differences", "models", "store_error")),
    }
    if exists(settings.store_url):
        try:
            with closing(Store(settings.store_url)) as store:
                report |= _trading(store, settings)
        except StoreError as e:
            report["store_error"] = str(e)
    return report


def _trading(store: Store, settings: Settings) -> dict[str, Any]:
    strategy, budget = settings.strategy, settings.budget
    by_status, last = store.cycles.by_status(strategy), store.cycles.last(strategy)
    equity, spent = store.equity.last(strategy), store.budget.spent(datetime.now(UTC))
    return {
        "cycles": {"total": sum(by_status.values()), "by_status": by_status},
        "last_cycle": last
        and {name: getattr(last, name) for name in ("cycle_id", "symbol", "as_of", "status", "trigger")}
        | {
            "action": last.decided and last.decided.decision.action,
            "source": last.decided and last.decided.source,
            "summary": summary_line(last),
        },
        "open_positions": store.positions.open(strategy),
        "equity": equity and equity.equity,
        "halt": store.halts.newest(),
        "differences": [look.about for look in store.differences.all_of(strategy)],
        # of today (UTC), calls that run now at their worst case, against the day's budget
        "models": {
            "usd_today": spent.usd,
            "usd_per_day": budget.usd_per_day,
            "calls_today": spent.calls,
            "calls_per_day": budget.calls_per_day,
        },
    }
