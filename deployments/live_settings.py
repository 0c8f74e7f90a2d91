"""What a person writes into quarterdeck.toml while the system runs: in force from the next run, once it is known good.

Runs read a copy in HOME. A file that cannot be read, has a wrong value or changes what only a start can change leaves
the copy as it is: nobody trades by half of a file.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.adapters.files.private import write_new
from tasks.core.types import InputError
from tasks.settings import PREFIX, Settings, load

TOML = f"{PREFIX}TOML"
# what servers, workers and venues were started or are connected with
FIXED = frozenset({
    "profile", "strategy", "home", "database_url", "venue", "sandbox_url", "venue_url", "venue_host", "venue_demo",
    "paper_cash", "live_account", "prefect_api_url", "prefect_ui_url", "mlflow_url", "mlflow_ui_url",
    "prefect_database_url", "mlflow_database_url", "workers", "alert_urls", "close_offset_s", "watch_every_s",
})  # fmt: skip


class LiveSettings:
    """A person's file, and the copy that runs read."""

    def __init__(self, file: Path, copy: Path) -> None:
        self._file, self._copy = file, copy
        self._last: bytes | None = None  # what stood there at the last look

    def take(self) -> list[str]:
        """Put a changed file in force for the runs to come; returns what changed, empty when nothing did.

        What only one look has found is not in force yet: editors empty a file before they write it, or take it away
        for a moment, and half of a TOML file is one, too. Raises InputError, naming the file and what is wrong with
        it, and leaves in force what is.
        """
        new = self._copy.with_suffix(".new")
        try:
            found = self._file.read_bytes() if self._file.is_file() else b""
            last, self._last = self._last, found
            if found != last or found == self._copy.read_bytes():
                return []
            new.unlink(missing_ok=True)
            write_new(new, found.decode())
            changed = _changes(_read(self._copy), _read(new))
        except (InputError, OSError, UnicodeDecodeError) as e:
            raise InputError(f"{self._file}: {e}; what was in force before still is") from e
        new.replace(self._copy)
        return changed


def _changes(before: Settings, after: Settings) -> list[str]:
    """Say what differs; raises InputError for what takes a restart."""
    changed = {name: (getattr(before, name), getattr(after, name)) for name in Settings.model_fields}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    late = sorted(changed.keys() & FIXED)
    if after.profile == "sandbox" and not {*after.symbols} <= {*before.symbols}:
        late.append("symbols that the sandbox does not have")
    if late:
        raise InputError(f"{', '.join(late)} takes a restart, `down` and `up`; until then nothing of it counts")
    return [line for name, pair in changed.items() for line in _said(name, *pair)]


def _read(file: Path) -> Settings:
    """Read the settings as a run does that has this file."""
    kept = os.environ.get(TOML)
    os.environ[TOML] = str(file)
    try:
        return load()
    finally:
        os.environ.pop(TOML) if kept is None else os.environ.update({TOML: kept})


def _said(name: str, before: Any, after: Any) -> Iterator[str]:
    """Yield each value that differs, by its dotted name."""
    if hasattr(before, "model_fields"):
        for inner in type(before).model_fields:
            if getattr(before, inner) != getattr(after, inner):
                yield from _said(f"{name}.{inner}", getattr(before, inner), getattr(after, inner))
    else:
        yield f"{name} is {after} now, it was {before}"
