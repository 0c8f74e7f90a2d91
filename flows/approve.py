"""A person's word on a decision before it is sent: a run of its own that waits; `quarterdeck approve` in a shell."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Literal
from uuid import UUID

from prefect import flow
from prefect.flow_runs import apause_flow_run, aresume_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from flows.clock import owner, run_name, to_the_end
from flows.cycle import Cycle, Request
from tasks import approval, by_hand, clock, fetch, record, strategies
from tasks.connections import answered, artifacts_url, store
from tasks.core.pages import decision, inert
from tasks.core.types import (
    ENTRIES,
    HUNDRED,
    ZERO,
    Approval,
    CycleRecord,
    InputError,
    Strategy,
    floor_to_step,
)
from tasks.leases import Leases
from tasks.settings import settings

POLL_S, GRACE_S = 2, 60
PAUSES = (5.0, 10.0, 20.0)  # seconds before a word is carried out again that the venue kept from it


class Word(RunInput):
    """What the form asks for."""

    answer: Literal["refuse", "approve"] = "refuse"
    share: float = Field(100, gt=0, le=100, description="percent of an entry's size; exits are sent whole")


@flow(name="approve", flow_run_name=run_name)
async def approve(cycle_id: str) -> str:
    """Wait for a person's word on a proposed decision, and carry it out or not.

    Args:
        cycle_id: whose decision; its page and the alert name it.
    """
    with settings.of(strategies.named(approval.waiting(cycle_id).strategy)):
        return decision.summary_line(await to_the_end(_asked(cycle_id)))


async def _asked(cycle_id: str) -> CycleRecord:
    proposal = approval.waiting(cycle_id)
    left = int((approval.deadline(proposal) - await fetch.venue_now()).total_seconds())
    word = await _word(proposal, left) if left > POLL_S else None
    if word is None:
        elsewhere = approval.answered(cycle_id)  # in a shell, or by the watchdog
        return elsewhere or await answer(cycle_id, approval.NOBODY, ZERO)
    return await answer(cycle_id, by_hand.asker(), Decimal(str(word.share)) if word.answer == "approve" else ZERO)


async def _word(proposal: CycleRecord, left: int) -> Word | None:
    """Show the form for so many seconds, or until it is answered elsewhere; None: nobody filled it in.

    Prefect fails a run whose pause is not resumed.
    """
    page = store().decisions.pages([proposal.cycle_id]).get(proposal.cycle_id)
    link = f"\n\n[The decision's page]({artifacts_url()}/{page})" if page else ""
    until = clock.now() + timedelta(seconds=left)
    told = f"{inert.plain(decision.proposed(proposal))}\n\nUnanswered at {until:%H:%M:%S} UTC it is refused."
    form = Word.with_initial_data(description=f"{told}{link}")
    nobody = list[bool]()

    async def give_up() -> None:
        while clock.now() < until and not approval.answered(proposal.cycle_id):
            await asyncio.sleep(POLL_S)
        await aresume_flow_run(UUID(str(flow_run.id)), run_input=Word().model_dump())
        nobody.append(True)

    waits = asyncio.create_task(give_up())
    try:
        word = await apause_flow_run(wait_for_input=form, timeout=left + GRACE_S, poll_interval=POLL_S)
    finally:
        waits.cancel()
    return None if nobody else word


async def answer(cycle_id: str, who: str, share: Decimal) -> CycleRecord:
    """Carry out a proposal as a person has said, by the account as it is now; share: percent of its size, 0: refused.

    Raises InputError where nothing waits under that id.
    """
    proposal = approval.waiting(cycle_id)
    if not ZERO <= share <= 100:
        raise InputError(f"share {share:f}: must be above 0 and at most 100, in percent of the size")
    with settings.of(strategies.named(proposal.strategy)):
        if share:
            said, what = _approval(proposal, who, share), f"approve cycle_id={cycle_id}"
            done = await answered(lambda: _carried_out(proposal, said), what, PAUSES)
        else:
            done = approval.refuse(proposal, who)
        await record.explain_decision(done)
    return done


def _strategy(proposal: CycleRecord) -> Strategy:
    assert proposal.inputs is not None  # it was decided and judged
    kept = proposal.inputs.strategy
    return kept if isinstance(kept, Strategy) else store().strategies.get(kept)


def _approval(proposal: CycleRecord, who: str, share: Decimal) -> Approval:
    """Return a person's word, bound to the size that they were shown; raises InputError for a share of nothing."""
    verdict, most = proposal.verdict, None
    assert verdict is not None  # it was judged
    if isinstance(verdict.decision, ENTRIES):
        step = _strategy(proposal).instruments[proposal.symbol].step
        if not (most := floor_to_step(verdict.quantity * share / HUNDRED, step)):
            of = f"{verdict.quantity:f} {proposal.symbol}"
            raise InputError(f"share {share:f}: of {of} that is too small to be bought")
    return Approval(who=who, at=clock.now(), share=share, most=most)


async def _carried_out(proposal: CycleRecord, said: Approval) -> CycleRecord:
    strategy = _strategy(proposal)
    request = Request.of(proposal, symbols=(proposal.symbol,))
    async with Leases(owner()) as leases:
        cycle = Cycle(request, strategy, proposal.symbol, proposal.as_of, leases)
        await cycle.approved(proposal, said)
        return cycle.record
