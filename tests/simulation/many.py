"""Many worlds in several processes, and what they reached together."""

import argparse
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count, islice
from multiprocessing import get_context

from tasks.crash_points import STEPS
from tests.simulation.world import KINDS, LOTS, Told, lived

AT_ONCE = 16  # worlds that are under way or waited for
ORPHANED_S = 1.0  # between a worker's looks whether its parent lives


def many(asked: argparse.Namespace) -> int:
    began, all_told = time.monotonic(), Tally()
    days = asked.years * 365.25
    with suppress(KeyboardInterrupt):  # what was reached until then is told all the same
        for told in _worlds(asked):
            all_told.add(told)
            if told.breaches:
                print(f"BREACH seed {told.seed}: {told.breaches[0]}", flush=True)
            if all_told.days >= days or time.monotonic() - began > asked.seconds:
                break
    print(all_told.report())
    return bool(all_told.failed)


def _worlds(asked: argparse.Namespace) -> Iterator[Told]:
    """Live through one seed after the other, in as many processes as were asked for."""
    with ProcessPoolExecutor(asked.jobs, get_context("spawn"), end_with, (os.getpid(),)) as pool:
        seeds, live = count(asked.seed), partial(measured, days=asked.days)
        waiting = [pool.submit(live, seed) for seed in islice(seeds, AT_ONCE)]
        try:
            while True:
                yield waiting.pop(0).result()
                waiting.append(pool.submit(live, next(seeds)))
        finally:
            pool.shutdown(cancel_futures=True)


def end_with(parent: int) -> None:
    """Let this worker end soon after its parent: one that was killed shuts no pool down."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHANED_S)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it says what was reached
    threading.Thread(target=watch, daemon=True).start()


def measured(seed: int, days: float) -> Told:
    began = time.process_time()
    told = lived(seed, days)
    told.cpu_s = time.process_time() - began
    told.faults, told.lines = dict(Counter(told.faults.values())), []  # type: ignore[arg-type]  # how many of each
    return told


class Tally:
    """What all worlds together have reached."""

    def __init__(self) -> None:
        self.worlds = self.orders = self.fills = 0
        self.days = self.cpu_s = self.naked_s = 0.0
        self.failed: list[int] = []
        self.kills, self.faults, self.cycles = Counter[str](), Counter[str](), Counter[str]()
        self.pairs = Counter[tuple[str, str]]()

    def add(self, told: Told) -> None:
        self.worlds += 1
        self.days, self.cpu_s = self.days + told.days, self.cpu_s + told.cpu_s
        self.orders, self.fills = self.orders + told.orders, self.fills + told.fills
        self.naked_s = max(self.naked_s, told.naked_s)
        self.kills.update(told.kills)
        self.faults.update(told.faults)
        self.cycles.update(told.cycles)
        self.pairs.update(told.pairs)
        self.failed += [told.seed] * bool(told.breaches)

    def report(self) -> str:
        wanted = [(step, kind) for step in STEPS for kind in KINDS]
        missing = [f"{step} x {kind}" for step, kind in wanted if not self.pairs[step, kind]]
        rate = self.days * len(LOTS) / (self.cpu_s / 3600)
        rarest = min(self.pairs[pair] for pair in wanted)
        return "\n".join(
            (
                f"{self.worlds} worlds, {self.days / 365.25:.2f} simulated years of {len(LOTS)} symbols, "
                f"{self.cpu_s:.0f} CPU s: {rate:,.0f} symbol-days per CPU hour",
                f"{self.kills.total():,} processes killed, of {len(STEPS)} crash points "
                f"{sum(step in self.kills for step in STEPS)} died at",
                f"at {dict(self.kills.most_common())}",
                f"{self.faults.total():,} faults: {dict(self.faults.most_common())}",
                f"{self.orders:,} orders, {self.fills:,} fills, cycles {dict(self.cycles.most_common())}",
                f"pairs of crash point and fault: {len(wanted) - len(missing)} of {len(wanted)} reached, the rarest "
                f"{rarest} times; not reached: {', '.join(missing) or 'none'}",
                f"longest without a stop: {self.naked_s:.0f} s",
                f"breaches: {len(self.failed)}{f', seeds {self.failed}' if self.failed else ''}",
            )
        )
