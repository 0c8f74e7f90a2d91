"""Every minute's work each ten seconds, for hours, on the databases of a new HOME: nothing locks up or stands still.

What a schedule asks for while the run before is under way is skipped; that is no stall. A deployment that completes
nothing for as long as `status` would wait before it warns is one, and so is a run that holds its slot for a minute.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from deployments.orchestrator import PrefectError
from tasks.settings import settings
from tests.adapters.free_ports import free_port
from tests.drills.seen import Seen
from tests.drills.system import PROTECT, TRADE, UNDER_WAY, WATCH, System, now, prepare, told, up

EACH_S = 10
LOOK_S = 20.0
STANDS = timedelta(minutes=3)  # without a Completed run
HELD = timedelta(minutes=1)  # by one run
LANES = (WATCH, PROTECT, TRADE)
LOCKED = re.compile(r"database (?:table )?is locked|deadlock detected", re.IGNORECASE)


async def drill(seen: Seen, folder: Path, hours: float) -> None:
    prepare(folder)
    os.environ["QUARTERDECK_MLFLOW_URL"] = f"http://127.0.0.1:{free_port()}"
    settings.cache_clear()
    async with up(seen) as system:
        lanes = [Lane(system, name) for name in LANES]
        for lane in lanes:
            await system.runs.every(lane.name, EACH_S)
        end = now() + timedelta(hours=hours)
        while now() < end:
            await asyncio.sleep(LOOK_S)
            for lane in lanes:
                with suppress(PrefectError):  # one that does not answer for longer lets things stand still
                    await lane.look()
        for lane in lanes:
            seen.must(not lane.stalls, f"{lane.name}: {told(lane.ends)} {'; '.join(lane.stalls[:9])}".rstrip())
        await system.must_agree()
    lines = list(_locked(folder / "home" / "logs"))
    seen.must(not lines, f"{len(lines)} times locked {'; '.join(lines[:3])}".rstrip())


class Lane:
    """The runs of one deployment."""

    def __init__(self, system: System, name: str) -> None:
        self.name, self._runs = name, system.runs
        self._states = dict[str, str]()
        self._completed = now()
        self.stalls: list[str] = []

    @property
    def ends(self) -> Counter[str]:
        return Counter(self._states.values())

    async def look(self) -> None:
        """Take in the runs of the last minutes, and what of them stands still."""
        due = {"after_": (now() - 3 * STANDS).isoformat(), "before_": now().isoformat()}
        for run in await self._runs.of(self.name, expected_start_time=due):
            self._states[run["id"]] = run["state_name"]
            since = datetime.fromisoformat(run["state"]["timestamp"])
            if run["state_type"] in UNDER_WAY and now() - since > HELD:
                self.stalls.append(f"{now():%H:%M:%S} {run['name']} {run['state_name']} since {since:%H:%M:%S}")
            if run["state_type"] == "COMPLETED":
                self._completed = max(self._completed, since)
        if now() - self._completed > STANDS:
            self.stalls.append(f"{now():%H:%M:%S} none Completed since {self._completed:%H:%M:%S}")


def _locked(logs: Path) -> Iterator[str]:
    for log in sorted(logs.glob("*")):
        for line in log.read_text(errors="replace").splitlines():
            if LOCKED.search(line):
                yield f"{log.name}: {line[:160]}"
