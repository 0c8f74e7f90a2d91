"""Positions of ours, open and closed; what became of them, once closed; and the account's equity over time."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Select, select, update

from tasks.adapters.store import (
    BEGINNING,
    END,
    CycleRow,
    DecisionRow,
    EquityRow,
    OutcomeRow,
    PositionRow,
    Repository,
    dto_of,
    known,
    row_of,
)
from tasks.core.trading import ledger
from tasks.core.types import EquityPoint, Outcome, Position, exact_sum


class PositionRepository(Repository):
    """Positions by id."""

    def save(self, position: Position) -> None:
        """Keep a position's newest state; of one that is closed with what became of it: memory knows it at once."""
        with self.database.writing() as connection:
            connection.execute(self.upsert(PositionRow, row_of(PositionRow, position)))
            if position.closed_at is not None and position.exit_price is not None:
                OutcomeRepository(self.database).save_on(connection, ledger.outcome(position))

    def get(self, position_id: str) -> Position | None:
        """Return one position."""
        return self.first(Position, select(PositionRow).filter_by(position_id=position_id))

    def open(self, strategy: str, symbol: str | None = None) -> list[Position]:
        """Return the open positions, oldest first."""
        query = select(PositionRow).filter_by(strategy=strategy, closed_at=None, **known(symbol=symbol))
        return self.all(Position, query.order_by(PositionRow.opened_at))

    def closed(
        self, strategy: str, since: datetime = BEGINNING, limit: int | None = 100, symbol: str | None = None
    ) -> list[Position]:
        """Return positions closed at `since` or later, newest first; limit None: all of them."""
        query = _closed(strategy).filter_by(**known(symbol=symbol)).where(PositionRow.closed_at >= since)
        return self.all(Position, query.order_by(PositionRow.closed_at.desc()).limit(limit))

    def strategies(self) -> list[str]:
        """Return every strategy that has an open position."""
        return self.values(select(PositionRow.strategy).filter_by(closed_at=None).distinct())

    def earned(self, strategy: str) -> Decimal:
        """Return what the strategy's positions have ever realized, less their fees and funding (quote)."""
        rows = self.rows(select(PositionRow.realized_pnl, PositionRow.fees).filter_by(strategy=strategy))
        return exact_sum(realized - fees for realized, fees in rows)

    def without_outcome(self, strategy: str) -> list[Position]:
        """Return closed positions without an outcome, oldest first: those of before outcomes came with them."""
        query = _closed(strategy).outerjoin(OutcomeRow)
        query = query.where(OutcomeRow.position_id.is_(None))
        return self.all(Position, query.order_by(PositionRow.closed_at))


def _closed(strategy: str) -> Select[Any]:
    return select(PositionRow).where(PositionRow.strategy == strategy, PositionRow.closed_at.is_not(None))


class OutcomeRepository(Repository):
    """Outcomes by position."""

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
            connection.execute(self.upsert(OutcomeRow, values))

    def unsettled(self, strategy: str) -> list[Outcome]:
        """Return the outcomes that `settle` has not handed on, oldest first."""
        query = _of_strategy(strategy).where(OutcomeRow.settled_at.is_(None))
        return self.all(Outcome, query.order_by(OutcomeRow.closed_at))

    def mark_settled(self, outcomes: Sequence[Outcome], at: datetime) -> None:
        """Note that `settle` has handed these on."""
        mine = OutcomeRow.position_id.in_([outcome.position_id for outcome in outcomes])
        self.write(update(OutcomeRow).where(mine).values(settled_at=at))

    def newest(
        self,
        strategy: str,
        symbol: str | None = None,
        until: datetime = END,
        limit: int | None = 20,
        decider: str | None = None,
        since: datetime = BEGINNING,
    ) -> list[Outcome]:
        """Return outcomes of positions with since <= closed_at <= until, newest first; limit None: all of them."""
        query = _of_strategy(strategy).filter_by(**known(symbol=symbol))
        query = query.order_by(OutcomeRow.closed_at.desc()).limit(limit)
        if decider is not None:
            query = query.join(CycleRow, CycleRow.cycle_id == OutcomeRow.cycle_id).filter_by(decider=decider)
        return self.all(Outcome, query.where(OutcomeRow.closed_at.between(since, until)))

    def untracked(self, limit: int) -> list[tuple[str, Outcome]]:
        """Return the oldest outcomes that MLflow does not have, each with its decision's trace."""
        query = select(OutcomeRow, DecisionRow.trace_id).join(DecisionRow, DecisionRow.cycle_id == OutcomeRow.cycle_id)
        query = query.where(OutcomeRow.tracked.is_(False), DecisionRow.trace_id.is_not(None))
        rows = self.rows(query.order_by(OutcomeRow.closed_at).limit(limit))
        return [(row.trace_id, dto_of(Outcome, row)) for row in rows]

    def mark_tracked(self, position_id: str) -> None:
        """Note that MLflow has this outcome."""
        self.write(update(OutcomeRow).filter_by(position_id=position_id).values(tracked=True))


def _of_strategy(strategy: str) -> Select[Any]:
    return select(OutcomeRow).join(PositionRow).filter_by(strategy=strategy)


class EquityRepository(Repository):
    """Points by strategy and time."""

    def save(self, point: EquityPoint) -> None:
        """Keep the equity at one moment; the same moment again replaces it."""
        self.put(EquityRow, row_of(EquityRow, point))

    def last(self, strategy: str, until: datetime = END) -> EquityPoint | None:
        """Return the newest point of those until then."""
        query = _of(strategy).where(EquityRow.at <= until)
        return self.first(EquityPoint, query.order_by(EquityRow.at.desc()).limit(1))

    def since(self, strategy: str, since: datetime, until: datetime = END) -> list[EquityPoint]:
        """Return the points from `since` to `until`, ascending."""
        return self.all(EquityPoint, _of(strategy).where(EquityRow.at.between(since, until)).order_by(EquityRow.at))

    def oldest(self, strategy: str) -> EquityPoint | None:
        """Return the oldest point."""
        return self.first(EquityPoint, _of(strategy).order_by(EquityRow.at).limit(1))

    def strategies(self) -> list[str]:
        """Return every strategy that has a point."""
        return self.values(select(EquityRow.strategy).distinct().order_by(EquityRow.strategy))

    def curve(self, strategy: str, since: datetime, until: datetime) -> list[float]:
        """Return the equity at the points from `since` to `until`, ascending."""
        query = select(EquityRow.equity).filter_by(strategy=strategy).where(EquityRow.at.between(since, until))
        return [float(equity) for equity in self.values(query.order_by(EquityRow.at))]


def _of(strategy: str) -> Select[Any]:
    return select(EquityRow).filter_by(strategy=strategy)
