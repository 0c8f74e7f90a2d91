"""What cycles decided: at most one decision each, what it cost, and whether MLflow has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from tasks.adapters.store.database import Database, row_of
from tasks.adapters.store.tables import CycleRow, DecisionRow, ModelCallRow
from tasks.core.types.decision import Answer
from tasks.core.types.record import CycleStatus


@dataclass
class DecisionRepository:
    """Decisions and model calls by cycle."""

    database: Database

    def keep(self, cycle_id: str, decided: Answer, at: datetime) -> Answer:
        """Keep the decision of a cycle and return the one that counts: the first, whoever kept it."""
        with self.database.writing() as connection:
            if self.keep_on(connection, cycle_id, decided, at):
                return decided
        return self.of((cycle_id,))[cycle_id]

    def keep_on(self, connection: Connection, cycle_id: str, decided: Answer, at: datetime) -> bool:
        """Do what `keep` does as part of a transaction; False: there was one before."""
        row = row_of(
            DecisionRow, decided, cycle_id=cycle_id, action=decided.decision.action,
            confidence=decided.decision.confidence, decided=decided.model_dump(mode="json"), decided_at=at,
        )  # fmt: skip
        insert = self.database.insert(DecisionRow).values(row)
        if not connection.scalar(insert.returning(DecisionRow.cycle_id)):
            return False
        calls = [
            row_of(ModelCallRow, call, cycle_id=cycle_id, seq=seq, called_at=at)
            | {f"prompt_{name}": getattr(call.prompt, name, None) for name in ("name", "version", "sha256")}
            for seq, call in enumerate(decided.calls)
        ]
        if calls:
            connection.execute(self.database.insert(ModelCallRow), calls)
        return True

    def of(self, cycle_ids: Sequence[str]) -> dict[str, Answer]:
        """Return the decisions kept of these cycles, by cycle."""
        query = select(DecisionRow.cycle_id, DecisionRow.decided).where(DecisionRow.cycle_id.in_(cycle_ids))
        return {cycle_id: Answer.model_validate(decided) for cycle_id, decided in self.database.rows(query)}

    def between(
        self, strategy: str, since: datetime, until: datetime | None = None
    ) -> list[tuple[CycleStatus, Answer]]:
        """Return what was decided about closes of since <= as_of < until, and how each cycle ended, oldest first."""
        query = select(CycleRow.status, DecisionRow.decided).join(DecisionRow).where(CycleRow.as_of >= since)
        query = query if until is None else query.where(CycleRow.as_of < until)
        rows = self.database.rows(query.where(CycleRow.strategy == strategy).order_by(CycleRow.as_of, CycleRow.symbol))
        return [(CycleStatus(status), Answer.model_validate(decided)) for status, decided in rows]

    def untracked(self, limit: int) -> list[str]:
        """Return the oldest cycles whose decision MLflow does not have."""
        query = select(DecisionRow.cycle_id).filter_by(trace_id=None)
        return self.database.values(query.order_by(DecisionRow.decided_at).limit(limit))

    def mark_tracked(self, cycle_id: str, trace_id: str) -> None:
        """Note that MLflow has this cycle's decision."""
        self.database.write(update(DecisionRow).filter_by(cycle_id=cycle_id).values(trace_id=trace_id))

    def trace_id(self, cycle_id: str) -> str | None:
        """Return the MLflow trace of this cycle's decision."""
        return self.database.value(select(DecisionRow.trace_id).filter_by(cycle_id=cycle_id))  # type: ignore[no-any-return]  # a column of text
