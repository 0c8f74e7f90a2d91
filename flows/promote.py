"""A prompt version becomes champion on evidence, or does not; and a champion that breaks its limits goes back."""

import getpass
from datetime import UTC, datetime

import httpx
from prefect.events import Event, emit_event
from prefect.runtime import flow_run

from tasks import promotion as stage
from tasks.adapters.files.prompts import CHAMPION, load_prompt
from tasks.connections import log, store
from tasks.core.types.promotion import Move
from tasks.settings import settings

EVENT = "quarterdeck.prompt"


def promote(role: str, version: str, alias: str, evidence: str, override: str) -> Move:
    """Move an alias to a version; the champion's only where every criterion is met, or a person overrides.

    override: the reason of a person who promotes all the same. Returns the move; one of kind `refused` moved nothing.
    """
    prompt, at = load_prompt(role, version), datetime.now(UTC)
    kind, previous, criteria = "challenger", "", ()
    if alias == CHAMPION:
        in_use = load_prompt(role)
        kind, previous = "pinned", in_use.version
        if prompt.sha256 != in_use.sha256:  # to name the version that is in use anyway takes no evidence
            criteria = stage.judge_candidate(prompt, evidence, at)
            met = all(each.passed for each in criteria)
            kind = "promoted" if met else "overridden" if override else "refused"
    move = Move(
        at=at,
        role=role,
        alias=alias,
        version=prompt.version,
        sha256=prompt.sha256,
        kind=kind,
        who=getpass.getuser(),
        reason=override,
        evidence=evidence,
        previous=previous,
        criteria=criteria,
    )
    if kind == "refused":
        store().prompts.note_refusal(move)
    else:
        move = stage.move_alias(move)
    emit(move)
    return move


def watch_champions(at: datetime) -> list[Move]:
    """Roll back every champion that breaks its limits; returns the moves."""
    moves = [stage.move_alias(move) for move in stage.breached(at)]
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
