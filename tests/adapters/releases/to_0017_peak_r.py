"""The best R of a position, which nothing computed: a trailing stop goes by the closes since it opened.

Revision: 0017, after 0016.
"""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.drop_column("positions", "peak_r")
