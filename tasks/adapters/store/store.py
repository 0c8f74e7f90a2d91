"""The store: one database that explains every order ever sent (SQLAlchemy 2; SQLite or PostgreSQL by URL).

A repository for each thing that is kept. Calls are synchronous, each is one transaction, threads may share a Store.
Writing the same thing twice changes nothing, since a process may be killed anywhere and run again. Vendor errors leave
as StoreError, one line, without the password.
"""

from functools import cache

from sqlalchemy import func, select

from tasks.adapters.store import Base, Database, Repository
from tasks.adapters.store.alerts import AlertRepository
from tasks.adapters.store.budget import BreakerRepository, BudgetRepository, ReplyRepository
from tasks.adapters.store.candles import CandleRepository, InstrumentRepository
from tasks.adapters.store.cycles import CycleRepository, DecisionRepository, StrategyRepository
from tasks.adapters.store.events import EventRepository
from tasks.adapters.store.halts import DifferenceRepository, HaltRepository, PauseRepository
from tasks.adapters.store.leases import LeaseRepository
from tasks.adapters.store.memory import MemoryRepository
from tasks.adapters.store.orders import FillRepository, IntentRepository, OrderRepository
from tasks.adapters.store.positions import EquityRepository, OutcomeRepository, PositionRepository
from tasks.adapters.store.prompts import PromptRepository
from tasks.adapters.store.retention import Retention
from tasks.adapters.store.shadow import PaperBookRepository, ShadowRepository
from tasks.adapters.store.trials import TrialRepository


class Store(Repository):
    """Everything that outlives a process."""

    candles: CandleRepository
    instruments: InstrumentRepository
    events: EventRepository
    strategies: StrategyRepository
    decisions: DecisionRepository
    cycles: CycleRepository
    memory: MemoryRepository
    budget: BudgetRepository
    breakers: BreakerRepository
    replies: ReplyRepository
    leases: LeaseRepository
    intents: IntentRepository
    orders: OrderRepository
    fills: FillRepository
    outcomes: OutcomeRepository
    positions: PositionRepository
    equity: EquityRepository
    halts: HaltRepository
    pauses: PauseRepository
    differences: DifferenceRepository
    prompts: PromptRepository
    alerts: AlertRepository
    shadow: ShadowRepository
    paper_books: PaperBookRepository
    trials: TrialRepository
    retention: Retention

    def __init__(self, url: str) -> None:
        """Open `url`; raises what `Database` does."""
        super().__init__(Database(url))
        self.migrate, self.close, self.place = self.database.migrate, self.database.close, self.database.place
        for name, repository in Store.__annotations__.items():
            setattr(self, name, repository(self.database))

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        tables = Base.metadata.sorted_tables
        return {table.name: self.value(select(func.count()).select_from(table)) for table in tables}


@cache
def opened(url: str) -> Store:
    """Return this process's store at `url`, migrated."""
    store = Store(url)
    store.migrate()
    return store
