"""Challengers' decisions beside the champion's, their scores, and paper books: theirs and the paper venue's."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, select, update

from tasks.adapters.store.database import BEGINNING, Repository, dto_of, row_of
from tasks.adapters.store.tables import PaperBookRow, ShadowRow
from tasks.core.types import Answer, PaperBookState, ShadowDecision

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

    def scored(self, strategy: str, since: datetime = BEGINNING) -> list[tuple[ShadowDecision, Decimal]]:
        """Return every answer about closes since then that has a score, with it, oldest first."""
        query = _oldest_first(strategy, ShadowRow.document, ShadowRow.return_pct)
        rows = self.rows(query.where(ShadowRow.as_of >= since, ShadowRow.return_pct.is_not(None)))
        return [(dto_of(ShadowDecision, (document,)), return_pct) for document, return_pct in rows]


class PaperBookRepository(Repository):
    """Paper books by strategy and decider."""

    def get(self, strategy: str, decider: str) -> PaperBookState | None:
        """Return the book as it was last left."""
        query = select(PaperBookRow).filter_by(strategy=strategy, decider=decider)
        return self.first(PaperBookState, query)

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
