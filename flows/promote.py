"""A prompt version, or a policy, becomes champion on evidence or does not; one that breaks its limits goes back."""

import getpass
from datetime import datetime

from tasks import clock
from tasks import promotion as stage
from tasks.adapters.files.prompts import CHAMPION
from tasks.connections import store
from tasks.core.types import InputError, Move


def explain_refusal(move: Move) -> None:
    """Raise InputError, with the first criterion that was not met, for a move that was refused."""
    if move.kind == "refused":
        first = next(each for each in move.criteria if not each.passed)
        raise InputError(
            f"{move.role}/{move.version} is not promoted: {first.name} is {first.value}, needs {first.threshold}; a "
            "person may overrule that with a reason (--override --reason TEXT)"
        )


def promote(role: str, version: str, alias: str, evidence: str, override: str, who: str = "") -> Move:
    """Move an alias to a version; the champion's only where every criterion is met, or a person overrides.

    override: the reason of a person who promotes all the same. Returns the move; one of kind `refused` moved nothing.
    """
    prompt, at = stage.named(role, version), clock.now()
    kind, previous, criteria = "challenger", "", ()
    if alias == CHAMPION:
        in_use = stage.in_use(role)
        kind, previous = "pinned", in_use.version
        if prompt.sha256 != in_use.sha256:  # to name the version that is in use anyway takes no evidence
            criteria = stage.judge_candidate(prompt, evidence, at)
            met = all(each.passed for each in criteria)
            kind = "promoted" if met else "overridden" if override else "refused"
    move = Move.of(
        prompt,
        at=at,
        role=role,
        alias=alias,
        kind=kind,
        who=who or getpass.getuser(),
        reason=override,
        evidence=evidence,
        previous=previous,
        criteria=criteria,
    )
    if kind != "refused":
        return stage.move_alias(move)
    store().prompts.note_refusal(move)
    stage.tell(move)
    return move


def watch_champions(at: datetime) -> list[Move]:
    """Roll back every champion that breaks its limits; returns the moves."""
    return [stage.move_alias(move) for move in stage.breached(at)]
