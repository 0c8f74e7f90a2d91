"""What `quarterdeck status` says: the processes by their state file, the trading by the store. Needs nothing to run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from deployments import running
from deployments.running import ServiceState
from deployments.services import answers
from tasks.adapters.store.database import parse_url
from tasks.adapters.store.store import Store
from tasks.core.decision.budget import Spent
from tasks.core.errors import StoreError
from tasks.core.pages.decision import summary_line
from tasks.core.types.limits import Budget
from tasks.core.types.record import CycleRecord
from tasks.settings import Settings


def status(settings: Settings) -> dict[str, Any]:
    """Return the whole status as plain values and DTOs."""
    now = running.state(settings.home)
    return {
        "running": now is not None,
        "phase": now.phase if now else "down",
        "started_at": now.started_at if now else None,
        "services": {name: _service(service) for name, service in now.services.items()} if now else {},
        "profile": now.profile if now else settings.profile,
        "strategy": settings.strategy,
        "home": settings.home,
    } | _trading(settings)


def _service(service: ServiceState) -> dict[str, Any]:
    """Describe a process; the worker has no address and is healthy while it lives."""
    healthy = answers(service.health) if service.health else psutil.pid_exists(service.pid)
    return {"pid": service.pid, "healthy": healthy, "url": service.url}


def _trading(settings: Settings) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "cycles": {"total": 0, "by_status": {}}, "last_cycle": None, "open_positions": [], "equity": None, "halt": None,
        "models": None,
        "store_error": None,
    }  # fmt: skip
    if not has_store(settings):
        return nothing
    try:
        return nothing | _read(settings)
    except StoreError as e:
        return nothing | {"store_error": str(e)}


def has_store(settings: Settings) -> bool:
    """Say whether there is a database to read; SQLite would create the file."""
    url = parse_url(settings.store_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def _read(settings: Settings) -> dict[str, Any]:
    store, strategy = Store(settings.store_url), settings.strategy
    try:
        by_status, last = store.cycles.by_status(strategy), store.cycles.last(strategy)
        equity = store.equity.last(strategy)
        return {
            "cycles": {"total": sum(by_status.values()), "by_status": by_status},
            "last_cycle": _short(last) if last else None,
            "open_positions": store.positions.open(strategy),
            "equity": equity.equity if equity else None,
            "halt": store.halts.newest(),
            "models": _spend(store.budget.spent(datetime.now(UTC)), settings.budget),
        }
    finally:
        store.close()


def _spend(spent: Spent, budget: Budget) -> dict[str, Any]:
    """Describe what models cost today (UTC), calls that run now at their worst case, against the day's budget."""
    return {
        "usd_today": spent.usd,
        "usd_per_day": budget.usd_per_day,
        "calls_today": spent.calls,
        "calls_per_day": budget.calls_per_day,
    }


def _short(record: CycleRecord) -> dict[str, Any]:
    return {
        "cycle_id": record.cycle_id,
        "symbol": record.symbol,
        "as_of": record.as_of,
        "status": record.status,
        "trigger": record.trigger,
        "action": record.decided.decision.action if record.decided else None,
        "source": record.decided.source if record.decided else None,
        "summary": summary_line(record),
    }
