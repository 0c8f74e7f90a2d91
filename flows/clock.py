"""What time a run is about, and whether it is too late to act on it."""

import re
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled

from tasks import clock, fetch, strategies
from tasks.adapters import heartbeat
from tasks.connections import close_venues, store
from tasks.core.types import T, floor_time
from tasks.settings import settings

MADE_UP = re.compile("[A-Za-z]+-[A-Za-z]+")  # as Prefect and its form name a run that nobody named
NAMED = 3  # symbols; of more their number is shown


def run_name() -> str:
    """Name a run for a list, such as "trade BTC ETH 12:15 (schedule)", in UTC; one that a person named keeps it."""
    if flow_run.name and not MADE_UP.fullmatch(flow_run.name):
        return str(flow_run.name)
    asked, name, why = flow_run.parameters, [str(flow_run.flow_name)], ""
    if trigger := asked.get("trigger"):
        if strategy := asked.get("strategy"):
            name.insert(0, str(strategy))
        said = asked.get("symbols") or strategies.named(strategy or settings().strategy).symbols
        bases = [each.partition("/")[0].strip() for each in (said.split(",") if isinstance(said, str) else said)]
        name += bases if len(bases) <= NAMED else [f"{len(bases)} symbols"]
        why = " (review)" if asked.get("review_only") else f" ({trigger})"
    if isinstance(symbol := asked.get("symbol"), str):  # of a form about one
        name += [symbol.partition("/")[0]]
    if cycle := asked.get("cycle_id"):
        record = store().cycles.get(cycle)
        name += [record.symbol.partition("/")[0]] if record else []
    at = asked.get("as_of") or scheduled_time() or clock.now()
    return f"{' '.join(name)} {at:%H:%M}{why}"


def scheduled_time() -> datetime | None:
    """Return when this run was due: its schedule's time, or when it was created. None outside a run."""
    return flow_run.scheduled_start_time if flow_run.id else None


async def cycle_time() -> datetime:
    """Return the 5m close a run is about: its scheduled time on the venue's clock, floored.

    A venue that replays another time is a whole number of minutes away; less than two minutes is clock skew.
    """
    scheduled, venue_time, wall = scheduled_time(), await fetch.venue_now(), clock.now()
    if scheduled is None:
        return floor_time(venue_time, "5m")
    offset = venue_time - wall
    if abs(offset) < timedelta(minutes=2):
        offset = timedelta(0)
    return floor_time(scheduled + offset, "5m")


def owner() -> str:
    """Return who holds a run's leases: the flow run, so that its own retry goes on; outside Prefect each call anew."""
    return str(flow_run.id or clock.new_name())


def too_old(max_age_s: int) -> State[Any] | None:
    """Return the state a late run ends in, or None; a worker that comes back runs its whole backlog otherwise."""
    age = clock.now() - (scheduled_time() or clock.now())
    if age <= timedelta(seconds=max_age_s):
        return None
    return Cancelled(name="Skipped", message=f"{age.total_seconds():.0f} s late, more than {max_age_s} s: skipped")


async def to_the_end(story: Awaitable[T], beat: str = "") -> T:
    """Carry out a run's story and close its venue connections, however it ends; beat: what has gone on once it has."""
    try:
        done = await story
    finally:
        await close_venues()
    if beat:
        heartbeat.beat(store(), settings().strategy, beat, settings().watch_every_s)
    return done
