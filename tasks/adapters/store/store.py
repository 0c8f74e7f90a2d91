"""The store: one database that explains every order ever sent (SQLAlchemy 2; SQLite or PostgreSQL by URL).

A repository for each thing that is kept. Calls are synchronous, each is one transaction, threads may share a Store.
Writing the same thing twice changes nothing, since a process may be killed anywhere and run again. Vendor errors leave
as StoreError, one line, without the password.
"""

from functools import cache

from sqlalchemy import func, select

from tasks.adapters.store.alerts import AlertRepository
from tasks.adapters.store.breakers import BreakerRepository
from tasks.adapters.store.budget import BudgetRepository
from tasks.adapters.store.candles import CandleRepository
from tasks.adapters.store.cycles import CycleRepository
from tasks.adapters.store.database import Database
from tasks.adapters.store.decisions import DecisionRepository
from tasks.adapters.store.equity import EquityRepository
from tasks.adapters.store.events import EventRepository
from tasks.adapters.store.halts import HaltRepository, PauseRepository
from tasks.adapters.store.instruments import InstrumentRepository
from tasks.adapters.store.intents import IntentRepository
from tasks.adapters.store.leases import LeaseRepository
from tasks.adapters.store.memory import MemoryRepository
from tasks.adapters.store.orders import FillRepository, OrderRepository
from tasks.adapters.store.outcomes import OutcomeRepository
from tasks.adapters.store.positions import PositionRepository
from tasks.adapters.store.prompts import PromptRepository
from tasks.adapters.store.replies import ReplyRepository
from tasks.adapters.store.retention import Retention
from tasks.adapters.store.shadow import PaperBookRepository, ShadowRepository
from tasks.adapters.store.strategies import StrategyRepository
from tasks.adapters.store.tables import Base


class Store:
    """Everything that outlives a process."""

    def __init__(self, url: str) -> None:
        """Open `url`; raises what `Database` does."""
        self.database = database = Database(url)
        self.migrate, self.close, self.place = database.migrate, database.close, database.place
        self.candles = CandleRepository(database)
        self.instruments = InstrumentRepository(database)
        self.events = EventRepository(database)
        self.strategies = StrategyRepository(database)
        self.decisions = DecisionRepository(database)
        self.cycles = CycleRepository(database, self.decisions)
        self.memory = MemoryRepository(database)
        self.budget = BudgetRepository(database)
        self.breakers = BreakerRepository(database)
        self.replies = ReplyRepository(database)
        self.leases = LeaseRepository(database)
        self.intents = IntentRepository(database, self.leases)
        self.orders = OrderRepository(database)
        self.fills = FillRepository(database)
        self.outcomes = OutcomeRepository(database)
        self.positions = PositionRepository(database, self.outcomes)
        self.equity = EquityRepository(database)
        self.halts = HaltRepository(database)
        self.pauses = PauseRepository(database)
        self.prompts = PromptRepository(database)
        self.alerts = AlertRepository(database)
        self.shadow = ShadowRepository(database)
        self.paper_books = PaperBookRepository(database)
        self.retention = Retention(database)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        tables = Base.metadata.sorted_tables
        return {table.name: self.database.value(select(func.count()).select_from(table)) for table in tables}


@cache
def opened(url: str) -> Store:
    """Return this process's store at `url`, migrated."""
    store = Store(url)
    store.migrate()
    return store
