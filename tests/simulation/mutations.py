"""One invariant broken on purpose at a time, in the code that keeps it, for the simulation to find."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from tasks import execute, leases, ledger, protect
from tasks.adapters.store.leases import LeaseRepository
from tasks.core.errors import OrderRejected, VenueUnavailable
from tasks.core.ports import Venue
from tasks.core.trading import followups, reconcile
from tasks.core.trading import ledger as books
from tasks.core.types import Lease, LedgerView, Order, OrderIntent, OwnIntent, Position, SetStop, VenuePosition

MOST = 300  # seeds


@contextmanager
def no_look_up() -> Iterator[None]:
    """An order is sent without asking whether it was sent before."""

    async def submitted(client: Venue, intent: OrderIntent, lease: Lease | None, _: list[float]) -> Order:
        if lease is not None:
            execute.prove(intent, lease)
        return await client.submit(intent)

    with patch.object(execute, "_find_or_submit", submitted):
        yield


@contextmanager
def flattened_on_busy() -> Iterator[None]:
    """A venue that is busy counts as one that has refused a stop."""
    real = protect._set_protection

    async def set_protection(wanted: SetStop, _pauses: object, read_back: bool = False) -> None:
        try:
            await real(wanted, (), read_back)
        except VenueUnavailable as e:
            raise OrderRejected(str(e)) from e

    with patch.object(protect, "_set_protection", set_protection):
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
        patch.object(LeaseRepository, "keep_held", lambda *_: True),
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


@contextmanager
def loose_stop_stays() -> Iterator[None]:
    """A stop that a person has moved further away is as good as ours."""
    with patch.object(reconcile, "_flaw", lambda *_: None):
        yield


@contextmanager
def cycle_left_unfinished() -> Iterator[None]:
    """Nobody ends the cycle of a process that died."""
    with patch.object(reconcile, "_abandoned", lambda *_: ()):
        yield


# --- what simulations found in the code as it was, taken back


@contextmanager
def stop_before_booking() -> Iterator[None]:
    """A stop is set from what the venue holds alone: ours may have closed, and this be a person's."""

    async def booked(_symbol: str) -> list[Position]:
        return []

    with patch.object(protect, "booked", booked):
        yield


@contextmanager
def unsent_entry_explains() -> Iterator[None]:
    """An entry that was written down and never sent explains a position."""
    real = reconcile._unbooked_entries

    def entries(view: LedgerView, at_venue: VenuePosition) -> list[OwnIntent]:
        sent = [own.replace(state="sending") if own.state == "persisted" else own for own in view.intents]
        return real(view.replace(intents=tuple(sent)), at_venue)

    with patch.object(reconcile, "_unbooked_entries", entries):
        yield


@contextmanager
def sent_again_at_once() -> Iterator[None]:
    """A request without an answer is followed by another as soon as the venue knows of no order."""
    with patch.object(execute, "IN_FLIGHT_S", 0.0), patch.object(execute, "_would_be_told", lambda *_: True):
        yield


@contextmanager
def only_todays_symbols() -> Iterator[None]:
    """Nothing is looked for in a symbol that is traded no more."""
    real = ledger.symbols_of_ours

    def symbols(*_: object) -> tuple[str, ...]:
        return real()

    with patch.object(ledger, "symbols_of_ours", symbols):
        yield


FOUND = (stop_before_booking, unsent_entry_explains, sent_again_at_once, only_todays_symbols)
ALL: dict[str, Callable[[], AbstractContextManager[None]]] = {
    each.__name__: each
    for each in (
        no_look_up,
        flattened_on_busy,
        fill_booked_twice,
        lease_skipped,
        followup_forgotten,
        day_off_by_one,
        loose_stop_stays,
        cycle_left_unfinished,
        *FOUND,
    )
}
