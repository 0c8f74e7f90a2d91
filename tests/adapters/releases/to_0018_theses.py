"""What a decision was made at and for, and which of its follow-ups nobody understood: its memory tells later ones.

Revision: 0018, after 0017.
"""

import sqlalchemy as sa
from alembic import op

from tasks.adapters.store import Document

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("decision_vectors", sa.Column("price", sa.Double(), nullable=True))
    op.add_column("decision_vectors", sa.Column("thesis", sa.Text(), nullable=False, server_default=""))
    op.add_column("decision_vectors", sa.Column("unread", Document, nullable=False, server_default="[]"))
