"""The breaker: after repeated errors a session asks no model until a pause has passed, then one decision tries.

Pure: a state and the time in, the next state out. The store changes the row under a lock, so all processes share it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from tasks.core.types.base import Dto, Utc


class BreakerState(Dto):
    """Errors in a row; once open, when the next try may be made."""

    errors: int = 0
    retry_at: Utc | None = None


class Breakers(Protocol):
    """The breakers that all processes share."""

    def change(self, session: str, change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        """Set the session's state to `change` of it, atomically, and return what it was before."""
        ...


class Breaker(NamedTuple):
    """How many errors open it, and for how long."""

    errors: int
    cooldown: timedelta

    def is_open(self, state: BreakerState, at: datetime) -> bool:
        """Say whether no model may be asked at `at`."""
        return state.retry_at is not None and at < state.retry_at

    def tried(self, state: BreakerState, at: datetime) -> BreakerState:
        """Return the state after somebody asked to pass: half open, the first to come takes the only try."""
        if state.retry_at is None or self.is_open(state, at):
            return state
        return BreakerState(errors=state.errors, retry_at=at + self.cooldown)

    def failed(self, state: BreakerState, at: datetime) -> BreakerState:
        """Return the state after one more error."""
        errors = state.errors + 1
        return BreakerState(errors=errors, retry_at=at + self.cooldown if errors >= self.errors else None)
