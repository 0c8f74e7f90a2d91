"""What must complete a run each minute here, and has missed three: a run that never ends may hold its slot."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

from deployments import up_state
from tasks.adapters import heartbeat
from tasks.adapters.store import exists
from tasks.adapters.store.store import Store
from tasks.core.types import StoreError
from tasks.settings import Settings

STARTING = timedelta(minutes=1)  # what it may take besides, from the start to the first runs


def silent(settings: Settings) -> list[str]:
    """Return what stands still: nothing while nothing runs, or where the database does not say."""
    now = up_state.state(settings.home)
    if now is None or now.phase != "up" or not exists(settings.store_url):
        return []
    if datetime.now(UTC) - now.started_at < heartbeat.patience(settings.watch_every_s) + STARTING:
        return []
    try:
        with closing(Store(settings.store_url)) as store:
            return heartbeat.silent(store, settings.strategy)
    except StoreError:
        return []  # whoever asks says that elsewhere
