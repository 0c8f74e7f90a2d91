"""Run the migrations: on the connection that Store.migrate() hands over, or by hand on the configured database.

The whole upgrade is one transaction on both databases, so a process that dies in it leaves the old schema.
"""

from typing import Literal

from alembic import context
from sqlalchemy import Connection

from tasks.adapters.store.tables import Base, BigKey
from tasks.adapters.store.types import Document, Money, UtcTime


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write our column types by the names script.py.mako gives them: a migration must not change with our classes."""
    if kind != "type":
        return False
    if isinstance(item, UtcTime):
        return "TIME"
    if isinstance(item, Money):
        return "MONEY"
    return "DOCUMENT" if item is Document else "KEY" if item is BigKey else False


def migrate_on(connection: Connection) -> None:
    """Run what alembic was asked for on `connection`, inside its open transaction."""
    context.configure(connection=connection, target_metadata=Base.metadata, render_item=render_item)
    with context.begin_transaction():
        context.run_migrations()


def migrate_by_hand() -> None:
    """Connect to the database of the settings, as `alembic` on the command line needs."""
    from tasks.adapters.store.database import Database
    from tasks.settings import settings

    database = Database(settings().store_url)
    with database.writing() as connection:  # the one caller outside the store, and it only migrates
        migrate_on(connection)
    database.close()


handed_over = context.config.attributes.get("connection")
if handed_over is None:
    migrate_by_hand()
else:
    migrate_on(handed_over)
