"""Challengers' decisions beside the champion's, their scores, and paper books: theirs and the paper venue's."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, case, select, update

from tasks.adapters.store import (
    BEGINNING,
    END,
    CycleRow,
    DecisionRow,
    PaperBookRow,
    Repository,
    ShadowRow,
    dto_of,
    known,
    row_of,
)
from tasks.core.types import Answer, CycleRecord, PaperBookState, ShadowDecision

CHAMPION = "champion"


class ShadowRepository(Repository):
    """Shadow decisions by cycle and decider."""

    def keep(self, shadow: ShadowDecision) -> None:
        """Keep one answer; the first of a decider in a cycle is its only one."""
        self.add_row(ShadowRow, row_of(ShadowRow, shadow, document=shadow.model_dump(mode="json")))

    def answers(self, decider: str, cycle_ids: Sequence[str]) -> dict[str, Answer]:
        """Return what one decider was kept to have answered in these cycles, by cycle."""
        query = select(ShadowRow.document).where(ShadowRow.decider == decider, ShadowRow.cycle_id.in_(cycle_ids))
        return {shadow.cycle_id: shadow.decided for shadow in self.all(ShadowDecision, query)}

    def unscored(self, strategy: str, before: datetime, limit: int) -> list[ShadowDecision]:
        """Return answers about closes up to `before` that have no score yet, oldest first."""
        query = _oldest_first(strategy, ShadowRow.document).where(ShadowRow.return_pct.is_(None))
        return self.all(ShadowDecision, query.where(ShadowRow.as_of <= before).limit(limit))

    def between(self, strategy: str, decider: str, after: datetime, until: datetime) -> list[ShadowDecision]:
        """Return one decider's answers with after < as_of <= until, oldest first."""
        query = _oldest_first(strategy, ShadowRow.document).where(ShadowRow.decider == decider)
        return self.all(ShadowDecision, query.where(ShadowRow.as_of > after, ShadowRow.as_of <= until))

    def score(self, shadow: ShadowDecision, return_pct: Decimal) -> None:
        """Attach what the answer would have earned, in percent."""
        mine = update(ShadowRow).filter_by(cycle_id=shadow.cycle_id, decider=shadow.decider)
        self.write(mine.values(return_pct=return_pct))

    def scores(self, strategy: str) -> dict[str, dict[str, Decimal]]:
        """Return every score: decider -> cycle_id -> return in percent, so that answers can be paired by cycle."""
        scores: dict[str, dict[str, Decimal]] = {}
        for shadow, return_pct in self.scored(strategy):
            scores.setdefault(shadow.decider, {})[shadow.cycle_id] = return_pct
        return scores

    def scored(
        self, strategy: str, since: datetime = BEGINNING, until: datetime = END, decider: str | None = None
    ) -> list[tuple[ShadowDecision, Decimal]]:
        """Return the answers about closes of since <= as_of < until that have a score, with it, oldest first."""
        query = _oldest_first(strategy, ShadowRow.document, ShadowRow.return_pct).filter_by(**known(decider=decider))
        query = query.where(ShadowRow.as_of >= since, ShadowRow.as_of < until)
        rows = self.rows(query.where(ShadowRow.return_pct.is_not(None)))
        return [(dto_of(ShadowDecision, (document,)), return_pct) for document, return_pct in rows]

    def untracked(self, strategy: str, limit: int) -> list[tuple[ShadowDecision, CycleRecord]]:
        """Return the oldest answers of challengers that MLflow does not have, each with the champion's cycle."""
        query = _oldest_first(strategy, ShadowRow.document, CycleRow.record).join(CycleRow).limit(limit)
        query = query.where(ShadowRow.assessment_id.is_(None), ShadowRow.trace_id.is_(None))
        rows = self.rows(query.where(ShadowRow.decider != CHAMPION))
        return [(dto_of(ShadowDecision, row[:1]), dto_of(CycleRecord, row[1:])) for row in rows]

    def untracked_scores(self, strategy: str, limit: int) -> list[tuple[str, ShadowDecision, Decimal]]:
        """Return the oldest scores that MLflow does not have, each with the trace of its answer and the answer."""
        its = case((ShadowRow.decider == CHAMPION, DecisionRow.trace_id), else_=ShadowRow.trace_id)
        query = _oldest_first(strategy, its, ShadowRow.document, ShadowRow.return_pct).limit(limit)
        query = query.join(DecisionRow, DecisionRow.cycle_id == ShadowRow.cycle_id)
        query = query.where(ShadowRow.assessment_id.is_(None), ShadowRow.return_pct.is_not(None))
        rows = self.rows(query.where(its.is_not(None)))
        return [(trace_id, dto_of(ShadowDecision, (document,)), pct) for trace_id, document, pct in rows]

    def mark_tracked(self, shadow: ShadowDecision, **ids: str) -> None:
        """Note under which `trace_id` MLflow has this answer, or under which `assessment_id` its score."""
        self.write(update(ShadowRow).filter_by(cycle_id=shadow.cycle_id, decider=shadow.decider).values(ids))


class PaperBookRepository(Repository):
    """Paper books by strategy and decider."""

    def get(self, strategy: str, decider: str) -> PaperBookState | None:
        """Return the book as it was last left."""
        query = select(PaperBookRow).filter_by(strategy=strategy, decider=decider)
        return self.first(PaperBookState, query)

    def equities(self, strategy: str) -> list[tuple[str, Decimal]]:
        """Return what each challenger's book is worth (quote)."""
        query = select(PaperBookRow.decider, PaperBookRow.equity).filter_by(strategy=strategy)
        return [(decider, equity) for decider, equity in self.rows(query.order_by(PaperBookRow.decider))]

    def save(self, strategy: str, decider: str, book: PaperBookState, before: PaperBookState | None) -> bool:
        """Replace the book if it is still as it was read `before`; False if somebody else has changed it meanwhile."""
        row = row_of(PaperBookRow, book, strategy=strategy, decider=decider)
        if before is None:
            return self.add_row(PaperBookRow, row)
        same = update(PaperBookRow).filter_by(
            strategy=strategy, decider=decider, state=before.state, until=before.until
        )
        return bool(self.rows(same.values(row).returning(PaperBookRow.decider)))


def _oldest_first(strategy: str, *columns: Any) -> Select[Any]:
    query = select(*columns).where(ShadowRow.strategy == strategy)
    return query.order_by(ShadowRow.as_of, ShadowRow.symbol)
