"""What became of decisions, once the positions they opened have closed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select, update

from tasks.adapters.store.database import Database, dto_of, known, row_of
from tasks.adapters.store.tables import CycleRow, DecisionRow, OutcomeRow, PositionRow
from tasks.core.types.record import Outcome


@dataclass
class OutcomeRepository:
    """Outcomes by position."""

    database: Database

    def save(self, outcome: Outcome) -> None:
        """Keep what became of a position, which must be known; a changed outcome is to be told again."""
        with self.database.writing() as connection:
            self.save_on(connection, outcome)

    def save_on(self, connection: Connection, outcome: Outcome) -> None:
        """Do what `save` does as part of a transaction."""
        known = select(OutcomeRow).filter_by(position_id=outcome.position_id)
        row = connection.execute(known).first()
        if row is None or dto_of(Outcome, row) != outcome:
            values = row_of(OutcomeRow, outcome, tracked=False, settled_at=None)
            connection.execute(self.database.upsert(OutcomeRow, values))

    def unsettled(self, strategy: str) -> list[Outcome]:
        """Return the outcomes that `settle` has not handed on, oldest first."""
        query = _of_strategy(strategy).where(OutcomeRow.settled_at.is_(None))
        return self.database.all(Outcome, query.order_by(OutcomeRow.closed_at))

    def mark_settled(self, outcomes: Sequence[Outcome], at: datetime) -> None:
        """Note that `settle` has handed these on."""
        mine = OutcomeRow.position_id.in_([outcome.position_id for outcome in outcomes])
        self.database.write(update(OutcomeRow).where(mine).values(settled_at=at))

    def newest(
        self,
        strategy: str,
        symbol: str | None = None,
        until: datetime | None = None,
        limit: int | None = 20,
        decider: str | None = None,
        since: datetime | None = None,
    ) -> list[Outcome]:
        """Return outcomes of positions with since <= closed_at <= until, newest first; limit None: all of them."""
        query = _of_strategy(strategy).filter_by(**known(symbol=symbol))
        query = query.order_by(OutcomeRow.closed_at.desc()).limit(limit)
        if decider is not None:
            query = query.join(CycleRow, CycleRow.cycle_id == OutcomeRow.cycle_id).filter_by(decider=decider)
        if until is not None:
            query = query.where(OutcomeRow.closed_at <= until)
        if since is not None:
            query = query.where(OutcomeRow.closed_at >= since)
        return self.database.all(Outcome, query)

    def untracked(self, limit: int) -> list[Outcome]:
        """Return the oldest outcomes that MLflow does not have, of decisions that it has."""
        query = select(OutcomeRow).join(DecisionRow, DecisionRow.cycle_id == OutcomeRow.cycle_id)
        query = query.where(OutcomeRow.tracked.is_(False), DecisionRow.trace_id.is_not(None))
        return self.database.all(Outcome, query.order_by(OutcomeRow.closed_at).limit(limit))

    def mark_tracked(self, position_id: str) -> None:
        """Note that MLflow has this outcome."""
        self.database.write(update(OutcomeRow).filter_by(position_id=position_id).values(tracked=True))


def _of_strategy(strategy: str) -> Select[Any]:
    return select(OutcomeRow).join(PositionRow).filter_by(strategy=strategy)
