"""The action space: one class per action, a discriminated union, and the envelope that says where it came from.

These are the decisions the code works with. What a model must send is the flat wire schema in
`core.decision.actions`, generated from these classes.
"""

from enum import StrEnum
from functools import cache, lru_cache
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter, field_validator

from tasks.core.types.base import ZERO, Described, Dto, Exact, Probability, Sparse, Texts, Utc
from tasks.core.types.orders import PositionSide

MAX_COMMENT_WORDS = 12


class Entry(Described):
    """How to get in: at market, or a limit `offset_bps` better than the last price."""

    type: Literal["market", "limit"] = "market"
    offset_bps: Exact = Field(ZERO, ge=0, le=1000)
    """bps below (long) or above (short) last"""


class StopTarget(Described):
    """Where MOVE_STOP puts the stop: the average entry price, or entry plus `x` ATR (minus: negative x)."""

    kind: Literal["breakeven", "atr"]
    x: Exact = Field(ZERO, ge=-20, le=20)
    """ATR(14, 15m) from entry, in the trade's favour"""


class _Action(Described):
    symbol: str = Field(min_length=1, max_length=40)
    """ccxt unified symbol"""
    confidence: Probability = ZERO
    comment: str = ""
    """at most 12 words"""
    reasoning: str = ""
    """why, for people; never parsed"""
    key_factors: Texts = ()
    """what weighed most, for people"""
    risk_assessment: str = ""
    """what could go wrong, for people"""
    source: str = ""
    """llm:model, cache, rules, hold, recorded"""
    read_as: Sparse[Texts] = ()  # what was written otherwise, and how it was read

    @field_validator("comment")
    @classmethod
    def _clip_comment(cls, comment: str) -> str:
        return " ".join(comment.split()[:MAX_COMMENT_WORDS])


class _Enter(_Action):
    size_pct: Exact = Field(gt=0, le=1000)
    """notional as a share of equity, percent"""
    entry: Entry = Entry()
    stop_atr: Exact = Field(gt=0, le=20)
    """stop distance in ATR(14) of 15m"""
    tp_atr: Exact = Field(gt=0, le=100)
    """target distance in ATR(14) of 15m"""
    followups: Texts = Field((), max_length=4, description='e.g. "MOVE_STOP: breakeven on +1.0R"')


class _Manage(_Action):
    followups: Sparse[Texts] = Field((), max_length=4, description='e.g. "MOVE_STOP: breakeven on +1.0R"')


class Hold(_Manage):
    action: Literal["HOLD"] = "HOLD"


class OpenLong(_Enter):
    action: Literal["OPEN_LONG"] = "OPEN_LONG"
    side: ClassVar[PositionSide] = "long"


class OpenShort(_Enter):
    action: Literal["OPEN_SHORT"] = "OPEN_SHORT"
    side: ClassVar[PositionSide] = "short"


class Add(_Enter):
    action: Literal["ADD"] = "ADD"
    side: ClassVar[None] = None  # the position's


class Trim(_Manage):
    action: Literal["TRIM"] = "TRIM"
    size_pct: Exact = Field(gt=0, le=100)
    """share of the position, percent"""


class ClosePartial(_Manage):
    action: Literal["CLOSE_PARTIAL"] = "CLOSE_PARTIAL"
    size_pct: Exact = Field(gt=0, le=100)
    """share of the position, percent"""


class CloseAll(_Action):
    action: Literal["CLOSE_ALL"] = "CLOSE_ALL"


class MoveStop(_Manage):
    action: Literal["MOVE_STOP"] = "MOVE_STOP"
    to: StopTarget


class SetTarget(_Action):
    action: Literal["SET_TP"] = "SET_TP"
    tp_atr: Exact = Field(gt=0, le=100)
    """target distance in ATR(14) of 15m from entry"""


class CancelTarget(_Action):
    action: Literal["CANCEL_TP"] = "CANCEL_TP"


class Pause(_Action):
    action: Literal["PAUSE"] = "PAUSE"
    minutes: Exact = Field(gt=0, le=10_080)
    """no new entries for this long"""
    scope: Literal["symbol", "account"] = Field("symbol", exclude_if=lambda scope: scope == "symbol")
    """this symbol, or every one of the strategy"""


class Reduce(_Action):
    """Halve the sizes of all entries until the UTC day ends; offered where the question is about the account."""

    action: Literal["REDUCE"] = "REDUCE"


Decision = Annotated[
    Hold
    | OpenLong
    | OpenShort
    | Add
    | Trim
    | ClosePartial
    | CloseAll
    | MoveStop
    | SetTarget
    | CancelTarget
    | Pause
    | Reduce,
    Field(discriminator="action"),
]
DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)
CLASSES: dict[str, type[_Action]] = {c.model_fields["action"].default: c for c in get_args(get_args(Decision)[0])}
ACTIONS = tuple(CLASSES)
MANAGES = (Hold, Trim, ClosePartial, MoveStop)  # their follow-ups join those of the open position
ENTRIES = (OpenLong, OpenShort, Add)
MAY_AS_FALLBACK = frozenset({"HOLD", "PAUSE", "REDUCE", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP"})


POLICY = "model"


class PromptRef(Dto):
    """Which prompt was sent: role, version (`v001`), the sha256 of its file, and the sampling that file asks for.

    A trained policy is named the same way: its role is POLICY, its version FILE@ and the hash's first digits.
    """

    name: str
    version: str
    sha256: str
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 1200

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


RungName = Literal["primary", "failover", "cheap", "cache", "rules", "hold"]


class Why(StrEnum):
    """What became of a rung."""

    ANSWERED = "answered"  # what it said was taken
    NO_CONSENSUS = "no_consensus"  # it holds, as its members want different things
    LATE = "late"  # no reply in time
    OUT_OF_TIME = "out_of_time"  # planning took all its time; the decision was made on what there was
    PROVIDER_ERROR = "provider_error"
    UNUSABLE_REPLY = "unusable_reply"
    BUDGET_REFUSED = "budget_refused"
    BREAKER_OPEN = "breaker_open"
    NOTHING_NEAR = "nothing_near"  # no earlier decision on nearly the same moment
    NO_RULE = "no_rule"  # the rules have nothing to do
    MAY_NOT_OPEN = "may_not_open"  # it would add risk, which a fallback may not


class Rung(Dto):
    """One rung that was tried for a decision, and what became of it."""

    rung: RungName
    source: str  # llm:MODEL, a decider, cache, rules or hold
    why: Why = Why.ANSWERED
    role: str = ""  # whose prompt, where one of a decider's asks is meant
    retry: int = 0  # how often this model was asked in vain before, about the same
    latency_ms: float = 0.0
    cost_usd: Exact = ZERO
    tokens: int = 0
    retry_at: Utc | None = None  # until when the breaker is open
    errors: int = 0  # in a row, which opened the breaker
    as_of: Utc | None = None  # of the earlier cycle whose decision was taken over
    distance: float | None = None  # between that moment and this one
    age_s: int | None = None  # of the reply or decision that was kept


HELD = Rung(rung="hold", source="hold")


# how a cost is known: by a list of prices, by the settings' assumption (or the worst case of tries whose end nobody
# saw), as a model on this machine takes none, or because another symbol's decision has it
Pricing = Literal["", "assumed", "free", "shared"]


class ModelCall(Dto):
    """One request to a model and what came back, whether or not it was usable."""

    role: str
    model: str
    prompt: PromptRef | None = None
    messages: tuple[dict[str, str], ...] = ()
    raw_reply: str = ""
    error: str = ""
    latency_ms: float = 0.0
    cost_usd: Exact = ZERO
    pricing: Sparse[Pricing] = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: Sparse[int] = 0  # of tokens_in, read from the provider's prompt cache
    thinking_tokens: Sparse[int] = 0  # of tokens_out
    thinking: Sparse[str] = ""  # what came apart from the reply; for people, never parsed
    unmetered: Sparse[int] = 0  # tries whose cost nobody told
    attempts: Texts = ()  # each try that failed or was odd, "model: error -> what was tried then"
    trail: tuple[Rung, ...] = ()  # where more than one rung was tried; the last one counts
    sample: Sparse[int] = 0  # which asking of the same question this is of; only the first decides

    def tried(self, usable: bool = True) -> tuple[Rung, ...]:
        """Return every rung this request tried; `usable`: what came back could be read."""
        *before, last = self.trail or (self._alone(),)
        if not usable and not self.error:
            last = last.replace(why=Why.UNUSABLE_REPLY)
        return (*before, last)

    def _alone(self) -> Rung:
        failed = Why.LATE if self.error == "timeout" else Why.PROVIDER_ERROR
        return Rung.of(
            self, rung="failover" if self.attempts and not self.error else "primary", source=f"llm:{self.model}",
            why=failed if self.error else Why.ANSWERED, tokens=self.tokens_in + self.tokens_out,
        )  # fmt: skip


class ModelUse(Dto):
    """What the calls to one model came to in some time, by how their cost is known."""

    model: str
    pricing: Pricing = ""
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: Exact = ZERO


class ToolCall(Dto):
    """One tool request of a model and the answer it was given."""

    trace_id: str
    tool: str
    parameters: dict[str, str] = {}
    response: str = ""
    error: str = ""  # why it was refused or dropped; the model sees it
    truncated: bool = False
    dropped: bool = False  # this minute's calls of the tool were used up
    late: bool = False  # no answer in time
    flags: Texts = ()  # truncated, clamped:<tool>, dropped:<tool>; for readers
    bytes: int = 0
    latency_ms: float = 0.0


class Answer(Dto):
    """A decision with its provenance: what `quarterdeck decide --json` prints, plus the calls made."""

    decision: Decision
    source: str
    rung: RungName
    model: str = ""
    latency_ms: float = 0.0
    cost_usd: Exact = ZERO
    tokens: int = 0
    errors: Texts = ()
    calls: tuple[ModelCall, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    flags: Texts = ()  # truncated, late:<role>, shrunk, ...; for readers
    trail: tuple[Rung, ...] = ()  # every rung tried, in order; none: older than trails are
    policies: Sparse[tuple[PromptRef, ...]] = ()  # trained ones that had a say
    # what each sample of the same question asked for, the first the one that decides, None where it could not be read;
    # none: it was asked once
    votes: Sparse[tuple[Decision | None, ...]] = ()

    @property
    def is_fallback(self) -> bool:
        """Return whether this came from below the model's own rungs, and may therefore only reduce risk."""
        return self.rung not in ("primary", "failover", "cheap")

    @property
    def is_invalid(self) -> bool:
        """Return whether it fell back although a model had answered."""
        return self.is_fallback and any(call.raw_reply for call in self.calls)

    @property
    def prompts(self) -> tuple[PromptRef, ...]:
        """Return each prompt version that was sent, once, in the order of the calls, and each policy."""
        return tuple(dict.fromkeys((*(call.prompt for call in self.calls if call.prompt), *self.policies)))


def answered(decision: Decision, source: str) -> Answer:
    """Return the answer of a decider that asks no model."""
    return Answer.trusted(decision=decision, source=source, rung="primary", trail=(_alone(source),))


@cache
def _alone(source: str) -> Rung:
    return Rung(rung="primary", source=source)


@lru_cache(maxsize=256)
def hold(symbol: str, comment: str, source: str = "hold") -> Hold:
    """Return the decision to do nothing, saying why."""
    return Hold(symbol=symbol, comment=comment, reasoning=comment, source=source)
