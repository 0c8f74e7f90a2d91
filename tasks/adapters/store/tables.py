"""The tables. What a table is for is in its docstring; `infra/migrations` makes them, a test proves both agree.

Money is exact, time is UTC. What the venue says (orders, fills, positions) has no foreign key to a cycle: it must be
recordable even when our ledger knows nothing of it. Full texts of prompts and replies are in `cycles.record` only.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, Integer, MetaData, UniqueConstraint, false, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tasks.adapters.store.types import Document, Money, SafeText, UtcTime, VerbatimDocument

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
BigKey = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up INTEGER keys only


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {
        str: SafeText(),
        float: Double(),
        Decimal: Money(),
        datetime: UtcTime(),
        dict[str, Any]: Document,
        list[Any]: Document,
    }


class CandleRow(Base):
    """A closed bar with its first values; `revisions` holds later ones that differ, each with its `recorded_at`."""

    __tablename__ = "candles"
    __table_args__ = {"sqlite_with_rowid": False}
    venue: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    timeframe: Mapped[str] = mapped_column(primary_key=True)
    open_time: Mapped[datetime] = mapped_column(primary_key=True)
    open: Mapped[float]
    high: Mapped[float]
    low: Mapped[float]
    close: Mapped[float]
    volume: Mapped[float]
    recorded_at: Mapped[datetime]
    revisions: Mapped[list[Any] | None]


class InstrumentRow(Base):
    """What a venue lets one trade on a symbol, as `ingest` last read it: for replays of the candles beside it."""

    __tablename__ = "instruments"
    venue: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[dict[str, Any]]
    stored_at: Mapped[datetime]


class EventRow(Base):
    """A Reason seen, and the cycle that claimed it. No key to cycles: a claim may come before its cycle's row."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("strategy", "fingerprint"),
        Index(None, "strategy", "symbol", "as_of"),
    )
    event_id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    strategy: Mapped[str]
    fingerprint: Mapped[str]
    rule: Mapped[str]
    symbol: Mapped[str]
    timeframe: Mapped[str]
    detail: Mapped[str]
    as_of: Mapped[datetime]
    context: Mapped[bool]
    recorded_at: Mapped[datetime]
    cycle_id: Mapped[str | None]
    claimed_at: Mapped[datetime | None]


class StrategyRow(Base):
    """A strategy that was in force, whole; records name it by the hash of its document."""

    __tablename__ = "strategies"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    document: Mapped[dict[str, Any]] = mapped_column(VerbatimDocument)
    kept_at: Mapped[datetime]


class CycleRow(Base):
    """One cycle; `record` is the whole CycleRecord and explains it alone."""

    __tablename__ = "cycles"
    __table_args__ = (
        UniqueConstraint("strategy", "symbol", "as_of"),
        Index(None, "strategy", "as_of"),
        Index("ix_cycles_started", "strategy", postgresql_where=text("status = 'started'"),
              sqlite_where=text("status = 'started'")),
    )  # fmt: skip
    cycle_id: Mapped[str] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    symbol: Mapped[str]
    as_of: Mapped[datetime]
    trigger: Mapped[str]
    decider: Mapped[str]
    status: Mapped[str]
    error: Mapped[str]
    record: Mapped[dict[str, Any]] = mapped_column(VerbatimDocument)
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class DecisionRow(Base):
    """The one decision of a cycle, the first that was kept; `trace_id` is null until MLflow has it."""

    __tablename__ = "decisions"
    __table_args__ = (
        Index("ix_decisions_untracked", "decided_at", postgresql_where=text("trace_id IS NULL"),
              sqlite_where=text("trace_id IS NULL")),
    )  # fmt: skip
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    symbol: Mapped[str]
    action: Mapped[str]
    confidence: Mapped[Decimal]
    source: Mapped[str]
    rung: Mapped[str]
    model: Mapped[str]
    latency_ms: Mapped[float]
    cost_usd: Mapped[Decimal]
    tokens: Mapped[int] = mapped_column(BigInteger)
    decided: Mapped[dict[str, Any]] = mapped_column(VerbatimDocument)
    decided_at: Mapped[datetime]
    trace_id: Mapped[str | None]


class ModelCallRow(Base):
    """What one request to a model cost, in the order of the calls; its texts are in the decision."""

    __tablename__ = "model_calls"
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    role: Mapped[str]
    model: Mapped[str]
    prompt_name: Mapped[str | None]
    prompt_version: Mapped[str | None]
    prompt_sha256: Mapped[str | None]
    error: Mapped[str]
    latency_ms: Mapped[float]
    cost_usd: Mapped[Decimal]
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    called_at: Mapped[datetime] = mapped_column(index=True)


class ToolCallRow(Base):
    """One tool request of a model and what it was answered, in the order they were asked."""

    __tablename__ = "tool_calls"
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trace_id: Mapped[str] = mapped_column(index=True)
    tool: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    response: Mapped[str]
    error: Mapped[str]
    truncated: Mapped[bool]
    flags: Mapped[list[Any]]
    bytes: Mapped[int]
    latency_ms: Mapped[float]
    called_at: Mapped[datetime] = mapped_column(index=True)


class VerdictRow(Base):
    """What the guard said about a cycle's decision."""

    __tablename__ = "verdicts"
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    allowed: Mapped[bool]
    codes: Mapped[list[Any]]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal | None]
    stop: Mapped[Decimal | None]
    target: Mapped[Decimal | None]
    trade_risk_pct: Mapped[Decimal]
    total_risk_pct: Mapped[Decimal]
    judged_at: Mapped[datetime]


class IntentRow(Base):
    """An order leg, whole, written before the first byte goes to the venue; `leg` keeps their order.

    `fence` is the token of the lease it was last sent under.
    """

    __tablename__ = "intents"
    client_order_id: Mapped[str] = mapped_column(primary_key=True)
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), index=True)
    leg: Mapped[int]
    symbol: Mapped[str]
    side: Mapped[str]
    type: Mapped[str]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal | None]
    stop: Mapped[Decimal | None]
    target: Mapped[Decimal | None]
    reduce_only: Mapped[bool]
    expires_at: Mapped[datetime | None]
    state: Mapped[str] = mapped_column(index=True)
    persisted_at: Mapped[datetime] = mapped_column(index=True)
    state_at: Mapped[datetime]
    fence: Mapped[int | None] = mapped_column(BigInteger)


class OrderRow(Base):
    """An order as the venue last reported it."""

    __tablename__ = "orders"
    client_order_id: Mapped[str] = mapped_column(primary_key=True)
    cycle_id: Mapped[str | None] = mapped_column(index=True)
    venue_order_id: Mapped[str]
    symbol: Mapped[str]
    side: Mapped[str]
    type: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    quantity: Mapped[Decimal]
    filled: Mapped[Decimal]
    price: Mapped[Decimal | None]
    avg_price: Mapped[Decimal | None]
    stop: Mapped[Decimal | None]
    target: Mapped[Decimal | None]
    reduce_only: Mapped[bool]
    reason: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class FillRow(Base):
    """One execution, kept once."""

    __tablename__ = "fills"
    __table_args__ = (Index(None, "symbol", "at"),)
    fill_id: Mapped[str] = mapped_column(primary_key=True)
    venue_order_id: Mapped[str]
    client_order_id: Mapped[str] = mapped_column(index=True)
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    price: Mapped[Decimal]
    fee: Mapped[Decimal]
    fee_currency: Mapped[str]
    liquidity: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime]


class PositionRow(Base):
    """A position of ours, open (`closed_at` null) or closed."""

    __tablename__ = "positions"
    __table_args__ = (Index(None, "strategy", "closed_at"),)
    position_id: Mapped[str] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    cycle_id: Mapped[str]
    symbol: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[Decimal]
    entry_quantity: Mapped[Decimal]
    avg_price: Mapped[Decimal]
    initial_stop: Mapped[Decimal | None]
    stop: Mapped[Decimal | None]
    target: Mapped[Decimal | None]
    realized_pnl: Mapped[Decimal]
    fees: Mapped[Decimal]
    exit_price: Mapped[Decimal | None]
    followups: Mapped[list[Any]]
    followups_done: Mapped[list[Any]]
    peak_r: Mapped[float]
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]


class OutcomeRow(Base):
    """What became of a decision; one per closed position. `settled_at` is null until `settle` has handed it on."""

    __tablename__ = "outcomes"
    position_id: Mapped[str] = mapped_column(ForeignKey("positions.position_id"), primary_key=True)
    cycle_id: Mapped[str] = mapped_column(index=True)
    symbol: Mapped[str]
    executed: Mapped[bool]
    entry_price: Mapped[Decimal]
    exit_price: Mapped[Decimal]
    pnl: Mapped[Decimal]
    pnl_pct: Mapped[Decimal]
    r_multiple: Mapped[Decimal | None]
    fees: Mapped[Decimal]
    hold_seconds: Mapped[int] = mapped_column(BigInteger)
    closed_at: Mapped[datetime] = mapped_column(index=True)
    tracked: Mapped[bool]
    settled_at: Mapped[datetime | None]


class EquityRow(Base):
    """Equity and its peak at one moment."""

    __tablename__ = "equity"
    strategy: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    equity: Mapped[Decimal]
    peak: Mapped[Decimal]


class HistoryRow(Base):
    """A line of a symbol's history; `digest` makes the same line written twice one row."""

    __tablename__ = "history"
    history_id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    symbol: Mapped[str]
    ts: Mapped[datetime]
    kind: Mapped[str]
    reference_id: Mapped[str] = mapped_column(index=True)
    payload: Mapped[dict[str, Any]]


class HaltRow(Base):
    """A stop of new entries, lifted when `resumed_at` is set."""

    __tablename__ = "halts"
    halt_id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    reason: Mapped[str]
    who: Mapped[str]
    since: Mapped[datetime]
    flatten: Mapped[bool] = mapped_column(server_default=false())
    resumed_at: Mapped[datetime | None]
    resumed_by: Mapped[str | None]


class PauseRow(Base):
    """No new entries of a strategy in a symbol until then."""

    __tablename__ = "pauses"
    strategy: Mapped[str] = mapped_column(primary_key=True)
    symbol: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime]


class BudgetRow(Base):
    """One model call: its worst case while reserved (until `expires_at`), what it cost once settled; in 1e-9 USD."""

    __tablename__ = "budgets"
    budget_id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    day: Mapped[str] = mapped_column(index=True)
    session: Mapped[str] = mapped_column(index=True)
    symbol: Mapped[str]
    decision: Mapped[str]
    nano_usd: Mapped[int] = mapped_column(BigInteger)
    settled: Mapped[bool]
    at: Mapped[datetime]
    expires_at: Mapped[datetime]


class BreakerRow(Base):
    """A session's errors in a row; no model is asked before `retry_at`."""

    __tablename__ = "breakers"
    session: Mapped[str] = mapped_column(primary_key=True)
    errors: Mapped[int]
    retry_at: Mapped[datetime | None]


class ReplyRow(Base):
    """A reply that was paid for, by the hash of model, prompt and messages; the newest one counts."""

    __tablename__ = "replies"
    content_hash: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    prompt_name: Mapped[str | None]
    prompt_version: Mapped[str | None]
    prompt_sha256: Mapped[str | None]
    raw_reply: Mapped[str]
    cost_usd: Mapped[Decimal]
    tokens_in: Mapped[int] = mapped_column(BigInteger)
    tokens_out: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class VectorRow(Base):
    """The moment a decision was made for, in the feature space that `spec` names, and why it was asked for."""

    __tablename__ = "decision_vectors"
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    spec: Mapped[str]
    values: Mapped[list[Any]]
    reasons: Mapped[list[Any]]


class ShadowRow(Base):
    """What one decider answered in a cycle without sending it, or the champion's answer beside; scored later."""

    __tablename__ = "shadow_decisions"
    cycle_id: Mapped[str] = mapped_column(ForeignKey("cycles.cycle_id"), primary_key=True)
    decider: Mapped[str] = mapped_column(primary_key=True)
    strategy: Mapped[str]
    symbol: Mapped[str]
    as_of: Mapped[datetime] = mapped_column(index=True)
    document: Mapped[dict[str, Any]] = mapped_column(VerbatimDocument)
    return_pct: Mapped[Decimal | None]


class PaperBookRow(Base):
    """A challenger's own account: the fill engine's state, and until when the market has passed over it."""

    __tablename__ = "paper_books"
    strategy: Mapped[str] = mapped_column(primary_key=True)
    decider: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    equity: Mapped[Decimal]
    until: Mapped[datetime]


class LeaseRow(Base):
    """Who may do a thing that only one at a time may do, until when; `token` grows with every holder."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class PromptAliasRow(Base):
    """Which version of a role's prompt an alias names, and the hash of the file that was meant."""

    __tablename__ = "prompt_aliases"
    role: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    sha256: Mapped[str]
    moved_at: Mapped[datetime]


class PromotionRow(Base):
    """One move of an alias, or a refusal, with all that was looked at."""

    __tablename__ = "promotions"
    promotion_id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    at: Mapped[datetime]
    role: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    move: Mapped[dict[str, Any]] = mapped_column(VerbatimDocument)


class AlertRow(Base):
    """Something people were told, since when it is so, and when that was last seen."""

    __tablename__ = "alerts"
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    text: Mapped[str]
    raised_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)
    times: Mapped[int] = mapped_column(BigInteger)
