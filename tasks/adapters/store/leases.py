"""Leases: one holder of a name at a time, across all processes and machines that share the database.

Each time a lease changes hands its token grows, for ever: who shows an older one has lost it, whatever he believes.
What the time is, the database says where it is a server; machines with wrong clocks then agree all the same.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Interval, and_, case, func, literal, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from tasks import clock
from tasks.adapters.store import LeaseRow, Repository, UtcTime
from tasks.core.types import Lease


class LeaseRepository(Repository):
    """Leases by name; a holder that died loses its lease when the time is up."""

    def acquire(self, name: str, holder: str, lasts: timedelta) -> Lease | None:
        """Take or renew the lease unless somebody else holds it; one statement, so that two never both get it."""
        ends = self._in(lasts)
        renewed = and_(LeaseRow.holder == holder, LeaseRow.expires_at > self._in())
        statement = self.raw_insert(LeaseRow).values(name=name, holder=holder, token=1, expires_at=ends)
        token = case((renewed, LeaseRow.token), else_=LeaseRow.token + 1)
        statement = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": holder, "expires_at": ends, "token": token},
            where=or_(LeaseRow.holder == holder, LeaseRow.expires_at <= self._in()),
        )
        return self.first(Lease, statement.returning(LeaseRow))

    def renew(self, lease: Lease, lasts: timedelta) -> bool:
        """Hold the lease for longer; False: it is lost."""
        return bool(self.rows(self._change(lease, self._in(lasts))))

    def release(self, lease: Lease) -> None:
        """Give the lease back, if it is still ours; its row stays, so that tokens go on growing."""
        self.write(self._change(lease, self._in()))

    def get(self, name: str) -> Lease | None:
        """Return who has or last had the lease, and with which token."""
        return self.first(Lease, select(LeaseRow).filter_by(name=name))

    def lapsed(self, names: Sequence[str]) -> list[str]:
        """Return those of these names that nobody holds now, nor ever did."""
        held = self.rows(select(LeaseRow.name).where(LeaseRow.name.in_(names), LeaseRow.expires_at > self._in()))
        return [name for name in names if (name,) not in {tuple(row) for row in held}]

    def still_held(self, lease: Lease) -> ColumnElement[bool]:
        """Return the condition that `lease` is held at the moment the statement runs that it is part of."""
        mine = (LeaseRow.name == lease.name, LeaseRow.holder == lease.holder, LeaseRow.token == lease.token)
        return select(LeaseRow.name).where(*mine, LeaseRow.expires_at > self._in()).exists()

    def keep_held(self, connection: Connection, lease: Lease) -> bool:
        """Return whether the lease is still held; if so nobody takes it over before this transaction has ended."""
        return connection.scalar(self._change(lease, LeaseRow.expires_at)) is not None

    def _change(self, lease: Lease, expires_at: Any) -> ReturningUpdate[tuple[int]]:
        change = update(LeaseRow).where(LeaseRow.name == lease.name, self.still_held(lease))
        return change.values(expires_at=expires_at).returning(LeaseRow.token)

    def _in(self, time: timedelta = timedelta(0)) -> ColumnElement[datetime]:
        """Return the moment `time` from now, by the server's clock or, for a file, this machine's."""
        if not self.database.is_postgres:
            return literal(clock.now() + time, UtcTime())
        return func.clock_timestamp(type_=UtcTime()).op("+", return_type=UtcTime())(literal(time, Interval()))
