"""Budgets, breakers, paid replies, and vectors of decisions.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
MONEY = sa.Numeric().with_variant(sa.Text(), "sqlite")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "breakers",
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("retry_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_breakers")),
    )
    op.create_table(
        "budgets",
        sa.Column("budget_id", KEY, nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("nano_usd", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("budget_id", name=op.f("pk_budgets")),
    )
    op.create_index(op.f("ix_budgets_day"), "budgets", ["day"], unique=False)
    op.create_index(op.f("ix_budgets_session"), "budgets", ["session"], unique=False)
    op.create_table(
        "replies",
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_name", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("prompt_sha256", sa.Text(), nullable=True),
        sa.Column("raw_reply", sa.Text(), nullable=False),
        sa.Column("cost_usd", MONEY, nullable=False),
        sa.Column("tokens_in", sa.BigInteger(), nullable=False),
        sa.Column("tokens_out", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("content_hash", name=op.f("pk_replies")),
    )
    op.create_table(
        "decision_vectors",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("values", DOCUMENT, nullable=False),
        sa.Column("reasons", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_decision_vectors_cycle_id")),
        sa.PrimaryKeyConstraint("cycle_id", name=op.f("pk_decision_vectors")),
    )


def downgrade() -> None:
    op.drop_table("decision_vectors")
    op.drop_table("replies")
    op.drop_index(op.f("ix_budgets_session"), table_name="budgets")
    op.drop_index(op.f("ix_budgets_day"), table_name="budgets")
    op.drop_table("budgets")
    op.drop_table("breakers")
