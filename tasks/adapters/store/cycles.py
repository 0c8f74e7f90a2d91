"""Cycles and what they decided: one row per cycle, at most one decision in it, and whether MLflow has it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, and_, func, or_, select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import Cycle, DecisionRow, ModelCallRow, StrategyRow, ToolCallRow, VerdictRow
from tasks.adapters.store.types import document_of, row_of, storable
from tasks.core.errors import InputError, StoreError
from tasks.core.types.base import Dto, Exact
from tasks.core.types.decision import Answer, ModelCall, ToolCall
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Verdict


class BeginResult(StrEnum):
    """What begin_cycle found."""

    STARTED = "started"  # new: it is ours
    RESUMED = "resumed"  # begun before and not finished: carry on, reconcile what was persisted first
    DONE = "done"  # finished before: nothing to do


class Decided(Dto):
    """What was decided in some time, summed up."""

    by_action: dict[str, int]
    model_calls: int
    cost_usd: Exact


class CycleStore(Database):
    """Cycles, decisions, model calls, tool calls, verdicts."""

    def keep_strategy(self, strategy: Strategy, at: datetime) -> None:
        """Keep a strategy under its hash; the same one again is a no-op."""
        row = {"sha256": strategy.sha256, "name": strategy.name, "document": document_of(strategy), "kept_at": at}
        with self._writing() as connection:
            connection.execute(self._insert(StrategyRow).values(row).on_conflict_do_nothing())

    def strategy(self, sha256: str) -> Strategy:
        """Return the strategy that is kept under a hash; raises InputError where none is."""
        with self._reading() as connection:
            document = connection.scalar(select(StrategyRow.document).where(StrategyRow.sha256 == sha256))
        if document is None:
            raise InputError(f"{sha256[:12]}... is not in this database; give the one that the record was made with")
        return Strategy.model_validate(document)

    def begin_cycle(self, record: CycleRecord, at: datetime, *, asked: bool = False) -> BeginResult:
        """Insert the cycle unless it exists, and say which it was.

        asked: somebody wants a decision, so one that ended quiet, without a question, is taken up again.
        """
        insert = self._insert(Cycle).values(_cycle_row(record, at)).on_conflict_do_nothing()
        with self._writing() as connection:
            if connection.scalar(insert.returning(Cycle.cycle_id)):
                return BeginResult.STARTED
            one = Cycle.cycle_id == record.cycle_id
            if asked:
                quiet = update(Cycle).where(one, Cycle.status == CycleStatus.QUIET)
                connection.execute(quiet.values(_cycle_row(record, at)))
            status = connection.scalar(select(Cycle.status).where(one))
        if status is None:
            raise StoreError(
                f"cycle {record.cycle_id}: {record.strategy} {record.symbol} {record.as_of.isoformat()} "
                "already has another cycle_id; derive it from these three"
            )
        return BeginResult.RESUMED if status == CycleStatus.STARTED else BeginResult.DONE

    def save_cycle(self, record: CycleRecord, at: datetime, *, first: bool = False) -> None:
        """Write the record with its decision, calls and verdict, all or nothing; again is a no-op.

        A finished cycle never becomes unfinished: a late process that still thinks so writes nothing. A decision
        that was kept before stays as it is. first: one that another run has finished stays as it is.
        """
        with self._writing() as connection:
            self._save(connection, record, at, first)

    def save_cycles(self, records: Sequence[CycleRecord], at: datetime) -> None:
        """Do what `save_cycle` does for many, all or nothing."""
        with self._writing() as connection:
            for record in sorted(records, key=lambda record: record.cycle_id):  # one order, or two could deadlock
                self._save(connection, record, at)

    def _save(self, connection: Connection, record: CycleRecord, at: datetime, first: bool = False) -> None:
        unfinished = Cycle.status == CycleStatus.STARTED
        statement = self._upsert(
            Cycle,
            _cycle_row(record, at),
            ["cycle_id"],
            keep=["started_at"],
            only=lambda new: unfinished if first else or_(unfinished, new.status != CycleStatus.STARTED),
        )
        if not connection.scalar(statement.returning(Cycle.cycle_id)):
            return
        if record.decided is not None:
            self._keep_decision(connection, record.cycle_id, record.decided, at)
        if record.verdict is not None:
            self._write_verdict(connection, record.cycle_id, record.verdict, at)

    def keep_decision(self, cycle_id: str, decided: Answer, at: datetime) -> Answer:
        """Keep the decision of a cycle and return the one that counts: the first, whoever kept it."""
        with self._writing() as connection:
            if self._keep_decision(connection, cycle_id, decided, at):
                return decided
            first = connection.scalar(select(DecisionRow.decided).where(DecisionRow.cycle_id == cycle_id))
        return Answer.model_validate(first)

    def decisions(self, cycle_ids: Sequence[str]) -> dict[str, Answer]:
        """Return the decisions kept of these cycles, by cycle."""
        query = select(DecisionRow.cycle_id, DecisionRow.decided).where(DecisionRow.cycle_id.in_(cycle_ids))
        with self._reading() as connection:
            return {row.cycle_id: Answer.model_validate(row.decided) for row in connection.execute(query)}

    def cycle(self, cycle_id: str) -> CycleRecord | None:
        """Return the record of one cycle."""
        return next(iter(self._records(select(Cycle.record).where(Cycle.cycle_id == cycle_id))), None)

    def cycles(
        self, strategy: str | None = None, symbol: str | None = None, since: datetime | None = None,
        limit: int | None = 50, until: datetime | None = None,
    ) -> list[CycleRecord]:  # fmt: skip
        """Return cycles about since <= as_of <= until, newest first; limit None: all of them."""
        query = select(Cycle.record).order_by(Cycle.as_of.desc(), Cycle.started_at.desc()).limit(limit)
        if strategy is not None:
            query = query.where(Cycle.strategy == strategy)
        if symbol is not None:
            query = query.where(Cycle.symbol == symbol)
        if since is not None:
            query = query.where(Cycle.as_of >= since)
        if until is not None:
            query = query.where(Cycle.as_of <= until)
        return self._records(query)

    def cycles_oldest_first(self, strategy: str | None = None, batch: int = 500) -> Iterator[CycleRecord]:
        """Yield every finished cycle of a strategy, or of all; `batch` of them are in memory at a time."""
        query = select(Cycle.record).where(Cycle.status != CycleStatus.STARTED)
        query = query if strategy is None else query.where(Cycle.strategy == strategy)
        query = query.order_by(Cycle.as_of, Cycle.cycle_id).limit(batch)
        page = self._records(query)
        while page:
            yield from page
            at, last = page[-1].as_of, page[-1].cycle_id
            later = or_(Cycle.as_of > at, and_(Cycle.as_of == at, Cycle.cycle_id > last))
            page = self._records(query.where(later))

    def cycles_span(self, strategy: str) -> tuple[datetime, datetime] | None:
        """Return the first and the last close a cycle of the strategy was about."""
        query = select(func.min(Cycle.as_of), func.max(Cycle.as_of)).where(Cycle.strategy == strategy)
        with self._reading() as connection:
            first, last = connection.execute(query).one()
        return None if first is None else (first, last)

    def closes(self, strategy: str, since: datetime, until: datetime) -> dict[str, set[datetime]]:
        """Return by symbol which closes of since <= as_of < until have a cycle, however it ended."""
        query = select(Cycle.symbol, Cycle.as_of).where(Cycle.strategy == strategy)
        found: dict[str, set[datetime]] = {}
        with self._reading() as connection:
            for row in connection.execute(query.where(Cycle.as_of >= since, Cycle.as_of < until)):
                found.setdefault(row.symbol, set()).add(row.as_of)
        return found

    def unfinished_cycles(self, strategy: str) -> list[CycleRecord]:
        """Return cycles that run now or whose process died, oldest first."""
        unfinished = select(Cycle.record).where(Cycle.strategy == strategy, Cycle.status == CycleStatus.STARTED)
        return self._records(unfinished.order_by(Cycle.as_of))

    def last_cycle(self, strategy: str) -> CycleRecord | None:
        """Return the newest cycle."""
        return next(iter(self.cycles(strategy, limit=1)), None)

    def cycles_by_status(
        self, strategy: str, since: datetime | None = None, until: datetime | None = None
    ) -> dict[str, int]:
        """Return how many cycles about since <= as_of < until ended in each status."""
        query = select(Cycle.status, func.count().label("number")).where(Cycle.strategy == strategy)
        query = query if since is None else query.where(Cycle.as_of >= since)
        query = (query if until is None else query.where(Cycle.as_of < until)).group_by(Cycle.status)
        with self._reading() as connection:
            return {row.status: row.number for row in connection.execute(query)}

    def decided_between(self, strategy: str, since: datetime, until: datetime) -> list[tuple[CycleStatus, Answer]]:
        """Return what was decided about closes of since <= as_of < until, and how each cycle ended, oldest first."""
        query = select(Cycle.status, DecisionRow.decided).join(DecisionRow, DecisionRow.cycle_id == Cycle.cycle_id)
        query = query.where(Cycle.strategy == strategy, Cycle.as_of >= since, Cycle.as_of < until)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(Cycle.as_of, Cycle.symbol)).all()
        return [(CycleStatus(row.status), Answer.model_validate(row.decided)) for row in rows]

    def decided_since(self, strategy: str, since: datetime) -> Decided:
        """Sum up what was decided about closes of since <= as_of."""
        about = (Cycle.strategy == strategy, Cycle.as_of >= since)
        decided = select(DecisionRow.action, DecisionRow.cost_usd).join(Cycle, Cycle.cycle_id == DecisionRow.cycle_id)
        calls = select(func.count()).select_from(ModelCallRow).join(Cycle, Cycle.cycle_id == ModelCallRow.cycle_id)
        with self._reading() as connection:  # costs are added here: SQLite would add them as floats
            rows = connection.execute(decided.where(*about)).all()
            asked = connection.scalar(calls.where(*about)) or 0
        cost = sum((row.cost_usd for row in rows), Decimal(0))
        return Decided(by_action=Counter(row.action for row in rows), model_calls=asked, cost_usd=cost)

    def untracked(self, limit: int) -> list[str]:
        """Return the oldest cycles whose decision MLflow does not have."""
        query = select(DecisionRow.cycle_id).where(DecisionRow.trace_id.is_(None))
        with self._reading() as connection:
            return list(connection.scalars(query.order_by(DecisionRow.decided_at).limit(limit)))

    def mark_tracked(self, cycle_id: str, trace_id: str) -> None:
        """Note that MLflow has this cycle's decision."""
        with self._writing() as connection:
            connection.execute(update(DecisionRow).where(DecisionRow.cycle_id == cycle_id).values(trace_id=trace_id))

    def trace_id(self, cycle_id: str) -> str | None:
        """Return the MLflow trace of this cycle's decision."""
        with self._reading() as connection:
            return connection.scalar(select(DecisionRow.trace_id).where(DecisionRow.cycle_id == cycle_id))

    def tool_calls(self, cycle_id: str) -> list[ToolCall]:
        """Return what the model asked the tools in this cycle and was answered, in order."""
        with self._reading() as connection:
            found = connection.scalar(select(DecisionRow.decided).where(DecisionRow.cycle_id == cycle_id))
        return list(Answer.model_validate(found).tool_calls) if found else []

    def _records(self, query: Select[Any]) -> list[CycleRecord]:
        with self._reading() as connection:
            documents = connection.scalars(query).all()
        return [CycleRecord.model_validate(document) for document in documents]

    def _keep_decision(self, connection: Connection, cycle_id: str, decided: Answer, at: datetime) -> bool:
        insert = self._insert(DecisionRow).values(_decision_row(cycle_id, decided, at)).on_conflict_do_nothing()
        if not connection.scalar(insert.returning(DecisionRow.cycle_id)):
            return False
        calls = _call_rows(cycle_id, decided.calls, at)
        if calls:
            connection.execute(self._insert(ModelCallRow).on_conflict_do_nothing(), calls)
        key = {"cycle_id": cycle_id, "called_at": at}
        tools = [{**key, "seq": seq, **_tool_row(call)} for seq, call in enumerate(decided.tool_calls)]
        if tools:
            connection.execute(self._insert(ToolCallRow).on_conflict_do_nothing(), tools)
        return True

    def _write_verdict(self, connection: Connection, cycle_id: str, verdict: Verdict, at: datetime) -> None:
        fields = row_of(verdict)
        row = {name: fields[name] for name in VerdictRow.__table__.columns.keys() if name in fields}  # noqa: SIM118  (columns iterate as objects, not names)
        row |= {"cycle_id": cycle_id, "judged_at": at}
        connection.execute(self._upsert(VerdictRow, row, ["cycle_id"], keep=["judged_at"]))


def _cycle_row(record: CycleRecord, at: datetime) -> dict[str, Any]:
    return {
        "cycle_id": record.cycle_id,
        "strategy": record.strategy,
        "symbol": record.symbol,
        "as_of": record.as_of,
        "trigger": record.trigger,
        "decider": record.decider,
        "status": record.status.value,
        "error": storable(record.error),
        "record": document_of(record),
        "started_at": at,
        "updated_at": at,
    }


def _decision_row(cycle_id: str, decided: Answer, at: datetime) -> dict[str, Any]:
    return {
        "cycle_id": cycle_id,
        "symbol": decided.decision.symbol,
        "action": decided.decision.action,
        "confidence": decided.decision.confidence,
        "source": storable(decided.source),
        "rung": decided.rung,
        "model": decided.model,
        "latency_ms": decided.latency_ms,
        "cost_usd": decided.cost_usd,
        "tokens": decided.tokens,
        "decided": document_of(decided),
        "decided_at": at,
    }


def _tool_row(call: ToolCall) -> dict[str, Any]:
    return {name: value for name, value in row_of(call).items() if name in ToolCallRow.__table__.columns}


def _call_rows(cycle_id: str, calls: Sequence[ModelCall], at: datetime) -> list[dict[str, Any]]:
    return [
        {
            "cycle_id": cycle_id,
            "seq": seq,
            "role": call.role,
            "model": call.model,
            "prompt_name": call.prompt.name if call.prompt else None,
            "prompt_version": call.prompt.version if call.prompt else None,
            "prompt_sha256": call.prompt.sha256 if call.prompt else None,
            "error": storable(call.error),
            "latency_ms": call.latency_ms,
            "cost_usd": call.cost_usd,
            "tokens_in": call.tokens_in,
            "tokens_out": call.tokens_out,
            "called_at": at,
        }
        for seq, call in enumerate(calls)
    ]
