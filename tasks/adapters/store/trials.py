"""Every variant that was ever compared, by the candles it was compared on: what a deflated Sharpe ratio is told."""

from collections.abc import Collection, Mapping

from sqlalchemy import select

from tasks.adapters.store import Repository, TapeRow, TrialRow
from tasks.core.types import hash_of


class TrialRepository(Repository):
    """Trials by what they consist of; candles by the hashes of their days, whatever they are called."""

    def add(self, days: Collection[str], trials: Mapping[str, float | None]) -> None:
        """Keep the daily Sharpe ratio of each trial, if it has one; the newest counts."""
        tape = hash_of(sorted(days))
        with self.database.writing() as connection:
            connection.execute(self.insert(TapeRow).values(tape=tape, days=sorted(days)))
            for trial in sorted(trials):
                row = {"trial": trial, "tape": tape, "sharpe": trials[trial]}
                connection.execute(self.upsert(TrialRow, row))

    def sharpes(self, days: Collection[str]) -> list[float | None]:
        """Return the daily Sharpe ratio of every trial over candles that have a day in common with these."""
        alike = [row.tape for row in self.rows(select(TapeRow)) if not set(days).isdisjoint(row.days)]
        return self.values(select(TrialRow.sharpe).where(TrialRow.tape.in_(alike)))
