"""`ensemble:...`: several deciders, one decision; what each said is in `flags`, and why in `reasoning`.

- `ensemble:CHOOSER+TIMER`: the chooser (a language model) says whether to trade, which way and with what plan; the
  timer (a policy) says when. An entry is taken with the chooser's numbers on the moment both ask for the same one, as
  sure as the less sure of the two. What only reduces risk needs one voice: the chooser's, else the timer's. While flat
  and the timer waits, the chooser is not asked: nothing it could say would be done, and it costs money.
- `ensemble:pick:JUDGE,A,B`: a trained policy (the judge) says how likely each action is, and the member whose action
  it likes best is followed, with its numbers, as sure as the less sure of the two; of equals the one named first.
- `ensemble:vote:A=1,B=2`: each member's weight goes to the action it asks for; one with more than half of all weight
  wins, with the numbers of its heaviest supporter, as sure as its supporters are, dissent counted as 0. Else HOLD.

An answer from a fallback rung keeps its label, so that the guard lets it reduce risk only.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from tasks.core.decision.decider import spent
from tasks.core.decision.kinds import joined
from tasks.core.ports import Decider
from tasks.core.types import ENTRIES, ZERO, Answer, Decision, Question, Rung, Why, exact_sum, hold


class Voice(NamedTuple):
    """What one member answered; `agrees`: its voice is in the decision."""

    name: str
    answer: Answer
    agrees: bool = True
    weight: Decimal = Decimal(1)


class _Ensemble:
    """Base of the ensembles; lists each member's prompt versions once, so that a comparison can name them."""

    def __init__(self, name: str, members: Sequence[Decider]) -> None:
        self.name, self.kind = f"ensemble:{name}", joined(member.kind for member in members)
        self.prompts = tuple(dict.fromkeys(prompt for member in members for prompt in member.prompts))

    def _hold(self, question: Question, why: str) -> Decision:
        return hold(question.snapshot.pair, why, source=self.name)

    def _joined(self, decision: Decision, voices: Sequence[Voice], why: Why = Why.ANSWERED) -> Answer:
        """Return the decision with every member's answer and costs; the lowest rung among those who agree."""
        answers = [voice.answer for voice in voices]
        fallbacks = (voice.answer.rung for voice in voices if voice.agrees and voice.answer.is_fallback)
        end = Rung(rung=next(fallbacks, "primary"), source=self.name, why=why)
        reasons = (f"{v.name}: {v.answer.decision.action} {v.answer.decision.reasoning}".strip() for v in voices)
        votes = (f"{v.name}:{v.answer.decision.action}@{v.answer.decision.confidence}:{v.answer.rung}" for v in voices)

        def every(part: str) -> Iterator[Any]:
            return (one for answer in answers for one in getattr(answer, part))

        return Answer(
            decision=decision.replace(source=self.name, reasoning="\n".join(reasons)),
            source=self.name, rung=end.rung, tool_calls=tuple(every("tool_calls")),
            model=", ".join(dict.fromkeys(answer.model for answer in answers if answer.model)),
            latency_ms=round(sum(answer.latency_ms for answer in answers), 1),
            errors=tuple(f"{voice.name}: {error}" for voice in voices for error in voice.answer.errors),
            flags=(*votes, *every("flags")), trail=(*every("trail"), end),
            policies=tuple(dict.fromkeys(every("policies"))), **spent(tuple(every("calls"))),
        )  # fmt: skip


class TimedDecider(_Ensemble):
    """`CHOOSER+TIMER`."""

    def __init__(self, chooser: Decider, timer: Decider) -> None:
        super().__init__(f"{chooser.name}+{timer.name}", [chooser, timer])
        self.chooser, self.timer = chooser, timer

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        timed = await self.timer.decide(questions)
        asked = [
            i for i, question in enumerate(questions)
            if question.snapshot.position.side != "flat" or isinstance(timed[i].decision, ENTRIES)
        ]  # fmt: skip
        chosen = dict(zip(asked, await self.chooser.decide([questions[i] for i in asked]), strict=True))
        return [self._both(question, chosen.get(i), timed[i]) for i, question in enumerate(questions)]

    def _both(self, question: Question, chosen: Answer | None, timed: Answer) -> Answer:
        timer, moment = Voice(self.timer.name, timed), timed.decision
        if chosen is None:
            return self._joined(moment if _reduces(moment) else self._hold(question, "the timer waits"), [timer])
        plan, chooser = chosen.decision, Voice(self.chooser.name, chosen)
        if isinstance(plan, ENTRIES) and plan.action == moment.action:
            sure = min(plan.confidence, moment.confidence)
            return self._joined(plan.replace(confidence=sure), [chooser, timer])
        if _reduces(plan):
            return self._joined(plan, [chooser, timer._replace(agrees=False)])
        if _reduces(moment):
            return self._joined(moment, [timer, chooser._replace(agrees=False)])
        waits = self._hold(question, f"{plan.action} is planned, the moment says {moment.action}")
        return self._joined(waits, [chooser, timer], Why.NO_CONSENSUS)


class Judge(Decider, Protocol):
    """A decider that says how likely it is to take each of the allowed actions."""

    def rated(self, question: Question) -> Mapping[str, Decimal]: ...


class PickDecider(_Ensemble):
    """`pick:JUDGE,A,B`."""

    def __init__(self, judge: Judge, members: Sequence[Decider]) -> None:
        names = ",".join(each.name for each in (judge, *members))
        super().__init__(f"pick:{names}", [judge, *members])
        self.judge, self.members = judge, members

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        answers = [await decider.decide(questions) for decider in (self.judge, *self.members)]
        return [self._picked(question, *each) for question, *each in zip(questions, *answers, strict=True)]

    def _picked(self, question: Question, judged: Answer, *answers: Answer) -> Answer:
        rated = self.judge.rated(question)
        voices = [Voice(member.name, answer) for member, answer in zip(self.members, answers, strict=True)]
        best = max(voices, key=lambda voice: rated.get(voice.answer.decision.action, ZERO))
        plan = best.answer.decision
        sure = min(plan.confidence, rated.get(plan.action, ZERO)) if isinstance(plan, ENTRIES) else plan.confidence
        others = [voice._replace(agrees=False) for voice in voices if voice is not best]
        return self._joined(plan.replace(confidence=sure), [best, *others, Voice(self.judge.name, judged, False)])


class VoteDecider(_Ensemble):
    """`vote:A=1,B=2`."""

    def __init__(self, members: Sequence[tuple[Decider, Decimal]]) -> None:
        names = ",".join(f"{member.name}={weight}" for member, weight in members)
        super().__init__(f"vote:{names}", [member for member, _ in members])
        self.members = members

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        answers = [await member.decide(questions) for member, _ in self.members]
        return [self._count(question, each) for question, *each in zip(questions, *answers, strict=True)]

    def _count(self, question: Question, answers: Sequence[Answer]) -> Answer:
        for_action: defaultdict[str, Decimal] = defaultdict(Decimal)
        voices = [
            Voice(f"{member.name}={weight}", answer, False, weight)
            for (member, weight), answer in zip(self.members, answers, strict=True)
        ]
        for voice in voices:
            for_action[voice.answer.decision.action] += voice.weight
        total, winner = exact_sum(for_action.values()), max(for_action, key=for_action.__getitem__)
        if 2 * for_action[winner] <= total:
            undecided = self._hold(question, "no action has more than half of the weight")
            return self._joined(undecided, voices, Why.NO_CONSENSUS)
        voices = [voice._replace(agrees=voice.answer.decision.action == winner) for voice in voices]
        heard = [voice for voice in voices if voice.agrees]
        sure = exact_sum(voice.weight * voice.answer.decision.confidence for voice in heard) / total
        first = max(heard, key=lambda voice: voice.weight)
        plan = first.answer.decision.replace(confidence=round(sure, 4))
        return self._joined(plan, [first, *(voice for voice in voices if voice is not first)])


def _reduces(decision: Decision) -> bool:
    return decision.action != "HOLD" and not isinstance(decision, ENTRIES)
