"""Where the recorded data is: beside the repository, or in QUARTERDECK_SHARED. A fresh clone has none.

No test may need it alone: each that skips has a sibling on data of our own.
"""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("QUARTERDECK_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "data"


def shared(name: str) -> Path:
    """Return a recorded file, or skip the test saying why."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the recorded data in {path}")
    return path
