"""Leases: one holder of a name at a time, across all processes and machines that share the database."""

from datetime import datetime, timedelta

from sqlalchemy import delete, or_

from tasks.adapters.store_database import Database
from tasks.adapters.store_models import LeaseRow


class LeaseStore(Database):
    """Leases by name; a holder that died loses its lease when the time is up."""

    def acquire_lease(self, name: str, holder: str, at: datetime, lasts: timedelta) -> bool:
        """Take or renew the lease unless somebody else holds it; one statement, so that two never both get it."""
        row = {"name": name, "holder": holder, "expires_at": at + lasts}
        free = or_(LeaseRow.holder == holder, LeaseRow.expires_at <= at)
        statement = self._upsert(LeaseRow, row, ["name"], only=lambda _: free).returning(LeaseRow.name)
        with self._writing() as connection:
            return connection.scalar(statement) is not None

    def release_lease(self, name: str, holder: str) -> None:
        """Give the lease back, if it is still ours."""
        with self._writing() as connection:
            connection.execute(delete(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder))
