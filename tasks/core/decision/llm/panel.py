"""`llm:panel`: analysts vote, strategists propose, a risk officer disposes; each one prompt and one typed reply.

Flat: analysts in parallel -> consensus of two (also where sentiment is not asked for lack of news) -> strategists in
parallel -> the best proposal that keeps its rules -> the risk officer, who may shrink or reject it. With a position
only the analysts are asked: a consensus against it closes it, anything else leaves it to its stop and target; closing
reduces risk and needs no officer, and the panel never adds. A stage waits `PanelTerms.stage_s`, the whole
`deadline_s`: who is late is cancelled, left out and named. Whatever goes wrong ends in HOLD; its rung is `hold`, a
failure to the ladder, only where an answer was missing in the stage that ended it. A HOLD that a full stage reached is
an answer.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

from tasks.core.decision.actions import Unusable, object_schema, parse_as
from tasks.core.decision.decider import AskingDecider, elapsed_ms, loop_time, spent
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.llm import roles
from tasks.core.decision.llm.prompt import render
from tasks.core.decision.llm.roles import Analysis, Consensus, Proposal, Review
from tasks.core.types import (
    HELD,
    Answer,
    CloseAll,
    Decision,
    ModelCall,
    OpenLong,
    OpenShort,
    PanelTerms,
    Question,
    Rung,
    Why,
    hold,
)

EXCERPT = 240  # characters of a role's words that are kept in the reasoning
Reply = TypeVar("Reply", Analysis, Proposal, Review)


class PanelDecider(AskingDecider):
    """Holds a sitting for each question."""

    name, kind = "llm:panel", KINDS["llm:panel"]
    variables = dict.fromkeys(roles.REPLIES, roles.VARIABLES)

    async def answer(self, question: Question) -> Answer:
        await self.means.prepare()
        return await _Sitting(self, question).decide()


class _Sitting:
    """One question before the panel: what is known, what was asked and answered, and the time left."""

    def __init__(self, panel: PanelDecider, question: Question) -> None:
        self.panel, self.question, self.snapshot = panel, question, question.snapshot
        self.terms = panel.means.panel or PanelTerms()
        self.started = loop_time()
        self.variables = roles.variables_of_roles(question)
        self.complete = True  # every role of the last stage answered usably
        self.end = Rung(rung="primary", source=panel.name)
        self.trail: list[Rung] = []
        self.calls: list[ModelCall] = []
        self.flags: list[str] = []
        self.errors: list[str] = []
        self.excerpts: list[str] = []

    async def decide(self) -> Answer:
        decision = await self._deliberate()
        if self.end.rung == "primary" and any(map(_fell_over, self.calls)):
            self.end = self.end.replace(rung="failover")
        return Answer(
            decision=decision.replace(reasoning="\n".join([decision.reasoning, *self.excerpts])),
            source=decision.source, rung=self.end.rung, latency_ms=elapsed_ms(self.started),
            model=", ".join(dict.fromkeys(call.model for call in self.calls if call.model)),
            errors=tuple(self.errors), flags=tuple(self.flags), trail=(*self.trail, self.end), **spent(self.calls),
        )  # fmt: skip

    async def _deliberate(self) -> Decision:
        silent = set() if roles.known_news(self.question) else {"sentiment"}
        analysts = {role: reply for role, reply in roles.ANALYSTS.items() if role not in silent}
        votes = await self._ask(analysts)
        agreed = roles.consensus(votes, len(analysts), self.terms)
        if agreed is None:
            self.end = self.end.replace(why=Why.NO_CONSENSUS)
            return self._hold("no_consensus", "the analysts do not agree")
        self.variables["votes"] = "\n".join(
            [f"consensus {agreed}", *(f"{role} {vote}" for role, vote in votes.items())]
        )
        if self.snapshot.position.side != "flat":
            return self._manage(agreed)
        if f"OPEN_{'LONG' if agreed.way > 0 else 'SHORT'}" not in self.snapshot.constraints.allowed_actions:
            return self._hold("not_allowed", f"consensus {agreed}, but such an entry is not allowed now")
        entry = self._best(await self._ask(roles.STRATEGISTS), agreed)
        if entry is None:
            return self._hold("no_proposal", f"consensus {agreed}, but no proposal that keeps its rules")
        return self._reviewed(entry, (await self._ask(roles.OFFICER)).get("risk"))

    def _manage(self, agreed: Consensus) -> Decision:
        symbol, side = self.snapshot.pair, self.snapshot.position.side
        if (agreed.way > 0) == (side == "long"):
            return hold(symbol, f"consensus {agreed}: the {side} stands", source=self.panel.name)
        why = f"consensus {agreed} is against the {side}"
        return CloseAll(symbol=symbol, confidence=agreed.confidence, comment=why, reasoning=why, source=self.panel.name)

    def _best(self, proposals: Mapping[str, Proposal], agreed: Consensus) -> OpenLong | OpenShort | None:
        """Return the proposal with the highest expected R among those that keep their rules."""
        entries = {}
        for role, proposal in proposals.items():
            if proposal.signal == "none":
                continue
            entry = roles.checked_entry(role, proposal, self.question, agreed.way)
            if isinstance(entry, Unusable):
                self.flags.append(f"{role}:{entry.reason}")
                self.errors.append(f"{role} broke its rules: {entry}")
            else:
                entries[role] = entry
        if not entries:
            return None
        role = max(entries, key=lambda each: roles.expected_r(entries[each]))
        best, asked, why = entries[role], proposals[role], f"consensus {agreed}, {role} proposes"
        plan = f"stop={asked.stop} target={asked.target} stop_atr={best.stop_atr} tp_atr={best.tp_atr}"
        rated = f"reward_risk={best.tp_atr / best.stop_atr:.2f} confidence={best.confidence}"
        self.variables["proposal"] = f"{role} {best.action} size_pct={best.size_pct} {plan} {rated}"
        return best.replace(source=self.panel.name, comment=why, reasoning=why)

    def _reviewed(self, entry: OpenLong | OpenShort, review: Review | None) -> Decision:
        """Return the entry no larger than proposed, if the risk officer approved it; silence is a no."""
        if review is None or not review.approved or review.adjusted_size <= 0:
            return self._hold("rejected", "the risk officer did not approve")
        size = min(entry.size_pct, review.adjusted_size)
        if size < entry.size_pct:
            self.flags.append("shrunk")
        if review.adjusted_size > size and "adjusted_size" in review.model_fields_set:
            self.flags.append("not_enlarged")
        return entry.replace(size_pct=size, risk_assessment=_clip(f"{review}: {review.reasoning}"))

    def _hold(self, flag: str, why: str) -> Decision:
        self.flags.append(flag)
        self.end = self.end if self.complete else HELD
        return hold(self.snapshot.pair, why, source=self.end.source)

    async def _ask(self, asked: Mapping[str, type[Reply]]) -> dict[str, Reply]:
        """Ask these roles at once and return the usable answers of those who were in time."""
        texts, means = self.panel.texts, self.panel.means
        seconds = min(self.terms.stage_s, self.started + means.deadline_s - loop_time())
        asks = [
            self.panel.ask(
                texts[role],
                render(texts[role], self.variables),
                object_schema(reply),
                partial(parse_as, cls=reply),
                seconds,
            )
            for role, reply in asked.items()
        ]
        answers = {}
        for call, answer in await asyncio.gather(*asks):
            self.calls.append(call)
            if isinstance(answer, Unusable):
                self.trail += call.tried(usable=False)
                self.flags += [f"late:{call.role}"] if call.error == "timeout" else []
                self.errors.append(f"{call.role}: {answer}")
                continue
            self.trail += call.tried()
            self.errors += [f"{call.role}: {attempt}" for attempt in call.attempts]
            self.excerpts.append(_clip(f"{call.role} {answer}: {answer.reasoning}"))
            answers[call.role] = answer
        self.complete = len(answers) == len(asked)
        return answers


def _fell_over(call: ModelCall) -> bool:
    return bool(call.attempts) and not call.error and call.tried()[-1].rung != "primary"


def _clip(text: str) -> str:
    return " ".join(text.split())[:EXCERPT]
