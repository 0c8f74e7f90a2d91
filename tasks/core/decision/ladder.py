"""The fallback ladder around a model's decider: primary, failover, cheap | cache, rules, hold. Each rung is labelled.

Failover is inside the model, the cheap model and exact cache hits inside its asks; here is what is left to do when no
usable decision came of them. Below the bar a rung may only reduce risk: a cached or ruled entry steps further down
(unless `may_open`), and the guard checks the label again. While the breaker is open no model is asked: after repeated
errors a session pauses, then one decision tries. A breaker is a state and the time in, the next state out; the store
changes the row under a lock, so all processes share it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol

from tasks.core.decision.budget import TICKET, Charge, Purse, Replies, Ticket
from tasks.core.decision.cache import DecisionCache, nearest, prompts_of
from tasks.core.ports import Decider
from tasks.core.types import (
    ENTRIES,
    HELD,
    MAY_AS_FALLBACK,
    Answer,
    Decision,
    Dto,
    JsonObject,
    Question,
    Rung,
    RungName,
    Snapshot,
    Utc,
    Why,
    hold,
)

CACHED, RULED = Decimal("0.8"), Decimal("0.3")


class BreakerState(Dto):
    """Errors in a row; once open, when the next try may be made."""

    errors: int = 0
    retry_at: Utc | None = None


class Breakers(Protocol):
    """The breakers that all processes share."""

    def change(self, session: str, change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        """Set the session's state to `change` of it, atomically, and return what it was before."""


class Breaker(NamedTuple):
    """How many errors open it, and for how long."""

    errors: int
    cooldown: timedelta

    def is_open(self, state: BreakerState, at: datetime) -> bool:
        """Return whether no model may be asked at `at`."""
        return state.retry_at is not None and at < state.retry_at

    def tried(self, state: BreakerState, at: datetime) -> BreakerState:
        """Return the state after somebody asked to pass: half open, the first to come takes the only try."""
        if state.retry_at is None or self.is_open(state, at):
            return state
        return BreakerState(errors=state.errors, retry_at=at + self.cooldown)

    def failed(self, state: BreakerState, at: datetime) -> BreakerState:
        """Return the state after one more error."""
        errors = state.errors + 1
        return BreakerState(errors=errors, retry_at=at + self.cooldown if errors >= self.errors else None)


class Shared(NamedTuple):
    """What the ladders of all processes share."""

    purse: Purse
    replies: Replies
    breakers: Breakers
    cache: DecisionCache


@dataclass
class Ladder:
    """Implements `ports.Decider` around `primary`; `rules` is the rung below the cache.

    ttl, max_distance: how old and how far away an earlier decision may be to be taken over.
    """

    primary: Decider
    rules: Decider
    shared: Shared
    clock: Callable[[], datetime]
    strategy: str
    breaker: Breaker
    ttl: timedelta
    max_distance: float
    session: str = ""
    may_open: bool = False

    def __post_init__(self) -> None:
        self.name, self.kind, self.prompts = self.primary.name, self.primary.kind, self.primary.prompts

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Decide each question, at the same time; each is a decision of its own to budget and breaker."""
        groups = [list(questions)] if self.kind.together else [[question] for question in questions]
        answers = await asyncio.gather(*(self._decide(group) for group in groups if group))
        return [decided for group in answers for decided in group]

    async def _decide(self, questions: list[Question]) -> list[Answer]:
        at, symbols = self.clock(), "+".join(question.snapshot.pair for question in questions)
        session = self.session or f"{self.strategy}/{at:%Y-%m-%d}"
        breaker, own = self.breaker, f"{session}/{self.name}"
        before = self.shared.breakers.change(own, lambda state: breaker.tried(state, at))
        if breaker.is_open(before, at):
            barred = [_barred(self.name, question.snapshot, before) for question in questions]
            return [await self._ruled(*each, even_hold=False) for each in zip(questions, barred, strict=True)]
        decision = f"{self.strategy}/{self.name}/{symbols}/{questions[0].snapshot.as_of.isoformat()}"
        charge = Charge(session=session, symbol=symbols, decision=decision)
        ticket = Ticket(charge, self.shared.purse, self.shared.replies, self.clock)
        TICKET.set(ticket)  # of this group's task alone
        answers = [_labelled(decided) for decided in await self.primary.decide(questions)]
        if any(map(_kept, answers)) or all(decided.rung == "hold" for decided in answers):
            if not ticket.refused:
                self.shared.breakers.change(own, lambda state: breaker.failed(state, self.clock()))
        elif before.errors:
            self.shared.breakers.change(own, lambda _: BreakerState())
        return [await self._step_down(*each) for each in zip(questions, answers, strict=True)]

    async def _step_down(self, question: Question, decided: Answer) -> Answer:
        if decided.rung != "hold" and (not decided.is_fallback or self._may(decided.decision)):
            return decided
        *before, last = decided.trail  # its own hold is no rung of the ladder, and its entry may not be
        barred = () if decided.rung == "hold" else (last.replace(why=Why.MAY_NOT_OPEN),)
        decided, snapshot = decided.replace(trail=(*before, *barred)), question.snapshot
        kept = self.shared.cache.decisions(self.strategy, snapshot.pair, snapshot.as_of - self.ttl, snapshot.as_of)
        kept = [one for one in kept if self._may(one.decided.decision)]
        found = nearest(snapshot, prompts_of(decided.calls), kept, self.max_distance)
        if found is None:
            return await self._ruled(question, _with(decided, Rung(rung="cache", source="cache", why=Why.NOTHING_NEAR)))
        one, distance = found[0], round(found[1], 4)
        age_s = round((snapshot.as_of - one.as_of).total_seconds())
        near = Rung(rung="cache", source="cache", as_of=one.as_of, distance=distance, age_s=age_s)
        taken = _taken("cache", one.decided.decision, one.decided.decision.confidence * CACHED)
        return _with(decided, near, **taken, flags=(*decided.flags, f"cached:{distance:.3f}:{age_s}s"))

    async def _ruled(self, question: Question, decided: Answer, even_hold: bool = True) -> Answer:
        """Follow the rules where they may be followed; else hold."""
        [ruled] = await self.rules.decide([question])
        may, rung = self._may(ruled.decision), Rung(rung="rules", source="rules")
        if may and (even_hold or ruled.decision.action != "HOLD"):
            return _with(decided, rung, **_taken("rules", ruled.decision, RULED))
        why = decided.errors[0] if decided.errors else f"{decided.decision.action} may not be a fallback"
        decided = _with(decided, rung.replace(why=Why.NO_RULE if may else Why.MAY_NOT_OPEN))
        last = hold(question.snapshot.pair, f"no usable decision: {why}")
        return _with(decided, HELD, decision=last, source="hold", rung="hold", errors=decided.errors or (why,))

    def _may(self, decision: Decision) -> bool:
        return decision.action in MAY_AS_FALLBACK or (self.may_open and isinstance(decision, ENTRIES))


def _kept(decided: Answer) -> list[Rung]:
    """Return where a kept reply answered instead of a model."""
    return [rung for rung in decided.trail if rung.rung == "cache"]


def _labelled(decided: Answer) -> Answer:
    """Name the answer after the lowest rung that one of its replies came from; `hold` is a decider without any."""
    kept, (*before, last) = _kept(decided), decided.trail
    flags = (*decided.flags, *(f"cached:{rung.role}:{rung.age_s}s" for rung in kept))
    update: JsonObject = {"flags": flags}
    if decided.rung == "hold":
        pass
    elif kept:
        update |= _taken("cache", decided.decision, decided.decision.confidence * CACHED)
        if last.rung != "cache":  # else one reply is the whole answer
            update["trail"] = (*decided.trail, Rung(rung="cache", source="cache"))
    elif any(rung.rung == "cheap" and rung.why is Why.ANSWERED for rung in decided.trail):
        update |= {"rung": "cheap", "trail": (*before, last.replace(rung="cheap"))}
    return decided.model_copy(update=update)


def _with(decided: Answer, rung: Rung, /, **changes: object) -> Answer:
    """Return the answer one rung further down; its calls and errors stay."""
    return decided.replace(**changes, trail=(*decided.trail, rung))


def _taken(rung: RungName, decision: Decision, confidence: Decimal) -> JsonObject:
    """Return what an answer says when `rung` decides."""
    taken = decision.replace(confidence=confidence, source=rung)
    return {"decision": taken, "source": rung, "rung": rung}


def _barred(name: str, snapshot: Snapshot, breaker: BreakerState) -> Answer:
    """Return that no model was asked, as the breaker is open."""
    why = f"breaker open until {breaker.retry_at:%H:%M:%S} UTC after {breaker.errors} errors"
    shut = Rung(rung="primary", source=name, why=Why.BREAKER_OPEN, retry_at=breaker.retry_at, errors=breaker.errors)
    return Answer(decision=hold(snapshot.pair, why), source="hold", rung="hold", errors=(why,), trail=(shut,))
