"""What every stage has in common: what infrastructure broke is tried again, a decision or a refusal never.

A second try must find what the first one did: each task looks up before it acts, or writes the same again.

One symbol's trouble is not another's: a task over many symbols returns for each its result or what it raised, and a
story tries one thing after another.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.runtime import flow_run

from tasks.connections import log
from tasks.core.errors import LedgerMismatch, StoreError, TrackingUnavailable, TradingError, VenueUnavailable
from tasks.core.types import T
from tasks.halts import halt

BROKEN = (StoreError, VenueUnavailable, TrackingUnavailable)  # the database, the venue, MLflow


def broken_infrastructure(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Return whether a task failed by what another try may mend."""
    return isinstance(state.data, BROKEN)


def is_tried_again(error: Exception) -> bool:
    """Return whether the task that runs now is tried again if it raises `error`; outside Prefect none ever is."""
    run = TaskRunContext.get()
    return run is not None and isinstance(error, BROKEN) and run.task_run.run_count <= run.task.retries


STAGE: dict[str, Any] = {
    "retries": 2, "retry_delay_seconds": [1, 3], "retry_condition_fn": broken_infrastructure, "cache_policy": NO_CACHE,
}  # fmt: skip


class Stage(Task[..., Any]):
    """A task that outside a run is its own function: no server needed (`quarterdeck cycle`).

    Called once then: whoever calls it sees what failed and asks again, and a pause would hold up the leases.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (super().__call__ if flow_run.id else self.fn)(*args, **kwargs)


def stage(fn: Any = None, **options: Any) -> Any:
    """Make a function a stage; `options` are those of a task that differ from STAGE."""
    return Stage(fn, **STAGE | options) if fn else partial(stage, **options)


G = TypeVar("G")


def apart(work: Callable[[str, G], T], inputs: Mapping[str, G | Exception]) -> dict[str, T | Exception]:
    """Do `work` for each symbol; an exception takes the place of its result, and one that was given is passed on.

    What infrastructure broke is no symbol's own trouble: it is raised as long as the whole task is tried again.
    """
    done: dict[str, T | Exception] = {}
    for symbol, one in inputs.items():
        try:
            done[symbol] = one if isinstance(one, Exception) else work(symbol, one)
        except Exception as e:
            if is_tried_again(e):
                raise
            done[symbol] = e
    return done


def result(of: T | Exception) -> T:
    """Return a symbol's result, or raise what came instead."""
    if isinstance(of, Exception):
        raise of
    return of


class Tried:
    """Tries one thing after another: what fails is logged and kept, and keeps nothing else from its turn."""

    def __init__(self, story: str) -> None:
        self.failed: dict[str, Exception] = {}
        self._story = story

    def __str__(self) -> str:
        return "; ".join(f"{name}: {e!r}" for name, e in self.failed.items())

    @contextmanager
    def __call__(self, *names: object) -> Iterator[None]:
        """Keep in whatever the block raises, be it a defect; a ledger that cannot be right halts new entries."""
        try:
            yield
        except Exception as e:  # noqa: BLE001  (whoever tries raises it in the end)
            for name in map(str, names):
                log().error("%s %s failed: %r", self._story, name, e, exc_info=not isinstance(e, TradingError))
                self.failed[name] = e
                if isinstance(e, LedgerMismatch):
                    halt(f"ledger mismatch: {name}: {e}")
