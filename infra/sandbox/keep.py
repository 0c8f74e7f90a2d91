"""Keep the account over a restart: a venue does not forget orders and positions because a server stopped.

One JSON file, replaced whole after everything that changed the account. Where the clock follows the wall, the
market's path since the last save passes over the account when it wakes: stops fire that should have fired.
"""

import json
import os
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError


def load(path: Path | None, market: dict[str, Any]) -> dict[str, Any] | None:
    """Read a kept state; None if there is none yet. Raises InputError if it is unreadable or of another market."""
    if path is None or not path.exists():
        return None
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        same = _covers(market, kept["market"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"--state {path}: not a sandbox's state ({e}); remove it to start anew") from e
    if not same:
        raise InputError(f"--state {path}: kept for {kept['market']}, not {market}; remove it, or choose another file")
    return kept


def _covers(market: dict[str, Any], kept: dict[str, Any]) -> bool:
    """Say whether `market` has every symbol that was kept, with the same prices."""
    candles = all(market["candles"].get(symbol) == file for symbol, file in kept["candles"].items())
    return candles and market["seed"] == kept["seed"] and set(kept["symbols"]) <= set(market["symbols"])


def save(path: Path, document: dict[str, Any]) -> None:
    """Replace the kept state in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    os.replace(partial, path)
