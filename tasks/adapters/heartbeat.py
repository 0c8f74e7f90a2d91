"""Whether what must run each minute does: every run that completes holds a lease for three; one that lapsed is silence.

It is kept beside the ledger, not in Prefect: what stands still may be Prefect itself.
"""

from datetime import timedelta

from tasks.adapters.store.store import Store

BEATS = ("watch", "protect")
SILENT = timedelta(minutes=3)


def beat(store: Store, strategy: str, name: str) -> None:
    """Note that a run of `name` has completed."""
    store.leases.acquire(f"{strategy}: {name}", name, SILENT)


def silent(store: Store, strategy: str) -> list[str]:
    """Return what has had no completed run for three minutes."""
    lapsed = store.leases.lapsed([f"{strategy}: {name}" for name in BEATS])
    return [name for name in BEATS if f"{strategy}: {name}" in lapsed]
