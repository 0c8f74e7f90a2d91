"""Positions of ours, open and closed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from tasks.adapters.store.database import Database, known, row_of
from tasks.adapters.store.outcomes import OutcomeRepository
from tasks.adapters.store.tables import OutcomeRow, PositionRow
from tasks.core.trading import ledger
from tasks.core.types.portfolio import Position


@dataclass
class PositionRepository:
    """Positions by id."""

    database: Database
    outcomes: OutcomeRepository

    def save(self, position: Position) -> None:
        """Keep a position's newest state; of one that is closed with what became of it: memory knows it at once."""
        with self.database.writing() as connection:
            connection.execute(self.database.upsert(PositionRow, row_of(PositionRow, position)))
            if position.closed_at is not None and position.exit_price is not None:
                self.outcomes.save_on(connection, ledger.outcome(position))

    def get(self, position_id: str) -> Position | None:
        """Return one position."""
        return self.database.first(Position, select(PositionRow).filter_by(position_id=position_id))

    def open(self, strategy: str) -> list[Position]:
        """Return the open positions, oldest first."""
        query = select(PositionRow).filter_by(strategy=strategy, closed_at=None)
        return self.database.all(Position, query.order_by(PositionRow.opened_at))

    def closed(
        self, strategy: str, since: datetime | None = None, limit: int | None = 100, symbol: str | None = None
    ) -> list[Position]:
        """Return positions closed at `since` or later, newest first; limit None: all of them."""
        query = _closed(strategy).filter_by(**known(symbol=symbol)).order_by(PositionRow.closed_at.desc()).limit(limit)
        if since is not None:
            query = query.where(PositionRow.closed_at >= since)
        return self.database.all(Position, query)

    def without_outcome(self, strategy: str) -> list[Position]:
        """Return closed positions without an outcome, oldest first: those of before outcomes came with them."""
        query = _closed(strategy).outerjoin(OutcomeRow)
        query = query.where(OutcomeRow.position_id.is_(None))
        return self.database.all(Position, query.order_by(PositionRow.closed_at))


def _closed(strategy: str) -> Select[Any]:
    return select(PositionRow).where(PositionRow.strategy == strategy, PositionRow.closed_at.is_not(None))
