"""Order legs, written down before the first byte goes to the venue; orders as it last reported them; their fills."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, update

from tasks import clock
from tasks.adapters.store import CycleRow, FillRow, IntentRow, OrderRow, Repository, dto_of, known, row_of
from tasks.adapters.store.leases import LeaseRepository
from tasks.core.types import FINAL_STATES, Fill, Lease, Order, OrderIntent, OrderType, OwnIntent, StoreError

# From which states an intent may come into each: it never goes back.
INTENT_STATES = {
    "persisted": ("persisted",),
    "sent": ("persisted", "sending", "sent"),
    "done": ("persisted", "sending", "sent", "done", "rejected"),
    "rejected": ("persisted", "sending", "sent", "rejected"),
}
SENDABLE = ("persisted", "sending", "sent")


class IntentRepository(Repository):
    """Intents by client order id."""

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
            if lease is not None and not LeaseRepository(self.database).keep_held(connection, lease):
                raise StoreError(f"{lease.name} was lost to another run before its intents were kept; nothing is sent")
            connection.execute(self.insert(IntentRow), rows)
            for row in connection.execute(select(IntentRow).where(IntentRow.client_order_id.in_(wanted))):
                kept = (row.cycle_id, dto_of(OrderIntent, row))
                if wanted[row.client_order_id] != kept:
                    raise StoreError(
                        f"intent {row.client_order_id} of cycle {cycle_id} is already kept with another content "
                        f"({kept[1].side} {kept[1].quantity} {kept[1].symbol}); an id means one order for ever"
                    )

    def of_cycle(self, cycle_id: str) -> tuple[OrderIntent, ...]:
        """Return the legs of a cycle in their order."""
        return tuple(own.intent for own in self._own(IntentRow.cycle_id == cycle_id))

    def mark(self, client_order_id: str, state: str) -> None:
        """Note that an intent was persisted, sent, done or rejected; one that is further stays as it is."""
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
        move = update(IntentRow).where(*this, LeaseRepository(self.database).still_held(lease)).returning(IntentRow.leg)
        return bool(self.rows(move.values(state="sending", fence=lease.token, sending_at=clock.now())))

    def take_back(self, client_order_id: str, lease: Lease) -> None:
        """Note that an intent that was being sent under `lease` was not: the venue said that it did nothing."""
        this = (IntentRow.client_order_id == client_order_id, IntentRow.state == "sending")
        self.write(update(IntentRow).where(*this, IntentRow.fence == lease.token).values(state="persisted"))

    def drop(self, cycle_id: str) -> None:
        """Reject the intents of a cycle that nobody ever began to send."""
        unsent = (IntentRow.cycle_id == cycle_id, IntentRow.state == "persisted", IntentRow.fence.is_(None))
        self.write(update(IntentRow).where(*unsent).values(state="rejected"))

    def open(self, strategy: str) -> list[OwnIntent]:
        """Return every intent neither done nor rejected, oldest first."""
        return self._own(CycleRow.strategy == strategy, IntentRow.state.not_in(FINAL_STATES))

    def strategies(self) -> list[str]:
        """Return every strategy that has an intent neither done nor rejected."""
        query = select(CycleRow.strategy).join(IntentRow).where(IntentRow.state.not_in(FINAL_STATES))
        return self.values(query.distinct())

    def own(self, strategy: str, symbol: str) -> list[OwnIntent]:
        """Return every intent of `symbol` ever persisted, oldest first."""
        return self._own(CycleRow.strategy == strategy, IntentRow.symbol == symbol)

    def get(self, client_order_id: str) -> OwnIntent | None:
        """Return an intent as it is now; None if there is no such intent."""
        return next(iter(self._own(IntentRow.client_order_id == client_order_id)), None)

    def recent_entries(self, strategy: str, since: datetime) -> list[OwnIntent]:
        """Return the entries persisted at `since` or later, oldest first."""
        entries = (IntentRow.reduce_only.is_(False), IntentRow.type.in_((OrderType.MARKET, OrderType.LIMIT)))
        return self._own(CycleRow.strategy == strategy, IntentRow.persisted_at >= since, *entries)

    def _own(self, *where: ColumnElement[bool]) -> list[OwnIntent]:
        """Return intents with what is known of their orders, oldest first."""
        query = select(IntentRow, OrderRow.filled, OrderRow.status).join(CycleRow)
        query = query.outerjoin(OrderRow, OrderRow.client_order_id == IntentRow.client_order_id).where(*where)
        return [
            OwnIntent.of(row, intent=dto_of(OrderIntent, row), order_status=row.status, filled=row.filled or 0)
            for row in self.rows(query.order_by(IntentRow.persisted_at, IntentRow.leg))
        ]


class OrderRepository(Repository):
    """Orders by client order id."""

    def save(self, order: Order) -> None:
        """Keep an order's newest state; one older than what is kept changes nothing."""
        if not order.client_order_id:
            raise StoreError(f"order {order.venue_order_id} has no client_order_id; only orders of ours are kept")
        row = row_of(OrderRow, order)
        self.put(OrderRow, row, keep=["created_at"], only=lambda new: new.updated_at >= OrderRow.updated_at)

    def get(self, client_order_id: str) -> Order | None:
        """Return an order as the venue last reported it."""
        return self.first(Order, select(OrderRow).filter_by(client_order_id=client_order_id))


class FillRepository(Repository):
    """Fills by symbol and the venue's id, which may be one of another symbol's too."""

    def save(self, fills: Sequence[Fill]) -> None:
        """Keep fills; what the venue says of one by now replaces what it said."""
        by_id = {(fill.symbol, fill.fill_id): fill for fill in fills}
        with self.database.writing() as connection:
            for key in sorted(by_id):  # one order, or two writers could deadlock
                connection.execute(self.upsert(FillRow, row_of(FillRow, by_id[key])))

    def of_cycle(self, cycle_id: str) -> list[Fill]:
        """Return the fills of a cycle's own orders, oldest first."""
        query = select(FillRow).join(IntentRow, IntentRow.client_order_id == FillRow.client_order_id)
        query = query.where(IntentRow.cycle_id == cycle_id)
        return self._legible(query.order_by(FillRow.at, FillRow.fill_id))

    def since(self, since: datetime, symbol: str | None = None) -> list[Fill]:
        """Return fills at `since` or later, oldest first."""
        query = select(FillRow).filter_by(**known(symbol=symbol)).where(FillRow.at >= since)
        return self._legible(query.order_by(FillRow.at, FillRow.fill_id))

    def _legible(self, query: Select[Any]) -> list[Fill]:
        """Return fills without those that a release of before kept of a number beyond all: they are told again."""
        fills = []
        for row in self.rows(query):
            with suppress(StoreError):
                fills.append(dto_of(Fill, row))
        return fills
