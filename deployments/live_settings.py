"""What a person writes into quarterdeck.toml while the system runs: in force from the next run, once it is known good.

Runs read a copy in HOME. A file that cannot be read, has a wrong value or changes what only a start can change leaves
the copy as it is: nobody trades by half of a file.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.adapters.files.private import write_new
from tasks.core.types import InputError, TradingError
from tasks.settings import FIXED, PREFIX, Settings, load

TOML = f"{PREFIX}TOML"


class LiveSettings:
    """A person's file, and the copy that runs read."""

    def __init__(self, file: Path, copy: Path, check: Callable[[Settings], None] = lambda _: None) -> None:
        """check: raises InputError for settings that cannot be in force as things are."""
        self._file, self._copy, self._check = file, copy, check
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
            after = _read(new)
            changed = _changes(_read(self._copy), after)
            self._check(after)
        except (TradingError, OSError, UnicodeDecodeError) as e:
            raise InputError(f"{self._file}: {e}; what was in force before still is") from e
        new.replace(self._copy)
        return changed

    def in_force(self) -> Settings:
        """Return what runs read."""
        return _read(self._copy)


def _changes(before: Settings, after: Settings) -> list[str]:
    """Say what differs; raises InputError for what takes a restart."""
    changed = {name: (getattr(before, name), getattr(after, name)) for name in Settings.model_fields}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    late = sorted(changed.keys() & FIXED)
    if after.profile == "sandbox" and not {*after.all_symbols} <= {*before.all_symbols}:
        late.append("symbols (the sandbox lacks some)")
    if late:
        raise InputError(
            f"{', '.join(late)} cannot change without a restart, `down` and `up`; until then nothing of the file counts"
        )
    changed.pop("strategies", None)
    lines = [line for name, pair in changed.items() for line in _said(name, *pair)]
    one, other = ({each.strategy: each for each in s.every()[1:]} for s in (before, after))
    for strategy in dict.fromkeys((*one, *other)):
        if strategy not in one or strategy not in other:
            lines.append(f"strategy {strategy} is {'there' if strategy in other else 'gone'} now")
            continue
        pairs = ((name, getattr(one[strategy], name), getattr(other[strategy], name)) for name in Settings.model_fields)
        lines += [f"{strategy}: {line}" for pair in pairs for line in _said(*pair)]
    return lines


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
    elif before != after:
        yield f"{name} is {after} now, it was {before}"
