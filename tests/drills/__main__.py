"""`make drills ARGS="postgres server"`: cause each outage once; exit code 1 if something that must hold does not.

Every drill starts processes of its own on free ports in a folder of its own, takes two to five minutes (stalls:
fifteen; dense: --hours), and leaves nothing behind. Without names all but dense are run.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True", GX_ANALYTICS_ENABLED="false", MLFLOW_DISABLE_TELEMETRY="true",
    OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", QUARTERDECK_NO_MODEL_CALLS="1",
)  # fmt: skip

from tasks.settings import settings
from tests.closing import close_stores
from tests.drills import dense, namespaces, postgres, server, stalls, worker
from tests.drills.seen import Seen, Skipped, Stuck

Drill = Callable[[Seen, Path], Awaitable[None]]
DENSE = "dense"
DRILLS: dict[str, Drill] = {
    "postgres": postgres.drill, "server": server.drill, "worker": worker.drill, "namespaces": namespaces.drill,
    "stalls": stalls.drill,
}  # fmt: skip


def main() -> int:
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no process behind
    drills = DRILLS | {DENSE: partial(dense.drill, hours=given.hours)}
    return max([_run(name, drills[name], given.keep) for name in given.names or DRILLS])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make drills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {' '.join((*DRILLS, DENSE))}")
    parser.add_argument("--hours", type=float, default=2, help="of dense")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy logs and databases there at the end")
    given = parser.parse_args()
    if unknown := set(given.names) - {*DRILLS, DENSE}:
        parser.error(f"{' '.join(sorted(unknown))}: choose of {' '.join((*DRILLS, DENSE))}")
    return given


def _run(name: str, drill: Drill, keep: Path | None) -> int:
    """Run one drill in an environment that is put back afterwards; returns 1 if something did not hold."""
    seen, began, before = Seen(name), time.monotonic(), dict(os.environ)
    folder = Path(tempfile.mkdtemp(prefix=f"quarterdeck-drill-{name}-"))
    try:
        asyncio.run(drill(seen, folder))
    except Skipped as e:
        seen.say(f"skipped: {e}")
    except Stuck as e:
        seen.must(False, str(e))
    finally:
        close_stores()
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()
        if keep:
            shutil.copytree(
                folder, keep / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("data", "*.sock", ".s.PGSQL.*")
            )
        shutil.rmtree(folder, ignore_errors=True)
    held = "FAILED" if seen.breaches else "held"
    seen.say(f"{held}, {len(seen.breaches)} breaches, {time.monotonic() - began:.0f} s")
    return 1 if seen.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
