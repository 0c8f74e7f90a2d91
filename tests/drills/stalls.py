"""A hundred runs whose process, worker, warm daemon or whole system is killed somewhere in their life, by chance.

Each must have ended within a minute of it, and hold no slot: the next run of its deployment completes. The last runs of
a life are left where they are when everything is killed at once, and must be ended by the next `up`.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from deployments.orchestrator import FINAL
from tests.drills.seen import Seen, until
from tests.drills.system import PROTECT, WATCH, System, prepare, told, up

LANES = (WATCH, PROTECT, "settle/settle", "report/report", "trade/trade-adhoc")  # one run of each at a time
HELD = ("PENDING", "RUNNING", "CANCELLING")
LIVES, ROUNDS = 5, 5  # of a system, and of each life; a life's end is a round of its own
TOO_LATE, TRIES = "Skipped", 5
VICTIMS = ("client", "client", "runs", "worker", "warm")
LATEST_S = 8.0  # from a run's creation to the kill; most have ended after that
WITHIN_S = 60.0 + 15.0  # a minute, from one look to the next
TURN_S = 120.0  # until a run that nothing happened to has completed, on two busy cores


async def drill(seen: Seen, folder: Path) -> None:
    prepare(folder)
    luck, kills, left = random.Random(19), Counter[str](), list[str]()
    slowest = 0.0
    for life in range(LIVES):
        async with up(seen) as system:
            await system.runs.pause()
            slowest = max(slowest, await _ended(system, left))
            for _ in range(ROUNDS):
                killed = await _killed(system, luck, kills)
                slowest = max(slowest, await _ended(system, killed))
                await _take_turns(system)
            if life < LIVES - 1:
                left = await _killed(system, luck, kills, "system")
        seen.say(f"life {life + 1}: {kills.total()} killed so far, the slowest ended {slowest:.0f} s later")
    seen.must(kills.total() >= 100, f"{kills.total()} runs killed: {told(kills)}")


async def _killed(system: System, luck: random.Random, kills: Counter[str], victim: str = "") -> list[str]:
    """Start a run in every lane and kill something of it; returns the runs that were struck.

    One that waits for a slot has lost nothing: it is carried out in its turn.
    """
    runs = [await system.runs.start(lane) for lane in LANES]
    victim = victim or luck.choice(VICTIMS)
    if victim == "client":  # each at a moment of its own
        moments = [luck.uniform(0, LATEST_S) for _ in runs]
        struck = await asyncio.gather(*map(partial(_struck, system, victim), moments, [[run] for run in runs]))
    else:
        struck = [await _struck(system, victim, luck.uniform(0, LATEST_S), runs)]
    kills.update(f"{state} {victim}" for each in struck for state in each.values())
    return [run for each in struck for run in each]


async def _struck(system: System, victim: str, delay_s: float, runs: list[str]) -> dict[str, str]:
    """Kill what carries out some runs after a while; returns the state of each that held its slot."""
    await asyncio.sleep(delay_s)
    found = {run: (await system.runs.run(run))["state"]["type"] for run in runs}
    struck = [_kill(pid) for pid in _pids(system, victim, runs)]
    return {run: state for run, state in found.items() if any(struck) and state in HELD}


def _pids(system: System, victim: str, runs: list[str]) -> list[int]:
    """Return the processes of a victim: services with their nannies, forked runs, or the client of the one run."""
    services = system.pids()
    if victim in ("worker", "warm", "system"):
        return [pid for name, pid in services.items() if victim in (name, "system")]
    if victim == "runs":
        [daemon] = psutil.Process(services["warm"]).children()
        return [run.pid for run in daemon.children()]
    with suppress(OSError, ValueError):
        return [int((system.machine.settings.home / "runs" / runs[0]).read_text())]
    return []


def _kill(pid: int) -> bool:
    """SIGKILL a process and, where it is a nanny, what it looks after."""
    with suppress(psutil.Error):
        for each in (*psutil.Process(pid).children(), psutil.Process(pid)):
            each.kill()
        return True
    return False


async def _ended(system: System, runs: list[str]) -> float:
    """Wait for the end of runs; returns how long the last one took, in seconds."""
    waits = (until(partial(_is_final, system, run), f"the end of run {run}", WITHIN_S) for run in runs)
    return max([0.0, *await asyncio.gather(*waits)])


async def _is_final(system: System, run: str) -> bool:
    return (await system.runs.run(run))["state"]["type"] in FINAL


async def _take_turns(system: System) -> None:
    """See that no lane is held up."""
    await asyncio.gather(*(_completes(system, lane) for lane in LANES))


async def _completes(system: System, lane: str) -> None:
    """Ask for runs of a lane until one was not too late: without a warm daemon, a busy machine takes minutes."""
    for _ in range(TRIES):
        run = await system.runs.start(lane)
        if (how := await system.runs.ended(run, TURN_S)) != TOO_LATE:
            break
    if how != "Completed":
        message = (await system.runs.run(run))["state"]["message"]
        system.seen.must(False, f"the next run of {lane} is {how}: {message}")
