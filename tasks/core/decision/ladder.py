"""The fallback ladder around a model's decider: primary, failover, cheap | cache, rules, hold. Each rung is labelled.

Failover is inside the model, the cheap model and exact cache hits inside its asks; here is what is left to do when no
usable decision came of them. Below the bar a rung may only reduce risk: a cached or ruled entry steps further down
(unless `may_open`), and the guard checks the label again. While the breaker is open no model is asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from tasks.core.decision.breaker import Breaker, Breakers, BreakerState
from tasks.core.decision.budget import TICKET, Charge, Purse, Ticket
from tasks.core.decision.cache import DecisionCache, nearest, prompts_of
from tasks.core.ports import Decider
from tasks.core.types.base import Dto
from tasks.core.types.decision import ENTRIES, MAY_AS_FALLBACK, Answer, Decision, hold
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Snapshot

CACHED, RULED = Decimal("0.8"), Decimal("0.3")


class Shared(Purse, Breakers, DecisionCache, Protocol):
    """What the ladders of all processes share."""


class Terms(Dto):
    """How far a ladder goes."""

    strategy: str
    session: str = ""
    ttl: timedelta
    max_distance: float
    breaker: Breaker
    may_open: bool = False
    together: bool = False  # the decider wants all questions in one call


class Ladder:
    """Implements `ports.Decider` around `primary`; `rules` is the rung below the cache."""

    def __init__(
        self, primary: Decider, rules: Decider, shared: Shared, terms: Terms, clock: Callable[[], datetime]
    ) -> None:
        self.name, self.primary, self.rules, self.shared, self.terms = primary.name, primary, rules, shared, terms
        self.clock = clock
        prompt = getattr(primary, "prompt", None)  # of a decider with one prompt; a panel has no one version
        self.prompt_version = f"{prompt.name}/{prompt.version}" if prompt else None

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Decide each question, at the same time; each is a decision of its own to budget and breaker."""
        groups = [list(questions)] if self.terms.together else [[question] for question in questions]
        answers = await asyncio.gather(*(self._decide(group) for group in groups if group))
        return [decided for group in answers for decided in group]

    async def _decide(self, questions: list[Question]) -> list[Answer]:
        at, breaker = self.clock(), self.terms.breaker
        charge = self._charge(questions, at)
        mine = f"{charge.session}/{self.name}"
        before = self.shared.change_breaker(mine, lambda state: breaker.tried(state, at))
        if breaker.is_open(before, at):
            why = f"breaker open until {before.retry_at:%H:%M:%S} UTC after {before.errors} errors"
            return [
                await self._ruled(question, _failed(question.snapshot, why), even_hold=False) for question in questions
            ]
        ticket = Ticket(charge, self.shared, self.clock)
        TICKET.set(ticket)  # of this group's task alone
        answers = [_labelled(decided, ticket) for decided in await self.primary.decide(questions)]
        if ticket.cached or all(decided.rung == "hold" for decided in answers):
            if not ticket.refused:
                self.shared.change_breaker(mine, lambda state: breaker.failed(state, self.clock()))
        elif before.errors:
            self.shared.change_breaker(mine, lambda _: BreakerState())
        return [await self._step_down(*each) for each in zip(questions, answers, strict=True)]

    def _charge(self, questions: Sequence[Question], at: datetime) -> Charge:
        strategy, symbols = self.terms.strategy, "+".join(question.snapshot.pair for question in questions)
        return Charge(
            session=self.terms.session or f"{strategy}/{at:%Y-%m-%d}", symbol=symbols,
            decision=f"{strategy}/{self.name}/{symbols}/{questions[0].snapshot.as_of.isoformat()}",
        )  # fmt: skip

    async def _step_down(self, question: Question, decided: Answer) -> Answer:
        if decided.rung != "hold" and (not decided.is_fallback or self._may(decided.decision)):
            return decided
        snapshot, terms = question.snapshot, self.terms
        kept = self.shared.kept_decisions(terms.strategy, snapshot.pair, snapshot.as_of - terms.ttl, snapshot.as_of)
        kept = [one for one in kept if self._may(one.decided.decision)]
        found = nearest(snapshot, prompts_of(decided.calls), kept, terms.max_distance)
        if found is None:
            return await self._ruled(question, decided)
        one, distance = found
        flag = f"cached:{distance:.3f}:{(snapshot.as_of - one.as_of).total_seconds():.0f}s"
        return _on(decided, "cache", one.decided.decision, one.decided.decision.confidence * CACHED, flag)

    async def _ruled(self, question: Question, decided: Answer, even_hold: bool = True) -> Answer:
        """Follow the rules where they may be followed; else hold."""
        [ruled] = await self.rules.decide([question])
        if self._may(ruled.decision) and (even_hold or ruled.decision.action != "HOLD"):
            return _on(decided, "rules", ruled.decision, RULED)
        why = decided.errors[0] if decided.errors else f"{decided.decision.action} may not be a fallback"
        last = _failed(question.snapshot, f"no usable decision: {why}")
        return decided.model_copy(
            update={"decision": last.decision, "source": "hold", "rung": "hold", "errors": decided.errors or (why,)}
        )

    def _may(self, decision: Decision) -> bool:
        return decision.action in MAY_AS_FALLBACK or (self.terms.may_open and isinstance(decision, ENTRIES))


def _labelled(decided: Answer, ticket: Ticket) -> Answer:
    """Say which rung it came from; a HOLD for which nothing failed (no consensus, a veto) is an answer like any."""
    decided = decided.model_copy(update={"flags": (*decided.flags, *ticket.flags)})
    if decided.rung == "hold" and _broken(decided):
        return decided
    if ticket.cached:
        return _on(decided, "cache", decided.decision, decided.decision.confidence * CACHED)
    if ticket.cheap or decided.rung == "hold":
        return decided.model_copy(update={"rung": "cheap" if ticket.cheap else "primary"})
    return decided


def _broken(decided: Answer) -> bool:
    """Say whether an error is more than a flag of the decider's own or an attempt that failed over."""
    harmless = (*decided.flags, *(attempt for call in decided.calls for attempt in call.attempts if not call.error))
    return not decided.errors or not all(error.endswith(harmless) for error in decided.errors)


def _on(decided: Answer, rung: str, decision: Decision, confidence: Decimal, *flags: str) -> Answer:
    """Return `decided`, its calls and errors kept, with another rung's decision."""
    taken = decision.model_copy(update={"confidence": confidence, "source": rung})
    update = {"decision": taken, "source": rung, "rung": rung, "flags": (*decided.flags, *flags)}
    return decided.model_copy(update=update)


def _failed(snapshot: Snapshot, why: str) -> Answer:
    return Answer(decision=hold(snapshot.pair, why), source="hold", rung="hold", errors=(why,))
