"""Intents: order legs, written down before the first byte goes to the venue, and how far each has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, or_, select, update

from tasks.adapters.store.database import Database, dto_of, row_of
from tasks.adapters.store.leases import LeaseRepository
from tasks.adapters.store.tables import CycleRow, IntentRow, OrderRow
from tasks.core.errors import StoreError
from tasks.core.types.orders import FINAL_STATES, OrderIntent, OrderType
from tasks.core.types.reconcile import OwnIntent
from tasks.core.types.record import Lease

# From which states an intent may come into each: it never goes back.
INTENT_STATES = {
    "persisted": ("persisted",),
    "sent": ("persisted", "sending", "sent"),
    "done": ("persisted", "sending", "sent", "done", "rejected"),
    "rejected": ("persisted", "sending", "sent", "rejected"),
}
SENDABLE = ("persisted", "sending", "sent")


@dataclass
class IntentRepository:
    """Intents by client order id."""

    database: Database
    leases: LeaseRepository

    def save(self, cycle_id: str, intents: Sequence[OrderIntent], at: datetime, lease: Lease | None = None) -> None:
        """Persist all legs in one transaction; the same again is a no-op.

        Raises StoreError if one of the ids is known with another content or cycle, or if `lease` is no longer held:
        then nothing was kept and nothing may be sent.
        """
        if not intents:
            return
        new = {"cycle_id": cycle_id, "state": "persisted", "persisted_at": at}
        rows = [row_of(IntentRow, intent, leg=leg, **new) for leg, intent in enumerate(intents)]
        rows.sort(key=lambda row: row["client_order_id"])  # one order for all writers, or two could deadlock
        wanted = {i.client_order_id: (cycle_id, i) for i in intents}
        with self.database.writing() as connection:
            if lease is not None and not self.leases.keep_held(connection, lease):
                raise StoreError(f"{lease.name} was lost to another run before its intents were kept; nothing is sent")
            connection.execute(self.database.insert(IntentRow), rows)
            for row in connection.execute(select(IntentRow).where(IntentRow.client_order_id.in_(wanted))):
                kept = (row.cycle_id, dto_of(OrderIntent, row))
                if wanted[row.client_order_id] != kept:
                    raise StoreError(
                        f"intent {row.client_order_id} of cycle {cycle_id} is already kept with another content "
                        f"({kept[1].side} {kept[1].quantity} {kept[1].symbol}); an id means one order for ever"
                    )

    def of_cycle(self, cycle_id: str) -> tuple[OrderIntent, ...]:
        """Return the legs of a cycle in their order."""
        query = select(IntentRow).filter_by(cycle_id=cycle_id)
        return tuple(self.database.all(OrderIntent, query.order_by(IntentRow.persisted_at, IntentRow.leg)))

    def mark(self, client_order_id: str, state: str) -> None:
        """Note that an intent was persisted, sent, done or rejected; one that is further stays as it is."""
        if state not in INTENT_STATES:
            raise StoreError(f"intent state {state!r} is none of {', '.join(INTENT_STATES)}")
        this = IntentRow.client_order_id == client_order_id
        move = update(IntentRow).where(this, IntentRow.state.in_(INTENT_STATES[state]), IntentRow.state != state)
        with self.database.writing() as connection:
            moved = connection.execute(move.values(state=state)).rowcount
            if not moved and connection.scalar(select(IntentRow.state).where(this)) is None:
                raise StoreError(f"intent {client_order_id} was never persisted; that comes first")

    def begin_sending(self, client_order_id: str, lease: Lease) -> bool:
        """Note that an intent is about to be sent under `lease`, in one statement: False means it must not be.

        Then the lease is no longer held, a later holder has sent the intent, or it is done or rejected.
        """
        ours = or_(IntentRow.fence.is_(None), IntentRow.fence <= lease.token)
        this = (IntentRow.client_order_id == client_order_id, IntentRow.state.in_(SENDABLE), ours)
        move = update(IntentRow).where(*this, self.leases.still_held(lease)).returning(IntentRow.leg)
        return bool(self.database.rows(move.values(state="sending", fence=lease.token)))

    def drop(self, cycle_id: str) -> None:
        """Reject the intents of a cycle that nobody ever began to send."""
        unsent = (IntentRow.cycle_id == cycle_id, IntentRow.state == "persisted", IntentRow.fence.is_(None))
        self.database.write(update(IntentRow).where(*unsent).values(state="rejected"))

    def open(self, strategy: str) -> list[tuple[str, OrderIntent, str]]:
        """Return (cycle_id, intent, state) of every intent neither done nor rejected, oldest first."""
        query = _of_strategy(strategy, IntentRow).where(IntentRow.state.not_in(FINAL_STATES))
        return [(row.cycle_id, dto_of(OrderIntent, row), row.state) for row in self.database.rows(query)]

    def state(self, client_order_id: str) -> str | None:
        """Return how far an intent has come; None if there is no such intent."""
        return self._value(IntentRow.state, client_order_id)  # type: ignore[no-any-return]  # a column of text

    def persisted_at(self, client_order_id: str) -> datetime | None:
        """Return when an intent was persisted; None if there is no such intent."""
        return self._value(IntentRow.persisted_at, client_order_id)  # type: ignore[no-any-return]  # a column of times

    def _value(self, column: Any, client_order_id: str) -> Any:
        return self.database.value(select(column).where(IntentRow.client_order_id == client_order_id))

    def get(self, client_order_id: str) -> OrderIntent | None:
        """Return an intent as it was persisted; None if there is no such intent."""
        return self.database.first(OrderIntent, select(IntentRow).filter_by(client_order_id=client_order_id))

    def own(self, strategy: str, symbol: str) -> list[OwnIntent]:
        """Return every intent of `symbol` ever persisted, oldest first, with what is known of its order."""
        query = _of_strategy(strategy, IntentRow, OrderRow.filled).where(IntentRow.symbol == symbol)
        return [
            OwnIntent(
                intent=dto_of(OrderIntent, row), cycle_id=row.cycle_id, state=row.state,
                persisted_at=row.persisted_at, filled=row.filled or 0,
            )
            for row in self.database.rows(query)
        ]  # fmt: skip

    def recent_entries(self, strategy: str, since: datetime) -> list[tuple[datetime, str | None]]:
        """Return when entries were persisted and the status of their orders (None: not known yet), oldest first."""
        query = _of_strategy(strategy, IntentRow.persisted_at, OrderRow.status)
        query = query.where(IntentRow.persisted_at >= since, IntentRow.reduce_only.is_(False))
        rows = self.database.rows(query.where(IntentRow.type.in_((OrderType.MARKET, OrderType.LIMIT))))
        return [tuple(row) for row in rows]


def _of_strategy(strategy: str, *columns: Any) -> Select[Any]:
    """Select from intents and, where one is known, their orders, oldest first."""
    query = select(*columns).select_from(IntentRow).join(CycleRow)
    query = query.outerjoin(OrderRow, OrderRow.client_order_id == IntentRow.client_order_id)
    return query.where(CycleRow.strategy == strategy).order_by(IntentRow.persisted_at, IntentRow.leg)
