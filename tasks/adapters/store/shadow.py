"""Challengers' decisions beside the champion's, their scores, and paper books: theirs and the paper venue's."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from pydantic import Field
from sqlalchemy import select, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import PaperBookRow, ShadowRow
from tasks.adapters.store.types import document_of
from tasks.core.simulation.counterfactual import Counterfactual
from tasks.core.types.base import Dto, Exact, Utc
from tasks.core.types.decision import Answer
from tasks.core.types.orders import OrderIntent
from tasks.core.types.portfolio import AccountState
from tasks.core.types.verdict import Verdict

CHAMPION = "champion"


class ShadowDecision(Dto):
    """What one decider, the champion or a challenger, answered in one cycle; nothing of a challenger is sent."""

    cycle_id: str
    strategy: str
    decider: str = Field(description="champion, or the challenger's name")
    symbol: str
    as_of: Utc
    state: AccountState
    decided: Answer
    verdict: Verdict
    intents: tuple[OrderIntent, ...] = ()


class PaperBookState(Dto):
    """An account on paper: the fill engine's state, and until when the market has passed over it."""

    state: str
    equity: Exact
    until: Utc


class ShadowStore(Database):
    """Shadow decisions and paper books."""

    def keep_shadow(self, shadow: ShadowDecision) -> None:
        """Keep one answer; the first of a decider in a cycle is its only one."""
        row = {
            "cycle_id": shadow.cycle_id, "decider": shadow.decider, "strategy": shadow.strategy,
            "symbol": shadow.symbol, "as_of": shadow.as_of, "document": document_of(shadow),
        }  # fmt: skip
        with self._writing() as connection:
            connection.execute(self._insert(ShadowRow).on_conflict_do_nothing(), [row])

    def shadow_answers(self, decider: str, cycle_ids: Sequence[str]) -> dict[str, Answer]:
        """Return what one decider was kept to have answered in these cycles, by cycle."""
        mine = (ShadowRow.decider == decider, ShadowRow.cycle_id.in_(cycle_ids))
        with self._reading() as connection:
            found = [
                ShadowDecision.model_validate(row)
                for row in connection.scalars(select(ShadowRow.document).where(*mine))
            ]
        return {shadow.cycle_id: shadow.decided for shadow in found}

    def unscored_shadows(self, strategy: str, before: datetime, limit: int) -> list[ShadowDecision]:
        """Return answers about closes up to `before` that have no score yet, oldest first."""
        query = (
            select(ShadowRow.document)
            .where(ShadowRow.strategy == strategy, ShadowRow.return_pct.is_(None), ShadowRow.as_of <= before)
            .order_by(ShadowRow.as_of)
            .limit(limit)
        )
        with self._reading() as connection:
            return [ShadowDecision.model_validate(row) for row in connection.scalars(query)]

    def shadows_between(self, strategy: str, decider: str, after: datetime, until: datetime) -> list[ShadowDecision]:
        """Return one decider's answers with after < as_of <= until, oldest first."""
        query = (
            select(ShadowRow.document)
            .where(
                ShadowRow.strategy == strategy, ShadowRow.decider == decider,
                ShadowRow.as_of > after, ShadowRow.as_of <= until,
            )
            .order_by(ShadowRow.as_of, ShadowRow.symbol)
        )  # fmt: skip
        with self._reading() as connection:
            return [ShadowDecision.model_validate(row) for row in connection.scalars(query)]

    def score_shadow(self, shadow: ShadowDecision, score: Counterfactual) -> None:
        """Attach what the answer would have earned."""
        mine = (ShadowRow.cycle_id == shadow.cycle_id, ShadowRow.decider == shadow.decider)
        with self._writing() as connection:
            connection.execute(update(ShadowRow).where(*mine).values(return_pct=score.return_pct))

    def shadow_scores(self, strategy: str) -> dict[str, dict[str, Decimal]]:
        """Return every score: decider -> cycle_id -> return in percent, so that answers can be paired by cycle."""
        query = select(ShadowRow.decider, ShadowRow.cycle_id, ShadowRow.return_pct).where(
            ShadowRow.strategy == strategy, ShadowRow.return_pct.is_not(None)
        )
        scores: dict[str, dict[str, Decimal]] = {}
        with self._reading() as connection:
            for decider, cycle_id, return_pct in connection.execute(query):
                scores.setdefault(decider, {})[cycle_id] = return_pct
        return scores

    def scored_shadows(self, strategy: str, since: datetime) -> list[tuple[ShadowDecision, Decimal]]:
        """Return every answer about closes since then that has a score, with it, oldest first."""
        query = (
            select(ShadowRow.document, ShadowRow.return_pct)
            .where(ShadowRow.strategy == strategy, ShadowRow.as_of >= since, ShadowRow.return_pct.is_not(None))
            .order_by(ShadowRow.as_of, ShadowRow.symbol)
        )
        with self._reading() as connection:
            return [(ShadowDecision.model_validate(row[0]), row[1]) for row in connection.execute(query)]

    def paper_book(self, strategy: str, decider: str) -> PaperBookState | None:
        query = select(PaperBookRow.state, PaperBookRow.equity, PaperBookRow.until).where(
            PaperBookRow.strategy == strategy, PaperBookRow.decider == decider
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else PaperBookState(state=row.state, equity=row.equity, until=row.until)

    def save_paper_book(self, strategy: str, decider: str, book: PaperBookState, before: PaperBookState | None) -> bool:
        """Replace the book if it is still as it was read `before`; False if somebody else has changed it meanwhile."""
        row = {"strategy": strategy, "decider": decider, **book.model_dump()}
        mine = (PaperBookRow.strategy == strategy, PaperBookRow.decider == decider)
        with self._writing() as connection:
            if before is None:
                new = self._insert(PaperBookRow).values(row).on_conflict_do_nothing()
                return connection.scalar(new.returning(PaperBookRow.decider)) is not None
            same = (PaperBookRow.state == before.state, PaperBookRow.until == before.until)
            changed = update(PaperBookRow).where(*mine, *same).values(row)
            return connection.scalar(changed.returning(PaperBookRow.decider)) is not None
