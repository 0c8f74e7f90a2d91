"""Let the decider of a stored cycle decide once more, on the replies and tool answers that were recorded.

The real deciders run, on the real ladder; only what stood outside them is played back: models, tools, the purse, the
breaker, the near cache's find. What was asked is built anew, so messages that come out otherwise show as a difference.
How long things took was observed, not computed: latencies are taken over.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf

from tasks.core.decision.baselines import RecordedDecider
from tasks.core.decision.breaker import Breaker, BreakerState
from tasks.core.decision.budget import Charge, KeptReply, Reserved
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.kinds import Means, Tools, kind_of
from tasks.core.decision.ladder import CACHED, Ladder, Shared, Terms
from tasks.core.decision.memory import SIDE, Vector, vector
from tasks.core.decision.prompt import Prompt
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.tools import TOOLS, Meter, Parameters, compact
from tasks.core.errors import DataError, InputError
from tasks.core.lab import old_records
from tasks.core.market import lean
from tasks.core.ports import Decider
from tasks.core.types.decision import Answer, ModelCall, PromptRef, Rung, ToolCall, Why
from tasks.core.types.limits import Budget, ToolLimits, ToolRates
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord
from tasks.core.types.strategy import Strategy

ENDLESS_S = 3600.0  # nothing is waited for: recorded answers come at once
PromptOf = Callable[[str, str | None], Prompt]  # by role and version; None: any


class NotReplayable(Exception):
    """The record, or this machine, lacks something that deciding again needs."""


async def redecide(
    records: Sequence[CycleRecord], questions: Sequence[Question], strategy: Strategy, prompt_of: PromptOf,
    plain: Callable[[str], Decider],
) -> list[Answer]:  # fmt: skip
    """Decide again; several records only where one call answered for all of them.

    plain: builds the deciders that ask no model. Raises NotReplayable saying what is missing.
    """
    told = [record.model_copy(update={"decided": _typed(record)}) for record in records]
    laddered = not any(record.decided and old_records.stood(record.decided) for record in records)
    answers = await decider_of(told, strategy, prompt_of, plain, laddered).decide(questions)
    again = [_as_observed(*each) for each in zip(answers, records, strict=True)]
    if records[0].trigger != "backtest" or again == [record.decided for record in records]:
        return again
    answers = await decider_of(told, strategy, prompt_of, plain, laddered=False).decide(
        questions
    )  # as a comparison asks
    return [_as_observed(*each) for each in zip(answers, records, strict=True)]


def _typed(record: CycleRecord) -> Answer | None:
    return None if record.decided is None else old_records.with_trail(record.decided, record.as_of)


def _as_observed(new: Answer, record: CycleRecord) -> Answer:
    old = record.decided
    if old is None:
        return new
    seen = [call.latency_ms for call in old.tool_calls]
    tools = [
        call.model_copy(update={"latency_ms": seen[i]}) if i < len(seen) else call
        for i, call in enumerate(new.tool_calls)
    ]
    new = new.model_copy(update={"latency_ms": old.latency_ms, "tool_calls": tuple(tools)})
    return new if old.trail else old_records.without_trail(new, old)


def decider_of(
    records: Sequence[CycleRecord], strategy: Strategy, prompt_of: PromptOf, plain: Callable[[str], Decider],
    laddered: bool = True,
) -> Decider:  # fmt: skip
    """Build the decider that decided `records`, all with a trail, on what it was answered then."""
    record = records[0]
    decided, kind = record.decided, kind_of(record.decider)
    if decided is None:
        raise NotReplayable("decision")
    if kind.by_time:
        return RecordedDecider(map(_line, records))
    if not kind.asks_model:
        try:
            return plain(record.decider)
        except InputError as e:
            raise NotReplayable(f"its decider: {e}") from e
    if kind.make is None:
        raise NotReplayable(f"its decider: {record.decider} asks a model among others")
    tape, shelf = Tape(decided), Shelf(records)
    prompts = {role: _prompt(role, decided, prompt_of) for role in kind.roles}
    primary = kind.make(tape, prompts, _means(tape, strategy, kind.live))
    terms = Terms(
        strategy=record.strategy, ttl=timedelta(days=1), max_distance=inf, breaker=Breaker(1, timedelta(days=1)),
        may_open=strategy.limits.fallback_may_open,
    )  # fmt: skip
    return (
        Ladder(primary, RulesDecider(), Shared(shelf, shelf, shelf, shelf), terms, shelf.now) if laddered else primary
    )


def _line(record: CycleRecord) -> str:
    calls = record.decided.calls if record.decided else ()
    if not calls:
        return ""
    return compact({"as_of": record.as_of.isoformat(), "symbol": record.symbol, "reply": calls[0].raw_reply})


def _prompt(role: str, decided: Answer, prompt_of: PromptOf) -> Prompt:
    """Return the version that was sent, unchanged; any where none was."""
    sent = next((call.prompt for call in decided.calls if call.prompt and call.prompt.name == role), None)
    try:
        prompt = prompt_of(role, sent.version if sent else None)
    except InputError as e:
        raise NotReplayable(f"its prompt: {e}") from e
    if sent and prompt.sha256 != sent.sha256:
        was, here = sent.sha256[:12], prompt.sha256[:12]
        raise NotReplayable(f"its prompt: {role}/{sent.version} had sha256 {was}..., here it has {here}...")
    return prompt


def _means(tape: "Tape", strategy: Strategy, live: bool) -> Means:
    limits, rates = strategy.tools, strategy.tool_rates
    if not live:
        return Means(lean.encode, ENDLESS_S, ENDLESS_S)
    if limits is None or rates is None:
        raise NotReplayable("what its tools were allowed")
    return Means(lean.encode, tools=Tools(lambda _: tape, limits, _Drops(rates, tape, limits)))


class Tape:
    """Implements `ports.Model` and `tools.Toolbox`: every answer once, in the order in which it was given."""

    def __init__(self, decided: Answer) -> None:
        self.calls, self.tools = list(decided.calls), list(decided.tool_calls)
        self.overran = any(rung.why is Why.OUT_OF_TIME for rung in decided.trail)
        self.spent = False  # the planner has used up its time

    async def ask(
        self, role: str, prompt: PromptRef, messages: Sequence[dict[str, str]], _schema: dict[str, object]
    ) -> ModelCall:
        call = next((call for call in self.calls if call.role == role), None)
        if call is None:
            return ModelCall(role=role, model="", prompt=prompt, messages=tuple(messages), error="not in the record")
        self.calls.remove(call)
        self.spent |= self.overran and role == "planner" and all(other.role != role for other in self.calls)
        return call.model_copy(update={"prompt": prompt, "messages": tuple(messages)})

    async def run(self, tool: str, parameters: Parameters, _as_of: datetime) -> str:
        texts = {name: str(value) for name, value in parameters.model_dump(mode="json", exclude_none=True).items()}
        call = next((one for one in self.tools if (one.tool, one.parameters) == (tool, texts)), None)
        if call is None:
            raise DataError("not in the record")
        self.tools.remove(call)
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


class _Drops(Meter):
    """Drops the calls that were dropped; its clock stands still until the planner's time is used up."""

    def __init__(self, rates: ToolRates, tape: Tape, limits: ToolLimits) -> None:
        super().__init__(rates, lambda: limits.deadline_s if tape.spent else 0.0)
        self.metered = {tool: [c for c in tape.tools if c.tool == tool and _was_metered(c)] for tool in TOOLS}

    def take(self, tool: str) -> bool:
        given = self.metered[tool]
        return not (given and given.pop(0).dropped)


def _was_metered(call: ToolCall) -> bool:
    return bool(call.dropped or call.response or call.latency_ms)


class Shelf:
    """Implements all of `ladder.Shared`: the breaker as it was found, and the decision that the near cache found."""

    def __init__(self, records: Sequence[CycleRecord]) -> None:
        self.records = {record.symbol: record for record in records}
        self.barred = next((rung for rung in _trail(records[0]) if rung.why is Why.BREAKER_OPEN), None)

    def now(self) -> datetime:
        """Return when it was decided, as far as the breaker can tell."""
        until = self.barred.retry_at if self.barred else None
        return until - timedelta(seconds=1) if until else next(iter(self.records.values())).as_of

    def reserve(self, _charge: Charge, _worst_usd: Decimal, _budget: Budget, _at: datetime) -> Reserved:
        return Reserved()

    def settle(self, budget_id: int, usd: Decimal) -> None: ...

    def keep(self, content_hash: str, call: ModelCall, at: datetime) -> None: ...

    def find(self, _content_hashes: Sequence[str], _since: datetime) -> KeptReply | None:
        return None

    def change(self, _session: str, _change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        return BreakerState(errors=self.barred.errors, retry_at=self.barred.retry_at) if self.barred else BreakerState()

    def decisions(self, _strategy: str, symbol: str, _since: datetime, _before: datetime) -> list[KeptDecision]:
        record = self.records[symbol]
        return [
            _kept(record, near.as_of, near.distance)
            for near in _trail(record)
            if near.as_of and near.distance is not None
        ]


def _trail(record: CycleRecord) -> tuple[Rung, ...]:
    return record.decided.trail if record.decided else ()


def _kept(record: CycleRecord, as_of: datetime, distance: float) -> KeptDecision:
    """Make up the moment that was found near this one, with the decision that was taken over from it."""
    decided, snapshot = record.decided, record.snapshot
    if decided is None or snapshot is None:
        raise NotReplayable("decision")
    here = vector(snapshot).values
    others = [i for i, value in enumerate(here) if value is not None and i != SIDE]
    shift = distance * ((len(others) + 1) / len(others)) ** 0.5 if others else 0.0
    moved = tuple(
        value + shift if value is not None and i in others else value for i, value in enumerate(here)
    )  # fmt: skip
    said = decided.decision.confidence
    digits = said.as_tuple().exponent
    full = (said / CACHED).quantize(Decimal(1).scaleb(int(digits) - int(CACHED.as_tuple().exponent)))
    earlier = decided.model_copy(update={"decision": decided.decision.model_copy(update={"confidence": full})})
    return KeptDecision(as_of=as_of, decided=earlier, vector=Vector(values=moved), reasons=snapshot.reason_for_call)
