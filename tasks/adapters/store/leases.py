"""Leases: one holder of a name at a time, across all processes and machines that share the database.

Each time a lease changes hands its token grows, for ever: who shows an older one has lost it, whatever he believes.
What the time is, the database says where it is a server; machines with wrong clocks then agree all the same.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Interval, and_, case, func, literal, or_, select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import LeaseRow
from tasks.adapters.store.types import UtcTime, columns_of, dto_of
from tasks.core.types.record import Lease


class LeaseStore(Database):
    """Leases by name; a holder that died loses its lease when the time is up."""

    def acquire_lease(self, name: str, holder: str, lasts: timedelta) -> Lease | None:
        """Take or renew the lease unless somebody else holds it; one statement, so that two never both get it."""
        row = {"name": name, "holder": holder, "token": 1, "expires_at": self._in(lasts)}
        renewed = and_(LeaseRow.holder == holder, LeaseRow.expires_at > self._in())
        statement = self._insert(LeaseRow).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={
                "holder": holder, "expires_at": self._in(lasts),
                "token": case((renewed, LeaseRow.token), else_=LeaseRow.token + 1),
            },
            where=or_(LeaseRow.holder == holder, LeaseRow.expires_at <= self._in()),
        )  # fmt: skip
        with self._writing() as connection:
            taken = connection.execute(statement.returning(*columns_of(LeaseRow, Lease))).first()
        return None if taken is None else dto_of(Lease, taken)

    def renew_lease(self, lease: Lease, lasts: timedelta) -> bool:
        """Hold the lease for longer; False: it is lost."""
        return self._change(lease, self._in(lasts))

    def release_lease(self, lease: Lease) -> None:
        """Give the lease back, if it is still ours; its row stays, so that tokens go on growing."""
        self._change(lease, self._in())

    def lease(self, name: str) -> Lease | None:
        """Return who has or last had the lease, and with which token."""
        query = select(*columns_of(LeaseRow, Lease)).where(LeaseRow.name == name)
        with self._reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else dto_of(Lease, row)

    def still_held(self, lease: Lease) -> ColumnElement[bool]:
        """Return the condition that `lease` is held at the moment the statement runs that it is part of."""
        mine = (LeaseRow.name == lease.name, LeaseRow.holder == lease.holder, LeaseRow.token == lease.token)
        return select(LeaseRow.name).where(*mine, LeaseRow.expires_at > self._in()).exists()

    def _keep_held(self, connection: Connection, lease: Lease) -> bool:
        """Say whether the lease is still held; if so nobody takes it over before this transaction has ended."""
        return self._changed(connection, lease, LeaseRow.expires_at)

    def _change(self, lease: Lease, expires_at: Any) -> bool:
        with self._writing() as connection:
            return self._changed(connection, lease, expires_at)

    def _changed(self, connection: Connection, lease: Lease, expires_at: Any) -> bool:
        change = update(LeaseRow).where(LeaseRow.name == lease.name, self.still_held(lease))
        return connection.scalar(change.values(expires_at=expires_at).returning(LeaseRow.token)) is not None

    def _in(self, time: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Return the moment `time` from now, by the server's clock or, for a file, this machine's."""
        if not self.is_postgres:
            return literal(datetime.now(UTC) + time, UtcTime())
        return func.clock_timestamp(type_=UtcTime()).op("+", return_type=UtcTime())(literal(time, Interval()))
