"""The same question put to a decider several times: the first answer decides, the others tell how likely it was.

A model that is asked at a temperature draws its answers; the share of them that asked for an action is how likely that
was. Each sample is asked for by itself, with a seed of its own, so that no kept reply answers for another. One that the
budget refuses is no vote, one that cannot be read is a vote for nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.decision.decider import spent
from tasks.core.ports import Decider, Model, ModelRequest
from tasks.core.types import Answer, Decision, ModelCall, Question, Why


@dataclass
class SampledModel:
    """Implements `ports.Model`: asks as so many a sample."""

    model: Model
    sample: int

    async def ask(self, request: ModelRequest) -> ModelCall:
        return await self.model.ask(request._replace(sample=self.sample))


class VotedDecider:
    """Implements `ports.Decider`: asks each of `samples`, whose first decides."""

    def __init__(self, samples: Sequence[Decider]) -> None:
        self.first, *self.others = samples
        self.name, self.kind, self.prompts = self.first.name, self.first.kind, self.first.prompts

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return await polled(await self.first.decide(questions), questions, self.others)


async def polled(answers: Sequence[Answer], questions: Sequence[Question], others: Sequence[Decider]) -> list[Answer]:
    """Return the answers with the votes of further samples; of what could not be read none are asked for."""
    wanted = [k for k, answer in enumerate(answers) if not answer.is_fallback]
    if not (wanted and others):
        return list(answers)
    asked = questions if others[0].kind.together else [questions[k] for k in wanted]
    if others[0].kind.looks_up:  # their tools answer in the order in which they are asked
        samples = [await other.decide(asked) for other in others]
    else:
        samples = await asyncio.gather(*(other.decide(asked) for other in others))
    of = dict(enumerate(zip(*samples, strict=True))) if others[0].kind.together else dict(
        zip(wanted, zip(*samples, strict=True), strict=True)
    )  # fmt: skip
    return [_voted(answer, of[k]) if k in wanted else answer for k, answer in enumerate(answers)]


def _voted(answer: Answer, more: Sequence[Answer]) -> Answer:
    """Return an answer with what further ones asked for, and what they took and cost."""
    votes = (answer.decision, *(_vote(each) for each in more if not _is_refused(each)))
    calls = [call for each in (answer, *more) for call in each.calls]
    tools = [call for each in (answer, *more) for call in each.tool_calls]
    return answer.replace(votes=votes if len(votes) > 1 else (), tool_calls=tuple(tools), **spent(calls))


def _vote(answer: Answer) -> Decision | None:
    return None if answer.is_fallback else answer.decision


def _is_refused(answer: Answer) -> bool:
    """Return whether nobody was asked, as the money was gone."""
    return answer.is_fallback and any(rung.why is Why.BUDGET_REFUSED for rung in answer.trail)
