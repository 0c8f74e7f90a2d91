"""Positions, what became of them, and the account's equity over time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import Cycle, DecisionRow, EquityRow, OutcomeRow, PositionRow
from tasks.adapters.store.types import columns_of, dto_of, row_of
from tasks.core.trading import ledger
from tasks.core.types.portfolio import Position
from tasks.core.types.record import EquityPoint, Outcome


class PositionStore(Database):
    """Positions, outcomes, equity."""

    def save_position(self, position: Position) -> None:
        """Keep a position's newest state; of one that is closed with what became of it: memory knows it at once."""
        with self._writing() as connection:
            connection.execute(self._upsert(PositionRow, row_of(position), ["position_id"]))
            if position.closed_at is not None and position.exit_price is not None:
                self._save_outcome(connection, ledger.outcome(position))

    def position(self, position_id: str) -> Position | None:
        """Return one position."""
        return next(iter(self._positions(_positions().where(PositionRow.position_id == position_id))), None)

    def open_positions(self, strategy: str) -> list[Position]:
        """Return the open positions, oldest first."""
        query = _positions().where(PositionRow.strategy == strategy, PositionRow.closed_at.is_(None))
        return self._positions(query.order_by(PositionRow.opened_at))

    def closed_positions(
        self, strategy: str, since: datetime | None = None, limit: int | None = 100, symbol: str | None = None
    ) -> list[Position]:
        """Return positions closed at `since` or later, newest first; limit None: all of them."""
        query = _positions().where(PositionRow.strategy == strategy, PositionRow.closed_at.is_not(None))
        if symbol is not None:
            query = query.where(PositionRow.symbol == symbol)
        if since is not None:
            query = query.where(PositionRow.closed_at >= since)
        return self._positions(query.order_by(PositionRow.closed_at.desc()).limit(limit))

    def unsettled_positions(self, strategy: str) -> list[Position]:
        """Return closed positions without an outcome, oldest first: those of before outcomes came with them."""
        query = (
            _positions()
            .outerjoin(OutcomeRow, OutcomeRow.position_id == PositionRow.position_id)
            .where(PositionRow.strategy == strategy, PositionRow.closed_at.is_not(None))
            .where(OutcomeRow.position_id.is_(None))
        )
        return self._positions(query.order_by(PositionRow.closed_at))

    def save_outcome(self, outcome: Outcome) -> None:
        """Keep what became of a position, which must be known; a changed outcome is to be told again."""
        with self._writing() as connection:
            self._save_outcome(connection, outcome)

    def _save_outcome(self, connection: Connection, outcome: Outcome) -> None:
        known = select(*columns_of(OutcomeRow, Outcome)).where(OutcomeRow.position_id == outcome.position_id)
        row = connection.execute(known).first()
        if row is None or dto_of(Outcome, row) != outcome:
            values = {**row_of(outcome), "tracked": False, "settled_at": None}
            connection.execute(self._upsert(OutcomeRow, values, ["position_id"]))

    def unsettled_outcomes(self, strategy: str) -> list[Outcome]:
        """Return the outcomes that `settle` has not handed on, oldest first."""
        query = _outcomes().join(PositionRow, PositionRow.position_id == OutcomeRow.position_id)
        query = query.where(PositionRow.strategy == strategy, OutcomeRow.settled_at.is_(None))
        return self._outcomes(query.order_by(OutcomeRow.closed_at))

    def mark_outcomes_settled(self, outcomes: Sequence[Outcome], at: datetime) -> None:
        """Note that `settle` has handed these on."""
        mine = OutcomeRow.position_id.in_([outcome.position_id for outcome in outcomes])
        with self._writing() as connection:
            connection.execute(update(OutcomeRow).where(mine).values(settled_at=at))

    def outcomes(
        self,
        strategy: str,
        symbol: str | None = None,
        until: datetime | None = None,
        limit: int | None = 20,
        decider: str | None = None,
        since: datetime | None = None,
    ) -> list[Outcome]:
        """Return outcomes of positions with since <= closed_at <= until, newest first; limit None: all of them."""
        query = _outcomes().join(PositionRow, PositionRow.position_id == OutcomeRow.position_id)
        query = query.where(PositionRow.strategy == strategy)
        if decider is not None:
            query = query.join(Cycle, Cycle.cycle_id == OutcomeRow.cycle_id).where(Cycle.decider == decider)
        if symbol is not None:
            query = query.where(OutcomeRow.symbol == symbol)
        if until is not None:
            query = query.where(OutcomeRow.closed_at <= until)
        if since is not None:
            query = query.where(OutcomeRow.closed_at >= since)
        return self._outcomes(query.order_by(OutcomeRow.closed_at.desc()).limit(limit))

    def untracked_outcomes(self, limit: int) -> list[Outcome]:
        """Return the oldest outcomes that MLflow does not have, of decisions that it has."""
        query = _outcomes().join(DecisionRow, DecisionRow.cycle_id == OutcomeRow.cycle_id)
        query = query.where(OutcomeRow.tracked.is_(False), DecisionRow.trace_id.is_not(None))
        return self._outcomes(query.order_by(OutcomeRow.closed_at).limit(limit))

    def mark_outcome_tracked(self, position_id: str) -> None:
        """Note that MLflow has this outcome."""
        with self._writing() as connection:
            connection.execute(update(OutcomeRow).where(OutcomeRow.position_id == position_id).values(tracked=True))

    def save_equity(self, point: EquityPoint) -> None:
        """Keep the equity at one moment; the same moment again replaces it."""
        with self._writing() as connection:
            connection.execute(self._upsert(EquityRow, row_of(point), ["strategy", "at"]))

    def last_equity(self, strategy: str) -> EquityPoint | None:
        """Return the newest point."""
        return next(iter(self._equity(_equity(strategy).order_by(EquityRow.at.desc()).limit(1))), None)

    def equity_since(self, strategy: str, since: datetime) -> list[EquityPoint]:
        """Return the points at `since` or later, ascending."""
        return self._equity(_equity(strategy).where(EquityRow.at >= since).order_by(EquityRow.at))

    def first_equity_of_day(self, strategy: str, at: datetime) -> EquityPoint | None:
        """Return the first point of the UTC day of `at`, not later than `at`."""
        midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        query = _equity(strategy).where(EquityRow.at.between(midnight, at))
        return next(iter(self._equity(query.order_by(EquityRow.at).limit(1))), None)

    def _positions(self, query: Select[Any]) -> list[Position]:
        with self._reading() as connection:
            return [dto_of(Position, row) for row in connection.execute(query)]

    def _outcomes(self, query: Select[Any]) -> list[Outcome]:
        with self._reading() as connection:
            return [dto_of(Outcome, row) for row in connection.execute(query)]

    def _equity(self, query: Select[Any]) -> list[EquityPoint]:
        with self._reading() as connection:
            return [dto_of(EquityPoint, row) for row in connection.execute(query)]


def _positions() -> Select[Any]:
    return select(*columns_of(PositionRow, Position))


def _outcomes() -> Select[Any]:
    return select(*columns_of(OutcomeRow, Outcome))


def _equity(strategy: str) -> Select[Any]:
    return select(*columns_of(EquityRow, EquityPoint)).where(EquityRow.strategy == strategy)
