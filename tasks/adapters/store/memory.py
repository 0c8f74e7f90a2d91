"""The memory of earlier decisions: what was known at as_of, so of earlier closes, with outcomes closed by then."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, select

from tasks.adapters.store.database import Repository
from tasks.adapters.store.tables import CycleRow, DecisionRow, ModelCallRow, OutcomeRow, VectorRow
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.memory import (
    COMPARED,
    JUDGED,
    LAST,
    SPEC,
    Earlier,
    Remembered,
    Vector,
    performance,
    vector,
)
from tasks.core.types import Memory, Past, PromptRef, Snapshot


class MemoryRepository(Repository):
    """The moments of decisions, as vectors by cycle."""

    def keep(self, cycle_id: str, snapshot: Snapshot) -> None:
        """Keep the moment of a cycle's decision; the first one counts, as with the decision."""
        row = {
            "cycle_id": cycle_id,
            "spec": SPEC,
            "values": vector(snapshot).values,
            "reasons": snapshot.reason_for_call,
        }
        self.add_row(VectorRow, row)

    def decisions(self, strategy: str, symbol: str, since: datetime, before: datetime) -> list[KeptDecision]:
        """Return what models decided for closes of since <= as_of < before."""
        query = _earlier(strategy, symbol, before).add_columns(DecisionRow.decided)
        query = query.where(CycleRow.as_of >= since, DecisionRow.rung.in_(("primary", "failover", "cheap")))
        rows = self.rows(query.where(DecisionRow.source.like("llm:%")))
        return [KeptDecision.of(row, vector=Vector.of(row)) for row in rows]

    def remembered(
        self, strategy: str, decider: str, prompt: PromptRef | None, symbol: str, as_of: datetime
    ) -> Remembered:
        """Return what may be remembered of `symbol` at as_of: earlier decisions, and outcomes closed by then."""
        known = _earlier(strategy, symbol, as_of, with_outcome=False).where(DecisionRow.rung != "hold").limit(LAST)
        settled = _earlier(strategy, symbol, as_of, with_outcome=True).limit(COMPARED)
        recent, ended = (
            [Earlier(Past.of(row), Vector.of(row)) for row in self.rows(query)] for query in (known, settled)
        )
        return Remembered(recent, ended, self.performance(strategy, decider, prompt, as_of))

    def performance(self, strategy: str, decider: str, prompt: PromptRef | None, as_of: datetime) -> Memory:
        """Return how a decider did over trades closed by `as_of`, on one version of a prompt or on all."""
        query = select(OutcomeRow.pnl, OutcomeRow.outcome_r).join(CycleRow, CycleRow.cycle_id == OutcomeRow.cycle_id)
        query = query.where(CycleRow.strategy == strategy, CycleRow.decider == decider, OutcomeRow.closed_at <= as_of)
        if prompt is not None:
            asked = (ModelCallRow.cycle_id == CycleRow.cycle_id, ModelCallRow.prompt_name == prompt.name)
            query = query.where(select(1).where(*asked, ModelCallRow.prompt_version == prompt.version).exists())
        rows = self.rows(query.order_by(OutcomeRow.closed_at.desc()).limit(JUDGED))
        return performance([(row.pnl, row.outcome_r) for row in rows])


def _earlier(strategy: str, symbol: str, as_of: datetime, with_outcome: bool | None = None) -> Select[Any]:
    """Select decisions about closes before `as_of`, newest first; with_outcome: True only those, False maybe."""
    columns = (DecisionRow.action, DecisionRow.confidence, VectorRow.spec, VectorRow.values, VectorRow.reasons)
    query = select(CycleRow.as_of, *columns).join(DecisionRow)
    query = query.join(VectorRow)
    if with_outcome is not None:
        known = and_(OutcomeRow.cycle_id == CycleRow.cycle_id, OutcomeRow.closed_at <= as_of)
        query = query.add_columns(OutcomeRow.outcome_r).join(OutcomeRow, known, isouter=not with_outcome)
    query = query.where(CycleRow.strategy == strategy, CycleRow.symbol == symbol, CycleRow.as_of < as_of)
    return query.order_by(CycleRow.as_of.desc())
