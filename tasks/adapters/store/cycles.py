"""Cycles: one row each, written with its decision and verdict, and never unfinished again once it has ended.

At most one decision each, what it cost, and whether MLflow has it; and the strategies that records name by hash.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select, update

from tasks.adapters.store import (
    BEGINNING,
    END,
    CycleRow,
    DecisionRow,
    ModelCallRow,
    Repository,
    StrategyRow,
    VerdictRow,
    dto_of,
    known,
    row_of,
)
from tasks.core.pages.desk import Judged
from tasks.core.pages.numbers import usd
from tasks.core.trading.portfolio import LATELY, REFUSALS, refusal
from tasks.core.types import (
    Answer,
    CycleRecord,
    CycleStatus,
    InputError,
    Json,
    ModelUse,
    Pricing,
    Refusal,
    StoreError,
    Strategy,
    exact_sum,
)

JUDGED = (CycleStatus.HELD, CycleStatus.DENIED, CycleStatus.EXECUTED)


class BeginResult(StrEnum):
    """What `begin` found."""

    STARTED = "started"  # new: it is ours
    RESUMED = "resumed"  # begun before and not finished: carry on, reconcile what was persisted first
    DONE = "done"  # finished before: nothing to do


class CycleRepository(Repository):
    """Cycles by id; at most one of a strategy, symbol and close."""

    def begin(self, record: CycleRecord, at: datetime, *, asked: bool = False) -> BeginResult:
        """Insert the cycle unless it exists, and say which it was.

        asked: somebody wants a decision, so one that ended quiet, without a question, is taken up again.
        """
        insert = self.insert(CycleRow).values(_row(record, at))
        one = CycleRow.cycle_id == record.cycle_id
        with self.database.writing() as connection:
            if connection.scalar(insert.returning(CycleRow.cycle_id)):
                return BeginResult.STARTED
            if asked:
                quiet = update(CycleRow).where(one, CycleRow.status == CycleStatus.QUIET)
                connection.execute(quiet.values(_row(record, at)))
            status = connection.scalar(select(CycleRow.status).where(one))
        if status is None:
            raise StoreError(
                f"cycle {record.cycle_id}: {record.strategy} {record.symbol} {record.as_of.isoformat()} "
                "already has another cycle_id; derive it from these three"
            )
        return BeginResult.RESUMED if status == CycleStatus.STARTED else BeginResult.DONE

    def save(self, record: CycleRecord, at: datetime, *, first: bool = False) -> None:
        """Write the record with its decision, calls and verdict, all or nothing; again is a no-op.

        A finished cycle never becomes unfinished: a late process that still thinks so writes nothing. A decision
        that was kept before stays as it is. first: one that another run has finished stays as it is.
        """
        self.save_all([record], at, first=first)

    def save_all(self, records: Sequence[CycleRecord], at: datetime, *, first: bool = False) -> None:
        """Do what `save` does for many, all or nothing."""
        unfinished = CycleRow.status == CycleStatus.STARTED

        def changeable(new: Any) -> ColumnElement[bool]:
            return unfinished if first else or_(unfinished, new.status != CycleStatus.STARTED)

        with self.database.writing() as connection:
            for record in sorted(records, key=lambda record: record.cycle_id):  # one order, or two could deadlock
                self._keep(connection, record, at, changeable)

    def answer(self, record: CycleRecord, at: datetime) -> bool:
        """Write an answered proposal if it still waits; of those who answer at once, one finds that it does."""
        with self.database.writing() as connection:
            return self._keep(connection, record, at, lambda _: CycleRow.status == CycleStatus.PROPOSED)

    def _keep(self, connection: Connection, record: CycleRecord, at: datetime, changeable: Any) -> bool:
        statement = self.upsert(CycleRow, _row(record, at), keep=["started_at"], only=changeable)
        if not connection.scalar(statement.returning(CycleRow.cycle_id)):
            return False
        if record.decided is not None:
            DecisionRepository(self.database).keep_on(connection, record.cycle_id, record.decided, at)
        if record.verdict is not None:
            row = row_of(VerdictRow, record.verdict, cycle_id=record.cycle_id, judged_at=at)
            connection.execute(self.upsert(VerdictRow, row, keep=["judged_at"]))
        return True

    def get(self, cycle_id: str) -> CycleRecord | None:
        """Return the record of one cycle."""
        return self.first(CycleRecord, select(CycleRow.record).filter_by(cycle_id=cycle_id))

    def newest(self, strategy: str, symbol: str | None = None, limit: int | None = 50) -> list[CycleRecord]:
        """Return the last cycles, newest first; limit None: all of them."""
        query = _records(strategy).filter_by(**known(symbol=symbol))
        query = query.order_by(CycleRow.as_of.desc(), CycleRow.started_at.desc()).limit(limit)
        return self.all(CycleRecord, query)

    def at(self, strategy: str, as_of: datetime) -> list[CycleRecord]:
        """Return the cycles about one close."""
        return self.all(CycleRecord, _records(strategy).filter_by(as_of=as_of).order_by(CycleRow.started_at))

    def last(self, strategy: str, symbol: str | None = None) -> CycleRecord | None:
        """Return the newest cycle."""
        return next(iter(self.newest(strategy, symbol, limit=1)), None)

    def decided_at(self, strategy: str, symbol: str, before: datetime) -> datetime | None:
        """Return the close of the last decision that was judged before this one."""
        query = select(func.max(CycleRow.as_of)).where(CycleRow.strategy == strategy, CycleRow.symbol == symbol)
        at: datetime | None = self.value(query.where(CycleRow.as_of < before, CycleRow.status.in_(JUDGED)))
        return at

    def refusals(self, strategy: str, before: datetime) -> list[Refusal]:
        """Return what the guard refused lately about closes before that one, newest first."""
        query = select(CycleRow.as_of, CycleRow.symbol, DecisionRow.action, VerdictRow.codes)
        query = query.filter_by(strategy=strategy, status=CycleStatus.DENIED).join(DecisionRow).join(VerdictRow)
        query = query.where(CycleRow.as_of >= before - LATELY, CycleRow.as_of < before)
        return [refusal(*row) for row in self.rows(query.order_by(CycleRow.as_of.desc()).limit(REFUSALS))]

    def oldest_first(self, strategy: str | None = None, batch: int = 500) -> Iterator[CycleRecord]:
        """Yield every finished cycle of a strategy, or of all; `batch` of them are in memory at a time."""
        query = select(CycleRow.record).filter_by(**known(strategy=strategy))
        query = query.where(CycleRow.status != CycleStatus.STARTED)
        query = query.order_by(CycleRow.as_of, CycleRow.cycle_id).limit(batch)
        page = self.all(CycleRecord, query)
        while page:
            yield from page
            at, last = page[-1].as_of, page[-1].cycle_id
            later = or_(CycleRow.as_of > at, and_(CycleRow.as_of == at, CycleRow.cycle_id > last))
            page = self.all(CycleRecord, query.where(later))

    def span(self, strategy: str) -> tuple[datetime, datetime] | None:
        """Return the first and the last close a cycle of the strategy was about."""
        query = select(func.min(CycleRow.as_of), func.max(CycleRow.as_of)).filter_by(strategy=strategy)
        [(first, last)] = self.rows(query)
        return None if first is None else (first, last)

    def closes(self, strategy: str, since: datetime, until: datetime) -> dict[str, set[datetime]]:
        """Return by symbol which closes of since <= as_of < until have a cycle, however it ended."""
        query = select(CycleRow.symbol, CycleRow.as_of).filter_by(strategy=strategy)
        found: dict[str, set[datetime]] = {}
        for symbol, as_of in self.rows(query.where(CycleRow.as_of >= since, CycleRow.as_of < until)):
            found.setdefault(symbol, set()).add(as_of)
        return found

    def unfinished(self, strategy: str) -> list[CycleRecord]:
        """Return cycles that run now or whose process died, oldest first."""
        query = _records(strategy).filter_by(status=CycleStatus.STARTED)
        return self.all(CycleRecord, query.order_by(CycleRow.as_of))

    def proposed(self, strategy: str) -> list[CycleRecord]:
        """Return cycles that wait for a person, oldest first."""
        query = _records(strategy).filter_by(status=CycleStatus.PROPOSED)
        return self.all(CycleRecord, query.order_by(CycleRow.as_of))

    def by_status(self, strategy: str, since: datetime = BEGINNING, until: datetime = END) -> dict[str, int]:
        """Return how many cycles about since <= as_of < until ended in each status."""
        query = select(CycleRow.status, func.count()).filter_by(strategy=strategy)
        query = query.where(CycleRow.as_of >= since, CycleRow.as_of < until)
        return dict(map(tuple, self.rows(query.group_by(CycleRow.status))))

    def missed(self, strategy: str, since: datetime) -> list[datetime]:
        """Return the closes at `since` or later that were missed, for whatever symbol, oldest first."""
        missed = select(CycleRow.as_of).filter_by(strategy=strategy, status=CycleStatus.MISSED)
        return sorted(self.values(missed.where(CycleRow.as_of >= since).distinct()))


def _records(strategy: str) -> Select[Any]:
    return select(CycleRow.record).filter_by(strategy=strategy)


def _row(record: CycleRecord, at: datetime) -> Json:
    return row_of(CycleRow, record, record=record.model_dump(mode="json"), started_at=at, updated_at=at)


class DecisionRepository(Repository):
    """Decisions and model calls by cycle."""

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
        insert = self.insert(DecisionRow).values(row)
        if not connection.scalar(insert.returning(DecisionRow.cycle_id)):
            return False
        calls = [
            row_of(ModelCallRow, call, cycle_id=cycle_id, seq=seq, called_at=at)
            | {f"prompt_{name}": getattr(call.prompt, name, None) for name in ("name", "version", "sha256")}
            for seq, call in enumerate(decided.calls)
        ]
        if calls:
            connection.execute(self.insert(ModelCallRow), calls)
        return True

    def of(self, cycle_ids: Sequence[str]) -> dict[str, Answer]:
        """Return the decisions kept of these cycles, by cycle."""
        query = select(DecisionRow.cycle_id, DecisionRow.decided).where(DecisionRow.cycle_id.in_(cycle_ids))
        return {cycle_id: dto_of(Answer, (decided,)) for cycle_id, decided in self.rows(query)}

    def between(self, strategy: str, since: datetime, until: datetime = END) -> list[tuple[CycleStatus, Answer]]:
        """Return what was decided about closes of since <= as_of < until, and how each cycle ended, oldest first."""
        query = select(CycleRow.status, DecisionRow.decided).filter_by(strategy=strategy).join(DecisionRow)
        query = query.where(CycleRow.as_of >= since, CycleRow.as_of < until)
        rows = self.rows(query.order_by(CycleRow.as_of, CycleRow.symbol))
        return [(CycleStatus(status), dto_of(Answer, (decided,))) for status, decided in rows]

    def model_use(self, since: datetime, until: datetime = END, strategy: str | None = None) -> list[ModelUse]:
        """Return what models were asked at since <= time < until, and cost, of a strategy or of all; the one truth.

        Calls that the budget refused were not made.
        """
        query = select(ModelCallRow).join(CycleRow).filter_by(**known(strategy=strategy))
        made = (ModelCallRow.pricing != "shared", ModelCallRow.error.not_like("budget %"))
        rows = self.rows(query.where(ModelCallRow.called_at >= since, ModelCallRow.called_at < until, *made))
        uses = defaultdict[tuple[str, Pricing], list[Any]](list)
        for row in rows:
            uses[row.model, row.pricing].append(row)
        return [
            ModelUse(
                model=model, pricing=pricing, calls=len(calls), tokens_in=sum(call.tokens_in for call in calls),
                tokens_out=sum(call.tokens_out for call in calls), cost_usd=exact_sum(call.cost_usd for call in calls),
            )
            for (model, pricing), calls in sorted(uses.items())
        ]  # fmt: skip

    def judged(self, strategy: str, since: datetime, artifacts: str) -> list[Judged]:
        """Return the decisions about closes at `since` or later, newest first; artifacts: where their pages are."""
        columns = (CycleRow.as_of, CycleRow.symbol, CycleRow.status, DecisionRow.decided, DecisionRow.page_id)
        query = select(*columns, VerdictRow.codes).filter_by(strategy=strategy).join(DecisionRow).outerjoin(VerdictRow)
        found = []
        for row in self.rows(query.where(CycleRow.as_of >= since).order_by(CycleRow.as_of.desc(), CycleRow.symbol)):
            answer = dto_of(Answer, (row.decided,))
            decision, link = answer.decision, f"{artifacts}/{row.page_id}" if row.page_id else ""
            prompt = next((f"{call.prompt.name}@{call.prompt.version}" for call in answer.calls if call.prompt), "")
            found.append(Judged(
                row.as_of, row.symbol, decision.action, decision.confidence, answer.source, CycleStatus(row.status),
                tuple(row.codes or ()), decision.comment, link, prompt, answer.rung, usd(answer.calls),
            ))  # fmt: skip
        return found

    def prompts(self, cycle_ids: Sequence[str]) -> dict[str, str]:
        """Return the prompt version that was asked first in each cycle that asked any, by cycle."""
        names = (ModelCallRow.cycle_id, ModelCallRow.prompt_name, ModelCallRow.prompt_version)
        query = select(*names).where(ModelCallRow.cycle_id.in_(cycle_ids), ModelCallRow.prompt_name.is_not(None))
        rows = self.rows(query.order_by(ModelCallRow.cycle_id, ModelCallRow.seq.desc()))
        return {cycle_id: f"{name}@{version}" for cycle_id, name, version in rows}

    def untracked(self, limit: int) -> list[CycleRecord]:
        """Return the oldest cycles whose decision MLflow does not have."""
        query = select(CycleRow.record).join(DecisionRow).where(DecisionRow.trace_id.is_(None))
        return self.all(CycleRecord, query.order_by(DecisionRow.decided_at).limit(limit))

    def mark_tracked(self, cycle_id: str, trace_id: str, page_id: str | None = None) -> None:
        """Note that MLflow has this cycle's decision.

        page_id: what the trace names; where another run has noted one since, it is to be written once more.
        """
        named = case((DecisionRow.page_id.is_not_distinct_from(page_id), trace_id), else_=None)
        self.write(update(DecisionRow).filter_by(cycle_id=cycle_id).values(trace_id=named))

    def note_page(self, cycle_id: str, page_id: str) -> None:
        """Note which artifact explains this cycle's decision; its trace is to be written with it."""
        self.write(update(DecisionRow).filter_by(cycle_id=cycle_id).values(page_id=page_id, trace_id=None))

    def pages(self, cycle_ids: Sequence[str]) -> dict[str, str]:
        """Return which artifacts explain these cycles' decisions, by cycle."""
        query = select(DecisionRow.cycle_id, DecisionRow.page_id).where(DecisionRow.cycle_id.in_(cycle_ids))
        return dict(map(tuple, self.rows(query.where(DecisionRow.page_id.is_not(None)))))


class StrategyRepository(Repository):
    """Strategies by hash."""

    def keep(self, strategy: Strategy) -> None:
        """Keep a strategy under its hash; the same one again is a no-op."""
        row = {"sha256": strategy.sha256, "document": strategy.model_dump(mode="json")}
        self.add_row(StrategyRow, row)

    def get(self, sha256: str) -> Strategy:
        """Return the strategy that is kept under a hash; raises InputError where none is."""
        query = select(StrategyRow.document).filter_by(sha256=sha256)
        if (strategy := self.first(Strategy, query)) is None:
            raise InputError(f"{sha256[:12]}... is not in this database; give the one that the record was made with")
        return strategy
