"""Gather what a promotion is judged by, move aliases, and watch the champion."""

from datetime import datetime, timedelta
from pathlib import Path

import httpx
from prefect.events import Event, emit_event
from prefect.runtime import flow_run

from tasks.adapters import certificates, secret
from tasks.adapters.files.prompts import CHAMPION, aliases, files_of, load_prompt
from tasks.adapters.mlflow.policies import name_policy
from tasks.adapters.store.shadow import CHAMPION as SHADOWED
from tasks.connections import log, store, tracker
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.lab import promotion_criteria
from tasks.core.lab.promotion_criteria import Shadows
from tasks.core.simulation.paid_replies import Probe
from tasks.core.types import POLICY, Criterion, Move, PromptRef
from tasks.settings import settings
from tasks.stage import is_tried_again, stage

EVENT = "quarterdeck.prompt"


def named(role: str, version: str) -> PromptRef:
    """Return a version of a prompt or, of the role `model`, the policy in a file."""
    if role != POLICY:
        return load_prompt(role, version).ref
    from tasks.adapters.model.onnx_policy import OnnxDecider

    return OnnxDecider(Path(version)).prompts[0]


def in_use(role: str) -> PromptRef:
    """Return the champion of a role; of `model` there may be none, which has no version."""
    if role != POLICY:
        return load_prompt(role).ref
    alias = aliases().get(POLICY, {}).get(CHAMPION)
    return PromptRef(name=POLICY, version=alias.version if alias else "", sha256=alias.sha256 if alias else "")


def _rival(candidate: PromptRef) -> str:
    """Return the sha256 of what a candidate has to beat: the prompt in use, or whatever the decider in force follows.

    Empty: that follows neither a prompt nor a policy.
    """
    if candidate.name != POLICY:
        return load_prompt(candidate.name).sha256
    from tasks.adapters.deciders import build

    name = settings().decider_name
    follows = build(name, settings(), model=Probe() if kind_of(name).asks_model else None).prompts
    return next((ref.sha256 for ref in follows if ref.sha256 != candidate.sha256), "")


@stage
def judge_candidate(candidate: PromptRef, evidence_name: str, at: datetime) -> tuple[Criterion, ...]:
    """Judge a prompt or policy against the one in use, on a comparison and on the shadow decisions kept."""
    from tasks.adapters.mlflow.evidence import read_evidence

    evidence = read_evidence(evidence_name, settings().mlflow_url) if evidence_name else None
    champion, terms = _rival(candidate), settings().promotion
    since, every = at - timedelta(days=terms.shadow_days), settings.account.every()  # an alias is all strategies'
    scored = [each for s in every for each in store().shadow.scored(s.strategy, since)]
    theirs = {
        shadow.cycle_id: pct
        for shadow, pct in scored
        if shadow.decider == SHADOWED and promotion_criteria.used(shadow.decided, champion)
    }
    ours = [
        (shadow, pct)
        for shadow, pct in scored
        if shadow.decider != SHADOWED and promotion_criteria.used(shadow.decided, candidate.sha256)
    ]
    first = {shadow.cycle_id: pct for shadow, pct in reversed(ours) if shadow.cycle_id in theirs}
    pairs = [(pct, theirs[cycle_id]) for cycle_id, pct in reversed(first.items())]
    use = promotion_criteria.use_of([shadow.decided for shadow, _ in ours], candidate.sha256)
    return promotion_criteria.criteria(candidate.sha256, champion, evidence, Shadows(pairs, use), terms)


@stage
def move_alias(move: Move) -> Move:
    """Move an alias here, and in MLflow where it is there; the comparison it rests on is tagged."""
    mirror = tracker()
    try:
        if mirror is not None and move.role == POLICY:
            name_policy(settings().mlflow_url, move.sha256, move.alias)
        elif mirror is not None:
            mirror.prompts.set_alias(files_of(move.role), load_prompt(move.role, move.version).version, move.alias)
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
        login, trusted = secret.login(settings().home), certificates.prefects()
        httpx.post(url, json=sent, timeout=5, trust_env=False, verify=trusted, auth=login).raise_for_status()
    except httpx.HTTPError as e:
        log().warning("prefect was not told of the %s of %s: %s", move.kind, move.role, e)


@stage
def breached(at: datetime) -> list[Move]:
    """Return the moves back that are due: of each promoted champion that breaks its limits, with what it broke."""
    due, prompts, terms, strategy = [], store().prompts, settings().promotion, settings().strategy
    for role, named in aliases().items():
        last = next((move for move in prompts.moves(role) if move.alias == CHAMPION and move.kind != "refused"), None)
        only = last is not None and not last.previous and role != POLICY
        if last is None or only or last.kind == "rolled_back" or CHAMPION not in named:
            continue
        decided = prompts.decisions(strategy, last.sha256, last.at, terms.watched)
        rs = prompts.outcomes(strategy, last.sha256, last.at, terms.watched)
        if not (broken := promotion_criteria.breaches(promotion_criteria.use_of(decided, last.sha256), rs, terms)):
            continue
        try:
            before = _earlier(last) if role == POLICY else load_prompt(role, last.previous).ref
        except InputError as e:
            log().error(
                "prompt role=%s version=%s breaks %s, and there is no way back: %s", role, last.version, broken, e
            )
            continue
        reason = f"{last.version}: {broken[0].name} is {broken[0].value}"
        back = {"at": at, "kind": "rolled_back", "who": "settle", "reason": reason, "criteria": broken}
        due.append(Move.of(before, role=role, alias=CHAMPION, **back))
    return due


def _earlier(last: Move) -> PromptRef:
    """Return the policy before the one of this move; where there was none, one that no file has."""
    moves = (move for move in store().prompts.moves(POLICY) if move.version == last.previous and last.previous)
    before = next(moves, None)
    return PromptRef(name=POLICY, version=before.version if before else "none", sha256=before.sha256 if before else "")
