"""Intents before they are sent, orders as the venue reports them, fills once each."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, or_, select, update

from tasks.adapters.store.leases import LeaseStore
from tasks.adapters.store.tables import Cycle, FillRow, Intent, OrderRow
from tasks.adapters.store.types import columns_of, dto_of, row_of
from tasks.core.errors import StoreError
from tasks.core.types.orders import FINAL_STATES, Fill, Order, OrderIntent, OrderStatus, OrderType
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


class OrderStore(LeaseStore):
    """Intents, orders, fills."""

    def save_intents(
        self, cycle_id: str, intents: Sequence[OrderIntent], at: datetime, lease: Lease | None = None
    ) -> None:
        """Persist all legs in one transaction; the same again is a no-op.

        Raises StoreError if one of the ids is known with another content or cycle, or if `lease` is no longer held:
        then nothing was kept and nothing may be sent.
        """
        if not intents:
            return
        rows = [
            {**row_of(i), "cycle_id": cycle_id, "leg": leg, "state": "persisted", "persisted_at": at, "state_at": at}
            for leg, i in enumerate(intents)
        ]
        rows.sort(key=lambda row: row["client_order_id"])  # one order for all writers, or two could deadlock
        wanted = {i.client_order_id: (cycle_id, i) for i in intents}
        query = select(Intent.cycle_id, *columns_of(Intent, OrderIntent)).where(Intent.client_order_id.in_(wanted))
        with self._writing() as connection:
            if lease is not None and not self._keep_held(connection, lease):
                raise StoreError(f"{lease.name} was lost to another run before its intents were kept; nothing is sent")
            connection.execute(self._insert(Intent).on_conflict_do_nothing(), rows)
            for row in connection.execute(query):
                kept = (row.cycle_id, dto_of(OrderIntent, row))
                if wanted[row.client_order_id] != kept:
                    raise StoreError(
                        f"intent {row.client_order_id} of cycle {cycle_id} is already kept with another content "
                        f"({kept[1].side} {kept[1].quantity} {kept[1].symbol}); an id means one order for ever"
                    )

    def intents(self, cycle_id: str) -> tuple[OrderIntent, ...]:
        """Return the legs of a cycle in their order."""
        query = select(*columns_of(Intent, OrderIntent)).where(Intent.cycle_id == cycle_id)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(Intent.persisted_at, Intent.leg)).all()
        return tuple(dto_of(OrderIntent, row) for row in rows)

    def mark_intent(self, client_order_id: str, state: str, at: datetime) -> None:
        """Note that an intent was persisted, sent, done or rejected; one that is further stays as it is."""
        if state not in INTENT_STATES:
            raise StoreError(f"intent state {state!r} is none of {', '.join(INTENT_STATES)}")
        this = Intent.client_order_id == client_order_id
        move = update(Intent).where(this, Intent.state.in_(INTENT_STATES[state]), Intent.state != state)
        with self._writing() as connection:
            moved = connection.execute(move.values(state=state, state_at=at)).rowcount
            if not moved and connection.scalar(select(Intent.state).where(this)) is None:
                raise StoreError(f"intent {client_order_id} was never persisted; save_intents comes first")

    def begin_sending(self, client_order_id: str, lease: Lease, at: datetime) -> bool:
        """Note that an intent is about to be sent under `lease`, in one statement: False means it must not be.

        Then the lease is no longer held, a later holder has sent the intent, or it is done or rejected.
        """
        ours = or_(Intent.fence.is_(None), Intent.fence <= lease.token)
        this = (Intent.client_order_id == client_order_id, Intent.state.in_(SENDABLE), ours)
        move = update(Intent).where(*this, self.still_held(lease)).returning(Intent.leg)
        with self._writing() as connection:
            return connection.scalar(move.values(state="sending", state_at=at, fence=lease.token)) is not None

    def drop_intents(self, cycle_id: str, at: datetime) -> None:
        """Reject the intents of a cycle that nobody ever began to send."""
        unsent = update(Intent).where(Intent.cycle_id == cycle_id, Intent.state == "persisted", Intent.fence.is_(None))
        with self._writing() as connection:
            connection.execute(unsent.values(state="rejected", state_at=at))

    def open_intents(self, strategy: str) -> list[tuple[str, OrderIntent, str]]:
        """Return (cycle_id, intent, state) of every intent neither done nor rejected, oldest first."""
        query = (
            select(Intent.cycle_id, Intent.state, *columns_of(Intent, OrderIntent))
            .join(Cycle, Cycle.cycle_id == Intent.cycle_id)
            .where(Cycle.strategy == strategy, Intent.state.not_in(FINAL_STATES))
            .order_by(Intent.persisted_at, Intent.leg)
        )
        with self._reading() as connection:
            return [(row.cycle_id, dto_of(OrderIntent, row), row.state) for row in connection.execute(query)]

    def intent_state(self, client_order_id: str) -> str | None:
        """Return how far an intent has come; None if there is no such intent."""
        with self._reading() as connection:
            return connection.scalar(select(Intent.state).where(Intent.client_order_id == client_order_id))

    def intent(self, client_order_id: str) -> OrderIntent | None:
        """Return an intent as it was persisted; None if there is no such intent."""
        query = select(*columns_of(Intent, OrderIntent)).where(Intent.client_order_id == client_order_id)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else dto_of(OrderIntent, row)

    def persisted_at(self, client_order_id: str) -> datetime | None:
        """Return when an intent was persisted; None if there is no such intent."""
        with self._reading() as connection:
            return connection.scalar(select(Intent.persisted_at).where(Intent.client_order_id == client_order_id))

    def own_intents(self, strategy: str, symbol: str) -> list[OwnIntent]:
        """Return every intent of `symbol` ever persisted, oldest first, with what is known of its order."""
        query = (
            select(Intent.persisted_at, Intent.cycle_id, Intent.state, *columns_of(Intent, OrderIntent))
            .add_columns(OrderRow.filled)
            .join(Cycle, Cycle.cycle_id == Intent.cycle_id)
            .outerjoin(OrderRow, OrderRow.client_order_id == Intent.client_order_id)
            .where(Cycle.strategy == strategy, Intent.symbol == symbol)
            .order_by(Intent.persisted_at, Intent.leg)
        )
        with self._reading() as connection:
            return [
                OwnIntent(
                    intent=dto_of(OrderIntent, row), cycle_id=row.cycle_id, state=row.state,
                    persisted_at=row.persisted_at, filled=row.filled or Decimal(0),
                )
                for row in connection.execute(query)
            ]  # fmt: skip

    def fills_of(self, cycle_id: str) -> list[Fill]:
        """Return the fills of a cycle's own orders, oldest first."""
        query = (
            select(*columns_of(FillRow, Fill))
            .join(Intent, Intent.client_order_id == FillRow.client_order_id)
            .where(Intent.cycle_id == cycle_id)
            .order_by(FillRow.at, FillRow.fill_id)
        )
        with self._reading() as connection:
            return [dto_of(Fill, row) for row in connection.execute(query)]

    def recent_entries(self, strategy: str, since: datetime) -> list[tuple[datetime, str | None]]:
        """Return when entries were persisted and the status of their orders (None: not known yet), oldest first."""
        query = (
            select(Intent.persisted_at, OrderRow.status)
            .join(Cycle, Cycle.cycle_id == Intent.cycle_id)
            .outerjoin(OrderRow, OrderRow.client_order_id == Intent.client_order_id)
            .where(Cycle.strategy == strategy, Intent.persisted_at >= since)
            .where(Intent.reduce_only.is_(False), Intent.type.in_((OrderType.MARKET.value, OrderType.LIMIT.value)))
            .order_by(Intent.persisted_at)
        )
        with self._reading() as connection:
            return [(row.persisted_at, row.status) for row in connection.execute(query)]

    def save_order(self, order: Order, cycle_id: str | None) -> None:
        """Keep an order's newest state; one older than what is kept changes nothing.

        Without `cycle_id` it is the one of the intent with this id, if there is one.
        """
        if not order.client_order_id:
            raise StoreError(f"order {order.venue_order_id} has no client_order_id; only orders of ours are kept")
        this = order.client_order_id
        of_intent = select(Intent.cycle_id).where(Intent.client_order_id == this).scalar_subquery()
        of_order = select(OrderRow.cycle_id).where(OrderRow.client_order_id == this).scalar_subquery()
        statement = self._upsert(
            OrderRow,
            {**row_of(order), "cycle_id": func.coalesce(of_intent, of_order) if cycle_id is None else cycle_id},
            ["client_order_id"],
            keep=["created_at"],
            only=lambda new: new.updated_at >= OrderRow.updated_at,
        )
        with self._writing() as connection:
            connection.execute(statement)

    def order(self, client_order_id: str) -> Order | None:
        """Return an order as the venue last reported it."""
        query = select(*columns_of(OrderRow, Order)).where(OrderRow.client_order_id == client_order_id)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else dto_of(Order, row)

    def open_orders_known(self, strategy: str) -> list[Order]:
        """Return the orders that were open when last reported, oldest first."""
        query = (
            select(*columns_of(OrderRow, Order))
            .join(Cycle, Cycle.cycle_id == OrderRow.cycle_id)
            .where(Cycle.strategy == strategy, OrderRow.status == OrderStatus.OPEN.value)
            .order_by(OrderRow.created_at)
        )
        with self._reading() as connection:
            return [dto_of(Order, row) for row in connection.execute(query)]

    def save_fills(self, fills: Sequence[Fill]) -> list[Fill]:
        """Keep fills; return only those that were new."""
        if not fills:
            return []
        rows = sorted((row_of(fill) for fill in fills), key=lambda row: row["fill_id"])  # see save_intents
        insert = self._insert(FillRow).on_conflict_do_nothing().returning(FillRow.fill_id)
        with self._writing() as connection:
            new = set(connection.scalars(insert, rows))
        return [fill for fill in {fill.fill_id: fill for fill in fills}.values() if fill.fill_id in new]

    def fills(self, symbol: str | None = None, since: datetime | None = None) -> list[Fill]:
        """Return fills at `since` or later, oldest first."""
        query = select(*columns_of(FillRow, Fill))
        if symbol is not None:
            query = query.where(FillRow.symbol == symbol)
        if since is not None:
            query = query.where(FillRow.at >= since)
        with self._reading() as connection:
            return [dto_of(Fill, row) for row in connection.execute(query.order_by(FillRow.at, FillRow.fill_id))]
