"""`make soak`: simulated days under faults; see whether a bar is missed or doubled, and what grows.

Without Prefect one process lives through them (--days or --hours); with --prefect every story is a flow run of the
real server, worker and warm daemon, all on PostgreSQL. Exit code 1 if anything that must hold does not.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", GX_ANALYTICS_ENABLED="false", MLFLOW_DISABLE_TELEMETRY="true",
    OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", QUARTERDECK_NO_MODEL_CALLS="1", QUARTERDECK_SAMPLE_QUIET="0.4",
)  # fmt: skip

from tests.chaos.bars import FAULTS
from tests.chaos.world import Databases, world
from tests.soak import report, week


def main() -> int:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no process behind
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="quarterdeck-soak-"))
    try:
        with world(Databases(folder, postgres=given.prefect), given.seed, given.prefect) as here:
            try:
                if given.prefect:
                    from tests.soak import day

                    seen = day.soak(here, given.hours, given.seed, began + given.seconds, given.faults)
                elif given.words:
                    from tests.soak import words

                    seen = words.soak(here, given.hours, given.seed, began + given.seconds)
                else:
                    seen = week.soak(here, given.hours, given.seed, began + given.seconds, given.faults)
            finally:
                if given.keep:
                    shutil.copytree(here.home, given.keep, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seen.breaches += seen.memory.growing()
    print(report.text(seen))
    print(f"wall_s={time.monotonic() - began:.0f}", file=sys.stderr)
    return 1 if seen.breaches else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--days", type=float, default=7, help="of simulated time")
    parser.add_argument("--hours", type=float, help="instead of days")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=86_400, help="say what there is after that long")
    parser.add_argument("--faults", default="", help="one of these at every close, comma-separated")
    parser.add_argument("--prefect", action="store_true", help="every story is a flow run")
    parser.add_argument("--words", action="store_true", help="a model says everything it may, without faults")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the state there at the end")
    given = parser.parse_args()
    given.faults = given.faults.split(",") if given.faults else []
    if unknown := set(given.faults) - set(FAULTS):
        parser.error(f"--faults {', '.join(sorted(unknown))}: choose of {', '.join(FAULTS)}")
    given.hours = given.days * 24 if given.hours is None else given.hours
    return given


if __name__ == "__main__":
    sys.exit(main())
