"""Which outcomes were handed on: an outcome is kept with the position that closed, `settle` tells of it later.

Those that are there have been.

Revision: 0012, after 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("outcomes", sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE outcomes SET settled_at = closed_at")
