"""Orders of ours that the ledger does not know, as after it was restored from an older backup: taken over.

The id of a cycle's order proves the cycle. An order of `protect` proves only that it is this system's; it is taken
over with the entry before it, and only to reduce. What proves nothing is reported and left.
"""

from collections.abc import Collection
from datetime import UTC, datetime

from tasks import ledger
from tasks.connections import answered, log, store, venue
from tasks.core.trading import orders, reconcile
from tasks.core.types.reconcile import Adopt, Finding, Tell, VenueView
from tasks.core.types.record import CycleStatus
from tasks.crash_points import reached

PAUSES = (0.5, 1.0)  # seconds before a venue that did not answer is asked again


async def adopt_orders(symbol: str, seen: Collection[str]) -> int:
    """Take over those of the orders `seen` (client ids) that are ours and unknown; returns how many."""
    unknown = [name for name in seen if orders.is_ours(name) and store().intents.get(name) is None]
    if not unknown:
        return 0
    found = {name: await venue().find_order(symbol, name) for name in unknown}
    return _carry_out(symbol, VenueView(observed_at=datetime.now(UTC), orders=found))[0]


async def adopt_working(symbol: str) -> list[Finding]:
    """Take over working orders of ours that the ledger does not know; returns those that are foreign."""
    resting = await answered(lambda: venue().open_orders(symbol), f"orders of {symbol}", PAUSES)
    if not resting:
        return []
    return _carry_out(symbol, VenueView(observed_at=datetime.now(UTC), resting={symbol: tuple(resting)}))[1]


def _carry_out(symbol: str, look: VenueView) -> tuple[int, list[Finding]]:
    names = [order.client_order_id for resting in look.resting.values() for order in resting]
    known = frozenset(name for name in names if store().intents.get(name) is not None)
    adopted, foreign = 0, list[Finding]()
    for action in reconcile.reconcile(ledger.view(symbol, known=known), look, None, look.observed_at):
        if isinstance(action, Adopt):
            _adopt(action)
            adopted += 1
        elif isinstance(action, Tell):
            log().error("%s", action.finding.text)
            foreign.append(action.finding)
    return adopted, foreign


def _adopt(action: Adopt) -> None:
    kept, order, cycle_id, now = store(), action.order, action.cycle_id, datetime.now(UTC)
    if action.cycle is not None:
        kept.cycles.begin(action.cycle.model_copy(update={"status": CycleStatus.STARTED}), now)
        kept.cycles.save(action.cycle, now, first=True)
    kept.intents.save(cycle_id, (action.intent,), order.created_at)
    kept.orders.save(order)
    kept.intents.mark(order.client_order_id, action.state)
    reached("adopted")
    log().error("adopted symbol=%s cycle_id=%s client_order_id=%s", order.symbol, cycle_id, order.client_order_id)
