"""Where migrations begin: a database of before is refused, a new one is made of today's tables (`Database.migrate`).

Revision: 0009, after none.
"""

revision = "0009"
down_revision = None


def upgrade() -> None:
    """Make nothing: a database at 0009 has its tables."""
