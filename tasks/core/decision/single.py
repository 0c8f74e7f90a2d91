"""`llm:single`: one model, one prompt, one decision per question."""

import asyncio
from collections.abc import Callable, Sequence

from tasks.core.decision.actions import Parsed, Unusable, parse_reply, wire_schema
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.memory import memory_text
from tasks.core.decision.prompt import Prompt, check_variables, render
from tasks.core.ports import Model
from tasks.core.types.decision import HELD, Answer, Decision, ModelCall, PromptRef, hold
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Memory, Snapshot

MEMORY_BYTES = 600
VARIABLES = frozenset(
    {"pair", "as_of", "reasons", "allowed_actions", "max_trade_risk_pct", "max_total_risk_pct", "snapshot", "memory"}
)


class SingleDecider:
    """Asks the model once per question, all at the same time; whatever is not a usable reply becomes HOLD."""

    name, kind = "llm:single", KINDS["llm:single"]

    def __init__(self, model: Model, prompt: Prompt, encode: Callable[[Snapshot], str]) -> None:
        check_variables(prompt, VARIABLES)
        self.model, self.prompt, self.encode = model, prompt, encode
        self.prompts: tuple[PromptRef, ...] = (prompt.ref,)
        self.schema = wire_schema()

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one decision per question, in order."""
        return list(await asyncio.gather(*(self._decide(question) for question in questions)))

    async def _decide(self, question: Question) -> Answer:
        messages = render(self.prompt, variables_of(question.snapshot, self.encode, question.memory))
        call = await self.model.ask(self.prompt.ref.name, self.prompt.ref, messages, self.schema)
        return decided_from(call, question.snapshot.pair, source=f"llm:{call.model}")


def variables_of(snapshot: Snapshot, encode: Callable[[Snapshot], str], memory: Memory | None = None) -> dict[str, str]:
    """Return what a decision prompt may put into its user part."""
    limits = snapshot.constraints
    return {
        "pair": snapshot.pair,
        "as_of": snapshot.as_of.isoformat(),
        "reasons": "; ".join(snapshot.reason_for_call) or "review",
        "allowed_actions": ", ".join(limits.allowed_actions),
        "max_trade_risk_pct": f"{limits.max_trade_risk_pct:g}",
        "max_total_risk_pct": f"{limits.max_total_risk_pct:g}",
        "snapshot": encode(snapshot),
        "memory": "unknown" if memory is None else memory_text(memory, MEMORY_BYTES) or "none",
    }


def decided_from(call: ModelCall, symbol: str, source: str) -> Answer:
    """Turn one model call into a decision; the call, with its raw reply, is kept either way."""
    parsed = Unusable(reason=call.error) if call.error else parse_reply(call.raw_reply, symbol)
    return decided_as(parsed, call, symbol, source)


def decided_as(parsed: Parsed, call: ModelCall, symbol: str, source: str) -> Answer:
    """Wrap what was read out of a model call, a decision or why there is none, with where it came from."""
    decision: Decision
    if isinstance(parsed, Unusable):
        decision, trail = hold(symbol, f"no usable reply: {parsed.reason}"), (*call.tried(usable=False), HELD)
    else:
        decision, trail = parsed.model_copy(update={"source": source}), call.tried()
    unusable = (str(parsed),) if isinstance(parsed, Unusable) else ()
    return Answer(
        decision=decision,
        source=decision.source,
        rung=trail[-1].rung,
        model=call.model,
        latency_ms=call.latency_ms,
        cost_usd=call.cost_usd,
        tokens=call.tokens_in + call.tokens_out,
        errors=unusable if call.error else (*call.attempts, *unusable),
        calls=(call,),
        trail=trail,
    )
