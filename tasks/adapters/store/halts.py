"""What stops new entries: halts, by hand or by the watchdog, of everything; pauses of one symbol."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from tasks.adapters.store import DifferenceRow, HaltRow, PauseRow, Repository, dto_of
from tasks.core.types import Halt, LookAgain

SIZES = ""  # in a symbol's place: not what may be entered, but how large it is


class HaltRepository(Repository):
    """Halts, in force until somebody resumes."""

    def add(self, reason: str, who: str, at: datetime, flatten: bool = False) -> Halt:
        """Stop new entries; the same reason by the same person while it is in force is the same halt."""
        values = {"reason": reason, "who": who, "flatten": flatten}
        same = select(HaltRow).filter_by(resumed_at=None, **values)
        new = insert(HaltRow).values(**values, since=at).returning(HaltRow)
        with self.database.writing() as connection:
            return dto_of(Halt, connection.execute(same).first() or connection.execute(new).one())

    def active(self) -> list[Halt]:
        """Return every halt in force, oldest first."""
        return self.all(Halt, select(HaltRow).filter_by(resumed_at=None).order_by(HaltRow.halt_id))

    def newest(self) -> Halt | None:
        """Return the newest halt in force; None: entries are allowed."""
        return next(reversed(self.active()), None)

    def resume(self, who: str, at: datetime, whose: str | None = None) -> list[Halt]:
        """Lift every halt in force, or every one that `whose` names, and return them."""
        lift = update(HaltRow).filter_by(resumed_at=None).values(resumed_at=at, resumed_by=who)
        if whose is not None:
            lift = lift.filter_by(who=whose)
        return sorted(self.all(Halt, lift.returning(HaltRow)), key=lambda halt: halt.halt_id)


class DifferenceRepository(Repository):
    """What differed in the last look at the venue, by strategy."""

    def keep(self, strategy: str, found: Iterable[LookAgain]) -> None:
        """Replace what was found before."""
        rows = {look.about: {"strategy": strategy, **look.model_dump()} for look in found}
        with self.database.writing() as connection:
            connection.execute(delete(DifferenceRow).filter_by(strategy=strategy))
            for row in rows.values():
                connection.execute(self.insert(DifferenceRow).values(row))

    def all_of(self, strategy: str) -> list[LookAgain]:
        return self.all(LookAgain, select(DifferenceRow).filter_by(strategy=strategy))


class PauseRepository(Repository):
    """Pauses by strategy and symbol."""

    def add(self, strategy: str, symbol: str, until: datetime, asked_by: str = "") -> None:
        """Allow no new entries in `symbol` before `until`; a shorter pause never ends a longer one.

        asked_by: the person who wants it; no decision does.
        """
        row = {"strategy": strategy, "symbol": symbol, "until": until, "asked_by": asked_by}
        self.put(PauseRow, row, only=lambda new: new.until > PauseRow.until)

    def reduce(self, strategy: str, until: datetime) -> None:
        """Halve the sizes of every symbol's entries before `until`."""
        self.add(strategy, SIZES, until)

    def reduced_until(self, strategy: str) -> datetime | None:
        """Return when the last such order ends or ended; None if there was none."""
        return self.until(strategy, SIZES)

    def until(self, strategy: str, symbol: str) -> datetime | None:
        """Return when the last pause ends or ended; None if there was none."""
        query = select(PauseRow.until).filter_by(strategy=strategy, symbol=symbol)
        return self.value(query)  # type: ignore[no-any-return]  # a column of times

    def in_force(self, at: datetime) -> dict[str, datetime]:
        """Return until when each symbol that is paused at `at` gets no entries, of every strategy."""
        named = select(PauseRow.symbol, PauseRow.until).where(PauseRow.until > at, PauseRow.symbol != SIZES)
        return dict(self.rows(named.order_by(PauseRow.until, PauseRow.symbol)))
