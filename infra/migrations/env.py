"""Run the migrations on the connection that `Database.migrate` hands over.

The whole upgrade is its one transaction on both databases, so a process that dies in it leaves the old schema.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
