"""`--seed N` lives through one world and prints its trace; `--years Y` through many, and says what was reached.

The last line of a trace is its SHA-256. A seed that fails is shrunk to the fewest faults with `--shrink`.
"""

import argparse
import sys
from itertools import count, islice

from tests.simulation import mutations
from tests.simulation.many import many
from tests.simulation.shrink import shrunk
from tests.simulation.world import LIVED, lived


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the world, or the first of many")
    parser.add_argument("--days", type=float, default=LIVED, help="how long each world lives")
    parser.add_argument("--years", type=float, help="simulated years in all, over many seeds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so many all the same")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shrink", action="store_true", help="say which faults a seed needs to fail")
    parser.add_argument("--break", dest="broken", choices=mutations.ALL, help="break an invariant, and count the seeds")
    asked = parser.parse_args()
    if asked.broken:
        return _broken(asked.broken, asked.seed, asked.days)
    if asked.years:
        return many(asked)
    if asked.shrink:
        told = shrunk(asked.seed, asked.days)
        print(f"fails with {len(told.faults)} faults: {told.faults}")
    else:
        told = lived(asked.seed, asked.days)
    print("\n".join(told.lines))
    print(told.sha256)
    return bool(told.breaches)


def _broken(name: str, first: int, days: float) -> int:
    """Count the seeds that it takes to find a mutation."""
    for n, seed in enumerate(islice(count(first), mutations.MOST), start=1):
        with mutations.ALL[name]():
            told = lived(seed, days)
        if told.breaches:
            print(f"{name}: found after {n} seeds, by seed {seed}: {told.breaches[0]}")
            return 0
    print(f"{name}: not found in {mutations.MOST} seeds")
    return 1


if __name__ == "__main__":
    sys.exit(main())
