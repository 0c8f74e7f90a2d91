"""PostgreSQL with all three stores is killed as a whole, twice: in the midst of an order, and between two runs."""

import asyncio
import os
from datetime import datetime
from pathlib import Path

from tasks.settings import settings
from tests.drills.cluster import Cluster
from tests.drills.seen import Seen, until
from tests.drills.system import ADHOC, PROTECT, TRADE, WATCH, System, free_port, now, prepare, up, write_play

DOWN_S = 60.0
SPEED = 4  # a 5m bar in 75 s
HELD_S = 8.0  # how long the venue, which has filled the order, says nothing about it
SYMBOL = "BTC/USDT:USDT"


async def drill(seen: Seen, folder: Path) -> None:
    cluster = Cluster(folder / "postgres", free_port())
    try:
        prepare(folder, **cluster.environment(), QUARTERDECK_SAMPLE_QUIET="1", QUARTERDECK_MLFLOW_URL=_mlflow())
        os.environ["QUARTERDECK_DECIDER"] = write_play(folder / "replies.jsonl", (SYMBOL, "ETH/USDT:USDT"), now())
        settings.cache_clear()
        async with up(seen, "--speed", str(SPEED)) as system:
            await system.runs.every(TRADE, 60)
            before = system.pids()
            took = await until(lambda: system.exchange.state()["positions"], "an open position", 150)
            seen.say(f"a position is open after {took:.0f} s")
            await _outage(system, cluster, amid=True)
            await _outage(system, cluster, amid=False)
            _told_of_children(system, before)
            await system.must_agree()
    finally:
        cluster.stop()


def _mlflow() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def _outage(system: System, cluster: Cluster, amid: bool) -> None:
    seen, exchange = system.seen, system.exchange
    if amid:
        await _amid_an_order(system)
    had, down = exchange.ids(), now()
    seen.say(f"killed {cluster.kill()} processes of PostgreSQL{' in the midst of an order' if amid else ''}")
    await asyncio.sleep(DOWN_S)
    sent = exchange.ids() - had
    seen.must(not sent, f"{len(sent)} orders were sent during the outage")
    positions = len(exchange.state()["positions"])
    cluster.start()
    back = now()
    seen.say(f"PostgreSQL is back after {(back - down).total_seconds():.0f} s, {positions} positions open")
    names = {"protect": PROTECT, "watch": WATCH, "trade": TRADE}
    took = await asyncio.gather(*(system.runs.completed_after(name, back) for name in names.values()))
    first = ", ".join(f"{what} {s:.0f} s" for what, s in zip(names, took, strict=True))
    seen.say(f"first Completed without a hand after it was back: {first}")
    await _told_of_runs(system, down, back)


async def _amid_an_order(system: System) -> None:
    """Wait until a scheduled run has sent an order that the venue does not answer."""
    system.exchange.hold("order/create", HELD_S, kind="timeout_after_accept")
    await system.exchange.holds(200)
    await asyncio.sleep(0.5)  # and filled


async def _told_of_runs(system: System, down: datetime, back: datetime) -> None:
    for name in (PROTECT, WATCH, TRADE, ADHOC):
        system.seen.say(f"runs of {name} due during the outage: {await system.runs.tally(name, down, back)}")


def _told_of_children(system: System, before: dict[str, int]) -> None:
    dead = [name for name, child in system.machine._children.items() if child.exit_code is not None]
    again = [name for name, pid in system.pids().items() if before.get(name) != pid]
    system.seen.must(not dead, f"every child of `up` is alive {' '.join(dead)}".rstrip())
    system.seen.say(f"children that ended and were started again: {' '.join(again) or 'none'}")
