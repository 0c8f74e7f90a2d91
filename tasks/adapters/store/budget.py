"""What model calls may cost, shared by all processes.

Money is counted in whole billionths of a USD, rounded up, so that SQLite can add it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, text, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import BudgetRow
from tasks.core.decision.budget import SCOPES, Charge, Reserved, Spent, refusal
from tasks.core.types.limits import Budget

BUDGET_LOCK = 7_305_114_807  # any number, the same in every process
RESERVED_FOR = timedelta(minutes=10)
NANO = Decimal(1_000_000_000)


@dataclass
class BudgetRepository:
    """Implements `core.decision.budget.Purse`: a row for each call, reserved and then settled."""

    database: Database

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
        self.database.write(reserved.values(nano_usd=_nano(usd), settled=True))

    def spent(self, at: datetime) -> Spent:
        """Return what the main purse has used in the whole UTC day of `at`."""
        with self.database.reading() as connection:
            return _spent(connection, Charge(session="", symbol="", decision=""), at, "")["day"]


def _spent(connection: Connection, charge: Charge, at: datetime, purse: str) -> dict[str, Spent]:
    """Return what each scope of `charge` has used; reservations that have expired count as calls only."""
    today = BudgetRow.day == _day(at, purse)
    scopes: dict[str, ColumnElement[bool]] = {
        "day": today,
        "session": BudgetRow.session == charge.session,
        "symbol_day": and_(today, BudgetRow.symbol == charge.symbol),
        "decision": BudgetRow.decision == charge.decision,
    }
    counts = or_(BudgetRow.settled, BudgetRow.expires_at > at)
    columns = []
    for scope in SCOPES:
        columns.append(func.sum(case((and_(scopes[scope], counts), BudgetRow.nano_usd), else_=0)))
        columns.append(func.sum(case((scopes[scope], 1), else_=0)))
    used = connection.execute(select(*columns).where(or_(today, scopes["session"]))).one()
    pairs = zip(SCOPES, used[::2], used[1::2], strict=True)
    return {scope: Spent(usd=Decimal(int(nano or 0)) / NANO, calls=int(calls or 0)) for scope, nano, calls in pairs}


def _nano(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


def _day(at: datetime, purse: str) -> str:
    return f"{purse} {at.astimezone(UTC).date().isoformat()}".strip()
