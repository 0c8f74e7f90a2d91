"""Gather what a promotion is judged by, move aliases, and watch the champion."""

from datetime import datetime, timedelta

import httpx
from prefect.events import Event, emit_event
from prefect.runtime import flow_run

from tasks.adapters import secret
from tasks.adapters.files.prompts import CHAMPION, aliases, files_of, load_prompt
from tasks.adapters.store.shadow import CHAMPION as SHADOWED
from tasks.connections import log, store, tracker
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.lab import promotion_criteria
from tasks.core.lab.promotion_criteria import Shadows
from tasks.core.types import Criterion, Move
from tasks.settings import settings
from tasks.stage import is_tried_again, stage

EVENT = "quarterdeck.prompt"


@stage
def judge_candidate(candidate: Prompt, evidence_name: str, at: datetime) -> tuple[Criterion, ...]:
    """Judge a prompt against the one in use, on a comparison and on the shadow decisions kept."""
    from tasks.adapters.mlflow.evidence import read_evidence

    evidence = read_evidence(evidence_name, settings().mlflow_url) if evidence_name else None
    champion, terms = load_prompt(candidate.name), settings().promotion
    since, every = at - timedelta(days=terms.shadow_days), settings.account.every()  # an alias is all strategies'
    scored = [each for s in every for each in store().shadow.scored(s.strategy, since)]
    theirs = {
        shadow.cycle_id: pct
        for shadow, pct in scored
        if shadow.decider == SHADOWED and promotion_criteria.used(shadow.decided, champion.sha256)
    }
    ours = [
        (shadow, pct)
        for shadow, pct in scored
        if shadow.decider != SHADOWED and promotion_criteria.used(shadow.decided, candidate.sha256)
    ]
    first = {shadow.cycle_id: pct for shadow, pct in reversed(ours) if shadow.cycle_id in theirs}
    pairs = [(pct, theirs[cycle_id]) for cycle_id, pct in reversed(first.items())]
    use = promotion_criteria.use_of([shadow.decided for shadow, _ in ours], candidate.sha256)
    return promotion_criteria.criteria(candidate.sha256, champion.sha256, evidence, Shadows(pairs, use), terms)


@stage
def move_alias(move: Move) -> Move:
    """Move an alias here, and in MLflow where it is there; the comparison it rests on is tagged."""
    prompt, mirror = load_prompt(move.role, move.version), tracker()
    try:
        if mirror is not None:
            mirror.prompts.set_alias(files_of(move.role), prompt.version, move.alias)
    except TrackingUnavailable as e:
        if is_tried_again(e):
            raise
        log().warning("not in MLflow yet, `quarterdeck prompts sync` does that later: %s", e)
    moved = store().prompts.move(move)
    if move.evidence and settings().mlflow_url and move.kind == "promoted":
        from tasks.adapters.mlflow.evidence import tag

        text = f"{move.role}/{move.version} {move.at:%Y-%m-%d %H:%M}"
        try:
            tag(settings().mlflow_url, move.evidence, "promoted", text)
        except TrackingUnavailable as e:  # a file was the evidence, or MLflow is away: the history has it all the same
            log().warning("evidence %s is not tagged: %s", move.evidence, e)
    log().warning(
        "prompt role=%s alias=%s version=%s previous=%s kind=%s who=%s reason=%s",
        moved.role, moved.alias, moved.version, moved.previous or "-", moved.kind, moved.who, moved.reason or "-",
    )  # fmt: skip
    tell(moved)
    return moved


def tell(move: Move) -> None:
    """Tell Prefect; automations of `deployments` may page a person on it. Without Prefect the history has it all."""
    event = {
        "event": f"{EVENT}.{move.kind}",
        "resource": {"prefect.resource.id": f"{EVENT}.{move.role}", "version": move.version},
        "payload": move.model_dump(mode="json"),
    }
    if flow_run.id is not None:
        emit_event(**event)
        return
    try:  # outside of a run `emit_event` would start a server of its own
        url, sent = f"{settings().prefect_api_url}/events", [Event(**event).model_dump(mode="json")]
        httpx.post(url, json=sent, timeout=5, trust_env=False, auth=secret.login(settings().home)).raise_for_status()
    except httpx.HTTPError as e:
        log().warning("prefect was not told of the %s of %s: %s", move.kind, move.role, e)


@stage
def breached(at: datetime) -> list[Move]:
    """Return the moves back that are due: of each promoted champion that breaks its limits, with what it broke."""
    due, prompts, terms, strategy = [], store().prompts, settings().promotion, settings().strategy
    for role, named in aliases().items():
        last = next((move for move in prompts.moves(role) if move.alias == CHAMPION and move.kind != "refused"), None)
        if last is None or not last.previous or last.kind == "rolled_back" or CHAMPION not in named:
            continue
        decided = prompts.decisions(strategy, last.sha256, last.at, terms.watched)
        rs = prompts.outcomes(strategy, last.sha256, last.at, terms.watched)
        if not (broken := promotion_criteria.breaches(promotion_criteria.use_of(decided, last.sha256), rs, terms)):
            continue
        try:
            before = load_prompt(role, last.previous)
        except InputError as e:
            log().error(
                "prompt role=%s version=%s breaks %s, and there is no way back: %s", role, last.version, broken, e
            )
            continue
        reason = f"{last.version}: {broken[0].name} is {broken[0].value}"
        back = {"at": at, "kind": "rolled_back", "who": "settle", "reason": reason, "criteria": broken}
        due.append(Move.of(before, role=role, alias=CHAMPION, **back))
    return due
