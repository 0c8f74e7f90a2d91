"""The adapters a run uses, opened once per process from the settings; and a logger that works outside a run too."""

import logging
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks.adapters.store import Store
from tasks.core.market.bars import WORKING_TIMEFRAMES, Frames
from tasks.core.ports import Decider, Venue
from tasks.settings import Settings, settings

if TYPE_CHECKING:
    from tasks.adapters.tracking import Tracker

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def log() -> Logger:
    """Return the run's logger, or a plain one when there is no run (`quarterdeck cycle`, tests)."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("quarterdeck")


@cache
def _store(url: str) -> Store:
    store = Store(url)
    store.migrate()
    return store


def store() -> Store:
    """Return the process's store, migrated."""
    return _store(settings().store_url)


def close_stores() -> None:
    """Close what `store` opened, so that other settings may open another."""
    if _store.cache_info().currsize:
        store().close()
    _store.cache_clear()


def venue(chosen: Settings | None = None) -> Venue:
    """Return the venue's client of this event loop."""
    from tasks.adapters.venue import connect

    return connect(chosen or settings())


def stored_frames(symbol: str, as_of: datetime) -> Frames:
    """Return the last bars of `symbol` that had closed at as_of, per timeframe, as the store has them."""
    kept, name, limit = store(), venue().name, settings().history_bars
    return {tf: kept.load_bars(name, symbol, tf, as_of, limit) for tf in WORKING_TIMEFRAMES}


def tracker() -> "Tracker | None":
    """Return the MLflow mirror; None when tracking is off."""
    from tasks.adapters.tracking import Tracker

    url = settings().mlflow_url
    return Tracker(url) if url else None


def decider(name: str, shadow: bool = False) -> Decider:
    """Build the decider called `name`; raises InputError listing those there are. A shadow has a purse of its own."""
    from tasks.adapters.deciders import build

    s = settings()
    if shadow:
        apart = s.shadow_budget.model_copy(update={"purse": s.shadow_budget.purse or "shadow"})
        s = s.model_copy(update={"budget": apart, "strategy": f"{s.strategy}/shadow"})
    return build(name, s, store())
