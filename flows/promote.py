"""A prompt version becomes champion on evidence, or does not; and a champion that breaks its limits goes back."""

import getpass
from datetime import UTC, datetime

import httpx
from prefect.events import Event, emit_event
from prefect.runtime import flow_run

from flows.clock import Call, plainly
from tasks import promotion as stage
from tasks.adapters.files.prompts import CHAMPION, load_prompt
from tasks.connections import log, store
from tasks.core.errors import InputError
from tasks.core.types.promotion import Move
from tasks.settings import settings

EVENT = "quarterdeck.prompt"


def promote(
    role: str, version: str, alias: str = CHAMPION, evidence: str = "", override: str = "", call: Call = plainly
) -> Move:
    """Move an alias to a version; the champion's only where every criterion is met, or a person overrides.

    override: the reason of a person who promotes all the same. Returns the move; one of kind `refused` moved nothing.
    """
    prompt, at = load_prompt(role, version), datetime.now(UTC)
    previous = load_prompt(role).version if alias == CHAMPION else ""
    move = Move(
        at=at,
        role=role,
        alias=alias,
        version=prompt.version,
        sha256=prompt.sha256,
        kind="challenger",
        who=getpass.getuser(),
        reason=override,
        evidence=evidence,
        previous=previous,
    )
    if alias == CHAMPION:
        move = _judged(move, prompt.sha256 == load_prompt(role).sha256, call)
    if move.kind == "refused":
        store().prompts.note_refusal(move)
    else:
        move = call(stage.move_alias)(move)
    emit(move)
    return move


def _judged(move: Move, in_use: bool, call: Call) -> Move:
    """Say what kind of move it is; to name the version that is in use anyway takes no evidence."""
    if in_use:
        return move.model_copy(update={"kind": "pinned"})
    criteria = call(stage.judge_candidate)(load_prompt(move.role, move.version), move.evidence, move.at)
    met = all(each.passed for each in criteria)
    kind = "promoted" if met else "overridden" if move.reason else "refused"
    return move.model_copy(update={"kind": kind, "criteria": criteria})


def refusal(move: Move) -> InputError:
    """Return the error that says why nothing moved."""
    first = next(each for each in move.criteria if not each.passed)
    return InputError(
        f"{move.role}/{move.version} is not promoted: {first.name} is {first.value}, needs {first.threshold}; a person "
        "may overrule that with --override --reason TEXT"
    )


def watch_champions(at: datetime, call: Call = plainly) -> list[Move]:
    """Roll back every champion that breaks its limits; returns the moves."""
    moves = [call(stage.move_alias)(move) for move in call(stage.breached)(at)]
    for move in moves:
        emit(move)
    return moves


def emit(move: Move) -> None:
    """Tell Prefect; automations of `deployments` may page a person on it. Without Prefect the history has it all."""
    event = {
        "event": f"{EVENT}.{move.kind}",
        "resource": {"prefect.resource.id": f"quarterdeck.prompt.{move.role}", "version": move.version},
        "payload": move.model_dump(mode="json"),
    }
    if flow_run.id is not None:
        emit_event(**event)
        return
    try:  # outside of a run `emit_event` would start a server of its own
        url = f"{settings().prefect_api_url}/events"
        httpx.post(url, json=[Event(**event).model_dump(mode="json")], timeout=5).raise_for_status()
    except httpx.HTTPError as e:
        log().warning("prefect was not told of the %s of %s: %s", move.kind, move.role, e)
