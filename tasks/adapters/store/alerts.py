"""What was told to people, so that one thing is told once."""

from datetime import datetime, timedelta

from sqlalchemy import case, select, update

from tasks.adapters.store import AlertRow, Repository, row_of
from tasks.core.types import Alert

QUIET = timedelta(hours=1)  # what was not seen for so long and comes back is told again


class AlertRepository(Repository):
    """Alerts by fingerprint."""

    def note(self, alert: Alert, at: datetime) -> bool:
        """Take note that this is so now; says whether to tell it. Of those who race, one is told to."""
        row = row_of(AlertRow, alert, fingerprint=alert.fingerprint, raised_at=at, seen_at=at)
        new = self.insert(AlertRow).values(row).returning(AlertRow.fingerprint)
        here = update(AlertRow).filter_by(fingerprint=alert.fingerprint)
        again = here.where(AlertRow.seen_at < at - QUIET).values(row).returning(AlertRow.fingerprint)
        with self.database.writing() as connection:
            if connection.scalar(new) or connection.scalar(again):
                return True
            later = case((AlertRow.seen_at < at, at), else_=AlertRow.seen_at)
            connection.execute(here.values(seen_at=later))
        return False

    def since(self, since: datetime) -> list[tuple[datetime, str, str]]:
        """Return what was seen at `since` or later: since when, what kind, what text; oldest first."""
        query = select(AlertRow.raised_at, AlertRow.kind, AlertRow.text).where(AlertRow.seen_at >= since)
        return [tuple(row) for row in self.rows(query.order_by(AlertRow.raised_at))]
