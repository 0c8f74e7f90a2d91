"""Which version of each prompt is used, the history of that, and how a version has done in live decisions.

The aliases lie here and not in a file, so that workers on many machines have one champion.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Insert, Text, and_, cast, exists, insert, select
from sqlalchemy.orm import aliased

from tasks.adapters.store import (
    CycleRow,
    DecisionRow,
    ModelCallRow,
    OutcomeRow,
    PromotionRow,
    PromptAliasRow,
    Repository,
    row_of,
)
from tasks.core.types import Answer, Move


class Alias(NamedTuple):
    """What an alias names: the version, and the sha256 of the file that was meant."""

    version: str
    sha256: str


class PromptRepository(Repository):
    """Aliases by role, and every move of theirs."""

    def aliases(self) -> dict[str, dict[str, Alias]]:
        """Return what each alias names: role -> alias -> version and hash."""
        found: dict[str, dict[str, Alias]] = {}
        for row in self.rows(select(PromptAliasRow)):
            found.setdefault(row.role, {})[row.alias] = Alias(row.version, row.sha256)
        return found

    def move(self, move: Move) -> Move:
        """Let the alias name another version and write that down, both or neither; returns it with what was before."""
        key = (PromptAliasRow.role == move.role, PromptAliasRow.alias == move.alias)
        row = row_of(PromptAliasRow, move)
        with self.database.writing() as connection:
            before = connection.scalar(select(PromptAliasRow.version).where(*key).with_for_update())
            move = move.replace(previous=before or move.previous)
            connection.execute(self.upsert(PromptAliasRow, row))
            connection.execute(_noted(move))
        return move

    def note_refusal(self, move: Move) -> None:
        """Write down a move that was refused."""
        self.write(_noted(move))

    def moves(self, role: str | None = None, limit: int = 50) -> list[Move]:
        """Return the history, newest first."""
        query = select(PromotionRow.move).order_by(PromotionRow.promotion_id.desc()).limit(limit)
        return self.all(Move, query if role is None else query.where(PromotionRow.role == role))

    def decisions(self, strategy: str, sha256: str, since: datetime, limit: int) -> list[Answer]:
        """Return the last decisions that sent this prompt, or were this policy's, newest first."""
        sent = _had_a_say(DecisionRow.cycle_id, sha256)
        query = select(DecisionRow.decided).join(CycleRow)
        query = query.where(CycleRow.strategy == strategy, DecisionRow.decided_at >= since, sent)
        return self.all(Answer, query.order_by(DecisionRow.decided_at.desc()).limit(limit))

    def outcomes(self, strategy: str, sha256: str, since: datetime, limit: int) -> list[Decimal]:
        """Return the `outcome_r` of the last positions that this prompt or policy opened since, newest first."""
        sent = _had_a_say(OutcomeRow.cycle_id, sha256)
        opened = and_(
            CycleRow.cycle_id == OutcomeRow.cycle_id, CycleRow.strategy == strategy, CycleRow.started_at >= since
        )
        query = select(OutcomeRow.outcome_r).join(CycleRow, opened).where(OutcomeRow.outcome_r.is_not(None), sent)
        return self.values(query.order_by(OutcomeRow.closed_at.desc()).limit(limit))


def _had_a_say(cycle_id: Any, sha256: str) -> ColumnElement[bool]:
    """Return whether a cycle's decision sent this prompt, or was this policy's, which only its text names."""
    sent = exists().where(ModelCallRow.cycle_id == cycle_id, ModelCallRow.prompt_sha256 == sha256)
    decision = aliased(DecisionRow)
    named = cast(decision.decided, Text).contains(sha256)
    return sent | exists().where(decision.cycle_id == cycle_id, named)


def _noted(move: Move) -> Insert:
    return insert(PromotionRow).values(row_of(PromotionRow, move, move=move.model_dump(mode="json")))
