"""Let the decider of a stored cycle decide once more, on the replies and tool answers that were recorded.

The real deciders run, on the real ladder; only what stood outside them is played back: models, tools, the purse, the
breaker, the near cache's find. What was asked is built anew, so messages that come out otherwise show as a difference.
How long things took was observed, not computed: latencies are taken over.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import zip_longest
from math import inf
from typing import Any, TypeVar

from tasks.core.decision.baselines import RecordedDecider
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.kinds import Means, kind_of
from tasks.core.decision.ladder import CACHED, Breaker, BreakerState, Ladder, Shared
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.decision.llm.tools import Meter, Parameters, ToolDesk, compact, texts
from tasks.core.decision.memory import SIDE, Vector, vector
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.votes import SampledModel, VotedDecider
from tasks.core.errors import DataError, InputError
from tasks.core.lab import old_records
from tasks.core.ports import Decider, ModelRequest
from tasks.core.types import (
    AccountState,
    Answer,
    CycleRecord,
    Inputs,
    ModelCall,
    Question,
    Snapshot,
    Strategy,
    ToolCall,
    ToolLimits,
    ToolRates,
    Verdict,
    Why,
)

AS_MEANT = 5  # the first rules of a strategy by which replies are read as they are meant, and echoes known
ENDLESS_S = 3600.0  # nothing is waited for: recorded answers come at once
PromptOf = Callable[[str, str | None], Prompt]  # by role and version; None: any
T = TypeVar("T")


class NotReplayable(Exception):
    """The record, or this machine, lacks something that deciding again needs."""


class Replayable(CycleRecord):
    """A record of a decision with everything it was made of."""

    snapshot: Snapshot
    state: AccountState
    inputs: Inputs
    decided: Answer
    verdict: Verdict


def lacks(record: CycleRecord) -> str:
    """Return what the record lacks to be replayed; nothing when it can be."""
    if None in (record.decided, record.snapshot, record.verdict, record.state):
        return f"a decision: it ended {record.status}"
    return "" if record.inputs is not None else "its inputs: it is older than they are recorded"


def replayable(record: CycleRecord) -> Replayable:
    """Return a record that lacks nothing as such a one."""
    if missing := lacks(record):
        raise NotReplayable(missing)
    return Replayable.trusted(**dict(record))


async def decide_again(
    records: Sequence[Replayable],
    questions: Sequence[Question],
    strategy: Strategy,
    prompt_of: PromptOf,
    plain: Callable[[str], Decider],
) -> list[Answer]:
    """Decide again; several records only where one call answered for all of them.

    plain: builds the deciders that ask no model. Raises NotReplayable saying what is missing.
    """
    old = [record.decided for record in records]
    typed = [record.replace(decided=old_records.with_trail(record.decided, record.as_of)) for record in records]
    again = []
    for laddered in dict.fromkeys((not any(map(old_records.stood, old)), False)):  # a comparison asks without a ladder
        answers = await decider_of(typed, strategy, prompt_of, plain, laddered).decide(questions)
        again = [_as_observed(*each) for each in zip(answers, old, strict=True)]
        if records[0].trigger != "backtest" or again == old:
            break
    return again


def _as_observed(new: Answer, old: Answer) -> Answer:
    tools = [
        call.replace(latency_ms=seen.latency_ms) if seen else call
        for call, seen in zip_longest(new.tool_calls, old.tool_calls[: len(new.tool_calls)])
    ]
    new = new.replace(latency_ms=old.latency_ms, tool_calls=tuple(tools))
    return new if old.trail else old_records.without_trail(new, old)


def decider_of(
    records: Sequence[Replayable], strategy: Strategy, prompt_of: PromptOf, plain: Callable[[str], Decider],
    laddered: bool = True,
) -> Decider:  # fmt: skip
    """Build the decider that decided `records`, all with a trail, on what it was answered then."""
    record = records[0]
    decided, kind = record.decided, kind_of(record.decider)
    if kind.by_time:
        lines = (
            compact({"as_of": each.as_of.isoformat(), "symbol": each.symbol, "reply": each.decided.calls[0].raw_reply})
            for each in records
            if each.decided.calls
        )
        return RecordedDecider(lines, literal=strategy.rules < AS_MEANT)
    if not kind.asks_model:
        try:
            return plain(record.decider)
        except InputError as e:
            raise NotReplayable(f"its decider: {e}") from e
    if not kind.maker:
        raise NotReplayable(f"its decider: {record.decider} asks a model among others")
    replies, cache, day = RecordedReplies(decided), RecordedCache(records), timedelta(days=1)
    prompts = {role: _prompt(role, decided, prompt_of) for role in kind.roles}
    means, last = _means(replies, strategy, kind.looks_up), max((call.sample for call in decided.calls), default=0)
    samples = [kind.make(SampledModel(replies, sample), prompts, means) for sample in range(last + 1)]
    primary = VotedDecider(samples) if last else samples[0]
    if not laddered:
        return primary
    unasked: Any = None  # the purse and the kept replies: what answers here costs nothing
    return Ladder(
        primary, RulesDecider(), Shared(unasked, unasked, cache, cache), cache.now, record.strategy, Breaker(1, day),
        day, inf, may_open=strategy.limits.fallback_may_open,
    )  # fmt: skip


def _prompt(role: str, decided: Answer, prompt_of: PromptOf) -> Prompt:
    """Return the version that was sent, unchanged; the first where none was: it does no more than any later one."""
    sent = next((call.prompt for call in decided.calls if call.prompt and call.prompt.name == role), None)
    try:
        prompt = prompt_of(role, sent.version if sent else "v001")
    except InputError as e:
        raise NotReplayable(f"its prompt: {e}") from e
    if sent and prompt.sha256 != sent.sha256:
        was, here = sent.sha256[:12], prompt.sha256[:12]
        raise NotReplayable(f"its prompt: {role}/{sent.version} had sha256 {was}..., here it has {here}...")
    return prompt


def _means(replies: "RecordedReplies", strategy: Strategy, looks_up: bool) -> Means:
    limits, rates, literal = strategy.tools, strategy.tool_rates, strategy.rules < AS_MEANT
    if not looks_up:
        return Means(ENDLESS_S, panel=strategy.panel.replace(stage_s=ENDLESS_S), literal=literal)
    if limits is None or rates is None:
        raise NotReplayable("what its tools were allowed")
    return Means(literal=literal, tools=lambda _: ToolDesk(replies, limits, RecordedMeter(rates, replies, limits)))


def _take(calls: list[T], fits: Callable[[T], bool]) -> T | None:
    """Take the first call that fits out of those that are left."""
    call = next(filter(fits, calls), None)
    if call is not None:
        calls.remove(call)
    return call


class RecordedReplies:
    """Implements `ports.Model` and `tools.Toolbox`: every answer once, in the order in which it was given."""

    def __init__(self, decided: Answer) -> None:
        self.calls, self.tools = list(decided.calls), list(decided.tool_calls)
        self.overran = any(rung.why is Why.OUT_OF_TIME for rung in decided.trail)

    async def ask(self, request: ModelRequest) -> ModelCall:
        call = _take(self.calls, lambda call: (call.role, call.sample) == (request.role, request.sample))
        if call is None:
            return request.call("", error="not in the record")
        return call.replace(prompt=request.prompt, messages=tuple(request.messages))

    async def run(self, tool: str, parameters: Parameters, _as_of: datetime) -> str:
        call = _take(self.tools, lambda call: (call.tool, call.parameters) == (tool, texts(parameters)))
        if call is None:
            raise DataError("not in the record")
        if call.late:
            raise asyncio.CancelledError
        if call.truncated:
            return _uncut(call)
        if call.error:
            raise DataError(call.error.encode("ascii", "replace").decode("unicode_escape", "replace"))
        return call.response


def _uncut(call: ToolCall) -> str:
    """Return an answer that is cut to the recorded one: another row, or text, that cannot fit."""
    endless = "." * 1_000_000
    if not call.response:
        return compact({"as_of": endless})
    rows = f',"{endless}"]}}'
    return call.response.removesuffix("]}") + rows


class RecordedMeter(Meter):
    """Drops the calls that were dropped; its clock stands still until the planner's time is used up."""

    def __init__(self, rates: ToolRates, replies: RecordedReplies, limits: ToolLimits) -> None:
        def now() -> float:
            late = replies.overran and all(call.role != "planner" for call in replies.calls)
            return limits.deadline_s if late else 0.0

        super().__init__(rates, now)
        self.metered = [call for call in replies.tools if call.dropped or call.response or call.latency_ms]

    def take(self, tool: str) -> bool:
        call = _take(self.metered, lambda call: call.tool == tool)
        return call is None or not call.dropped


class RecordedCache:
    """Two of `ladder.Shared`: the breaker as it was found, and the decision that the near cache found."""

    def __init__(self, records: Sequence[Replayable]) -> None:
        self.records, trail = {record.symbol: record for record in records}, records[0].decided.trail
        shut = next((rung for rung in trail if rung.why is Why.BREAKER_OPEN), None)
        self.breaker = BreakerState.of(shut) if shut else BreakerState()

    def now(self) -> datetime:
        """Return when it was decided, as far as the breaker can tell."""
        until = self.breaker.retry_at
        return until - timedelta(seconds=1) if until else next(iter(self.records.values())).as_of

    def change(self, _session: str, _change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        return self.breaker

    def decisions(self, _strategy: str, symbol: str, _since: datetime, _before: datetime) -> list[KeptDecision]:
        record = self.records[symbol]
        return [
            _near(record, rung.as_of, rung.distance)
            for rung in record.decided.trail
            if rung.as_of and rung.distance is not None
        ]


def _near(record: Replayable, as_of: datetime, distance: float) -> KeptDecision:
    """Make up the moment that was found near this one, with the decision that was taken over from it."""
    decided, snapshot = record.decided, record.snapshot
    here = vector(snapshot).values
    others = [i for i, value in enumerate(here) if value is not None and i != SIDE]
    shift = distance * ((len(others) + 1) / len(others)) ** 0.5 if others else 0.0
    moved = tuple(value + shift if value is not None and i != SIDE else value for i, value in enumerate(here))
    cached = decided.decision.confidence
    digits = int(cached.as_tuple().exponent) - int(CACHED.as_tuple().exponent)
    full = (cached / CACHED).quantize(Decimal(1).scaleb(digits))
    earlier = decided.replace(decision=decided.decision.replace(confidence=full))
    return KeptDecision(as_of=as_of, decided=earlier, vector=Vector(values=moved), reasons=snapshot.reason_for_call)
