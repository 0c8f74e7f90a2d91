"""Orders as the venue last reported them, and their fills, once each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from tasks.adapters.store.database import Database, known, row_of
from tasks.adapters.store.tables import FillRow, IntentRow, OrderRow
from tasks.core.errors import StoreError
from tasks.core.types.orders import Fill, Order


@dataclass
class OrderRepository:
    """Orders by client order id."""

    database: Database

    def save(self, order: Order) -> None:
        """Keep an order's newest state; one older than what is kept changes nothing."""
        if not order.client_order_id:
            raise StoreError(f"order {order.venue_order_id} has no client_order_id; only orders of ours are kept")
        row = row_of(OrderRow, order)
        self.database.put(OrderRow, row, keep=["created_at"], only=lambda new: new.updated_at >= OrderRow.updated_at)

    def get(self, client_order_id: str) -> Order | None:
        """Return an order as the venue last reported it."""
        return self.database.first(Order, select(OrderRow).filter_by(client_order_id=client_order_id))


@dataclass
class FillRepository:
    """Fills by the venue's id."""

    database: Database

    def save(self, fills: Sequence[Fill]) -> list[Fill]:
        """Keep fills; return only those that were new."""
        if not fills:
            return []
        by_id = {fill.fill_id: fill for fill in fills}
        rows = [row_of(FillRow, by_id[key]) for key in sorted(by_id)]  # one order, or two writers could deadlock
        with self.database.writing() as connection:
            new = set(connection.scalars(self.database.insert(FillRow).returning(FillRow.fill_id), rows))
        return [fill for key, fill in by_id.items() if key in new]

    def of_cycle(self, cycle_id: str) -> list[Fill]:
        """Return the fills of a cycle's own orders, oldest first."""
        query = select(FillRow).join(IntentRow, IntentRow.client_order_id == FillRow.client_order_id)
        query = query.where(IntentRow.cycle_id == cycle_id)
        return self.database.all(Fill, query.order_by(FillRow.at, FillRow.fill_id))

    def since(self, since: datetime, symbol: str | None = None) -> list[Fill]:
        """Return fills at `since` or later, oldest first."""
        query = select(FillRow).filter_by(**known(symbol=symbol)).where(FillRow.at >= since)
        return self.database.all(Fill, query.order_by(FillRow.at, FillRow.fill_id))
