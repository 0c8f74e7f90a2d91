"""How the cost of a model call is known: by a price list, assumed, or free. One that came from 0009 has it from 0020.

Revision: 0021, after 0020.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    seen = sa.inspect(op.get_bind())
    for table in ("model_calls", "replies"):
        if "pricing" not in {each["name"] for each in seen.get_columns(table)}:
            op.add_column(table, sa.Column("pricing", sa.Text(), nullable=False, server_default=""))
