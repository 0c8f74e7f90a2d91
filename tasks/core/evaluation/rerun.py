"""Let the decider of a stored cycle decide once more, on the replies and tool answers that were recorded.

The real deciders run, on the real ladder; only what stood outside them is played back: models, tools, the purse, the
breaker, the near cache's find. What was asked is built anew, so messages that come out otherwise show as a difference.
How long things took was observed, not computed: latencies are taken over.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf

from tasks.core.decision.baselines import RecordedDecider
from tasks.core.decision.breaker import Breaker, BreakerState
from tasks.core.decision.budget import TICKET, Charge, KeptReply, Reserved, Ticket
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.ladder import CACHED, Ladder, Terms
from tasks.core.decision.memory import SIDE, Vector, vector
from tasks.core.decision.panel import PanelDecider
from tasks.core.decision.planner import Prompts, ToolsDecider
from tasks.core.decision.portfolio import PortfolioDecider
from tasks.core.decision.prompt import Prompt
from tasks.core.decision.roles import REPLIES
from tasks.core.decision.rules import RulesDecider
from tasks.core.decision.single import SingleDecider
from tasks.core.decision.tools import TOOLS, Meter, Parameters, compact
from tasks.core.errors import DataError, InputError
from tasks.core.market import lean
from tasks.core.ports import Decider
from tasks.core.types.decision import Answer, ModelCall, PromptRef, ToolCall
from tasks.core.types.limits import Budget, ToolLimits, ToolRates
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord
from tasks.core.types.strategy import Strategy

ROLES: dict[str, tuple[str, ...]] = {
    "llm:single": ("single",), "llm:portfolio": ("portfolio",), "llm:panel": tuple(REPLIES),
    "llm:tools": Prompts._fields,
}  # fmt: skip
ENDLESS_S = 3600.0  # nothing is waited for: recorded answers come at once
_OPEN = re.compile(r"breaker open until (\d\d):(\d\d):(\d\d) UTC after (\d+) errors")
_NEAR = re.compile(r"cached:(\d+\.\d+):(\d+)s")
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
    decider = decider_of(records, strategy, prompt_of, plain)
    again = [_as_observed(*each) for each in zip(await decider.decide(questions), records, strict=True)]
    if records[0].trigger != "backtest" or again == [record.decided for record in records]:
        return again
    alone = getattr(
        decider_of(records, strategy, prompt_of, plain), "primary", decider
    )  # a comparison asks without a ladder
    return [_as_observed(*each) for each in zip(await alone.decide(questions), records, strict=True)]


def _as_observed(new: Answer, record: CycleRecord) -> Answer:
    old = record.decided
    if old is None:
        return new
    seen = [call.latency_ms for call in old.tool_calls]
    tools = [
        call.model_copy(update={"latency_ms": seen[i]}) if i < len(seen) else call
        for i, call in enumerate(new.tool_calls)
    ]
    return new.model_copy(update={"latency_ms": old.latency_ms, "tool_calls": tuple(tools)})


def decider_of(
    records: Sequence[CycleRecord], strategy: Strategy, prompt_of: PromptOf, plain: Callable[[str], Decider]
) -> Decider:
    """Build the decider that decided `records`, on what it was answered then."""
    record = records[0]
    decided, name = record.decided, record.decider
    name = name.partition("@")[0] if name.startswith("llm:") else name
    if decided is None:
        raise NotReplayable("decision")
    if name.partition(":")[0] == "recorded":
        return RecordedDecider(map(_line, records))
    if name not in ROLES:
        try:
            return plain(name)
        except InputError as e:
            raise NotReplayable(f"its decider: {e}") from e
    tape = Tape(decided, record.as_of)
    prompts = {role: _prompt(role, decided, prompt_of) for role in ROLES[name]}
    terms = Terms(
        strategy=record.strategy, ttl=timedelta(days=1), max_distance=inf, breaker=Breaker(1, timedelta(days=1)),
        may_open=strategy.limits.fallback_may_open,
        together=name == PortfolioDecider.name,
    )  # fmt: skip
    primary = _primary(name, tape, prompts, strategy)
    return Ladder(primary, RulesDecider(), Shelf(records), terms, lambda: record.as_of)


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


def _primary(name: str, tape: "Tape", prompts: dict[str, Prompt], strategy: Strategy) -> Decider:
    if name == "llm:single":
        return SingleDecider(tape, prompts["single"], lean.encode)
    if name == "llm:portfolio":
        return PortfolioDecider(tape, prompts["portfolio"], lean.encode)
    if name == "llm:panel":
        return PanelDecider(tape, prompts, lean.encode, ENDLESS_S, ENDLESS_S)
    limits, rates = strategy.tools, strategy.tool_rates
    if limits is None or rates is None:
        raise NotReplayable("what its tools were allowed")
    return ToolsDecider(
        tape, Prompts(**prompts), lean.encode, lambda _: tape, limits, _Drops(rates, tape, limits)
    )  # fmt: skip


class Tape:
    """Implements `ports.Model` and `tools.Toolbox`: every answer once, in the order in which it was given."""

    def __init__(self, decided: Answer, as_of: datetime) -> None:
        self.decided, self.as_of = decided, as_of
        self.calls, self.tools = list(decided.calls), list(decided.tool_calls)
        self.spent = False  # the planner has used up its time
        charge = Charge(session="", symbol="", decision="")
        self.unused = Ticket(charge, Shelf(()), lambda: as_of)  # for a decider without a ladder

    async def ask(
        self, role: str, prompt: PromptRef, messages: Sequence[dict[str, str]], _schema: dict[str, object]
    ) -> ModelCall:
        call = next((call for call in self.calls if call.role == role), None)
        if call is None:
            return ModelCall(role=role, model="", prompt=prompt, messages=tuple(messages), error="not in the record")
        self.calls.remove(call)
        self._note(role)
        return call.model_copy(update={"prompt": prompt, "messages": tuple(messages)})

    def _note(self, role: str) -> None:
        """Leave what budget and cache left on the decision's ticket, and use up the time the planner used up."""
        ticket, flags = TICKET.get(self.unused), self.decided.flags
        ticket.cheap |= self.decided.rung == "cheap"
        found = [flag for flag in flags if flag.startswith(f"cached:{role}:") and flag not in ticket.flags]
        ticket.cached |= bool(found)
        ticket.flags += found[:1]
        if role == "planner" and "late:planner" in flags and all(call.role != role for call in self.calls):
            self.spent = True

    async def run(self, tool: str, parameters: Parameters, _as_of: datetime) -> str:
        texts = {name: str(value) for name, value in parameters.model_dump(mode="json", exclude_none=True).items()}
        call = next((one for one in self.tools if (one.tool, one.parameters) == (tool, texts)), None)
        if call is None:
            raise DataError("not in the record")
        self.tools.remove(call)
        if call.error == "timeout":
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
        return not (given and f"dropped:{tool}" in given.pop(0).flags)


def _was_metered(call: ToolCall) -> bool:
    return bool(f"dropped:{call.tool}" in call.flags or call.response or call.latency_ms)


class Shelf:
    """Implements `ladder.Shared`: the breaker as it was found, and the decision that the near cache found."""

    def __init__(self, records: Sequence[CycleRecord]) -> None:
        self.records = {record.symbol: record for record in records}

    def reserve(self, _charge: Charge, _worst_usd: Decimal, _budget: Budget, _at: datetime) -> Reserved:
        return Reserved()

    def settle(self, budget_id: int, usd: Decimal) -> None: ...

    def keep_reply(self, content_hash: str, call: ModelCall, at: datetime) -> None: ...

    def find_reply(self, _content_hashes: Sequence[str], _since: datetime) -> KeptReply | None:
        return None

    def change_breaker(self, _session: str, _change: Callable[[BreakerState], BreakerState]) -> BreakerState:
        record = next(iter(self.records.values()))
        first = record.decided.errors[:1] if record.decided else ()
        found = _OPEN.fullmatch(first[0]) if first else None
        if found is None:
            return BreakerState()
        hour, minute, second, errors = map(int, found.groups())
        until = record.as_of.replace(hour=hour, minute=minute, second=second, microsecond=0)
        return BreakerState(errors=errors, retry_at=until if until > record.as_of else until + timedelta(days=1))

    def kept_decisions(self, _strategy: str, symbol: str, _since: datetime, _before: datetime) -> list[KeptDecision]:
        record = self.records[symbol]
        if record.decided is None or record.snapshot is None or record.decided.rung != "cache":
            return []
        found = _NEAR.fullmatch(record.decided.flags[-1]) if record.decided.flags else None
        if found is None:
            return []
        return [_kept(record, float(found[1]), int(found[2]))]


def _kept(record: CycleRecord, distance: float, age_s: int) -> KeptDecision:
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
    as_of = record.as_of - timedelta(seconds=age_s)
    return KeptDecision(as_of=as_of, decided=earlier, vector=Vector(values=moved), reasons=snapshot.reason_for_call)
