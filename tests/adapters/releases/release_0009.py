"""A database as the release with schema 0009 made it, the oldest that this one brings up to date, or one after it."""

import runpy
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

from tasks.adapters.store.database import MIGRATIONS

TYPES = {
    "": sa.Text(),
    "time": sa.DateTime(timezone=True),
    "money": sa.Numeric().with_variant(sa.Text(), "sqlite"),
    "float": sa.Double(),
    "bool": sa.Boolean(),
    "int": sa.Integer(),
    "big": sa.BigInteger(),
    "key": sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
    "document": sa.JSON().with_variant(postgresql.JSONB(), "postgresql"),
    "verbatim": sa.JSON(),
}
# Each column's name, * of the primary key, ? nullable, and its type where that is not text.
TABLES = {
    "cycles": """
        cycle_id* strategy symbol as_of:time trigger decider status error record:verbatim started_at:time
        updated_at:time
    """,
    "positions": """
        position_id* strategy cycle_id symbol side quantity:money entry_quantity:money avg_price:money
        initial_stop?:money stop?:money target?:money realized_pnl:money fees:money exit_price?:money followups:document
        followups_done:document peak_r:float opened_at:time closed_at?:time
    """,
    "alerts": "fingerprint* kind text raised_at:time seen_at:time times:big",
    "breakers": "session* errors:int retry_at?:time",
    "budgets": "budget_id*:key day session symbol decision nano_usd:big settled:bool at:time expires_at:time",
    "candles": """
        venue* symbol* timeframe* open_time*:time open:float high:float low:float close:float volume:float
        recorded_at:time revisions?:document
    """,
    "decision_vectors": "cycle_id* spec values:document reasons:document",
    "decisions": """
        cycle_id* symbol action confidence:money source rung model latency_ms:float cost_usd:money tokens:big
        decided:verbatim decided_at:time trace_id?
    """,
    "equity": "strategy* at*:time equity:money peak:money",
    "events": """
        event_id*:key strategy fingerprint rule symbol timeframe detail as_of:time context:bool recorded_at:time
        cycle_id? claimed_at?:time
    """,
    "fills": """
        fill_id* venue_order_id client_order_id symbol side quantity:money price:money fee:money fee_currency liquidity
        reason at:time
    """,
    "halts": "halt_id*:key reason who since:time resumed_at?:time resumed_by? flatten:bool",
    "history": "history_id*:key digest symbol ts:time kind reference_id payload:document",
    "intents": """
        client_order_id* cycle_id leg:int symbol side type quantity:money price?:money stop?:money target?:money
        reduce_only:bool expires_at?:time state persisted_at:time state_at:time fence?:big
    """,
    "leases": "name* holder token:big expires_at:time",
    "model_calls": """
        cycle_id* seq*:int role model prompt_name? prompt_version? prompt_sha256? error latency_ms:float cost_usd:money
        tokens_in:big tokens_out:big called_at:time
    """,
    "orders": """
        client_order_id* cycle_id? venue_order_id symbol side type status quantity:money filled:money price?:money
        avg_price?:money stop?:money target?:money reduce_only:bool reason created_at:time updated_at:time
    """,
    "outcomes": """
        position_id* cycle_id symbol executed:bool entry_price:money exit_price:money pnl:money pnl_pct:money
        r_multiple?:money fees:money hold_seconds:big closed_at:time tracked:bool
    """,
    "paper_books": "strategy* decider* state equity:money until:time",
    "pauses": "strategy* symbol* until:time",
    "promotions": "promotion_id*:key at:time role kind move:verbatim",
    "prompt_aliases": "role* alias* version sha256 moved_at:time",
    "replies": """
        content_hash* model prompt_name? prompt_version? prompt_sha256? raw_reply cost_usd:money tokens_in:big
        tokens_out:big created_at:time
    """,
    "shadow_decisions": "cycle_id* decider* strategy symbol as_of:time document:verbatim return_pct?:money",
    "tool_calls": """
        cycle_id* seq*:int trace_id tool parameters:document response error truncated:bool flags:document bytes:int
        latency_ms:float called_at:time
    """,
    "verdicts": """
        cycle_id* allowed:bool codes:document quantity:money price?:money stop?:money target?:money trade_risk_pct:money
        total_risk_pct:money judged_at:time
    """,
}
UNIQUE = {"cycles": ("strategy", "symbol", "as_of"), "events": ("strategy", "fingerprint"), "history": ("digest",)}
OF_CYCLES = ("decision_vectors", "decisions", "intents", "model_calls", "shadow_decisions", "tool_calls", "verdicts")
REFERENCES = {
    **dict.fromkeys(OF_CYCLES, ("cycle_id", "cycles.cycle_id")),
    "outcomes": ("position_id", "positions.position_id"),
}
INDEXES = """
    alerts seen_at, budgets day, budgets session, cycles strategy as_of, events strategy symbol as_of,
    fills client_order_id, fills symbol at, history reference_id, intents cycle_id, intents persisted_at, intents state,
    model_calls called_at, orders cycle_id, orders status, outcomes closed_at, outcomes cycle_id,
    positions strategy closed_at, promotions role, shadow_decisions as_of, tool_calls called_at, tool_calls trace_id
"""
PARTIAL = {
    "cycles_started": ("strategy", "status = 'started'"),
    "decisions_untracked": ("decided_at", "trace_id IS NULL"),
}


def of_release(connection: sa.Connection, version: str) -> None:
    """Bring an empty database to an earlier version, by the migrations there were then."""
    config = Config(MIGRATIONS / "alembic.ini")
    config.attributes["connection"] = connection
    command.stamp(config, "0009")
    with Operations.context(MigrationContext.configure(connection)) as op:
        make_tables(op)
        for migration in sorted(Path(__file__).parent.glob("to_*.py")):
            if migration.stem[3:7] <= version:
                runpy.run_path(str(migration))["upgrade"]()
    connection.execute(sa.text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def make_tables(op: Operations) -> None:
    for table, text in TABLES.items():
        columns = text.split()
        key = [column.partition("*")[0] for column in columns if "*" in column]
        op.create_table(
            table,
            *_columns(columns),
            sa.PrimaryKeyConstraint(*key, name=f"pk_{table}"),
            *_constraints(table),
            sqlite_with_rowid=table != "candles",
        )
    for table, *names in map(str.split, INDEXES.split(",")):
        op.create_index("_".join(("ix", table, *names)), table, names)
    for name, (column, condition) in PARTIAL.items():
        where = sa.text(condition)
        op.create_index(f"ix_{name}", name.partition("_")[0], [column], postgresql_where=where, sqlite_where=where)


def _columns(columns: list[str]) -> list[sa.Column]:
    """Make the columns of a table; a halt that does not say so did not flatten."""
    return [
        sa.Column(
            name.strip("*?"),
            TYPES[kind],
            nullable="?" in name,
            server_default=sa.false() if name == "flatten" else None,
        )
        for name, _, kind in (column.partition(":") for column in columns)
    ]


def _constraints(table: str) -> list[sa.Constraint]:
    """Make what a table is held to besides its key."""
    made = []
    if table in REFERENCES:
        column, target = REFERENCES[table]
        name = f"fk_{table}_{column}" + ("_cycles" if table == "shadow_decisions" else "")
        made.append(sa.ForeignKeyConstraint([column], [target], name=name))
    if table in UNIQUE:
        made.append(sa.UniqueConstraint(*UNIQUE[table], name="_".join(("uq", table, *UNIQUE[table]))))
    return made
