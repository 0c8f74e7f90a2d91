"""What was told to people, so that one thing is told once; and what the alarms look at."""

from datetime import datetime, timedelta

from sqlalchemy import case, func, select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import AlertRow, Cycle, DecisionRow
from tasks.core.types.alert import Alert
from tasks.core.types.record import CycleStatus

QUIET = timedelta(hours=1)  # what was not seen for so long and comes back is told again


class AlertStore(Database):
    """Alerts by fingerprint."""

    def note_alert(self, alert: Alert, at: datetime) -> bool:
        """Take note that this is so now; says whether to tell it. Of those who race, one is told to."""
        row = {"fingerprint": alert.fingerprint, "kind": alert.kind.value, "text": alert.text, "raised_at": at,
               "seen_at": at, "times": 1}  # fmt: skip
        new = self._insert(AlertRow).values(row).on_conflict_do_nothing().returning(AlertRow.fingerprint)
        here = update(AlertRow).where(AlertRow.fingerprint == alert.fingerprint)
        again = here.where(AlertRow.seen_at < at - QUIET).values(row).returning(AlertRow.fingerprint)
        with self._writing() as connection:
            if connection.scalar(new) or connection.scalar(again):
                return True
            later = case((AlertRow.seen_at < at, at), else_=AlertRow.seen_at)
            connection.execute(here.values(seen_at=later, times=AlertRow.times + 1))
        return False

    def alerts(self, since: datetime) -> list[tuple[datetime, str, str]]:
        """Return what was seen at `since` or later: since when, what kind, what text; oldest first."""
        query = select(AlertRow.raised_at, AlertRow.kind, AlertRow.text).where(AlertRow.seen_at >= since)
        with self._reading() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(AlertRow.raised_at))]

    def rungs_since(self, strategy: str, since: datetime) -> dict[str, int]:
        """Return how many decisions about closes at `since` or later came from each rung."""
        query = select(DecisionRow.rung, func.count().label("number")).join(
            Cycle, Cycle.cycle_id == DecisionRow.cycle_id
        )
        query = query.where(Cycle.strategy == strategy, Cycle.as_of >= since).group_by(DecisionRow.rung)
        with self._reading() as connection:
            return {row.rung: row.number for row in connection.execute(query)}

    def missed_since(self, strategy: str, since: datetime) -> list[datetime]:
        """Return the closes at `since` or later that were missed, for whatever symbol, oldest first."""
        query = select(Cycle.as_of).where(Cycle.strategy == strategy, Cycle.as_of >= since)
        with self._reading() as connection:
            return sorted(connection.scalars(query.where(Cycle.status == CycleStatus.MISSED).distinct()))
