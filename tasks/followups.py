"""What a decision wants done once its trade has earned a given R: `protect` does it, each rule once."""

from decimal import Decimal

from prefect import task

from tasks.connections import log, store, venue
from tasks.core.errors import OrderRejected
from tasks.core.trading import followups
from tasks.core.types.orders import FINAL_STATES, Instrument, OrderIntent
from tasks.core.types.portfolio import Position
from tasks.core.types.record import Lease
from tasks.crash_points import reached
from tasks.protect import submit
from tasks.retries import STAGE
from tasks.send_once import PROTECTION, send


@task(task_run_name="followups-{position.symbol}", **STAGE)
async def carry_out_followups(
    position: Position, price: Decimal, instrument: Instrument, lease: Lease | None = None
) -> list[str]:
    """Do what the decision asked for once its R was reached: move the stop, or trim; under the symbol's lease."""
    done: list[str] = []
    position = store().positions.get(position.position_id) or position  # as a try before this one has left it
    for rule in followups.due(position, price):
        intent = followups.intent(rule, position, instrument)
        # without an intent there is nothing to do: the stop is as tight already
        try:
            stop = None if intent is None else await _carry_out(position, intent, lease)
        except OrderRejected as e:  # the market has come back beyond it by now: the stop there is stays
            log().warning("followup symbol=%s rule=%r refused, due again: %s", position.symbol, str(rule), e)
            continue
        reached("followup_sent")
        position = store().positions.get(position.position_id) or position  # booked or changed meanwhile
        if stop is not None:
            position = position.model_copy(update={"stop": stop})
        position = followups.mark_done(position, rule)
        store().positions.save(position)
        reached("followup_noted")
        log().info(
            "followup symbol=%s position_id=%s rule=%r price=%s",
            position.symbol, position.position_id, str(rule), price,
        )  # fmt: skip
        done.append(str(rule))
    return done


async def _carry_out(position: Position, wanted: OrderIntent, lease: Lease | None) -> Decimal | None:
    """Send a follow-up's order once, as it was first written; returns the stop it set, if any.

    A moved stop is set again, which is harmless: the venue keeps no id of it.
    """
    intent = wanted
    if wanted.type not in PROTECTION:
        intent = store().intents.get(wanted.client_order_id) or wanted
        if store().intents.state(intent.client_order_id) in FINAL_STATES:
            return None
        await submit(position, intent, lease)
        return None
    if store().intents.get(wanted.client_order_id) is None:
        await submit(position, wanted, lease)
    else:
        await send(venue(), wanted)
        store().intents.mark(wanted.client_order_id, "done")
    return wanted.price
