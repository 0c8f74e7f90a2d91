"""Closing what a test process opened, so that other settings may open another."""

from tasks.adapters.store.store import opened
from tasks.connections import store


def close_stores() -> None:
    """Close what `store` opened."""
    if opened.cache_info().currsize:
        store().close()
    opened.cache_clear()
