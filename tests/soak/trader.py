"""The long-lived process: the stories of every schedule, one after the other as they are asked for on stdin.

Each line is a JSON object with `story` and its arguments, each answer one line. Tasks have their retries as in
Prefect, and a trade run that fails is tried once more, as its flow is; their pauses of seconds are as much shorter as
the faults' own (a ban of 10 s lasts 0.15 here).
"""

import asyncio
import gc
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from flows.protect import reconcile
from flows.settle import settle_all
from flows.trade import Request, run_cycles
from flows.watch import look
from tasks import account, execute, fetch
from tasks import protect as stage
from tasks.adapters.venue import ccxt_venue as venue_adapter
from tasks.connections import close_venues, store
from tasks.core.errors import TradingError
from tasks.core.trading import followups
from tasks.report import write_report
from tasks.settings import settings
from tasks.stage import BROKEN, Stage

Said = dict[str, Any]
PAUSE_S = 0.1


def patiently(task: Stage, *given: Any, **named: Any) -> Any:
    """Call a task's own function as often as Prefect would."""

    async def later() -> Any:
        for _ in range(task.retries):
            try:
                return await task.fn(*given, **named)
            except Exception as e:
                if task.retry_condition_fn and not isinstance(e, BROKEN):
                    raise
                logging.getLogger("soak").warning("%s again after %r", task.name, e)
                await asyncio.sleep(PAUSE_S)
        return await task.fn(*given, **named)

    return later() if asyncio.iscoroutinefunction(task.fn) else task.fn(*given, **named)


Stage.__call__ = patiently  # type: ignore[method-assign]


async def watch(as_of: str) -> Said:
    return {"waiting": list(await look(as_of=datetime.fromisoformat(as_of)))}


async def trade(as_of: str, symbols: list[str], decider: str, trigger: str, review_only: bool = False) -> Said:
    request = Request(
        symbols=tuple(symbols), decider=decider, as_of=datetime.fromisoformat(as_of), trigger=trigger,
        review_only=review_only,
    )  # fmt: skip
    try:
        records = await run_cycles(request)
    except TradingError as e:
        logging.getLogger("soak").warning("trade once more after %s", e)
        await asyncio.sleep(PAUSE_S)
        records = await run_cycles(request)
    return {"cycles": [[record.symbol, record.cycle_id, record.status.value] for record in records]}


async def protect() -> Said:
    return await reconcile()


async def settle() -> Said:
    return await settle_all()


async def report() -> Said:
    return {"path": str(await write_report(None))}


async def due(as_of: str) -> Said:
    """Return the follow-ups that are due at a 5m close and not carried out."""
    opened = store().positions.open(settings().strategy)
    looks = [(position, account.look(position, datetime.fromisoformat(as_of))) for position in opened]
    return {"due": [[p.position_id, str(rule)] for p, seen in looks if seen for rule in followups.due(p, seen)]}


async def rest() -> Said:
    """Collect what is garbage, so that what stays can be measured."""
    gc.collect()
    return {"objects": len(gc.get_objects()), "clients": len(venue_adapter._open), "tasks": len(asyncio.all_tasks())}


STORIES: dict[str, Callable[..., Awaitable[Said]]] = {
    story.__name__: story for story in (watch, trade, protect, settle, report, due, rest)
}


async def answer(asked: Said) -> Said:
    try:
        return await STORIES[asked.pop("story")](**asked)
    except TradingError as e:
        return {"error": str(e)[:300]}


async def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints goes to the log
    for line in iter(sys.stdin.readline, ""):
        said = await answer(json.loads(line))
        print(json.dumps(said, default=str), file=answers, flush=True)
    await close_venues()


if __name__ == "__main__":
    execute.PAUSES, execute.IN_FLIGHT_S = (0.02, 0.02, 0.05, 0.1), 0.1  # the market stands still meanwhile
    stage.PAUSES = (0.02, 0.02)
    fetch.PAUSES = (0.02, 0.05)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(serve())
