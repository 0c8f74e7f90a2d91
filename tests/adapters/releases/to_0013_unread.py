"""What was written and never read: the tools' calls and a symbol's history, which records hold, and some columns.

Revision: 0013, after 0012.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

UNREAD = {
    "alerts": "times",
    "decisions": "symbol model tokens",
    "events": "recorded_at",
    "instruments": "stored_at",
    "intents": "state_at",
    "orders": "cycle_id",
    "promotions": "at kind",
    "prompt_aliases": "moved_at",
    "replies": "prompt_name prompt_version prompt_sha256",
    "strategies": "name kept_at",
    "verdicts": "quantity price stop target trade_risk_pct total_risk_pct",
}


def upgrade() -> None:
    op.drop_table("history")
    op.drop_table("tool_calls")
    op.drop_index("ix_orders_cycle_id", "orders")
    op.drop_index("ix_orders_status", "orders")
    for table, columns in UNREAD.items():
        for column in columns.split():
            op.drop_column(table, column)
