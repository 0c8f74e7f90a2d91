"""Old bulk leaves the store; what explains an order stays."""

from datetime import datetime, timedelta

from tasks.connections import log, store
from tasks.settings import settings
from tasks.stage import stage


@stage
def prune(at: datetime) -> int:
    """Delete what is older than `retention_days` (see `store.retention`); returns how many rows went."""
    if not (days := settings().retention_days):
        return 0
    deleted = store().retention.prune(settings().strategy, at - timedelta(days=days))
    if any(deleted.values()):
        log().info("pruned %s", " ".join(f"{table}={count}" for table, count in deleted.items()))
    return sum(deleted.values())
