"""What was ever compared, and over which candles; `evaluations/tried.jsonl` in HOME held it before.

Revision: 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tapes",
        sa.Column("tape", sa.Text(), nullable=False),
        sa.Column("days", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("tape", name=op.f("pk_tapes")),
    )
    op.create_table(
        "trials",
        sa.Column("trial", sa.Text(), nullable=False),
        sa.Column("tape", sa.Text(), nullable=False),
        sa.Column("sharpe", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["tape"], ["tapes.tape"], name=op.f("fk_trials_tape")),
        sa.PrimaryKeyConstraint("trial", "tape", name=op.f("pk_trials")),
    )
