"""`llm:single`: one model, one prompt, one decision per question."""

from tasks.core.decision.actions import wire_schema
from tasks.core.decision.decider import VARIABLES, AskingDecider, decided_as, variables_of
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.llm.prompt import Prompt, render
from tasks.core.ports import Schema
from tasks.core.types import Answer, Question


class SingleDecider(AskingDecider):
    """Asks the model once per question; whatever is not a usable reply becomes HOLD."""

    name, kind = "llm:single", KINDS["llm:single"]
    variables = {"single": VARIABLES}

    @classmethod
    def schema_of(cls, _: Prompt, /) -> Schema:
        return wire_schema()

    async def answer(self, question: Question) -> Answer:
        prompt, symbol = self.texts["single"], question.snapshot.pair
        messages = render(prompt, variables_of(question))
        call, parsed = await self.ask(prompt, messages, self.reader(symbol))
        return decided_as(parsed, call, symbol)
