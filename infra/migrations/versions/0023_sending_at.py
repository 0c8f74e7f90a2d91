"""When an order last began to be sent; unknown of those before.

Revision: 0023, after 0022.
"""

import sqlalchemy as sa
from alembic import op

from tasks.adapters.store.types import UtcTime

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    if "sending_at" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("intents")}:
        op.add_column("intents", sa.Column("sending_at", UtcTime(), nullable=True))
