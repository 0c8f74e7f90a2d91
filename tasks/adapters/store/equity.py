"""The account's equity over time."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, select

from tasks.adapters.store.database import Database, row_of
from tasks.adapters.store.tables import EquityRow
from tasks.core.types.record import EquityPoint


@dataclass
class EquityRepository:
    """Points by strategy and time."""

    database: Database

    def save(self, point: EquityPoint) -> None:
        """Keep the equity at one moment; the same moment again replaces it."""
        self.database.put(EquityRow, row_of(EquityRow, point))

    def last(self, strategy: str) -> EquityPoint | None:
        """Return the newest point."""
        return self.database.first(EquityPoint, _of(strategy).order_by(EquityRow.at.desc()).limit(1))

    def since(self, strategy: str, since: datetime) -> list[EquityPoint]:
        """Return the points at `since` or later, ascending."""
        return self.database.all(EquityPoint, _of(strategy).where(EquityRow.at >= since).order_by(EquityRow.at))

    def first_of_day(self, strategy: str, at: datetime) -> EquityPoint | None:
        """Return the first point of the UTC day of `at`, not later than `at`."""
        midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        query = _of(strategy).where(EquityRow.at.between(midnight, at))
        return self.database.first(EquityPoint, query.order_by(EquityRow.at).limit(1))


def _of(strategy: str) -> Select[Any]:
    return select(EquityRow).filter_by(strategy=strategy)
