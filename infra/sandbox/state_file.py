"""Keep the account over a restart: a venue does not forget orders and positions because a server stopped.

One JSON file, replaced whole after everything that changed the account. Where the clock follows the wall, the
market's path since the last save passes over the account when it wakes: stops fire that should have fired.
"""

import json
import os
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError


def load(path: Path | None, market: dict[str, Any]) -> dict[str, Any]:
    """Read a saved account; empty if there is none yet. Raises InputError if it is unreadable or of another market."""
    if path is None or not path.exists():
        return {}
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        of = state["market"]
        same = of["candles"].items() <= market["candles"].items() and set(of["symbols"]) <= set(market["symbols"])
        same = same and of["seed"] == market["seed"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"--state {path}: not a sandbox's state ({e}); remove it to start anew") from e
    if not same:
        raise InputError(f"--state {path}: is of {of}, not {market}; remove it, or choose another file")
    return state


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the saved account in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state))
    os.replace(partial, path)
