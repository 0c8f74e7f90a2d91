"""What decisions share between processes: the budget, breakers, paid replies, and the memory of earlier decisions.

Money is counted in whole billionths of a USD, rounded up, so that SQLite can add it. Memory is what was known at
as_of: decisions about earlier closes, and outcomes of positions closed by then.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, insert, or_, select, text, update

from tasks.adapters.store.database import Database
from tasks.adapters.store.tables import (
    BreakerRow,
    BudgetRow,
    Cycle,
    DecisionRow,
    ModelCallRow,
    OutcomeRow,
    ReplyRow,
    VectorRow,
)
from tasks.adapters.store.types import storable
from tasks.core.decision.breaker import BreakerState
from tasks.core.decision.budget import SCOPES, Charge, KeptReply, Reserved, Spent, refusal
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.memory import (
    COMPARED,
    JUDGED,
    LAST,
    SPEC,
    Earlier,
    Performance,
    Remembered,
    Vector,
    performance,
    vector,
)
from tasks.core.types.decision import Answer, ModelCall, PromptRef
from tasks.core.types.limits import Budget
from tasks.core.types.snapshot import Snapshot

BUDGET_LOCK = 7_305_114_807  # any number, the same in every process
RESERVED_FOR = timedelta(minutes=10)
NANO = Decimal(1_000_000_000)


class DecisionStore(Database):
    """Budgets, breakers, replies, vectors."""

    # --- the budget

    def reserve(self, charge: Charge, worst_usd: Decimal, budget: Budget, at: datetime) -> Reserved:
        """Reserve the worst case of one call, unless that could break a cap. Of those who race, one is first.

        The reservation of a process that died gives its money back after ten minutes; the call stays counted, so
        that a process that dies in every call cannot spend for ever.
        """
        row = {"nano_usd": _nano(worst_usd), "settled": False, "at": at, "expires_at": at + RESERVED_FOR}
        with self._writing() as connection:  # on SQLite that is the lock
            if self.is_postgres:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": BUDGET_LOCK})
            refused = refusal(budget, _spent(connection, charge, at, budget.purse), worst_usd)
            if refused:
                return Reserved(refused=refused)
            new = insert(BudgetRow).values(day=_day(at, budget.purse), **charge.model_dump(), **row)
            return Reserved(budget_id=connection.execute(new.returning(BudgetRow.budget_id)).scalar_one())

    def settle(self, budget_id: int, usd: Decimal) -> None:
        """Replace a reservation by what the call cost."""
        settled = update(BudgetRow).where(BudgetRow.budget_id == budget_id).values(nano_usd=_nano(usd), settled=True)
        with self._writing() as connection:
            connection.execute(settled)

    def spent(self, at: datetime) -> Spent:
        """Return what the main purse has used in the whole UTC day of `at`."""
        with self._reading() as connection:
            return _spent(connection, Charge(session="", symbol="", decision=""), at, "")["day"]

    # --- breakers

    def change_breaker(self, session: str, change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        """Set the session's state to `change` of it under a lock, and return what it was."""
        new = self._insert(BreakerRow).values(session=session, errors=0).on_conflict_do_nothing()
        here = BreakerRow.session == session
        with self._writing() as connection:
            connection.execute(new)
            row = connection.execute(select(BreakerRow.errors, BreakerRow.retry_at).where(here).with_for_update()).one()
            before = BreakerState(errors=row.errors, retry_at=row.retry_at)
            if (after := change(before)) != before:
                connection.execute(update(BreakerRow).where(here).values(after.model_dump()))
        return before

    # --- replies

    def keep_reply(self, content_hash: str, call: ModelCall, at: datetime) -> None:
        """Keep a reply that was paid for; a newer one to the same question replaces it."""
        prompt = {f"prompt_{n}": getattr(call.prompt, n, None) for n in ("name", "version", "sha256")}
        paid = call.model_dump(include={"model", "raw_reply", "cost_usd", "tokens_in", "tokens_out"})
        row = {"content_hash": content_hash, "created_at": at, **prompt, **paid, "raw_reply": storable(call.raw_reply)}
        with self._writing() as connection:
            connection.execute(self._upsert(ReplyRow, row, ["content_hash"]))

    def find_reply(self, content_hashes: Sequence[str], since: datetime) -> KeptReply | None:
        """Return the newest of these replies that was kept at `since` or later."""
        names = ("model", "raw_reply", "created_at", "cost_usd", "tokens_in", "tokens_out")
        query = select(*(getattr(ReplyRow, name) for name in names))
        query = query.where(ReplyRow.content_hash.in_(content_hashes), ReplyRow.created_at >= since)
        with self._reading() as connection:
            row = connection.execute(query.order_by(ReplyRow.created_at.desc()).limit(1)).mappings().first()
        return None if row is None else KeptReply(**row)

    # --- memory

    def keep_vector(self, cycle_id: str, snapshot: Snapshot) -> None:
        """Keep the moment of a cycle's decision; the first one counts, as with the decision."""
        row = {"cycle_id": cycle_id, "spec": SPEC, "values": list(vector(snapshot).values),
               "reasons": storable(snapshot.reason_for_call)}  # fmt: skip
        with self._writing() as connection:
            connection.execute(self._insert(VectorRow).values(row).on_conflict_do_nothing())

    def kept_decisions(self, strategy: str, symbol: str, since: datetime, before: datetime) -> list[KeptDecision]:
        """Return what models decided for closes of since <= as_of < before."""
        query = _earlier(strategy, symbol, before).add_columns(DecisionRow.decided)
        query = query.where(Cycle.as_of >= since, DecisionRow.rung.in_(("primary", "failover", "cheap")))
        with self._reading() as connection:
            rows = connection.execute(query.where(DecisionRow.source.like("llm:%"))).all()
        return [
            KeptDecision(as_of=row.as_of, decided=Answer.model_validate(row.decided), vector=_vector(row),
                         reasons=row.reasons) for row in rows
        ]  # fmt: skip

    def remembered(
        self, strategy: str, decider: str, prompt: PromptRef | None, symbol: str, as_of: datetime
    ) -> Remembered:
        """Return what may be remembered of `symbol` at as_of: earlier decisions, and outcomes closed by then."""
        known = _earlier(strategy, symbol, as_of, with_outcome=False).where(DecisionRow.rung != "hold").limit(LAST)
        settled = _earlier(strategy, symbol, as_of, with_outcome=True).limit(COMPARED)
        with self._reading() as connection:
            recent, ended = (tuple(map(_one, connection.execute(query))) for query in (known, settled))
        return Remembered(recent, ended, self.performance(strategy, decider, prompt, as_of))

    def performance(self, strategy: str, decider: str, prompt: PromptRef | None, as_of: datetime) -> Performance:
        """Return how a decider did over trades closed by `as_of`, on one version of a prompt or on all."""
        query = select(OutcomeRow.pnl, OutcomeRow.r_multiple).join(Cycle, Cycle.cycle_id == OutcomeRow.cycle_id)
        query = query.where(Cycle.strategy == strategy, Cycle.decider == decider, OutcomeRow.closed_at <= as_of)
        if prompt is not None:
            asked = (ModelCallRow.cycle_id == Cycle.cycle_id, ModelCallRow.prompt_name == prompt.name)
            query = query.where(select(1).where(*asked, ModelCallRow.prompt_version == prompt.version).exists())
        with self._reading() as connection:
            rows = connection.execute(query.order_by(OutcomeRow.closed_at.desc()).limit(JUDGED)).all()
        return performance([(row.pnl, row.r_multiple) for row in rows])


def _earlier(strategy: str, symbol: str, as_of: datetime, with_outcome: bool | None = None) -> Select[Any]:
    """Select decisions about closes before `as_of`, newest first; with_outcome: True only those, False maybe."""
    columns = (Cycle.as_of, DecisionRow.action, DecisionRow.confidence, VectorRow.spec, VectorRow.values,
               VectorRow.reasons)  # fmt: skip
    query = select(*columns).join(DecisionRow, DecisionRow.cycle_id == Cycle.cycle_id)
    query = query.join(VectorRow, VectorRow.cycle_id == Cycle.cycle_id)
    if with_outcome is not None:
        known = and_(OutcomeRow.cycle_id == Cycle.cycle_id, OutcomeRow.closed_at <= as_of)
        query = query.add_columns(OutcomeRow.r_multiple).join(OutcomeRow, known, isouter=not with_outcome)
    query = query.where(Cycle.strategy == strategy, Cycle.symbol == symbol, Cycle.as_of < as_of)
    return query.order_by(Cycle.as_of.desc())


def _one(row: Any) -> Earlier:
    r = None if row.r_multiple is None else float(row.r_multiple)
    return Earlier(row.as_of, row.action, float(row.confidence), tuple(row.reasons), _vector(row), r)


def _vector(row: Any) -> Vector:
    return Vector(spec=row.spec, values=row.values)


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
