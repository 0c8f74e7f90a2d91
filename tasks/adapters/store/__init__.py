"""What the repositories share: column types, tables, and the database under them."""

from tasks.adapters.store.database import *
from tasks.adapters.store.tables import *
from tasks.adapters.store.types import *
