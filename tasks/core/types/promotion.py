"""How prompt versions come to be used: what was asked of one, and the moves of its aliases."""

from typing import Literal

from tasks.core.types.base import Dto, Utc

MoveKind = Literal["promoted", "overridden", "pinned", "challenger", "refused", "rolled_back"]


class Criterion(Dto):
    """One thing asked for, and whether it is there."""

    name: str
    value: str
    threshold: str
    passed: bool

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.value} (needs {self.threshold})"


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
