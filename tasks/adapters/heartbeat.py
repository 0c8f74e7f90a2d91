"""Whether what must run each minute does: a run that completes holds a lease for three; one that lapsed is silence.

Where `watch_every_s` is 300 it is five minutes, and fifteen.

It is kept beside the ledger, not in Prefect: what stands still may be Prefect itself.
"""

from datetime import timedelta

from tasks.adapters.store.store import Store

BEATS = ("watch", "protect")
MISSED = 3  # runs
SAID = {60: ("each minute", "three minutes"), 300: ("each five minutes", "fifteen minutes")}


def patience(every_s: int) -> timedelta:
    """Return how long there may be no completed run of what is due so often."""
    return timedelta(seconds=MISSED * every_s)


def beat(store: Store, strategy: str, name: str, every_s: int) -> None:
    """Note that a run of `name` has completed."""
    store.leases.acquire(f"{strategy}: {name}", name, patience(every_s))


def silent(store: Store, strategy: str) -> list[str]:
    """Return what has had no completed run for so long."""
    lapsed = store.leases.lapsed([f"{strategy}: {name}" for name in BEATS])
    return [name for name in BEATS if f"{strategy}: {name}" in lapsed]
