"""`make chaos`: kill the real stories at every step and at random instants under every fault; see what is left.

Two or more shards, each with worlds of its own (a sandbox process and a database; SQLite and PostgreSQL take turns),
fork the real cycle and the real `protect` against them. Exit code 1 if anything that must hold does not.
`--prefect N` instead kills N runs of a real worker.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", GX_ANALYTICS_ENABLED="false", QUARTERDECK_MLFLOW_URL="",
    OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", QUARTERDECK_NO_MODEL_CALLS="1",
)  # fmt: skip

from tests.chaos import report
from tests.chaos.bars import FAULTS, Bars, Tally
from tests.chaos.fork import prepare, warm_up
from tests.chaos.world import MEMORY, Databases, world

BARS = 40  # in one world
TOO_MUCH = 30  # breaches in one shard


@dataclass(frozen=True)
class Limit:
    """When a shard has done its part."""

    kills: int
    until: float

    def reached(self, tally: Tally) -> bool:
        dead = sum(tally.kills.values())
        return dead >= self.kills or len(tally.breaches) > TOO_MUCH or time.monotonic() > self.until


def main() -> int:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no sandbox behind
    if given.prefect:
        from tests.chaos import through_prefect

        return through_prefect.main(given.prefect, given.seed, given.seconds)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="quarterdeck-chaos-", dir=MEMORY))
    os.chmod(folder, 0o755)  # a PostgreSQL started by root runs as another user
    try:
        total = _run(given, Databases(folder, postgres=not given.sqlite))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report.document(total)) if given.json else report.table(total))
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(t.ru_utime + t.ru_stime for t in times)
    print(f"wall_s={time.monotonic() - began:.0f} cpu_s={cpu:.0f}", file=sys.stderr)
    return 1 if total.breaches else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500, help="how many, over all shards")
    parser.add_argument("--shards", type=int, default=max(2, os.cpu_count() or 2))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=86_400, help="say what there is after that long")
    parser.add_argument("--faults", default="", help=f"only these, comma-separated, of: {', '.join(FAULTS)}")
    parser.add_argument("--sqlite", action="store_true", help="no PostgreSQL")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prefect", type=int, default=0, metavar="N", help="kill N runs of a Prefect worker instead")
    given = parser.parse_args()
    given.faults = given.faults.split(",") if given.faults else sorted(FAULTS)
    if unknown := set(given.faults) - set(FAULTS):
        parser.error(f"--faults {', '.join(sorted(unknown))}: choose of {', '.join(FAULTS)}")
    return given


def _run(given: argparse.Namespace, databases: Databases) -> Tally:
    """Let every shard kill its part; what is imported and warm here is so in every fork."""
    prepare()
    with world(databases, 0, False):
        warm_up()
    context = multiprocessing.get_context("fork")
    share = -(-given.kills // given.shards)
    with context.Pool(given.shards) as pool:
        limit = Limit(share, time.monotonic() + given.seconds)
        seeds = [given.seed * 1000 + number for number in range(given.shards)]
        work = [(databases, limit, seed, not given.sqlite, given.faults) for seed in seeds]
        tallies = pool.starmap(_shard, work)
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _shard(databases: Databases, limit: Limit, seed: int, postgres: bool, faults: list[str]) -> Tally:
    """Go from world to world until enough have died."""
    total, luck = Tally(), random.Random(seed)
    kinds = itertools.cycle(luck.sample(faults, len(faults)))
    for number in itertools.count():
        with world(databases, seed + number, postgres and number % 2 == seed % 2) as here:
            bars = Bars(here, total, luck, f"world {seed + number}")
            orders, fills = total.orders, total.fills
            for _ in range(BARS):
                bars.bar(next(kinds))
                if limit.reached(total):
                    break
            total.orders, total.fills = orders + total.orders, fills + total.fills
        dead = sum(total.kills.values())
        print(f"world {seed + number}: {dead} of {limit.kills} killed, {len(total.breaches)} breaches", file=sys.stderr)
        if limit.reached(total):
            return total
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
