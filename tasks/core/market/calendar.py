"""Reasons that a calendar gives, and quiet bars that are asked about all the same to measure what gating costs."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from tasks.core.types import Dto, Reason, Utc

AROUND = timedelta(minutes=10)
STEP = timedelta(minutes=5)


class CalendarEvent(Dto):
    """Something the world knows beforehand: a rate decision, a token unlock."""

    at: Utc
    title: str


def calendar_reasons(
    events: Sequence[CalendarEvent], symbol: str, after: datetime, until: datetime
) -> tuple[Reason, ...]:
    """Return a reason at the first 5m close within 10 minutes before an event, and one at the first after it.

    Only closes in (after, until]; an event on a close counts as after.
    """
    reasons = []
    for event in events:
        for side, first in (("in 10 min", event.at - AROUND), ("now", event.at)):
            close = _next_close(first)
            if after < close <= until and abs(close - event.at) <= AROUND:
                mark = f"Calendar|{symbol}|{side}|{event.at:%Y-%m-%dT%H:%M}|{event.title}"
                detail = f"{event.title} {side}"
                reasons.append(Reason(rule="Calendar", symbol=symbol, detail=detail, as_of=close, fingerprint=mark))
    return tuple(sorted(reasons, key=lambda reason: reason.as_of))


def _next_close(at: datetime) -> datetime:
    past = (at - datetime.min.replace(tzinfo=at.tzinfo)) % STEP
    return at if not past else at - past + STEP


def sampled(cycle_id: str, share: float) -> bool:
    """Return whether a quiet cycle is asked about all the same: chosen by a hash of its id, the same on every run."""
    drawn = int.from_bytes(hashlib.sha256(cycle_id.encode()).digest()[:8]) / 2**64
    return drawn < share


def sample_reason(symbol: str, cycle_id: str, as_of: datetime, share: float) -> Reason:
    """Return the reason of a sampled quiet bar; its detail is the probability with which it was chosen."""
    return Reason(
        rule="Sample", symbol=symbol, detail=f"p={share:g}", as_of=as_of, fingerprint=f"Sample|{symbol}|{cycle_id}"
    )
