"""The right to decide on a symbol: one run at a time has it, on all machines, and keeps it by a heartbeat.

A run that dies loses it when LASTS is over. One that was only held up loses it too and cannot send any more: every
order is proven against the lease's token first (`IntentRepository.begin_sending`). The watchdog's own orders need none:
they only reduce, their ids derive from the position, and nothing may keep it waiting.
"""

import asyncio
import os
import socket
from contextlib import suppress
from datetime import timedelta

from tasks import clock
from tasks.connections import log, store, venue
from tasks.core.types import Lease, StoreError
from tasks.settings import settings

LASTS = timedelta(seconds=60)
BEAT_S = 15.0
WAIT_S = 75.0  # long enough to outlive a holder that died
POLL_S = 0.1


def symbol_lease(symbol: str) -> str:
    """Return the name of the lease for `symbol` on the account that this process trades on."""
    return f"symbol:{venue().name}:{settings().live_account or '-'}:{symbol}"


class Leases:
    """The leases of one run. Those it still has at the end of the block are given back."""

    def __init__(self, run: str, patience_s: float | None = None) -> None:
        self._holder = f"{run}@{socket.gethostname()}:{os.getpid()}"
        self._held: dict[str, Lease] = {}
        self._patience = WAIT_S if patience_s is None else patience_s

    async def __aenter__(self) -> "Leases":
        self._beat = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beat.cancel()
        for name in list(self._held):
            with suppress(StoreError):  # it ends by itself then
                self.give_back(name)

    async def take(self, name: str) -> Lease | None:
        """Take the lease, waiting for others as long as this run may wait in all; None: somebody still has it."""
        began = clock.monotonic()
        while True:
            lease = store().leases.acquire(name, self._holder, LASTS)
            waited = clock.monotonic() - began
            if lease is not None or waited >= self._patience:
                break
            await asyncio.sleep(POLL_S)
        self._patience -= waited
        if lease is not None:
            self._held[name] = lease
        return lease

    def give_back(self, name: str) -> None:
        """Let the next one have it."""
        if lease := self._held.pop(name, None):
            store().leases.release(lease)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for name, lease in list(self._held.items()):
                try:
                    if not store().leases.renew(lease, LASTS):
                        del self._held[name]
                        log().error("lease %s token=%d is lost: nothing more is sent under it", name, lease.token)
                except StoreError as e:
                    log().warning("lease %s not renewed: %s", name, e)


def lost(lease: Lease) -> str:
    """Explain why nothing can be sent under `lease` any more."""
    now = store().leases.get(lease.name)
    if now is None or now.token == lease.token:
        became = "was not renewed in time"
    else:
        became = f"was taken over by {now.holder} with token {now.token}"
    return f"lease lost: {lease.name} with token {lease.token} {became}; nothing more was sent"
