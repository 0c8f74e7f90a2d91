"""A fill is known by its symbol and the venue's id: some venues count the trades of each symbol by themselves.

Revision: 0019, after 0018.
"""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    with op.batch_alter_table("fills") as fills:
        fills.drop_constraint("pk_fills", type_="primary")
        fills.create_primary_key("pk_fills", ["symbol", "fill_id"])
