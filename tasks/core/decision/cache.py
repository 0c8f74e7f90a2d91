"""The cache: replies that were paid for answer again when the model cannot, and decisions of nearly the same moment.

Exact: the same model, prompt and messages; it answers single asks, so a panel may go on. Near: an earlier decision on
the same symbol, prompt versions, rules and position side within a distance. Both are older than what is known now:
they count less, and as a fallback.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tasks.core.decision.budget import TICKET
from tasks.core.decision.memory import SIDE, Vector, distances, vector
from tasks.core.ports import Model, ModelRequest
from tasks.core.types import Answer, Dto, ModelCall, Rung, Snapshot, Texts, Utc


class KeptDecision(Dto):
    """A decision a model made, and the moment it was made for."""

    as_of: Utc
    decided: Answer
    vector: Vector
    reasons: Texts


class DecisionCache(Protocol):
    """Earlier decisions of models."""

    def decisions(self, strategy: str, symbol: str, since: datetime, before: datetime) -> list[KeptDecision]: ...


def content_hash(model: str, request: ModelRequest) -> str:
    """Return what names one question to one model; the prompt's own hash covers its sampling, the sample is apart."""
    named = [model, request.prompt.sha256, list(request.messages), *([request.sample] if request.sample else [])]
    text = json.dumps(named, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class CachedModel:
    """Implements `ports.Model`: keeps good replies, and answers with one, free, when the model has an error."""

    model: Model
    names: Sequence[str]
    ttl: timedelta

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Ask; on an error look for the reply to exactly this question."""
        ticket = TICKET.get()
        call, at = await self.model.ask(request), ticket.clock()
        if not call.error:
            ticket.replies.keep(content_hash(call.model, request), call, at)
            return call
        found = ticket.replies.find([content_hash(name, request) for name in self.names], at - self.ttl)
        if found is None:
            return call
        age_s = round((at - found.created_at).total_seconds())
        kept = Rung(rung="cache", source="cache", role=request.role, age_s=age_s)
        return call.replace(
            model=found.model, raw_reply=found.raw_reply, error="",
            attempts=call.attempts or (f"{call.model}: {call.error}",), trail=(*call.tried(), kept),
        )  # fmt: skip


def rules_of(reasons: Sequence[str]) -> frozenset[str]:
    """Return the names of the rules that fired; closed bars are context."""
    return frozenset(reason.partition("(")[0] for reason in reasons) - {"BarClose"}


def prompts_of(calls: Sequence[ModelCall]) -> frozenset[str]:
    """Return the prompt versions that were sent."""
    return frozenset(f"{call.prompt.name}/{call.prompt.version}" for call in calls if call.prompt)


def nearest(
    snapshot: Snapshot, asked: frozenset[str], kept: Sequence[KeptDecision], max_distance: float
) -> tuple[KeptDecision, float] | None:
    """Return the decision nearest to `snapshot` among those made with the prompts `asked` and for the same rules."""
    here, rules = vector(snapshot), rules_of(snapshot.reason_for_call)
    same = [
        one for one in kept
        if asked and asked <= prompts_of(one.decided.calls) and rules_of(one.reasons) == rules
        and one.vector.values[SIDE] == here.values[SIDE]
    ]  # fmt: skip
    if not same:
        return None
    far = distances(here, [one.vector for one in same])
    best = int(far.argmin())
    return (same[best], float(far[best])) if far[best] <= max_distance else None
