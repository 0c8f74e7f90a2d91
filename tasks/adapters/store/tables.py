"""The tables. What a table is for is in its docstring; `infra/migrations` makes them, a test proves both agree.

A table `of` a DTO has its fields as columns, and those written here. Money is exact, time is UTC. What the venue says
(orders, fills, positions) has no foreign key to a cycle: it must be recordable even when our ledger knows nothing of
it. Full texts of prompts and replies are in `cycles.record` only.
"""

from datetime import datetime
from decimal import Decimal
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from sqlalchemy import BigInteger, Boolean, Double, ForeignKey, Index, Integer, MetaData, UniqueConstraint, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedColumn, mapped_column
from sqlalchemy.orm.decl_api import DeclarativeAttributeIntercept

from tasks.adapters.store.types import Document, Money, SafeText, UtcTime, VerbatimDocument
from tasks.core.decision.budget import Charge, KeptReply
from tasks.core.decision.ladder import BreakerState
from tasks.core.types import (
    Alert,
    Answer,
    CycleRecord,
    Dto,
    EquityPoint,
    Fill,
    Halt,
    Json,
    Lease,
    LookAgain,
    ModelCall,
    Move,
    Order,
    OrderIntent,
    Outcome,
    PaperBookState,
    Position,
    Reason,
    ShadowDecision,
    Verdict,
)

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up INTEGER keys only
KINDS: dict[Any, Any] = {
    str: SafeText(),
    bool: Boolean(),
    int: BigInteger(),
    float: Double(),
    Decimal: Money(),
    datetime: UtcTime(),
    dict: Document,
    list: Document,
    tuple: Document,
}


class _Columns(DeclarativeAttributeIntercept):
    if TYPE_CHECKING:  # mypy cannot see the columns that are a DTO's fields

        def __getattr__(cls, name: str) -> Any: ...


class Base(DeclarativeBase, metaclass=_Columns):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {**KINDS, Json: Document, list[Any]: Document}

    def __init_subclass__(cls, key: str, of: type[Dto] | None = None, fields: str = "") -> None:
        """Make columns of the fields of the DTO `of`, or of some of them; key: which columns are the key.

        A key of which nothing else is said is text.
        """
        for name, field in of.model_fields.items() if of else ():
            if name not in vars(cls) and (not fields or name in fields.split()):
                setattr(cls, name, _column(field.annotation, name in key.split()))
        for name in key.split():
            if name not in vars(cls):
                said = () if name in cls.__annotations__ else (KINDS[str],)
                setattr(cls, name, mapped_column(*said, primary_key=True))
        super().__init_subclass__()


def _column(annotation: Any, is_key: bool) -> MappedColumn[Any]:
    """Make the column of a field; what is no number, time or collection is text: a Literal, an enum's member."""
    kind, nullable = annotation, NoneType in get_args(annotation)
    if nullable:
        kind = get_args(annotation)[0]
    kind = getattr(kind, "__origin__", kind)  # of Annotated, tuple[...] and the like
    return mapped_column(KINDS.get(kind, KINDS[str]), nullable=nullable, primary_key=is_key)


def _serial() -> MappedColumn[int]:
    return mapped_column(BigKey, primary_key=True)


def _empty() -> MappedColumn[str]:
    return mapped_column(KINDS[str], nullable=False, server_default="")


def _verbatim() -> MappedColumn[Any]:
    return mapped_column(VerbatimDocument, nullable=False)


def _of_cycle(**more: Any) -> MappedColumn[str]:
    return mapped_column(ForeignKey("cycles.cycle_id"), nullable=False, **more)


def _where(name: str, column: str, condition: str) -> Index:
    """Make an index of the rows that a condition holds for."""
    return Index(name, column, postgresql_where=text(condition), sqlite_where=text(condition))


class CandleRow(Base, key="venue symbol timeframe open_time"):
    """A closed bar with its first values; `revisions` holds later ones that differ, each with its `recorded_at`."""

    __tablename__ = "candles"
    __table_args__ = {"sqlite_with_rowid": False}
    open_time: Mapped[datetime]
    open: Mapped[float]
    high: Mapped[float]
    low: Mapped[float]
    close: Mapped[float]
    volume: Mapped[float]
    recorded_at: Mapped[datetime]
    revisions: Mapped[list[Any] | None]


class InstrumentRow(Base, key="venue symbol"):
    """What a venue lets one trade on a symbol, as `ingest` last read it: for replays of the candles beside it."""

    __tablename__ = "instruments"
    document: Mapped[Json]


class EventRow(Base, of=Reason, key="event_id"):
    """A Reason seen, and the cycle that claimed it. No key to cycles: a claim may come before its cycle's row."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("strategy", "fingerprint"), Index(None, "strategy", "symbol", "as_of"))
    event_id = _serial()
    strategy: Mapped[str]
    cycle_id: Mapped[str | None]
    claimed_at: Mapped[datetime | None]


class StrategyRow(Base, key="sha256"):
    """A strategy that was in force, whole; records name it by the hash of its document."""

    __tablename__ = "strategies"
    document = _verbatim()


class CycleRow(
    Base, of=CycleRecord, fields="cycle_id strategy symbol as_of trigger decider status error", key="cycle_id"
):
    """One cycle; `record` is the whole CycleRecord and explains it alone."""

    __tablename__ = "cycles"
    __table_args__ = (
        UniqueConstraint("strategy", "symbol", "as_of"),
        Index(None, "strategy", "as_of"),
        _where("ix_cycles_started", "strategy", "status = 'started'"),
    )
    record = _verbatim()
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class DecisionRow(Base, of=Answer, fields="source rung latency_ms cost_usd", key="cycle_id"):
    """The one decision of a cycle, the first that was kept; `trace_id` is null until MLflow has it.

    page_id: of the artifact in Prefect that explains it.
    """

    __tablename__ = "decisions"
    __table_args__ = (_where("ix_decisions_untracked", "decided_at", "trace_id IS NULL"),)
    cycle_id = _of_cycle(primary_key=True)
    action: Mapped[str]
    confidence: Mapped[Decimal]
    decided = _verbatim()
    decided_at: Mapped[datetime]
    trace_id: Mapped[str | None]
    page_id: Mapped[str | None]


class ModelCallRow(
    Base, of=ModelCall, fields="role model error latency_ms cost_usd pricing tokens_in tokens_out", key="cycle_id seq"
):
    """What one request to a model cost, in the order of the calls; its texts are in the decision."""

    __tablename__ = "model_calls"
    cycle_id = _of_cycle(primary_key=True)
    seq: Mapped[int] = mapped_column(Integer(), primary_key=True, autoincrement=False)
    prompt_name: Mapped[str | None]
    prompt_version: Mapped[str | None]
    prompt_sha256: Mapped[str | None]
    pricing: Mapped[str] = mapped_column(server_default="")
    called_at: Mapped[datetime] = mapped_column(index=True)


class VerdictRow(Base, of=Verdict, fields="allowed codes", key="cycle_id"):
    """What the guard said about a cycle's decision; the numbers are in the record."""

    __tablename__ = "verdicts"
    cycle_id = _of_cycle(primary_key=True)
    judged_at: Mapped[datetime]


class IntentRow(Base, of=OrderIntent, key="client_order_id"):
    """An order leg, whole, written before the first byte goes to the venue; `leg` keeps their order.

    `fence` is the token of the lease it was last sent under, `sending_at` when that began.
    """

    __tablename__ = "intents"
    cycle_id = _of_cycle(index=True)
    leg: Mapped[int] = mapped_column(Integer())
    state: Mapped[str] = mapped_column(index=True)
    persisted_at: Mapped[datetime] = mapped_column(index=True)
    fence: Mapped[int | None]
    sending_at: Mapped[datetime | None]
    asked_by = _empty()


class OrderRow(Base, of=Order, key="client_order_id"):
    """An order as the venue last reported it."""

    __tablename__ = "orders"


class FillRow(Base, of=Fill, key="symbol fill_id"):
    """One execution, kept once."""

    __tablename__ = "fills"
    __table_args__ = (Index(None, "client_order_id"), Index(None, "symbol", "at"))


class PositionRow(Base, of=Position, key="position_id"):
    """A position of ours, open (`closed_at` null) or closed."""

    __tablename__ = "positions"
    __table_args__ = (Index(None, "strategy", "closed_at"),)
    exit_reason = _empty()


class OutcomeRow(Base, of=Outcome, key="position_id"):
    """What became of a decision; one per closed position. `settled_at` is null until `settle` has handed it on."""

    __tablename__ = "outcomes"
    __table_args__ = (Index(None, "cycle_id"), Index(None, "closed_at"))
    position_id = mapped_column(ForeignKey("positions.position_id"), primary_key=True)
    exit_reason = _empty()
    tracked: Mapped[bool]
    settled_at: Mapped[datetime | None]


class EquityRow(Base, of=EquityPoint, key="strategy at"):
    """Equity and its peak at one moment."""

    __tablename__ = "equity"


class HaltRow(Base, of=Halt, key="halt_id"):
    """A stop of new entries, lifted when `resumed_at` is set."""

    __tablename__ = "halts"
    halt_id = _serial()
    flatten: Mapped[bool] = mapped_column(server_default=false())
    resumed_by: Mapped[str | None]


class PauseRow(Base, key="strategy symbol"):
    """No new entries of a strategy in a symbol until then; with no symbol, entries half as large.

    asked_by: the person who asked for it.
    """

    __tablename__ = "pauses"
    until: Mapped[datetime]
    asked_by = _empty()


class DifferenceRow(Base, of=LookAgain, key="strategy about"):
    """What differs between venue and ledger, and since when; no fact until it has lasted."""

    __tablename__ = "differences"
    strategy: Mapped[str]


class BudgetRow(Base, of=Charge, key="budget_id"):
    """One model call: its worst case while reserved (until `expires_at`), what it cost once settled; in 1e-9 USD."""

    __tablename__ = "budgets"
    __table_args__ = (Index(None, "session"),)
    budget_id = _serial()
    day: Mapped[str] = mapped_column(index=True)
    nano_usd: Mapped[int]
    settled: Mapped[bool]
    at: Mapped[datetime]
    expires_at: Mapped[datetime]


class BreakerRow(Base, of=BreakerState, key="session"):
    """A session's errors in a row; no model is asked before `retry_at`."""

    __tablename__ = "breakers"
    errors: Mapped[int] = mapped_column(Integer())


class ReplyRow(Base, of=KeptReply, key="content_hash"):
    """A reply that was paid for, by the hash of model, prompt and messages; the newest one counts."""

    __tablename__ = "replies"
    pricing: Mapped[str] = mapped_column(server_default="")


class VectorRow(Base, key="cycle_id"):
    """The moment a decision was made for, in the feature space that `spec` names, and why it was asked for.

    price: the 5m close; thesis: of the decision, one line; unread: its follow-ups that were not understood.
    """

    __tablename__ = "decision_vectors"
    cycle_id = _of_cycle(primary_key=True)
    spec: Mapped[str]
    values: Mapped[list[Any]]
    reasons: Mapped[list[Any]]
    price: Mapped[float | None]
    thesis = _empty()
    unread: Mapped[list[Any]] = mapped_column(server_default="[]")


class ShadowRow(Base, of=ShadowDecision, fields="decider strategy symbol", key="cycle_id decider"):
    """What one decider answered in a cycle without sending it, or the champion's answer beside; scored later.

    MLflow has the answer once `trace_id` is there (the champion's: its decision's), the score with `assessment_id`.
    """

    __tablename__ = "shadow_decisions"
    __table_args__ = (_where("ix_shadow_decisions_untracked", "as_of", "assessment_id IS NULL"),)
    cycle_id = _of_cycle(primary_key=True)
    as_of: Mapped[datetime] = mapped_column(index=True)
    document = _verbatim()
    return_pct: Mapped[Decimal | None]
    trace_id: Mapped[str | None]
    assessment_id: Mapped[str | None]


class PaperBookRow(Base, of=PaperBookState, key="strategy decider"):
    """A challenger's own account: the fill engine's state, and until when the market has passed over it."""

    __tablename__ = "paper_books"


class TapeRow(Base, key="tape"):
    """Candles that variants were compared on, by the hashes of their days: whatever a symbol is called there."""

    __tablename__ = "tapes"
    days: Mapped[list[Any]]


class TrialRow(Base, key="trial tape"):
    """A variant that was compared, named by all it consists of, windows and costs included; Sharpe ratio per day."""

    __tablename__ = "trials"
    tape = mapped_column(ForeignKey("tapes.tape"), primary_key=True)
    sharpe: Mapped[float | None]


class LeaseRow(Base, of=Lease, key="name"):
    """Who may do a thing that only one at a time may do, until when; `token` grows with every holder."""

    __tablename__ = "leases"
    expires_at: Mapped[datetime]


class PromptAliasRow(Base, of=Move, fields="role alias version sha256", key="role alias"):
    """Which version of a role's prompt an alias names, and the hash of the file that was meant."""

    __tablename__ = "prompt_aliases"


class PromotionRow(Base, key="promotion_id"):
    """One move of an alias, or a refusal, with all that was looked at."""

    __tablename__ = "promotions"
    promotion_id = _serial()
    role: Mapped[str] = mapped_column(index=True)
    move = _verbatim()


class AlertRow(Base, of=Alert, fields="kind text", key="fingerprint"):
    """Something people were told, since when it is so, and when that was last seen."""

    __tablename__ = "alerts"
    raised_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)
