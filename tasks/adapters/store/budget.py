"""What model calls may cost, replies that were paid for, and the breakers of sessions: shared by all processes.

Money is counted in whole billionths of a USD, rounded up, so that SQLite can add it.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from sqlalchemy import Connection, and_, func, insert, or_, select, text, update

from tasks.adapters.store import BreakerRow, BudgetRow, ReplyRow, Repository, dto_of, row_of
from tasks.core.decision.budget import Charge, KeptReply, Reserved, Spent, refusal
from tasks.core.decision.ladder import BreakerState
from tasks.core.types import Budget, ModelCall

BUDGET_LOCK = 7_305_114_807  # any number, the same in every process
RESERVED_FOR = timedelta(minutes=10)
NANO = Decimal(1_000_000_000)


class BudgetRepository(Repository):
    """Implements `core.decision.budget.Purse`: a row for each call, reserved and then settled."""

    def reserve(self, charge: Charge, worst_usd: Decimal, budget: Budget, at: datetime) -> Reserved:
        """Reserve the worst case of one call, unless that could break a cap. Of those who race, one is first.

        The reservation of a process that died gives its money back after ten minutes; the call stays counted, so
        that a process that dies in every call cannot spend for ever.
        """
        row = {"nano_usd": _nano(worst_usd), "settled": False, "at": at, "expires_at": at + RESERVED_FOR}
        with self.database.writing() as connection:  # on SQLite that is the lock
            if self.database.is_postgres:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BUDGET_LOCK})
            refused = refusal(budget, _spent(connection, charge, at, budget.purse), worst_usd)
            if refused:
                return Reserved(refused=refused)
            new = insert(BudgetRow).values(day=_day(at, budget.purse), **charge.model_dump(), **row)
            return Reserved(budget_id=connection.execute(new.returning(BudgetRow.budget_id)).scalar_one())

    def settle(self, budget_id: int, usd: Decimal) -> None:
        """Replace a reservation by what the call cost."""
        reserved = update(BudgetRow).filter_by(budget_id=budget_id)
        self.write(reserved.values(nano_usd=_nano(usd), settled=True))

    def spent(self, at: datetime, purse: str = "") -> Spent:
        """Return what a purse, by default the main one, has used in the whole UTC day of `at`."""
        with self.database.reading() as connection:
            return _spent(connection, Charge(session="", symbol="", decision=""), at, purse)["day"]


def _spent(connection: Connection, charge: Charge, at: datetime, purse: str) -> dict[str, Spent]:
    """Return what each scope of `charge` has used; reservations that have expired count as calls only."""
    today = BudgetRow.day == _day(at, purse)
    scopes = {
        "day": today,
        "session": BudgetRow.session == charge.session,
        "symbol_day": and_(today, BudgetRow.symbol == charge.symbol),
        "decision": BudgetRow.decision == charge.decision,
    }
    counts = or_(BudgetRow.settled, BudgetRow.expires_at > at)
    columns = []
    for scope in scopes.values():
        columns += [func.sum(BudgetRow.nano_usd).filter(scope, counts), func.count().filter(scope)]
    used = connection.execute(select(*columns).where(or_(today, scopes["session"]))).one()
    pairs = zip(scopes, used[::2], used[1::2], strict=True)
    return {scope: Spent(usd=Decimal(int(nano or 0)) / NANO, calls=calls) for scope, nano, calls in pairs}


def _nano(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


def _day(at: datetime, purse: str) -> str:
    return f"{purse} {at.astimezone(UTC).date().isoformat()}".strip()


class ReplyRepository(Repository):
    """Implements `core.decision.budget.Replies`: replies by the hash of their question."""

    def keep(self, content_hash: str, call: ModelCall, at: datetime) -> None:
        """Keep a reply that was paid for; a newer one to the same question replaces it."""
        self.put(ReplyRow, row_of(ReplyRow, call, content_hash=content_hash, created_at=at))

    def find(self, content_hashes: Sequence[str], since: datetime) -> KeptReply | None:
        """Return the newest of these replies that was kept at `since` or later."""
        query = select(ReplyRow).where(ReplyRow.content_hash.in_(content_hashes), ReplyRow.created_at >= since)
        return self.first(KeptReply, query.order_by(ReplyRow.created_at.desc()).limit(1))


class BreakerRepository(Repository):
    """Implements `core.decision.ladder.Breakers`: states by session."""

    def change(self, session: str, change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        """Set the session's state to `change` of it under a lock, and return what it was."""
        here = BreakerRow.session == session
        with self.database.writing() as connection:
            connection.execute(self.insert(BreakerRow).values(session=session, errors=0))
            before = dto_of(BreakerState, connection.execute(select(BreakerRow).where(here).with_for_update()).one())
            if (after := change(before)) != before:
                connection.execute(update(BreakerRow).where(here).values(after.model_dump()))
        return before
