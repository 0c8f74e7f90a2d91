"""What came after schema 0009, for a database of then or of any release between: what is there already stays.

Outcomes that `settle` had told of are marked so. Their R is measured anew by their entries' fills and stops, or where
those are gone by their average entry and first stop: it was before fees, and of the first entry alone. What nobody ever
read goes.

Revision: 0020, after 0009.
"""

from collections.abc import Mapping, Set
from decimal import Decimal
from itertools import groupby
from operator import itemgetter

import sqlalchemy as sa
from alembic import op

from tasks.adapters.store import Base, OutcomeRow

revision = "0020"
down_revision = "0009"

UNREAD = {
    "alerts": "times",
    "decisions": "symbol model tokens",
    "events": "recorded_at",
    "instruments": "stored_at",
    "intents": "state_at",
    "orders": "cycle_id",
    "positions": "peak_r",
    "promotions": "at kind",
    "prompt_aliases": "moved_at",
    "replies": "prompt_name prompt_version prompt_sha256",
    "strategies": "name kept_at",
    "verdicts": "quantity price stop target trade_risk_pct total_risk_pct",
}
ENTRIES = """
    SELECT o.position_id, o.pnl, coalesce(e.price, o.entry_price), coalesce(e.quantity, p.entry_quantity),
        CASE WHEN e.price IS NULL THEN p.initial_stop ELSE e.stop END
    FROM outcomes o JOIN positions p ON p.position_id = o.position_id LEFT JOIN (
        SELECT f.*, i.stop FROM fills f JOIN intents i ON i.client_order_id = f.client_order_id WHERE NOT i.reduce_only
    ) e ON e.symbol = p.symbol AND (e.side = 'buy') = (p.side = 'long') AND e.at >= p.opened_at AND e.at < p.closed_at
    WHERE o.outcome_r IS NOT NULL ORDER BY o.position_id
"""


def upgrade() -> None:
    seen = sa.inspect(op.get_bind())
    had = {table: {each["name"] for each in seen.get_columns(table)} for table in seen.get_table_names()}
    for table in had.keys() & {"history", "tool_calls"}:
        op.drop_table(table)
    for index in {each["name"] for each in seen.get_indexes("orders")} & {"ix_orders_cycle_id", "ix_orders_status"}:
        op.drop_index(index, "orders")
    for table, names in UNREAD.items():
        for name in had.get(table, set()).intersection(names.split()):
            op.drop_column(table, name)
    if before := "r_multiple" in had["outcomes"]:
        op.execute("ALTER TABLE outcomes RENAME COLUMN r_multiple TO outcome_r")
        had["outcomes"].add("outcome_r")
    _add_columns(had)
    Base.metadata.create_all(op.get_bind())
    for index in (
        each for name in had.keys() & Base.metadata.tables.keys() for each in Base.metadata.tables[name].indexes
    ):
        index.create(op.get_bind(), checkfirst=True)
    if "settled_at" not in had["outcomes"]:
        op.execute("UPDATE outcomes SET settled_at = closed_at")
    if before:
        _measure_anew()
    if seen.get_pk_constraint("fills")["constrained_columns"] == ["fill_id"]:
        with op.batch_alter_table("fills") as fills:
            fills.drop_constraint("pk_fills", type_="primary")
            fills.create_primary_key("pk_fills", ["symbol", "fill_id"])


def _add_columns(had: Mapping[str, Set[str]]) -> None:
    tables = Base.metadata.tables
    for column in (each for name in had.keys() & tables.keys() for each in tables[name].columns):
        if column.name not in had[column.table.name]:
            empty = getattr(column.server_default, "arg", None if column.nullable else "0")
            new = sa.Column(column.name, column.type, nullable=column.nullable, server_default=empty)
            op.add_column(column.table.name, new)


def _measure_anew() -> None:
    rows = op.get_bind().execute(sa.text(ENTRIES)).all()
    for (name, pnl), entries in groupby(rows, key=itemgetter(0, 1)):
        risks = [
            abs(Decimal(price) - Decimal(stop or price)) * Decimal(quantity) for *_, price, quantity, stop in entries
        ]
        r = Decimal(pnl) / sum(risks) if all(risks) else None
        op.execute(sa.update(OutcomeRow).filter_by(position_id=name).values(outcome_r=r))
