"""The worker's machine is down for five bars, and comes back to everything that was due meanwhile.

The market's time is stepped, so that five quarters of an hour pass at once; the runs that the schedule would have
made in them are created with the times they were due at.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from deployments.orchestrator import FINAL
from tasks.adapters import secret
from tasks.connections import store
from tasks.core.types.bars import floor_time
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.settings import ROOT, settings
from tests.chaos.world import SYMBOLS
from tests.drills.seen import Seen, until
from tests.drills.system import PROTECT, TRADE, WATCH, System, now, prepare, told, up, write_play

MISSED = 5
BAR = timedelta(minutes=15)
START = "2025-03-10T12:04:00+00:00"  # far from the next close: the wall's time goes on while the market's stands
DOWN_S = 30.0


async def drill(seen: Seen, folder: Path) -> None:
    prepare(folder, QUARTERDECK_SAMPLE_QUIET="1")
    os.environ["QUARTERDECK_DATABASE_URL"] = f"sqlite:///{folder / 'quarterdeck.db'}"
    begin = datetime.fromisoformat(START)
    os.environ["QUARTERDECK_DECIDER"] = write_play(folder / "replies.jsonl", SYMBOLS, begin)
    settings.cache_clear()
    async with up(seen, "--stepped", "--start", START, works=False) as system:
        await _let_only_watchdogs_be_scheduled(system)
        worker = start_worker(folder / "worker")
        try:
            how = await system.runs.ended(await system.runs.start(TRADE), 240)
            seen.must(how == "Completed", f"a scheduled run before the outage is {how}")
        finally:
            stop(worker, signal.SIGKILL)
        seen.say("the worker's machine is dead: worker, warm daemon and runs, by SIGKILL")
        down = len(system.exchange.ids())
        await asyncio.sleep(DOWN_S)
        due, late = await _five_bars_pass(system), await _late_watchdogs(system)
        worker = start_worker(folder / "worker")
        try:
            await _come_back(system, due, late, now())
            _must_have_one_current_cycle(seen, system.exchange.now)
            seen.say(f"{len(system.exchange.ids()) - down} orders were sent on return")
            await system.must_agree()
        finally:
            stop(worker)


def start_worker(home: Path) -> "subprocess.Popen[bytes]":
    """Start `quarterdeck worker` with a HOME of its own, as on another machine: it is told the secret."""
    home.mkdir(mode=0o700, exist_ok=True)
    own = {"QUARTERDECK_HOME": str(home), "PREFECT_API_AUTH_STRING": secret.read(settings().home)}
    with (home / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "worker"], cwd=ROOT, stdout=log, stderr=log,
            env=os.environ | own, start_new_session=True,
        )  # fmt: skip


def stop(worker: "subprocess.Popen[bytes]", by: int = signal.SIGTERM) -> None:
    """End it; by SIGKILL its nannies see to it that nothing of it is left."""
    worker.send_signal(by)
    try:
        worker.wait(60)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


async def _let_only_watchdogs_be_scheduled(system: System) -> None:
    """The wall's schedule of the cycles would know nothing of the market's time."""
    for deployment in await system.runs.api.call("POST", "deployments/filter", {}):
        if deployment["name"] not in ("watch", "protect"):
            await system.runs.api.call("PATCH", f"deployments/{deployment['id']}", {"paused": True})


async def _five_bars_pass(system: System) -> list[str]:
    """Let the market go on by six closes, and Prefect have a run for each; the last one's is not late."""
    system.exchange.advance(((MISSED + 1) * BAR).total_seconds())
    late = [now() - n * BAR for n in range(MISSED, 0, -1)]
    return [await system.runs.start(TRADE, due, trigger="schedule") for due in (*late, now())]


async def _late_watchdogs(system: System) -> dict[str, list[str]]:
    """Let the last minutes' runs of the schedules of a minute be late, too."""
    minutes = [now() - timedelta(minutes=n) for n in range(MISSED + 1, 1, -1)]
    return {name: [await system.runs.start(name, due, max_age_s=60) for due in minutes] for name in (WATCH, PROTECT)}


async def _come_back(system: System, due: list[str], late: dict[str, list[str]], back: datetime) -> None:
    seen, runs = system.seen, system.runs
    took = await until(lambda: _all_final(system, [*due, *late[WATCH], *late[PROTECT]]), "the end of what was due", 240)
    ends = await _ends(system, due)
    expected = ["Skipped"] * MISSED + ["Completed"]
    seen.must(ends == expected, f"the runs of the {MISSED} missed closes and the current one: {', '.join(ends)}")
    seen.say(f"all of that {took:.0f} s after the worker was started")
    for name in (WATCH, PROTECT):
        first = await runs.completed_after(name, back)
        ended = Counter(await _ends(system, late[name]))
        said = f"{told(ended)}; first Completed {first:.0f} s after the worker was started"
        seen.must(set(ended) == {"Skipped"}, f"runs of {name} late by more than a minute: {said}")


async def _ends(system: System, runs: list[str]) -> list[str]:
    return [(await system.runs.run(run))["state"]["name"] for run in runs]


async def _all_final(system: System, due: list[str]) -> bool:
    return all([(await system.runs.run(run))["state"]["type"] in FINAL for run in due])


def _must_have_one_current_cycle(seen: Seen, at: datetime) -> None:
    due = floor_time(at, "15m")
    for symbol in SYMBOLS:
        records: list[CycleRecord] = list(store().cycles.newest(settings().strategy, symbol, limit=50))
        missed = sorted(record.as_of for record in records if record.status is CycleStatus.MISSED)
        expected = [due - n * BAR for n in range(MISSED, 0, -1)]
        seen.must(missed == expected, f"{symbol} missed {', '.join(f'{close:%H:%M}' for close in missed) or 'nothing'}")
        new = [record for record in records if record.as_of > expected[0] and record.status is not CycleStatus.MISSED]
        said = ", ".join(f"{record.as_of:%H:%M} {record.status.value}" for record in new)
        seen.must([record.as_of for record in new] == [due], f"{symbol} cycles after it: {said or 'none'}")
