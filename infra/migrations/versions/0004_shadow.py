"""Challengers' decisions and their paper books.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
MONEY = sa.Numeric().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "shadow_decisions",
        sa.Column("cycle_id", sa.Text(), nullable=False),
        sa.Column("decider", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("return_pct", MONEY, nullable=True),
        sa.ForeignKeyConstraint(
            ["cycle_id"], ["cycles.cycle_id"], name=op.f("fk_shadow_decisions_cycle_id_cycles")
        ),
        sa.PrimaryKeyConstraint("cycle_id", "decider", name=op.f("pk_shadow_decisions")),
    )
    op.create_index(op.f("ix_shadow_decisions_as_of"), "shadow_decisions", ["as_of"])
    op.create_table(
        "paper_books",
        sa.Column("strategy", sa.Text(), nullable=False),
        sa.Column("decider", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("equity", MONEY, nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("strategy", "decider", name=op.f("pk_paper_books")),
    )


def downgrade() -> None:
    op.drop_table("paper_books")
    op.drop_table("shadow_decisions")
