"""First tables.

Revision: 0001, after none.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
MONEY = sa.Numeric().with_variant(sa.Text(), "sqlite")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "candles",
        sa.Column("venue", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("open_time", TIME, nullable=False),
        sa.Column("open", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("close", sa.Double(), nullable=False),
        sa.Column("volume", sa.Double(), nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("revisions", DOCUMENT, nullable=True),
        sa.PrimaryKeyConstraint("venue", "symbol", "timeframe", "open_time", name=op.f("pk_candles")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cycles",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("decider", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("record", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_cycles")),
        sa.UniqueConstraint("strategy", "symbol", "as_of", name=op.f("uq_cycles_strategy_symbol_as_of")),
    )
    op.create_index(
        "ix_cycles_started",
        "cycles",
        ["strategy"],
        unique=False,
        postgresql_where=sa.text("status = 'started'"),
        sqlite_where=sa.text("status = 'started'"),
    )
    op.create_index(op.f("ix_cycles_strategy_as_of"), "cycles", ["strategy", "as_of"], unique=False)
    op.create_table(
        "equity",
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("equity", MONEY, nullable=False),
        sa.Column("peak", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("strategy", "at", name=op.f("pk_equity")),
    )
    op.create_table(
        "events",
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("timeframe", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("context", sa.Boolean(), nullable=False),
        sa.Column("recorded_at", TIME, nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=True),
        sa.Column("claimed_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
        sa.UniqueConstraint("strategy", "fingerprint", name=op.f("uq_events_strategy_fingerprint")),
    )
    op.create_index(op.f("ix_events_strategy_symbol_as_of"), "events", ["strategy", "symbol", "as_of"], unique=False)
    op.create_table(
        "fills",
        sa.Column("fill_id", sa.Text(), nullable=False),
        sa.Column("venue_order_id", sa.Text(), nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=False),
        sa.Column("fee", MONEY, nullable=False),
        sa.Column("fee_currency", sa.Text(), nullable=False),
        sa.Column("liquidity", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("fill_id", name=op.f("pk_fills")),
    )
    op.create_index(op.f("ix_fills_client_order_id"), "fills", ["client_order_id"], unique=False)
    op.create_index(op.f("ix_fills_symbol_at"), "fills", ["symbol", "at"], unique=False)
    op.create_table(
        "halts",
        sa.Column("halt_id", KEY, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("resumed_at", TIME, nullable=True),
        sa.Column("resumed_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("halt_id", name=op.f("pk_halts")),
    )
    op.create_table(
        "history",
        sa.Column("history_id", KEY, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("ts", TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reference_id", sa.Text(), nullable=False),
        sa.Column("payload", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("history_id", name=op.f("pk_history")),
        sa.UniqueConstraint("digest", name=op.f("uq_history_digest")),
    )
    op.create_index(op.f("ix_history_reference_id"), "history", ["reference_id"], unique=False)
    op.create_table(
        "orders",
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=True),
        sa.Column("venue_order_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("filled", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=True),
        sa.Column("avg_price", MONEY, nullable=True),
        sa.Column("stop", MONEY, nullable=True),
        sa.Column("target", MONEY, nullable=True),
        sa.Column("reduce_only", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("client_order_id", name=op.f("pk_orders")),
    )
    op.create_index(op.f("ix_orders_cycle_id"), "orders", ["cycle_id"], unique=False)
    op.create_index(op.f("ix_orders_status"), "orders", ["status"], unique=False)
    op.create_table(
        "pauses",
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("strategy", "symbol", name=op.f("pk_pauses")),
    )
    op.create_table(
        "positions",
        sa.Column("position_id", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("entry_quantity", MONEY, nullable=False),
        sa.Column("avg_price", MONEY, nullable=False),
        sa.Column("initial_stop", MONEY, nullable=True),
        sa.Column("stop", MONEY, nullable=True),
        sa.Column("target", MONEY, nullable=True),
        sa.Column("realized_pnl", MONEY, nullable=False),
        sa.Column("fees", MONEY, nullable=False),
        sa.Column("exit_price", MONEY, nullable=True),
        sa.Column("followups", DOCUMENT, nullable=False),
        sa.Column("followups_done", DOCUMENT, nullable=False),
        sa.Column("peak_r", sa.Double(), nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("closed_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("position_id", name=op.f("pk_positions")),
    )
    op.create_index(op.f("ix_positions_strategy_closed_at"), "positions", ["strategy", "closed_at"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("confidence", MONEY, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rung", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("cost_usd", MONEY, nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("decided", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("decided_at", TIME, nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_decisions_cycle_id")),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_decisions")),
    )
    op.create_index(
        "ix_decisions_untracked",
        "decisions",
        ["decided_at"],
        unique=False,
        postgresql_where=sa.text("trace_id IS NULL"),
        sqlite_where=sa.text("trace_id IS NULL"),
    )
    op.create_table(
        "intents",
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("leg", sa.Integer(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("side", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=True),
        sa.Column("stop", MONEY, nullable=True),
        sa.Column("target", MONEY, nullable=True),
        sa.Column("reduce_only", sa.Boolean(), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("persisted_at", TIME, nullable=False),
        sa.Column("state_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_intents_cycle_id")),
        sa.PrimaryKeyConstraint("client_order_id", name=op.f("pk_intents")),
    )
    op.create_index(op.f("ix_intents_cycle_id"), "intents", ["cycle_id"], unique=False)
    op.create_index(op.f("ix_intents_persisted_at"), "intents", ["persisted_at"], unique=False)
    op.create_index(op.f("ix_intents_state"), "intents", ["state"], unique=False)
    op.create_table(
        "model_calls",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_name", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("prompt_sha256", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("cost_usd", MONEY, nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("called_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_model_calls_cycle_id")),
        sa.PrimaryKeyConstraint("cycle_id", "seq", name=op.f("pk_model_calls")),
    )
    op.create_index(op.f("ix_model_calls_called_at"), "model_calls", ["called_at"], unique=False)
    op.create_table(
        "outcomes",
        sa.Column("position_id", sa.Text(), nullable=False),
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("executed", sa.Boolean(), nullable=False),
        sa.Column("entry_price", MONEY, nullable=False),
        sa.Column("exit_price", MONEY, nullable=False),
        sa.Column("pnl", MONEY, nullable=False),
        sa.Column("pnl_pct", MONEY, nullable=False),
        sa.Column("r_multiple", MONEY, nullable=True),
        sa.Column("fees", MONEY, nullable=False),
        sa.Column("hold_seconds", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", TIME, nullable=False),
        sa.Column("tracked", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["position_id"], ["positions.position_id"], name=op.f("fk_outcomes_position_id")),
        sa.PrimaryKeyConstraint("position_id", name=op.f("pk_outcomes")),
    )
    op.create_index(op.f("ix_outcomes_closed_at"), "outcomes", ["closed_at"], unique=False)
    op.create_index(op.f("ix_outcomes_cycle_id"), "outcomes", ["cycle_id"], unique=False)
    op.create_table(
        "verdicts",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("allowed", sa.Boolean(), nullable=False),
        sa.Column("codes", DOCUMENT, nullable=False),
        sa.Column("quantity", MONEY, nullable=False),
        sa.Column("price", MONEY, nullable=True),
        sa.Column("stop", MONEY, nullable=True),
        sa.Column("target", MONEY, nullable=True),
        sa.Column("trade_risk_pct", MONEY, nullable=False),
        sa.Column("total_risk_pct", MONEY, nullable=False),
        sa.Column("judged_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_verdicts_cycle_id")),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_verdicts")),
    )


def downgrade() -> None:
    op.drop_table("verdicts")
    op.drop_index(op.f("ix_outcomes_cycle_id"), table_name="outcomes")
    op.drop_index(op.f("ix_outcomes_closed_at"), table_name="outcomes")
    op.drop_table("outcomes")
    op.drop_index(op.f("ix_model_calls_called_at"), table_name="model_calls")
    op.drop_table("model_calls")
    op.drop_index(op.f("ix_intents_state"), table_name="intents")
    op.drop_index(op.f("ix_intents_persisted_at"), table_name="intents")
    op.drop_index(op.f("ix_intents_cycle_id"), table_name="intents")
    op.drop_table("intents")
    op.drop_index(
        "ix_decisions_untracked",
        table_name="decisions",
        postgresql_where=sa.text("trace_id IS NULL"),
        sqlite_where=sa.text("trace_id IS NULL"),
    )
    op.drop_table("decisions")
    op.drop_index(op.f("ix_positions_strategy_closed_at"), table_name="positions")
    op.drop_table("positions")
    op.drop_table("pauses")
    op.drop_index(op.f("ix_orders_status"), table_name="orders")
    op.drop_index(op.f("ix_orders_cycle_id"), table_name="orders")
    op.drop_table("orders")
    op.drop_index(op.f("ix_history_reference_id"), table_name="history")
    op.drop_table("history")
    op.drop_table("halts")
    op.drop_index(op.f("ix_fills_symbol_at"), table_name="fills")
    op.drop_index(op.f("ix_fills_client_order_id"), table_name="fills")
    op.drop_table("fills")
    op.drop_index(op.f("ix_events_strategy_symbol_as_of"), table_name="events")
    op.drop_table("events")
    op.drop_table("equity")
    op.drop_index(op.f("ix_cycles_strategy_as_of"), table_name="cycles")
    op.drop_index(
        "ix_cycles_started",
        table_name="cycles",
        postgresql_where=sa.text("status = 'started'"),
        sqlite_where=sa.text("status = 'started'"),
    )
    op.drop_table("cycles")
    op.drop_table("candles")
