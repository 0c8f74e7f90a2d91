"""What deciders are built on: one that asks no model, one that does, and the one way to ask a role."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import ClassVar

from tasks.core.decision.actions import Parsed, Unusable, parse_reply
from tasks.core.decision.echo import echo_of, echoed
from tasks.core.decision.kinds import Kind, Means
from tasks.core.decision.llm.prompt import Prompt, check_variables
from tasks.core.decision.masked_question import as_shown
from tasks.core.decision.memory import MAX_BYTES as MEMORY_BYTES
from tasks.core.decision.memory import memory_text
from tasks.core.decision.portfolio_text import portfolio_text
from tasks.core.market import lean
from tasks.core.ports import Messages, Model, ModelRequest, Schema
from tasks.core.types import (
    HELD,
    Answer,
    Decision,
    Json,
    JsonObject,
    ModelCall,
    PromptRef,
    Question,
    T,
    answered,
    exact_sum,
    hold,
)

GRACE_S = 0.2  # how long cancelled work may take to clean up
MAX_USER_BYTES, FRAME_BYTES = 6144, 512  # of one user message, and of it what a prompt itself and small facts take
VARIABLES = frozenset(
    {"pair", "as_of", "reasons", "allowed_actions", "max_trade_risk_pct", "max_total_risk_pct", "snapshot", "memory"}
    | {"market", "portfolio"}
)


class PlainDecider:
    """Decides each question on its own, without a model."""

    name: str
    kind: Kind
    prompts: tuple[PromptRef, ...] = ()

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [self.answer(question) for question in questions]

    def answer(self, question: Question) -> Answer:
        return answered(self.choose(question), self.name.partition(":")[0])

    def choose(self, question: Question) -> Decision:
        raise NotImplementedError


class AskingDecider:
    """Asks a model about each question, all at the same time. `variables`: what each role's prompt may use."""

    name: str
    kind: Kind
    variables: ClassVar[Mapping[str, frozenset[str]]]

    def __init__(self, model: Model, prompts: Mapping[str, Prompt], means: Means) -> None:
        for role, prompt in prompts.items():
            check_variables(prompt, self.variables[role])
        self.model, self.texts, self.means = model, prompts, means
        self.prompts = tuple(prompt.ref for prompt in prompts.values())

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one decision per question, in order."""
        return list(await asyncio.gather(*map(self.answer, map(as_shown, questions))))

    async def answer(self, question: Question) -> Answer:
        raise NotImplementedError

    @classmethod
    def schema_of(cls, prompt: Prompt, /) -> Schema:
        """Return the schema that replies to this version of a role's prompt are asked in."""
        raise NotImplementedError

    async def ask(
        self, prompt: Prompt, messages: Messages, read: Callable[[str], T],
        seconds: float = inf, role: str = "", functions: Sequence[JsonObject] = (),
    ) -> tuple[ModelCall, T | Unusable]:  # fmt: skip
        """Ask one role, at most for `seconds`; return the call, and what its reply says or why it cannot be used."""
        schema, began = self.schema_of(prompt), loop_time()
        request = ModelRequest(role or prompt.name, prompt.ref, messages, schema, functions)
        call = await within_deadline(self.model.ask(request), seconds)
        if call is None:  # cut off: what was asked is kept all the same
            call = request.call("", error="timeout", latency_ms=elapsed_ms(began))
        said = Unusable(call.error) if call.error else read(call.raw_reply)
        if not isinstance(said, Unusable) and not self.means.literal and echoed(said, prompt):
            said = echo_of(prompt)
        return call, said

    def reader(self, symbol: str) -> Callable[[str], Parsed]:
        """Return what reads the decision about `symbol` out of a reply."""
        return lambda text: parse_reply(text, symbol, literal=self.means.literal)


async def within_deadline(work: Awaitable[T], seconds: float) -> T | None:
    """Return what `work` returns, or None once `seconds` are over, whether or not it heeds its cancellation."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=max(0.0, seconds))
    finally:
        if not task.done():
            task.cancel()
    if not task.done():
        await asyncio.wait({task}, timeout=GRACE_S)
    return task.result() if task.done() and not task.cancelled() else None


def loop_time() -> float:
    """Return the seconds of the clock that coroutines sleep by."""
    return asyncio.get_running_loop().time()


def elapsed_ms(since: float) -> float:
    return round((loop_time() - since) * 1000, 1)


def variables_of(question: Question) -> dict[str, str]:
    """Return what a decision prompt may put into its user part."""
    snapshot, limits = question.snapshot, question.snapshot.constraints
    market, portfolio = lean.encode(snapshot), portfolio_text(question.portfolio)
    reasons = "; ".join(snapshot.reason_for_call) or "review"
    return {
        "pair": snapshot.pair,
        "as_of": snapshot.as_of.isoformat(),
        "reasons": reasons,
        "allowed_actions": ", ".join(limits.allowed_actions),
        "max_trade_risk_pct": f"{limits.max_trade_risk_pct:g}",
        "max_total_risk_pct": f"{limits.max_total_risk_pct:g}",
        "snapshot": lean.encode_first(snapshot),
        "market": market,
        "portfolio": portfolio,
        "memory": memory_text(question.memory, room_left(market, portfolio, reasons)),
    }


def room_left(*texts: str) -> int:
    """Return the bytes that a memory may take beside these texts in one user message."""
    return min(MEMORY_BYTES, MAX_USER_BYTES - FRAME_BYTES - sum(len(text.encode()) for text in texts))


def decided_as(parsed: Parsed, call: ModelCall, symbol: str, source: str = "") -> Answer:
    """Wrap what was read out of a model call, a decision or why there is none, with where it came from."""
    decision: Decision
    if isinstance(parsed, Unusable):
        decision, trail = hold(symbol, f"no usable reply: {parsed.reason}"), (*call.tried(usable=False), HELD)
        errors = (str(parsed),) if call.error else (*call.attempts, str(parsed))
    else:
        decision = parsed.replace(source=source or f"llm:{call.model}")
        trail, errors = call.tried(), call.attempts
    return Answer.of(
        call, decision=decision, source=decision.source, rung=trail[-1].rung, errors=errors, trail=trail,
        **spent([call]),
    )  # fmt: skip


def spent(calls: Sequence[ModelCall]) -> Json:
    """Return an answer's calls, and what they cost together."""
    return {
        "calls": tuple(calls),
        "cost_usd": exact_sum(call.cost_usd for call in calls),
        "tokens": sum(call.tokens_in + call.tokens_out for call in calls),
    }
