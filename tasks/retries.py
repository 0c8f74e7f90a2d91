"""What every stage has in common: what infrastructure broke is tried again, a decision or a refusal never.

A second try must find what the first one did: each task looks up before it acts, or writes the same again.
"""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext

from tasks.core.errors import StoreError, TrackingUnavailable, VenueUnavailable

BROKEN = (StoreError, VenueUnavailable, TrackingUnavailable)  # the database, the venue, MLflow


def broken_infrastructure(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Say whether a task failed by what another try may mend."""
    return isinstance(state.data, BROKEN)


def is_tried_again(error: Exception) -> bool:
    """Say whether the task that runs now is tried again if it raises `error`; outside Prefect none ever is."""
    run = TaskRunContext.get()
    return run is not None and isinstance(error, BROKEN) and run.task_run.run_count <= run.task.retries


STAGE: dict[str, Any] = {
    "retries": 2, "retry_delay_seconds": [1, 3], "retry_condition_fn": broken_infrastructure, "cache_policy": NO_CACHE,
}  # fmt: skip
PATIENT = STAGE | {"retry_delay_seconds": [5, 15]}  # what must not be given up early: orders that were let through
