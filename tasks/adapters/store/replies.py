"""Replies that were paid for: they answer again when the model cannot, and in replays."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from tasks.adapters.store.database import Database, row_of
from tasks.adapters.store.tables import ReplyRow
from tasks.core.decision.budget import KeptReply
from tasks.core.types.decision import ModelCall


@dataclass
class ReplyRepository:
    """Implements `core.decision.budget.Replies`: replies by the hash of their question."""

    database: Database

    def keep(self, content_hash: str, call: ModelCall, at: datetime) -> None:
        """Keep a reply that was paid for; a newer one to the same question replaces it."""
        self.database.put(ReplyRow, row_of(ReplyRow, call, content_hash=content_hash, created_at=at))

    def find(self, content_hashes: Sequence[str], since: datetime) -> KeptReply | None:
        """Return the newest of these replies that was kept at `since` or later."""
        query = select(ReplyRow).where(ReplyRow.content_hash.in_(content_hashes), ReplyRow.created_at >= since)
        return self.database.first(KeptReply, query.order_by(ReplyRow.created_at.desc()).limit(1))
