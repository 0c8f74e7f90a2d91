"""The breakers of sessions, shared by all processes."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select, update

from tasks.adapters.store.database import Database, dto_of
from tasks.adapters.store.tables import BreakerRow
from tasks.core.decision.ladder import BreakerState


@dataclass
class BreakerRepository:
    """Implements `core.decision.ladder.Breakers`: states by session."""

    database: Database

    def change(self, session: str, change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        """Set the session's state to `change` of it under a lock, and return what it was."""
        here = BreakerRow.session == session
        with self.database.writing() as connection:
            connection.execute(self.database.insert(BreakerRow).values(session=session, errors=0))
            before = dto_of(BreakerState, connection.execute(select(BreakerRow).where(here).with_for_update()).one())
            if (after := change(before)) != before:
                connection.execute(update(BreakerRow).where(here).values(after.model_dump()))
        return before
