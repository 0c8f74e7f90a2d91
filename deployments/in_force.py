"""Which system a command is about: `up` writes into HOME what it runs with, and notes that HOME for other shells.

A command given in a shell without the system's settings would speak to another HOME, or to another database. So `halt`,
`resume`, `status` and `doctor` act on the HOME that is named, else on the one that runs, with what is in force there.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from deployments import up_state
from tasks.adapters.files.private import write_new
from tasks.adapters.store import exists
from tasks.core.types import InputError
from tasks.settings import PREFIX, Settings, load, settings

FILE, TOML = "in_force.json", "started.toml"
UNTOLD = re.compile("KEY|SECRET|TOKEN|PASSWORD|ALERT|FEEDS")  # never written down: nothing here needs them
HOME = f"{PREFIX}HOME"


def write(home: Path) -> None:
    """Write down what is in force in HOME, and that this HOME has a system."""
    told = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and not UNTOLD.search(name)}
    file = home / FILE
    file.unlink(missing_ok=True)
    write_new(file, json.dumps(told | {HOME: str(home)}, indent=1))
    with suppress(OSError):  # the note is for convenience
        _notes().mkdir(mode=0o700, parents=True, exist_ok=True)
        (_notes() / str(home).strip("/").replace("/", "%")).write_text(str(home))


def adopt() -> Settings:
    """Take over what is in force where this shell says nothing else; returns it. Raises InputError for two systems."""
    home = load().home if os.environ.get(HOME) else _the_one()
    with suppress(OSError, ValueError):
        for name, value in json.loads((home / FILE).read_text(encoding="utf-8")).items():
            os.environ.setdefault(name, value)
        if (home / TOML).is_file():
            os.environ.setdefault(f"{PREFIX}TOML", str(home / TOML))
    os.environ[HOME] = str(home)
    settings.cache_clear()
    return settings()


def adopt_with_database() -> Settings:
    """Do as `adopt`, for what would be pointless beside a database that is not there; raises InputError then."""
    if not exists((s := adopt()).store_url):
        raise InputError(
            f"HOME {s.home}: there is no database, so there is nothing to act on; set {HOME} to that of your system"
        )
    return s


def _the_one() -> Path:
    """Return the HOME that runs, else the default one."""
    usual = load().home
    noted = [Path(note.read_text()) for note in sorted(_notes().glob("*"))]
    running = [home for home in dict.fromkeys((usual, *noted)) if up_state.state(home)]
    if usual in running or not running:
        return usual
    if len(running) > 1:
        raise InputError(f"{len(running)} systems run here: set {HOME} to one of {', '.join(map(str, running))}")
    return running[0]


def _notes() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state", "quarterdeck", "homes")


def named(s: Settings) -> dict[str, str]:
    """Return what a command was about, to be said with its result."""
    running = "running" if up_state.state(s.home) else "not running"
    return {"home": str(s.home), "profile": s.profile, "strategy": s.strategy, "system": running}
