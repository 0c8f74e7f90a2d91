"""The memory of earlier decisions: what was known at as_of, so of earlier closes, with outcomes closed by then."""

from datetime import datetime
from typing import Any

from sqlalchemy import Double, Select, and_, cast, func, select

from tasks.adapters.store import CycleRow, DecisionRow, ModelCallRow, OutcomeRow, Repository, VectorRow, VerdictRow
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.memory import (
    COMPARED,
    JUDGED,
    LAST,
    SPEC,
    UNTRIED,
    Earlier,
    Remembered,
    SettledTrade,
    Vector,
    performance,
    since,
    vector,
)
from tasks.core.trading.guard.guard import ALLOWED_WITH
from tasks.core.trading.portfolio import past_of
from tasks.core.types import CycleStatus, Decision, Memory, Past, Snapshot


class MemoryRepository(Repository):
    """The moments of decisions, as vectors by cycle."""

    def keep(self, cycle_id: str, snapshot: Snapshot, decision: Decision) -> None:
        """Keep the moment of a cycle's decision; the first one counts, as with the decision."""
        past = past_of(snapshot, decision)
        row = {"cycle_id": cycle_id, "spec": SPEC, "values": vector(snapshot).values}
        self.add_row(VectorRow, row | past.model_dump(include={"reasons", "price", "thesis"}) | {"unread": past.unread})

    def decisions(self, strategy: str, symbol: str, since: datetime, before: datetime) -> list[KeptDecision]:
        """Return what models decided for closes of since <= as_of < before."""
        query = _earlier(strategy, symbol, before).add_columns(DecisionRow.decided)
        query = query.where(CycleRow.as_of >= since, DecisionRow.rung.in_(("primary", "failover", "cheap")))
        rows = self.rows(query.where(DecisionRow.source.like("llm:%")))
        return [KeptDecision.of(row, vector=Vector.of(row)) for row in rows]

    def remembered(self, strategy: str, symbol: str, as_of: datetime, done: Memory = UNTRIED) -> Remembered:
        """Return what may be remembered of `symbol` at as_of: earlier decisions, and outcomes closed by then.

        done: how the decider did, see `performance`.
        """
        known = _earlier(strategy, symbol, as_of, with_outcome=False).where(DecisionRow.rung != "hold").limit(LAST)
        settled = _earlier(strategy, symbol, as_of, with_outcome=True).limit(COMPARED)
        recent, ended = (
            [Earlier(_past(row), Vector.of(row)) for row in self.rows(query)] for query in (known, settled)
        )
        return Remembered(recent, ended, done)

    def performance(self, strategy: str, decider: str, as_of: datetime) -> Memory:
        """Return how a decider and its prompts did over trades closed by `as_of`, and what they cost."""
        its, begins = (CycleRow.strategy == strategy, CycleRow.decider == decider), since(as_of)
        closed = (*its, OutcomeRow.closed_at >= begins, OutcomeRow.closed_at <= as_of)
        outcomes = select(OutcomeRow.cycle_id, OutcomeRow.pnl, OutcomeRow.outcome_r, DecisionRow.confidence)
        outcomes = outcomes.join(CycleRow, CycleRow.cycle_id == OutcomeRow.cycle_id).join(DecisionRow).where(*closed)
        name = ModelCallRow.prompt_name + "/" + ModelCallRow.prompt_version
        sent = select(OutcomeRow.cycle_id, name).join(CycleRow, CycleRow.cycle_id == OutcomeRow.cycle_id)
        sent = sent.join(ModelCallRow, ModelCallRow.cycle_id == CycleRow.cycle_id).where(*closed, name.is_not(None))
        paid = select(name, func.sum(cast(ModelCallRow.cost_usd, Double))).join(CycleRow).where(*its, name.is_not(None))
        paid = paid.where(CycleRow.as_of >= begins, CycleRow.as_of < as_of).group_by(name)
        prompts: dict[str, set[str]] = {}
        for cycle_id, prompt in self.rows(sent):
            prompts.setdefault(cycle_id, set()).add(prompt)
        rows = self.rows(outcomes.order_by(OutcomeRow.closed_at.desc()).limit(JUDGED))
        trades = [
            SettledTrade(row.pnl, row.outcome_r, float(row.confidence), frozenset(prompts.get(row.cycle_id, ())))
            for row in rows
        ]
        return performance(decider, trades, dict(map(tuple, self.rows(paid))))


def _past(row: Any) -> Past:
    denied = row.status == CycleStatus.DENIED and row.codes
    return Past.of(row, codes=tuple(code for code in denied or () if code not in ALLOWED_WITH))


def _earlier(strategy: str, symbol: str, as_of: datetime, with_outcome: bool | None = None) -> Select[Any]:
    """Select decisions about closes before `as_of`, newest first; with_outcome: True only those, False maybe."""
    columns = (DecisionRow.action, DecisionRow.confidence, VectorRow.spec, VectorRow.values, VectorRow.reasons)
    query = select(CycleRow.as_of, *columns).join(DecisionRow)
    query = query.join(VectorRow)
    if with_outcome is not None:
        known = and_(OutcomeRow.cycle_id == CycleRow.cycle_id, OutcomeRow.closed_at <= as_of)
        query = query.add_columns(OutcomeRow.outcome_r).join(OutcomeRow, known, isouter=not with_outcome)
        told = (CycleRow.status, VerdictRow.codes, VectorRow.price, VectorRow.thesis, VectorRow.unread)
        query = query.add_columns(*told).join(VerdictRow, VerdictRow.cycle_id == CycleRow.cycle_id, isouter=True)
    query = query.where(CycleRow.strategy == strategy, CycleRow.symbol == symbol, CycleRow.as_of < as_of)
    return query.order_by(CycleRow.as_of.desc())
