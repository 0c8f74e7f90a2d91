"""Processes of a world that are none: a name, what each has open, and whether it is dead.

Whatever a dead one still asks of the venue or the database kills it again: nothing is tidied up after a SIGKILL.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field

from tasks.adapters.store.store import Store


class Killed(BaseException):
    """The process is dead; no `except Exception` of ours may notice."""


@dataclass
class Process:
    """One run's process.

    mortal: faults of the database and crash points are for it. asked: how often it has come to each place where a fault
    can strike. steps: the crash points it has passed.
    """

    name: str
    store: Store
    dead: bool = False
    mortal: bool = True
    asked: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def place(self, what: str) -> str:
        """Return the name of this moment at a place where a fault can strike; raises Killed in a dead process."""
        self.alive()
        n = self.asked[what] = self.asked.get(what, 0) + 1
        return f"{self.name}/{what}#{n}"

    def alive(self) -> None:
        if self.dead:
            raise Killed(self.name)

    def die(self) -> None:
        """Die here and now."""
        self.dead = True
        raise Killed(self.name)


CURRENT: ContextVar[Process] = ContextVar("process")
