"""Strategies that were in force: records name them by their hash."""

from dataclasses import dataclass

from sqlalchemy import select

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import StrategyRow
from tasks.core.errors import InputError
from tasks.core.types.strategy import Strategy


@dataclass
class StrategyRepository:
    """Strategies by hash."""

    database: Database

    def keep(self, strategy: Strategy) -> None:
        """Keep a strategy under its hash; the same one again is a no-op."""
        row = {"sha256": strategy.sha256, "document": strategy.model_dump(mode="json")}
        self.database.add(StrategyRow, row)

    def get(self, sha256: str) -> Strategy:
        """Return the strategy that is kept under a hash; raises InputError where none is."""
        query = select(StrategyRow.document).filter_by(sha256=sha256)
        if (strategy := self.database.first(Strategy, query)) is None:
            raise InputError(f"{sha256[:12]}... is not in this database; give the one that the record was made with")
        return strategy
