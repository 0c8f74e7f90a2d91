"""`llm:panel`: analysts vote, strategists propose, a risk officer disposes; each one prompt and one typed reply.

Flat: analysts in parallel -> consensus (also where sentiment is not asked for lack of news) -> strategists in parallel
-> the best proposal that keeps its rules -> the risk officer, who may shrink or reject it.

With a position strategists whose prompt version shows it are asked whatever the analysts say, and may close, trim, move
the stop, set follow-ups or add. What takes most risk away is done, needs no officer, and comes before an ADD, which
needs a consensus, the rules of an entry and the officer. A consensus against the position closes it where no strategist
reduces it. EMA50 that crossed EMA200 on 1h against the position since it was opened closes it, and nobody is asked.

A stage waits `PanelTerms.stage_s`, the whole `deadline_s`: who is late is cancelled, left out and named. Whatever goes
wrong ends in HOLD; its rung is `hold`, a failure to the ladder, only where an answer was missing in the stage that
ended it. A HOLD that a full stage reached is an answer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import TypeVar

from tasks.core.decision.actions import Unusable, object_schema, parse_as
from tasks.core.decision.decider import AskingDecider, elapsed_ms, loop_time, spent
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.llm import roles
from tasks.core.decision.llm.prompt import Prompt, render
from tasks.core.decision.llm.role_texts import (
    OFFICER_READS,
    STRATEGISTS_READ,
    VARIABLES,
    known_news,
    remembered,
    risk_table,
    variables_of_roles,
)
from tasks.core.decision.llm.roles import Analysis, Changing, Consensus, Entering, ManagingPlan, Review, StrategistPlan
from tasks.core.ports import Schema
from tasks.core.types import HELD, Answer, CloseAll, Decision, Hold, ModelCall, PanelTerms, Question, Rung, Why, hold

EXCERPT = 240  # characters of a role's words that are kept in the reasoning
Reply = TypeVar("Reply", Analysis, StrategistPlan, Review)


class PanelDecider(AskingDecider):
    """Holds a sitting for each question."""

    name, kind = "llm:panel", KINDS["llm:panel"]
    variables = dict.fromkeys(roles.REPLIES, VARIABLES)

    @classmethod
    def schema_of(cls, prompt: Prompt, /) -> Schema:
        return object_schema(roles.reply_of(prompt))

    async def answer(self, question: Question) -> Answer:
        await self.means.prepare()
        return await _Sitting(self, question).decide()


class _Sitting:
    """One question before the panel: what is known, what was asked and answered, and the time left."""

    def __init__(self, panel: PanelDecider, question: Question) -> None:
        self.panel, self.question, self.snapshot = panel, question, question.snapshot
        self.terms = panel.means.panel or PanelTerms()
        self.started = loop_time()
        self.variables = variables_of_roles(question)
        self.votes: dict[str, Analysis] = {}
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
        if roles.crossed_against(self.question):
            self.flags.append("ema_cross")
            return self._close(Decimal(1), "EMA50 crossed EMA200 on 1h against the position")
        silent = () if known_news(self.question) else ("sentiment",)
        analysts = [role for role in roles.ANALYSTS if role not in silent]
        self.votes = await self._ask(analysts, Analysis)
        agreed = roles.consensus(self.votes, len(analysts), self.terms)
        votes = (f"{role} {vote}" for role, vote in self.votes.items())
        self.variables["votes"] = "\n".join([f"consensus {agreed or 'none'}", *votes])
        self.variables |= remembered(self.question, self.variables, *STRATEGISTS_READ)
        if self.snapshot.position.side != "flat":
            return await self._manage(agreed)
        if agreed is None:
            return self._apart()
        if f"OPEN_{'LONG' if agreed.way > 0 else 'SHORT'}" not in self.snapshot.constraints.allowed_actions:
            return self._hold("not_allowed", f"consensus {agreed}, but such an entry is not allowed now")
        entry = self._best(await self._ask(roles.STRATEGISTS, StrategistPlan), agreed)
        if entry is None:
            return self._hold("no_proposal", f"consensus {agreed}, but no proposal that keeps its rules")
        return await self._review(entry)

    def _apart(self) -> Decision:
        self.end = self.end.replace(why=Why.NO_CONSENSUS)
        return self._hold("no_consensus", "the analysts do not agree")

    async def _manage(self, agreed: Consensus | None) -> Decision:
        side, texts = self.snapshot.position.side, self.panel.texts
        shown = [role for role in roles.STRATEGISTS if issubclass(roles.reply_of(texts[role]), ManagingPlan)]
        plans = await self._ask(shown, StrategistPlan) if shown else {}
        against = agreed is not None and agreed.way != roles.way_of(self.question)
        change = self._change({role: plan for role, plan in plans.items() if plan.signal != "add"})
        if change is not None and not (against and isinstance(change, Hold)):
            return change
        if agreed is not None and against:
            return self._close(agreed.confidence, f"consensus {agreed} is against the {side}")
        entry = self._best({role: plan for role, plan in plans.items() if plan.signal == "add"}, agreed)
        if entry is not None:
            return await self._review(entry)
        if agreed is None:
            return self._apart()
        return hold(self.snapshot.pair, f"consensus {agreed}: the {side} stands", source=self.panel.name)

    def _close(self, confidence: Decimal, why: str) -> CloseAll:
        symbol, source = self.snapshot.pair, self.panel.name
        return CloseAll(symbol=symbol, confidence=confidence, comment=why, reasoning=why, source=source)

    def _change(self, plans: Mapping[str, StrategistPlan]) -> Changing | None:
        """Return what takes most risk off the position; whoever else wanted something is named."""
        changes, allowed = dict[str, Changing](), self.snapshot.constraints.allowed_actions
        for role, plan in plans.items():
            made = roles.checked_change(plan, self.question)
            if isinstance(made, Unusable) or made.action not in (*allowed, "CLOSE_ALL"):
                self._name(role, made)
            elif not isinstance(made, Hold) or made.followups:
                changes[role] = made
        if not changes:
            return None
        role = max(changes, key=lambda each: roles.caution(changes[each]))
        self.flags += [f"{other}:outvoted" for other in changes if other != role]
        change, why = changes[role], f"{role} {plans[role].signal}"
        return change.replace(source=self.panel.name, comment=why, reasoning=why)

    def _name(self, role: str, made: Entering | Changing | Unusable) -> None:
        """Note what a strategist wanted and what cannot be, or not now."""
        why = made if isinstance(made, Unusable) else Unusable("not_allowed", made.action)
        self.flags.append(f"{role}:{why.reason}")
        self.errors.append(f"{role} broke its rules: {why}")

    def _best(self, proposals: Mapping[str, StrategistPlan], agreed: Consensus | None) -> Entering | None:
        """Return the proposal with the highest expected R among those that keep their rules."""
        entries = dict[str, Entering]()
        for role, proposal in proposals.items():
            if proposal.signal == "none":
                continue
            made = roles.checked_entry(role, proposal, self.question, agreed.way if agreed else 0)
            if isinstance(made, Unusable) or made.action not in self.snapshot.constraints.allowed_actions:
                self._name(role, made)
            else:
                entries[role] = made
        if not entries:
            return None
        role = max(entries, key=lambda each: roles.expected_r(entries[each]))
        best, asked, why = entries[role], proposals[role], f"consensus {agreed}, {role} proposes"
        plan = f"stop={asked.stop} target={asked.target} stop_atr={best.stop_atr} tp_atr={best.tp_atr}"
        rated = f"reward_risk={best.tp_atr / best.stop_atr:.2f} confidence={best.confidence}"
        self.variables["proposal"] = f"{role} {best.action} size_pct={best.size_pct} {plan} {rated}"
        self.variables["risk_table"] = risk_table(self.question, best, self.votes.values())
        self.variables |= remembered(self.question, self.variables, *OFFICER_READS)
        return best.replace(source=self.panel.name, comment=why, reasoning=why)

    async def _review(self, entry: Entering) -> Decision:
        """Return the entry no larger than proposed, if the risk officer approves it; silence is a no."""
        review = (await self._ask(["risk"], Review)).get("risk")
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

    async def _ask(self, asked: Sequence[str], kind: type[Reply]) -> dict[str, Reply]:
        """Ask these roles, who all answer a `kind`, at once; return the usable answers of those who were in time."""
        texts, means = self.panel.texts, self.panel.means
        seconds = min(self.terms.stage_s, self.started + means.deadline_s - loop_time())
        asks = [
            self.panel.ask(
                texts[role], render(texts[role], self.variables),
                partial(parse_as, cls=roles.reply_of(texts[role]), literal=means.literal), seconds,
            )
            for role in asked
        ]  # fmt: skip
        answers = dict[str, Reply]()
        for call, answer in await asyncio.gather(*asks):
            self.calls.append(call)
            if isinstance(answer, Unusable):
                self.trail += call.tried(usable=False)
                self.flags += [f"late:{call.role}"] if call.error == "timeout" else []
                self.errors.append(f"{call.role}: {answer}")
                continue
            self.trail += call.tried()
            self.excerpts.append(_clip(f"{call.role} {answer}: {answer.reasoning}"))
            assert isinstance(answer, kind)
            notes = list(call.attempts) + list(answer.read_as)
            self.errors += [f"{call.role}: {note}" for note in notes]
            answers[call.role] = answer
        self.complete = len(answers) == len(asked)
        return answers


def _fell_over(call: ModelCall) -> bool:
    return bool(call.attempts) and not call.error and call.tried()[-1].rung != "primary"


def _clip(text: str) -> str:
    return " ".join(text.split())[:EXCERPT]
