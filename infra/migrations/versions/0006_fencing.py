"""Fencing: a token that grows with every holder of a lease, and the one an intent was last sent with.

Leases concern living processes only: the table is made anew. A halt may also ask for the positions to be closed.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("leases")
    _leases(sa.Column("token", sa.BigInteger(), nullable=False))
    op.add_column("intents", sa.Column("fence", sa.BigInteger(), nullable=True))
    op.add_column("halts", sa.Column("flatten", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("halts", "flatten")
    op.drop_column("intents", "fence")
    op.drop_table("leases")
    _leases()


def _leases(*more: sa.Column[int]) -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        *more,
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
