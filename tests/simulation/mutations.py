"""One invariant broken on purpose at a time, in the code that keeps it, for the simulation to find."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from tasks import execute, leases, protect
from tasks.core.errors import OrderRejected, VenueUnavailable
from tasks.core.ports import Venue
from tasks.core.trading import followups
from tasks.core.trading import ledger as books
from tasks.core.types import Lease, Order, OrderIntent

MOST = 300  # seeds


@contextmanager
def no_look_up() -> Iterator[None]:
    """An order is sent without asking whether it was sent before."""

    async def submitted(client: Venue, intent: OrderIntent, lease: Lease | None) -> Order:
        if lease is not None:
            execute.prove(intent, lease)
        return await client.submit(intent)

    with patch.object(execute, "_find_or_submit", submitted):
        yield


@contextmanager
def flattened_on_busy() -> Iterator[None]:
    """A venue that is busy counts as one that has refused a stop."""
    real = protect._set_protection

    async def set_protection(*args: Any, **more: Any) -> None:
        try:
            await real(*args, **more)
        except VenueUnavailable as e:
            raise OrderRejected(str(e)) from e

    with patch.object(protect, "_set_protection", set_protection), patch.object(protect, "PAUSES", (0.1,)):
        yield


@contextmanager
def fill_booked_twice() -> Iterator[None]:
    """Every seventh fill counts twice."""
    real, seen = books.apply_fill, [0]

    def apply(*args: Any, **more: Any) -> Any:
        seen[0] += 1
        if seen[0] % 7:
            return real(*args, **more)
        return real(real(*args, **more), *args[1:], **more)

    with patch.object(books, "apply_fill", apply):
        yield


@contextmanager
def lease_skipped() -> Iterator[None]:
    """Whoever asks for a lease has it."""

    async def take(self: leases.Leases, name: str) -> Lease:
        return Lease(name=name, holder="anybody", token=1)

    def nothing(*_: object) -> None:
        return None

    with (
        patch.object(leases.Leases, "take", take),
        patch.object(leases.Leases, "give_back", nothing),
        patch.object(execute, "prove", nothing),
    ):
        yield


@contextmanager
def followup_forgotten() -> Iterator[None]:
    """The first rule of a position is never due."""
    real = followups.pending

    def pending(position: Any) -> Any:
        return real(position)[1:]

    with patch.object(followups, "pending", pending):
        yield


@contextmanager
def day_off_by_one() -> Iterator[None]:
    """A day begins a moment late: what is about midnight itself is about the day before."""
    real = books.day_start

    def day_start(at: datetime) -> datetime:
        return real(at - timedelta(seconds=10))

    with patch.object(books, "day_start", day_start):
        yield


ALL: dict[str, Callable[[], AbstractContextManager[None]]] = {
    each.__name__: each
    for each in (no_look_up, flattened_on_busy, fill_booked_twice, lease_skipped, followup_forgotten, day_off_by_one)
}
