"""`make fuzz`: random decisions on random accounts through the guard, each judged twice and looked at from outside.

make fuzz                    a million cases in two processes
make fuzz ARGS="20000 7"     so many, from this seed
"""

import sys
import time
from collections import Counter
from multiprocessing import get_context

from tasks.settings import ROOT

sys.path[:0] = [str(ROOT / "tests" / "core")]

import guard_fuzz  # noqa: E402  (the tests' modules stand on no path but this)

COUNT, SEED, PROCESSES, PART = 1_000_000, 1, 2, 20_000


def run(part: tuple[int, int]) -> tuple[int, Counter[str], Counter[str], list[str]]:
    """Judge `count` cases from `seed`; return how many, what was broken, what happened, and the first broken ones."""
    seed, count = part
    broken: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    first: list[str] = []
    for case in guard_fuzz.cases(seed, count):
        try:
            found, verdict = guard_fuzz.breach(case)
        except Exception as e:  # noqa: BLE001  (the guard is total: whatever is raised is a breach)
            found, verdict = f"raised {type(e).__name__}: {e}", None
        if verdict:
            happened.update(verdict.codes)
            happened[f"allowed {case.decision.action}"] += verdict.allowed
        if found:
            broken[found] += 1
            first += [f"{found}: {case!r}"] if len(first) < 3 else []
    return count, broken, happened, first


def main(wanted: list[str]) -> int:
    """Print every invariant that was broken, the codes that fired and how long it took; 1 if any was broken."""
    count = int(wanted[0]) if wanted else COUNT
    seed = int(wanted[1]) if len(wanted) > 1 else SEED
    started, done = time.perf_counter(), 0
    parts = [(seed * 1_000_000 + i, min(PART, count - i)) for i in range(0, count, PART)]
    broken: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    with get_context("spawn").Pool(PROCESSES) as pool:
        for judged, worse, seen, first in pool.imap_unordered(run, parts):
            done, broken, happened = done + judged, broken + worse, happened + seen
            print("\n".join(first), end="\n" if first else "")
            so_far = f"{done:9} of {count} cases, {sum(broken.values())} breaches"
            print(f"{so_far}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    for name, times in sorted(happened.items(), key=lambda item: -item[1]):
        print(f"{times:9} {name}")
    wall = time.perf_counter() - started
    print(f"cases={count} seed={seed} processes={PROCESSES} breaches={sum(broken.values())} wall_s={wall:.0f}")
    print("\n".join(f"{times:9} BROKEN: {name}" for name, times in broken.items()), end="\n" if broken else "")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
