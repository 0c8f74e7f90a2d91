"""R is two words: what a position's first entry was, which fixes its `r`, and what all its entries risked, which
`outcome_r` is measured by: after fees.

The outcomes that are there are measured anew by their entries' fills and stops, or where those are gone by their
average entry and first stop. Open positions are worked out of their fills at the next look anyway.

Revision: 0015, after 0014.
"""

from decimal import Decimal
from itertools import groupby
from operator import itemgetter

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

MONEY = sa.Numeric().with_variant(sa.Text(), "sqlite")
OUTCOMES = sa.table("outcomes", sa.column("position_id", sa.Text()), sa.column("outcome_r", MONEY))
ENTRIES = """
    SELECT o.position_id, o.pnl, coalesce(e.price, o.entry_price), coalesce(e.quantity, p.entry_quantity),
        CASE WHEN e.price IS NULL THEN p.initial_stop ELSE e.stop END
    FROM outcomes o JOIN positions p ON p.position_id = o.position_id LEFT JOIN (
        SELECT f.*, i.stop FROM fills f JOIN intents i ON i.client_order_id = f.client_order_id WHERE NOT i.reduce_only
    ) e ON e.symbol = p.symbol AND (e.side = 'buy') = (p.side = 'long') AND e.at >= p.opened_at AND e.at < p.closed_at
    WHERE o.outcome_r IS NOT NULL ORDER BY o.position_id
"""


def upgrade() -> None:
    op.add_column("positions", sa.Column("first_price", MONEY))
    op.add_column("positions", sa.Column("first_quantity", MONEY, nullable=False, server_default="0"))
    op.add_column("positions", sa.Column("risk", MONEY))
    op.execute("ALTER TABLE outcomes RENAME COLUMN r_multiple TO outcome_r")
    rows = op.get_bind().execute(sa.text(ENTRIES)).all()
    for (name, pnl), entries in groupby(rows, key=itemgetter(0, 1)):
        risks = [abs(Decimal(price) - Decimal(stop or price)) * Decimal(quantity) for *_, price, quantity, stop in entries]
        r = str(Decimal(pnl) / sum(risks)) if all(risks) else None
        op.execute(OUTCOMES.update().where(OUTCOMES.c.position_id == name).values(outcome_r=r))
