"""Which version of each prompt is used, the history of that, and how a version has done in live decisions.

The aliases lie here and not in a file, so that workers on many machines have one champion.
"""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import and_, exists, select

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import Cycle, DecisionRow, ModelCallRow, OutcomeRow, PromotionRow, PromptAliasRow
from tasks.adapters.store.types import document_of
from tasks.core.types.decision import Answer
from tasks.core.types.promotion import Move


class Alias(NamedTuple):
    """What an alias names: the version, and the sha256 of the file that was meant."""

    version: str
    sha256: str


class PromptStore(Database):
    """Aliases by role, and every move of theirs."""

    def prompt_aliases(self) -> dict[str, dict[str, Alias]]:
        """Return what each alias names: role -> alias -> version and hash."""
        found: dict[str, dict[str, Alias]] = {}
        with self._reading() as connection:
            for row in connection.execute(select(PromptAliasRow)):
                found.setdefault(row.role, {})[row.alias] = Alias(row.version, row.sha256)
        return found

    def move_alias(self, move: Move) -> Move:
        """Let the alias name another version and write that down, both or neither; returns it with what was before."""
        key = (PromptAliasRow.role == move.role, PromptAliasRow.alias == move.alias)
        row = {
            "role": move.role, "alias": move.alias, "version": move.version, "sha256": move.sha256, "moved_at": move.at,
        }  # fmt: skip
        with self._writing() as connection:
            before = connection.scalar(select(PromptAliasRow.version).where(*key).with_for_update())
            move = move.model_copy(update={"previous": before or move.previous})
            connection.execute(self._upsert(PromptAliasRow, row, ["role", "alias"]))
            connection.execute(self._insert(PromotionRow).values(_row(move)))
        return move

    def keep_move(self, move: Move) -> None:
        """Write down a move that was refused."""
        with self._writing() as connection:
            connection.execute(self._insert(PromotionRow).values(_row(move)))

    def moves(self, role: str | None = None, limit: int = 50) -> list[Move]:
        """Return the history, newest first."""
        query = select(PromotionRow.move).order_by(PromotionRow.promotion_id.desc()).limit(limit)
        query = query if role is None else query.where(PromotionRow.role == role)
        with self._reading() as connection:
            return [Move.model_validate(document) for document in connection.scalars(query)]

    def decisions_with(self, strategy: str, sha256: str, since: datetime, limit: int) -> list[Answer]:
        """Return the last decisions that sent this prompt, newest first."""
        sent = exists().where(ModelCallRow.cycle_id == DecisionRow.cycle_id, ModelCallRow.prompt_sha256 == sha256)
        query = (
            select(DecisionRow.decided)
            .join(Cycle, Cycle.cycle_id == DecisionRow.cycle_id)
            .where(Cycle.strategy == strategy, DecisionRow.decided_at >= since, sent)
            .order_by(DecisionRow.decided_at.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            return [Answer.model_validate(document) for document in connection.scalars(query)]

    def outcomes_with(self, strategy: str, sha256: str, since: datetime, limit: int) -> list[Decimal]:
        """Return the R multiples of the last positions that this prompt opened since then, newest first."""
        sent = exists().where(ModelCallRow.cycle_id == OutcomeRow.cycle_id, ModelCallRow.prompt_sha256 == sha256)
        opened = and_(Cycle.cycle_id == OutcomeRow.cycle_id, Cycle.strategy == strategy, Cycle.started_at >= since)
        query = (
            select(OutcomeRow.r_multiple)
            .join(Cycle, opened)
            .where(OutcomeRow.r_multiple.is_not(None), sent)
            .order_by(OutcomeRow.closed_at.desc())
            .limit(limit)
        )
        with self._reading() as connection:
            return [r for r in connection.scalars(query) if r is not None]


def _row(move: Move) -> dict[str, object]:
    return {"at": move.at, "role": move.role, "kind": move.kind, "move": document_of(move)}
