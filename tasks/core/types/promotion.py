"""How prompt versions come to be used: what was asked of one, and the moves of its aliases."""

from typing import Literal

from tasks.core.types.base import Dto, Utc

MoveKind = Literal["promoted", "overridden", "pinned", "challenger", "refused", "rolled_back"]


class Criterion(Dto):
    """One thing asked for, and whether it is there; what nothing was measured of is unknown, and not failed."""

    name: str
    value: str
    threshold: str
    passed: bool
    unknown: bool = False

    def __str__(self) -> str:
        result = "pass" if self.passed else "unknown" if self.unknown else "FAIL"
        return f"{result:<7}  {self.name}: {self.value} (needs {self.threshold})"


class Move(Dto):
    """One line of the history: an alias moved, or was refused to."""

    at: Utc
    role: str
    alias: str
    version: str
    sha256: str
    previous: str = ""
    kind: MoveKind
    who: str
    reason: str = ""
    evidence: str = ""
    criteria: tuple[Criterion, ...] = ()
