"""Without Prefect: one long-lived process is asked for every story at the instants of the deployments' schedules.

The harness moves the exchange's clock, orders its faults and looks at its state; the process under measurement does
nothing but what a worker's would (see `trader`).
"""

import json
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tasks.settings import settings
from tests.chaos import invariants
from tests.chaos.fork import ledger
from tests.chaos.world import SYMBOLS, World
from tests.closing import close_stores
from tests.soak import growth, holds
from tests.soak.draws import DOUBLED, Draws

MINUTE = timedelta(minutes=1)
HANG_S = 300.0
WATCH, TRADE, REVIEW, PROTECT = (timedelta(seconds=s) for s in (5, 10, 15, 25))  # past the minute, as deployed


class Trader:
    """The process under measurement."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        command = (sys.executable, "-m", "tests.soak.trader")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        self.memory = psutil.Process(self._process.pid)

    def ask(self, story: str, **given: Any) -> dict[str, Any]:
        """Wait for a story's end; what it raised on purpose is under `error`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"story": story, **given}, default=datetime.isoformat).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], HANG_S)[0]:
            raise RuntimeError(f"{story} {given} did not end within {HANG_S:.0f} s")
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the process ended over {story} {given}; see {self._log.name}")
        said: dict[str, Any] = json.loads(line)
        return said

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


@contextmanager
def trader(log: Path) -> Iterator[Trader]:
    process = Trader(log)
    try:
        yield process
    finally:
        process.stop()


@dataclass
class Soaked:
    """What was seen."""

    stories: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)  # runs that raised: the next one of its kind goes on
    faults: Counter[str] = field(default_factory=Counter)
    halts: Counter[str] = field(default_factory=Counter)
    naked_s: float = 0.0
    risk_pct: float = 0.0
    orders: int = 0
    fills: int = 0
    requests: int = 0
    objects: list[int] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    closes: holds.Closes = field(default_factory=holds.Closes)
    memory: growth.Memory = field(default_factory=growth.Memory)
    files: dict[str, growth.Files] = field(default_factory=dict)

    def tell(self, breaches: Iterator[str], at: datetime) -> None:
        for breach in breaches:
            if not any(breach in known for known in self.breaches):
                self.breaches.append(f"{at:%m-%d %H:%M} {breach}")
                print(f"BREACH {self.breaches[-1]}", file=sys.stderr, flush=True)

    def compare(self, state: invariants.State, books: dict[str, Any], at: datetime) -> None:
        """Hold the ledger against the venue, with no fault in the way; a halt is told apart."""
        if books["halt"]:
            self.halts[books["halt"].split(":")[0]] += 1
        self.tell(invariants.reconciled(state, books | {"halt": ""}), at)
        self.orders, self.fills = len(state["orders"]), len(state["fills"])
        self.requests = sum(state["requests"].values())


class Week:
    """Simulated time, minute by minute."""

    def __init__(self, world: World, process: Trader, draws: Draws) -> None:
        self.world, self.process, self.draws, self.seen = world, process, draws, Soaked()
        self.now = datetime.fromisoformat(world.state()["clock"])
        self.first = self.begin = self.now
        self.down: set[datetime] = set()
        self.exposed = False  # something is held or rests, so that `protect` comes each minute
        self.unwatched = 0  # protect runs in a row that could not do everything
        self.sandbox = next(p for p in psutil.Process().children() if "infra.sandbox" in p.cmdline())

    def run(self, hours: float, until: float) -> Soaked:
        end = self.begin + timedelta(hours=hours)
        self.first = self.begin + holds.BAR
        minute = self.begin
        while minute < end and time.monotonic() < until:
            minute += MINUTE
            self._minute(minute)
            if minute.minute == 0:
                self._hour(minute)
        self._end(minute)
        return self.seen

    # -- what the schedules say --------------------------------------------------------------------------------

    def _minute(self, minute: datetime) -> None:
        close = minute.minute % 5 == 0
        if close:
            self.seen.faults[self.draws.order_faults()] += 1
            self._close(minute)
        if close or self.exposed:
            self._go_to(minute + PROTECT)
            self._protect(minute)
        if minute.minute == 2:
            self._ask("settle")
        if (minute.hour, minute.minute) == (0, 10):
            self._ask("report")

    def _close(self, close: datetime) -> None:
        """Watch, the cycles by event, and each quarter of an hour the scheduled ones, in either order."""
        self._go_to(close + WATCH)
        quarter = close.minute % 15 == 0
        if quarter and self.draws.is_down(close):
            self.down.add(close)
        if close - timedelta(minutes=close.minute % 15) in self.down:
            return
        waiting = self._ask("watch", as_of=close).get("waiting", [])
        decider = self.draws.decider(close)
        if waiting and (not quarter or self.draws.chance(0.5)):
            self._trade(close, waiting, decider, "event")
        if quarter:
            self._go_to(close + TRADE)
            self._trade(close, list(SYMBOLS), decider, "schedule")
        if close.minute == 0:
            self._go_to(close + REVIEW)
            self._ask("trade", as_of=close, symbols=SYMBOLS, decider=decider, trigger="schedule", review_only=True)

    def _trade(self, close: datetime, symbols: list[str], decider: str, trigger: str) -> None:
        """Run the cycles, sometimes twice: the second time nothing may be done."""
        once = self._ask("trade", as_of=close, symbols=symbols, decider=decider, trigger=trigger)
        if self.draws.chance(DOUBLED) and "error" not in once:
            again = self._ask("trade", as_of=close, symbols=symbols, decider=decider, trigger=trigger)
            if "error" not in again and again != once:
                self.seen.tell(iter([f"doubled: {once} became {again}"]), close)

    def _protect(self, minute: datetime) -> None:
        state = self.draws.state()
        self._note(state, minute)
        self.draws.held = {position["symbol"] for position in state["positions"]}
        self.unwatched = self.unwatched + 1 if "error" in self._ask("protect") else 0
        self.exposed = bool(state["positions"]) or any(order["resting"] for order in state["orders"])

    def _note(self, state: dict[str, Any], at: datetime) -> None:
        naked = invariants.naked_s(state)
        self.seen.naked_s = max(self.seen.naked_s, naked)
        self.seen.risk_pct = max(self.seen.risk_pct, float(invariants.risk_pct(state)))
        if naked > invariants.WATCHDOG_S * (1 + self.unwatched):
            self.seen.tell(iter([f"naked: {naked:.0f} s, though protect ran"]), at)
        self.seen.tell(invariants.at_the_venue(state), at)

    # -- what is looked at -------------------------------------------------------------------------------------

    def _hour(self, hour: datetime) -> None:
        """With no fault in the way venue and ledger must agree; then what stays in memory is measured."""
        self.draws.wrongs += self.draws.calm()
        self.seen.tell(iter(self.draws.wrongs), hour)
        if error := self._ask("protect").get("error"):
            self.seen.tell(iter([f"protect failed without a fault: {error}"]), hour)
        self.seen.compare(self.world.state(), ledger(), hour)
        self.seen.objects.append(self.process.ask("rest")["objects"])
        since = (hour - self.begin) / timedelta(hours=1)
        self.seen.memory.note("trader", since, growth.resident(self.process.memory))
        self.seen.memory.note("sandbox", since, growth.resident(self.sandbox))
        if since == 1 or since % 24 == 0:
            self._weigh(since)
        print(f"{hour:%m-%d %H:%M} orders={self.seen.orders} rss={self.seen.memory.megabytes['trader'][-1]:.1f} "
              f"breaches={len(self.seen.breaches)}", file=sys.stderr, flush=True)  # fmt: skip

    def _weigh(self, since: float) -> None:
        self.seen.files.setdefault("quarterdeck", growth.Files()).note(since, settings().store_url)

    def _end(self, end: datetime) -> None:
        if (hours := (end - self.begin) / timedelta(hours=1)) % 24:
            self._weigh(hours)
        last = end - timedelta(minutes=end.minute % 15, seconds=end.second)
        while last in self.down:  # no run has come yet to say that it was missed
            self.down.discard(last)
            last -= holds.BAR
        self.seen.tell(holds.look(self.first, last, self.down, self.seen.closes), end)

    def _go_to(self, instant: datetime) -> None:
        self.world.advance(max(0.0, (instant - self.now).total_seconds()))
        self.now = max(self.now, instant)

    def _ask(self, story: str, **given: Any) -> dict[str, Any]:
        said = self.process.ask(story, **given)
        self.seen.stories[story] += 1
        if "error" in said:
            self.seen.failed[story] += 1
        return said


def soak(world: World, hours: float, seed: int, until: float, faults: Sequence[str] = ()) -> Soaked:
    """Go through so many hours."""
    settings.cache_clear()
    try:
        with trader(world.home / "trader.log") as process:
            return Week(world, process, Draws(seed, world, faults)).run(hours, until)
    finally:
        close_stores()
