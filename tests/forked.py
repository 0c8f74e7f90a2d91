"""Processes that race, forked from one that has imported everything: each import costs seconds, and is not the race."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, sys, traceback
{prelude}
def race():
{body}
for n in range({count}):
    if not os.fork():
        failed = 1
        os.dup2(os.open(os.path.join({folder!r}, str(n)), os.O_WRONLY | os.O_CREAT), 1)
        try:
            race()
            failed = 0
        except SystemExit as ended:
            failed = ended.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failed)
ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range({count})]
sys.exit(max(map(abs, ends)))
"""


def raced(prelude: str, body: str, count: int, timeout: float = 120) -> list[str]:
    """Run `prelude`, then `body` in so many processes at once; return what each wrote to stdout."""
    with tempfile.TemporaryDirectory() as folder:
        indented = "".join(f"    {line}\n" for line in body.splitlines())
        script = SCRIPT.format(prelude=prelude, body=indented, count=count, folder=folder)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [(Path(folder) / str(n)).read_text() for n in range(count)]
