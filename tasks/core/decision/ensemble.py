"""`ensemble:...`: several deciders, one decision; what each said is in `flags`, and why in `reasoning`.

- `ensemble:CHOOSER+TIMER`: the chooser (a language model) says whether to trade, which way and with what plan; the
  timer (a policy) says when. An entry is taken with the chooser's numbers on the moment both ask for the same one, as
  sure as the less sure of the two. What only reduces risk needs one voice: the chooser's, else the timer's. While flat
  and the timer waits, the chooser is not asked: nothing it could say would be done, and it costs money.
- `ensemble:vote:A=1,B=2`: each member's weight goes to the action it asks for; one with more than half of all weight
  wins, with the numbers of its heaviest supporter, as sure as its supporters are, dissent counted as 0. Else HOLD.

An answer from a fallback rung keeps its label, so that the guard lets it reduce risk only.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from tasks.core.decision.kinds import joined
from tasks.core.ports import Decider
from tasks.core.types.decision import ENTRIES, Answer, Decision, PromptRef, Rung, Why, hold
from tasks.core.types.question import Question


class Voice(NamedTuple):
    """What one member answered; `agrees`: its voice is in the decision."""

    name: str
    decided: Answer
    agrees: bool


class TimedDecider:
    """`CHOOSER+TIMER`."""

    def __init__(self, chooser: Decider, timer: Decider) -> None:
        self.chooser, self.timer = chooser, timer
        self.name = f"ensemble:{chooser.name}+{timer.name}"
        self.kind, self.prompts = joined([chooser.kind, timer.kind]), _prompts([chooser, timer])

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        timed = await self.timer.decide(questions)
        asked = [i for i, question in enumerate(questions) if not _waits(question, timed[i].decision)]
        chosen = (
            dict(zip(asked, await self.chooser.decide([questions[i] for i in asked]), strict=True)) if asked else {}
        )
        return [self._both(question, chosen.get(i), timed[i]) for i, question in enumerate(questions)]

    def _both(self, question: Question, chosen: Answer | None, timed: Answer) -> Answer:
        symbol, timer = question.snapshot.pair, Voice(self.timer.name, timed, agrees=True)
        if chosen is None:
            pause = timed.decision if _reduces(timed.decision) else None
            return _joined(self.name, pause or hold(symbol, "the timer waits", source=self.name), [timer])
        plan, moment = chosen.decision, timed.decision
        chooser = Voice(self.chooser.name, chosen, agrees=True)
        if isinstance(plan, ENTRIES) and plan.action == moment.action:
            sure = min(plan.confidence, moment.confidence)
            return _joined(self.name, plan.model_copy(update={"confidence": sure}), [chooser, timer])
        if _reduces(plan):
            return _joined(self.name, plan, [chooser, timer._replace(agrees=False)])
        if _reduces(moment):
            return _joined(self.name, moment, [timer, chooser._replace(agrees=False)])
        waits = hold(symbol, f"{plan.action} is planned, the moment says {moment.action}", source=self.name)
        return _joined(self.name, waits, [chooser, timer], Why.NO_CONSENSUS)


class VoteDecider:
    """`vote:A=1,B=2`."""

    def __init__(self, members: Sequence[tuple[Decider, Decimal]]) -> None:
        self.members = members
        self.name = "ensemble:vote:" + ",".join(f"{member.name}={weight}" for member, weight in members)
        deciders = [member for member, _ in members]
        self.kind, self.prompts = joined(each.kind for each in deciders), _prompts(deciders)

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        answers = [await member.decide(questions) for member, _ in self.members]
        return [self._count(question, [each[i] for each in answers]) for i, question in enumerate(questions)]

    def _count(self, question: Question, answers: Sequence[Answer]) -> Answer:
        for_action: dict[str, Decimal] = {}
        for (_, weight), decided in zip(self.members, answers, strict=True):
            action = decided.decision.action
            for_action[action] = for_action.get(action, Decimal(0)) + weight
        total, winner = sum(for_action.values(), Decimal(0)), max(for_action, key=lambda action: for_action[action])
        won = 2 * for_action[winner] > total
        voices = [
            Voice(f"{member.name}={weight}", decided, won and decided.decision.action == winner)
            for (member, weight), decided in zip(self.members, answers, strict=True)
        ]
        if not won:
            undecided = hold(question.snapshot.pair, "no action has more than half of the weight", source=self.name)
            return _joined(self.name, undecided, voices, Why.NO_CONSENSUS)
        heard = [(weight, voice) for (_, weight), voice in zip(self.members, voices, strict=True) if voice.agrees]
        sure = sum((weight * voice.decided.decision.confidence for weight, voice in heard), Decimal(0)) / total
        _, first = max(heard, key=lambda one: one[0])
        plan = first.decided.decision.model_copy(update={"confidence": round(sure, 4)})
        return _joined(self.name, plan, [first, *(voice for voice in voices if voice is not first)])


def _prompts(members: Sequence[Decider]) -> tuple[PromptRef, ...]:
    """Return what the members send, each version once: a comparison says which it compared."""
    return tuple(dict.fromkeys(prompt for member in members for prompt in member.prompts))


def _waits(question: Question, moment: Decision) -> bool:
    return question.snapshot.position.side == "flat" and not isinstance(moment, ENTRIES)


def _reduces(decision: Decision) -> bool:
    return decision.action != "HOLD" and not isinstance(decision, ENTRIES)


def _joined(name: str, decision: Decision, voices: Sequence[Voice], why: Why = Why.ANSWERED) -> Answer:
    """Return the decision with every member's answer, calls and costs; the lowest rung among those who agree."""
    answers = [voice.decided for voice in voices]
    fallback = next((voice.decided.rung for voice in voices if voice.agrees and voice.decided.is_fallback), None)
    end = Rung(rung=fallback or "primary", source=name, why=why)
    votes = [(voice.name, voice.decided.decision, voice.decided) for voice in voices]
    reasoning = "\n".join(f"{who}: {vote.action} {vote.reasoning}".strip() for who, vote, _ in votes)
    of_all = {part: tuple(one for each in answers for one in getattr(each, part)) for part in ("calls", "tool_calls")}
    return Answer(
        decision=decision.model_copy(update={"source": name, "reasoning": reasoning}), source=name, rung=end.rung,
        model=", ".join(dict.fromkeys(each.model for each in answers if each.model)),
        latency_ms=round(sum(each.latency_ms for each in answers), 1),
        cost_usd=sum((each.cost_usd for each in answers), Decimal(0)), tokens=sum(each.tokens for each in answers),
        errors=tuple(f"{who}: {error}" for who, _, answer in votes for error in answer.errors),
        flags=(
            *(f"{who}:{vote.action}@{vote.confidence}:{answer.rung}" for who, vote, answer in votes),
            *(flag for each in answers for flag in each.flags),
        ),
        trail=(*(rung for each in answers for rung in each.trail), end), **of_all,
    )  # fmt: skip
