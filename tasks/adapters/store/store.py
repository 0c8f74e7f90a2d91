"""The store: one database that explains every order ever sent (SQLAlchemy 2; SQLite or PostgreSQL by URL).

One class, its parts mixed in from `store_*.py`; here are the small tables. Calls are synchronous, each is one
transaction, threads may share a Store. Writing the same thing twice changes nothing, since a process may be killed
anywhere and run again. Vendor errors leave as StoreError, one line, without the password.
"""

from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any

from sqlalchemy import Select, func, insert, select, update

from tasks.adapters.store.alerts import AlertStore
from tasks.adapters.store.candles import CandleStore, SavedBars
from tasks.adapters.store.cycles import BeginResult, CycleStore
from tasks.adapters.store.decisions import DecisionStore
from tasks.adapters.store.events import EventStore
from tasks.adapters.store.orders import OrderStore
from tasks.adapters.store.positions import PositionStore
from tasks.adapters.store.prompts import PromptStore
from tasks.adapters.store.retention import RetentionStore
from tasks.adapters.store.shadow import ShadowStore
from tasks.adapters.store.tables import Base, HaltRow, HistoryRow, PauseRow
from tasks.adapters.store.types import columns_of, document_of, dto_of
from tasks.core.types.record import Halt, HistoryRecord

__all__ = ["BeginResult", "SavedBars", "Store", "opened"]


class Store(
    CandleStore, EventStore, CycleStore, OrderStore, PositionStore, DecisionStore, ShadowStore, PromptStore, AlertStore,
    RetentionStore,
):  # fmt: skip
    """Everything that outlives a process."""

    def halt(self, reason: str, who: str, at: datetime, flatten: bool = False) -> Halt:
        """Stop new entries; the same reason by the same person while it is in force is the same halt."""
        values = {"reason": reason, "who": who, "flatten": flatten}
        same = _halts().where(HaltRow.resumed_at.is_(None), *(getattr(HaltRow, k) == v for k, v in values.items()))
        new = insert(HaltRow).values(**values, since=at).returning(*columns_of(HaltRow, Halt))
        with self._writing() as connection:
            row = connection.execute(same).first() or connection.execute(new).one()
        return dto_of(Halt, row)

    def active_halts(self) -> list[Halt]:
        """Return every halt in force, oldest first."""
        query = _halts().where(HaltRow.resumed_at.is_(None)).order_by(HaltRow.halt_id)
        with self._reading() as connection:
            return [dto_of(Halt, row) for row in connection.execute(query)]

    def active_halt(self) -> Halt | None:
        """Return the newest halt in force; None: entries are allowed."""
        return next(reversed(self.active_halts()), None)

    def resume(self, who: str, at: datetime) -> list[Halt]:
        """Lift every halt in force and return them."""
        lift = update(HaltRow).where(HaltRow.resumed_at.is_(None)).values(resumed_at=at, resumed_by=who)
        with self._writing() as connection:
            rows = connection.execute(lift.returning(*columns_of(HaltRow, Halt))).all()
        return sorted((dto_of(Halt, row) for row in rows), key=lambda halt: halt.halt_id)

    def pause(self, strategy: str, symbol: str, until: datetime) -> None:
        """Allow no new entries in `symbol` before `until`; a shorter pause never ends a longer one."""
        statement = self._upsert(
            PauseRow,
            {"strategy": strategy, "symbol": symbol, "until": until},
            ["strategy", "symbol"],
            only=lambda new: new.until > PauseRow.until,
        )
        with self._writing() as connection:
            connection.execute(statement)

    def paused_until(self, strategy: str, symbol: str) -> datetime | None:
        """Return when the last pause ends or ended; None if there was none."""
        query = select(PauseRow.until).where(PauseRow.strategy == strategy, PauseRow.symbol == symbol)
        with self._reading() as connection:
            return connection.scalar(query)

    def add_history(self, record: HistoryRecord, symbol: str) -> None:
        """Add a line to a symbol's history; exactly the same line again is a no-op."""
        document = document_of(record)
        digest = sha256(f"{symbol} {sorted(document.items())}".encode()).hexdigest()
        row = {"digest": digest, "symbol": symbol, "ts": record.ts, "kind": record.kind,
               "reference_id": record.reference_id, "payload": document["payload"]}  # fmt: skip
        with self._writing() as connection:
            connection.execute(self._insert(HistoryRow).values(row).on_conflict_do_nothing())

    def history(self, reference_id: str) -> list[HistoryRecord]:
        """Return the lines that refer to a cycle, oldest first."""
        query = select(*columns_of(HistoryRow, HistoryRecord)).where(HistoryRow.reference_id == reference_id)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(HistoryRow.ts, HistoryRow.history_id)).all()
        return [dto_of(HistoryRecord, row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        with self._reading() as connection:
            return {
                table.name: connection.scalar(select(func.count()).select_from(table)) or 0
                for table in Base.metadata.sorted_tables
            }


def _halts() -> Select[Any]:
    return select(*columns_of(HaltRow, Halt))


@cache
def opened(url: str) -> Store:
    """Return this process's store at `url`, migrated."""
    store = Store(url)
    store.migrate()
    return store
