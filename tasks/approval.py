"""A decision that waits for a person: asking them, and what becomes of it when they refuse or say nothing."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import State
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from tasks import alerts, clock
from tasks.connections import log, run_url, store
from tasks.core.pages import alerts as words
from tasks.core.trading.judge import refused
from tasks.core.types import ZERO, Approval, CycleRecord, CycleStatus, InputError
from tasks.record import explain_decision
from tasks.settings import settings

DEPLOYMENT, NOBODY = "approve/approve", "nobody in time"
ASKED_AGAIN, SKIPPED = 5, "Skipped"  # runs for one proposal; what `up` calls one that was due before it


def deadline(record: CycleRecord) -> datetime:
    """Return until when a proposal may be approved, by the venue's clock: as long as any decision may be sent."""
    return record.as_of + timedelta(seconds=settings().limits.max_lateness_s)


def waiting(cycle_id: str) -> CycleRecord:
    """Return the proposal of a cycle; raises InputError where none waits."""
    record = store().cycles.get(cycle_id)
    if record is None or record.status is not CycleStatus.PROPOSED:
        every = settings.account.every()
        there = [each.cycle_id for s in every for each in store().cycles.proposed(s.strategy)]
        found = "there is no such cycle" if record is None else f"it is {record.status}"
        raise InputError(f"cycle {cycle_id!r}: {found}; waiting: {', '.join(there) or 'none'}")
    return record


def answered(cycle_id: str) -> CycleRecord | None:
    """Return the record of a proposal that waits no more."""
    record = store().cycles.get(cycle_id)
    return None if record is None or record.status is CycleStatus.PROPOSED else record


async def ask(record: CycleRecord) -> None:
    """Start the run that waits for a person's word, and tell people where; outside Prefect a shell is asked.

    Where a run asks already, or a person has cancelled it, there is no second one; for one that broke off there is.
    """
    cycle_id, keys = record.cycle_id, [f"{record.cycle_id} {n}" for n in range(ASKED_AGAIN)]
    if flow_run.id is None:
        log().warning("proposed symbol=%s: quarterdeck approve %s", record.symbol, cycle_id)
        alerts.tell(words.of_proposed(record, deadline(record)))
        return
    try:
        async with get_client() as client:
            known = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
            asked = await client.read_flow_runs(flow_run_filter=known)
        if len(asked) == len(keys) or not all(run.state and _broke_off(run.state) for run in asked):
            return
        run = await arun_deployment(
            DEPLOYMENT, parameters={"cycle_id": cycle_id}, timeout=0, as_subflow=False,
            idempotency_key=keys[len(asked)],
        )  # fmt: skip
    except (PrefectException, httpx.HTTPError, ValueError) as e:
        log().error("proposed symbol=%s, no run asks: quarterdeck approve %s (%r)", record.symbol, cycle_id, e)
        run = None
    alerts.tell(words.of_proposed(record, deadline(record), run_url(run.id) if run else ""))


def _broke_off(state: State[Any]) -> bool:
    return state.is_failed() or state.is_crashed() or state.name == SKIPPED


def refuse(record: CycleRecord, who: str) -> CycleRecord:
    """End a proposal; raises InputError where it has been answered meanwhile."""
    assert record.verdict is not None  # a proposal was judged
    done = record.replace(
        status=CycleStatus.DENIED,
        verdict=refused(record.verdict),
        intents=(),
        approval=Approval(who=who, at=clock.now(), share=ZERO),
    )
    take_up(done)
    log().info("proposed symbol=%s cycle_id=%s refused by %s", record.symbol, record.cycle_id, who)
    return done


def take_up(answered: CycleRecord) -> None:
    """Write an answered proposal; raises InputError where somebody else has answered it."""
    if not store().cycles.answer(answered, clock.now()):
        waiting(answered.cycle_id)


async def look_after(now: datetime) -> None:
    """Ask again about the proposals whose run broke off, and end those that nobody has answered in time."""
    for record in store().cycles.proposed(settings().strategy):
        if now <= deadline(record):
            if flow_run.id is not None:
                await ask(record)
        elif now > deadline(record) + timedelta(minutes=1):  # the run that asks ends it by itself
            with suppress(InputError):  # answered at this very moment
                await explain_decision(refuse(record, NOBODY))
