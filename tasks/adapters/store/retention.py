"""What is deleted once it is old, in short transactions: bulk that explains no decision, or says it a second time.

Cycles in which nothing was asked, reasons, kept replies and settled budgets. Never deleted: every cycle that decided,
failed or was missed, with its decision, verdict, intents, orders and fills; positions, outcomes, equity, halts,
promotions, shadows; and candles, which `replay` and backtests read and `ingest` may have fetched on purpose. SQLite
keeps the room for new rows; its file does not shrink.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute

from tasks.adapters.store import BudgetRow, CycleRow, DecisionRow, EventRow, ReplyRow, Repository, ShadowRow
from tasks.core.types import CycleStatus

BATCH = 1000
BATCHES = 200  # of one table in one run: the rest goes next time


class Retention(Repository):
    """Deletes what is old."""

    def prune(self, strategy: str, before: datetime) -> dict[str, int]:
        """Delete bulk from before then; returns how many rows by table."""
        asked = exists().where(DecisionRow.cycle_id == CycleRow.cycle_id) | exists().where(
            ShadowRow.cycle_id == CycleRow.cycle_id
        )
        quiet = (CycleRow.strategy == strategy, CycleRow.as_of < before, CycleRow.status == CycleStatus.QUIET, ~asked)
        old = [
            (CycleRow.cycle_id, quiet),
            (EventRow.event_id, (EventRow.strategy == strategy, EventRow.as_of < before)),
            (ReplyRow.content_hash, (ReplyRow.created_at < before,)),
            (BudgetRow.budget_id, (BudgetRow.at < before,)),
        ]
        return {key.class_.__tablename__: self._prune(key, *where) for key, where in old}

    def _prune(self, key: InstrumentedAttribute[Any], *old: ColumnElement[bool]) -> int:
        """Delete in batches, each a transaction of its own, so that no writer waits for long."""
        deleted = 0
        for _ in range(BATCHES):
            with self.database.writing() as connection:
                keys = connection.scalars(select(key).where(*old).limit(BATCH)).all()
                if not keys:
                    break
                connection.execute(delete(key.class_).where(key.in_(keys)))
                deleted += len(keys)
        return deleted
