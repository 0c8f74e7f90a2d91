"""Reasons, coalesced: `watch` adds them once, a cycle claims all of its symbol's in one statement."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update

from tasks.adapters.store import CycleRow, EventRow, Repository, dto_of, row_of
from tasks.core.types import CycleStatus, Reason

CLAIM_EXPIRES = timedelta(minutes=4)  # less than a bar: the next run may take over from one that died


class EventRepository(Repository):
    """Events by (strategy, fingerprint)."""

    def add(self, strategy: str, reasons: Sequence[Reason]) -> int:
        """Add what is new by fingerprint; return how many were."""
        if not reasons:
            return 0
        rows = [row_of(EventRow, reason, strategy=strategy) for reason in reasons]
        rows.sort(key=lambda row: row["fingerprint"])  # one order for all writers, or two could deadlock
        with self.database.writing() as connection:
            return len(connection.execute(self.insert(EventRow).returning(EventRow.event_id), rows).all())

    def claim(
        self, strategy: str, symbol: str, cycle_id: str, as_of: datetime, oldest: datetime, at: datetime
    ) -> list[Reason]:
        """Claim for a cycle every event of oldest < event <= as_of that no other cycle has; no two ever get one.

        Asking again for the same cycle returns its own. What a cycle claimed that never finished is free again after
        4 minutes; `at` is the cycle's own time, on the clock the events are on. The inner query locks what it picks:
        on PostgreSQL a claimer that waited would otherwise judge rows as they were before the other one had them. It
        locks in the order of the key, so that no two deadlock.
        """
        free = or_(EventRow.cycle_id.is_(None), EventRow.cycle_id == cycle_id, _abandoned(at))
        mine = select(EventRow.event_id).where(_window(strategy, symbol, as_of, oldest), free)
        claim = update(EventRow).where(EventRow.event_id.in_(mine.order_by(EventRow.event_id).with_for_update()))
        rows = self.rows(claim.values(cycle_id=cycle_id, claimed_at=at).returning(EventRow))
        return [dto_of(Reason, row) for row in sorted(rows, key=lambda row: (row.as_of, row.event_id))]

    def claimable(self, strategy: str, symbol: str, as_of: datetime, oldest: datetime) -> int:
        """Return how many reasons a cycle at `as_of` could claim; context is never a reason alone, so not counted."""
        free = or_(EventRow.cycle_id.is_(None), _abandoned(as_of))
        here = (_window(strategy, symbol, as_of, oldest), EventRow.context.is_(False), free)
        return int(self.value(select(func.count()).select_from(EventRow).where(*here)))


def _window(strategy: str, symbol: str, as_of: datetime, oldest: datetime) -> ColumnElement[bool]:
    return and_(
        EventRow.strategy == strategy, EventRow.symbol == symbol, EventRow.as_of > oldest, EventRow.as_of <= as_of
    )


def _abandoned(at: datetime) -> ColumnElement[bool]:
    finished = exists().where(CycleRow.cycle_id == EventRow.cycle_id, CycleRow.status != CycleStatus.STARTED)
    return and_(EventRow.claimed_at < at - CLAIM_EXPIRES, ~finished)
