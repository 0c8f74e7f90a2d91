"""Who asked for an order or a pause by hand, and why a position was closed; unknown of what is there already.

Revision: 0022, after 0021.
"""

import sqlalchemy as sa
from alembic import op

from tasks.adapters.store.types import SafeText

revision = "0022"
down_revision = "0021"

ADDED = {"intents": "asked_by", "pauses": "asked_by", "positions": "exit_reason", "outcomes": "exit_reason"}


def upgrade() -> None:
    seen = sa.inspect(op.get_bind())
    for table, name in ADDED.items():
        if name not in {each["name"] for each in seen.get_columns(table)}:  # 0020 adds what a table lacks by now
            op.add_column(table, sa.Column(name, SafeText(), nullable=False, server_default=""))
