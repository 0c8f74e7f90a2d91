"""Reasons, coalesced: `watch` adds them once, a cycle claims all of its symbol's in one statement."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import Cycle, Event
from tasks.adapters.store.types import columns_of, dto_of, row_of
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleStatus

CLAIM_EXPIRES = timedelta(minutes=4)  # less than a bar: the next run may take over from one that died


class EventStore(Database):
    """Events by (strategy, fingerprint)."""

    def add_reasons(self, strategy: str, reasons: Sequence[Reason], at: datetime) -> int:
        """Add what is new by fingerprint; return how many were."""
        if not reasons:
            return 0
        rows = [{**row_of(reason), "strategy": strategy, "recorded_at": at} for reason in reasons]
        rows.sort(key=lambda row: row["fingerprint"])  # one order for all writers, or two could deadlock
        insert = self._insert(Event).on_conflict_do_nothing().returning(Event.event_id)
        with self._writing() as connection:
            return len(connection.execute(insert, rows).all())

    def claim_reasons(
        self, strategy: str, symbol: str, cycle_id: str, as_of: datetime, oldest: datetime, at: datetime
    ) -> list[Reason]:
        """Claim for a cycle every event of oldest < event <= as_of that no other cycle has; no two ever get one.

        Asking again for the same cycle returns its own. What a cycle claimed that never finished is free again after
        4 minutes; `at` is the cycle's own time, on the clock the events are on. The inner query locks what it picks:
        on PostgreSQL a claimer that waited would otherwise judge rows as they were before the other one had them. It
        locks in the order of the key, so that no two deadlock.
        """
        free = or_(Event.cycle_id.is_(None), Event.cycle_id == cycle_id, _abandoned(at))
        mine = select(Event.event_id).where(_window(strategy, symbol, as_of, oldest), free)
        claim = (
            update(Event)
            .where(Event.event_id.in_(mine.order_by(Event.event_id).with_for_update()))
            .values(cycle_id=cycle_id, claimed_at=at)
            .returning(*columns_of(Event, Reason), Event.event_id)
        )
        with self._writing() as connection:
            rows = sorted(connection.execute(claim).all(), key=lambda row: (row.as_of, row.event_id))
        return [dto_of(Reason, row) for row in rows]

    def claimable(self, strategy: str, symbol: str, as_of: datetime, oldest: datetime) -> int:
        """Return how many reasons a cycle at `as_of` could claim; context is never a reason alone, so not counted."""
        free = or_(Event.cycle_id.is_(None), _abandoned(as_of))
        query = select(func.count()).select_from(Event)
        query = query.where(_window(strategy, symbol, as_of, oldest), Event.context.is_(False), free)
        with self._reading() as connection:
            return connection.scalar(query) or 0


def _window(strategy: str, symbol: str, as_of: datetime, oldest: datetime) -> ColumnElement[bool]:
    return and_(Event.strategy == strategy, Event.symbol == symbol, Event.as_of > oldest, Event.as_of <= as_of)


def _abandoned(at: datetime) -> ColumnElement[bool]:
    finished = exists().where(Cycle.cycle_id == Event.cycle_id, Cycle.status != CycleStatus.STARTED)
    return and_(Event.claimed_at < at - CLAIM_EXPIRES, ~finished)
