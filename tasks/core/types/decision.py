"""The action space: one class per action, a discriminated union, and the envelope that says where it came from.

These are the decisions the code works with. What a model must send is the flat wire schema in
`core.decision.actions`, generated from these classes.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, field_validator

from tasks.core.types.base import Dto, Exact

MAX_COMMENT_WORDS = 12


class Entry(Dto):
    """How to get in: at market, or a limit `offset_bps` better than the last price."""

    type: Literal["market", "limit"] = "market"
    offset_bps: Exact = Field(default=Decimal(0), ge=0, le=1000, description="bps below (long) or above (short) last")


class StopTarget(Dto):
    """Where MOVE_STOP puts the stop: the average entry price, or entry plus `x` ATR (minus: negative x)."""

    kind: Literal["breakeven", "atr"]
    x: Exact = Field(default=Decimal(0), ge=-20, le=20, description="ATR(14, 15m) from entry, in the trade's favour")


class _Action(Dto):
    symbol: str = Field(min_length=1, max_length=40, description="ccxt unified symbol")
    confidence: Exact = Field(default=Decimal(0), ge=0, le=1)
    comment: str = Field(default="", description=f"at most {MAX_COMMENT_WORDS} words")
    reasoning: str = Field(default="", description="why, for people; never parsed")
    key_factors: tuple[str, ...] = Field(default=(), description="what weighed most, for people")
    risk_assessment: str = Field(default="", description="what could go wrong, for people")
    source: str = Field(default="", description="llm:model, cache, rules, hold, recorded")

    @field_validator("comment")
    @classmethod
    def _clip_comment(cls, comment: str) -> str:
        return " ".join(comment.split()[:MAX_COMMENT_WORDS])


class _Enter(_Action):
    size_pct: Exact = Field(gt=0, le=1000, description="notional as a share of equity, percent")
    entry: Entry = Entry()
    stop_atr: Exact = Field(gt=0, le=20, description="stop distance in ATR(14) of 15m")
    tp_atr: Exact = Field(gt=0, le=100, description="target distance in ATR(14) of 15m")
    followups: tuple[str, ...] = Field(default=(), max_length=4, description='e.g. "MOVE_STOP: breakeven on +1.0R"')


class Hold(_Action):
    action: Literal["HOLD"] = "HOLD"


class OpenLong(_Enter):
    action: Literal["OPEN_LONG"] = "OPEN_LONG"


class OpenShort(_Enter):
    action: Literal["OPEN_SHORT"] = "OPEN_SHORT"


class Add(_Enter):
    action: Literal["ADD"] = "ADD"


class Trim(_Action):
    action: Literal["TRIM"] = "TRIM"
    size_pct: Exact = Field(gt=0, le=100, description="share of the position, percent")


class ClosePartial(_Action):
    action: Literal["CLOSE_PARTIAL"] = "CLOSE_PARTIAL"
    size_pct: Exact = Field(gt=0, le=100, description="share of the position, percent")


class CloseAll(_Action):
    action: Literal["CLOSE_ALL"] = "CLOSE_ALL"


class MoveStop(_Action):
    action: Literal["MOVE_STOP"] = "MOVE_STOP"
    to: StopTarget


class SetTarget(_Action):
    action: Literal["SET_TP"] = "SET_TP"
    tp_atr: Exact = Field(gt=0, le=100, description="target distance in ATR(14) of 15m from entry")


class CancelTarget(_Action):
    action: Literal["CANCEL_TP"] = "CANCEL_TP"


class Pause(_Action):
    action: Literal["PAUSE"] = "PAUSE"
    minutes: Exact = Field(gt=0, le=10_080, description="no new entries for this long")


Decision = Annotated[
    Hold | OpenLong | OpenShort | Add | Trim | ClosePartial | CloseAll | MoveStop | SetTarget | CancelTarget | Pause,
    Field(discriminator="action"),
]
DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)
ACTIONS: tuple[str, ...] = (
    "HOLD", "OPEN_LONG", "OPEN_SHORT", "ADD", "TRIM", "CLOSE_PARTIAL",
    "CLOSE_ALL", "MOVE_STOP", "SET_TP", "CANCEL_TP", "PAUSE",
)  # fmt: skip
ENTRIES = (OpenLong, OpenShort, Add)
MAY_AS_FALLBACK = frozenset({"HOLD", "PAUSE", "TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP"})


class PromptRef(Dto):
    """Which prompt was sent: role, version (`v001`), the sha256 of its file, and the sampling that file asks for."""

    name: str
    version: str
    sha256: str
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 1200


class ModelCall(Dto):
    """One request to a model and what came back, whether or not it was usable."""

    role: str
    model: str
    prompt: PromptRef | None = None
    messages: tuple[dict[str, str], ...] = ()
    raw_reply: str = ""
    error: str = ""
    latency_ms: float = 0.0
    cost_usd: Exact = Decimal(0)
    tokens_in: int = 0
    tokens_out: int = 0
    attempts: tuple[str, ...] = Field(default=(), description='each failed one before it, "model: error"')


class ToolCall(Dto):
    """One tool request of a model and the answer it was given."""

    trace_id: str
    tool: str
    parameters: dict[str, str] = {}
    response: str = ""
    error: str = Field(default="", description="why it was refused or dropped; the model sees it")
    truncated: bool = False
    flags: tuple[str, ...] = Field(default=(), description="truncated, clamped:<tool>, dropped:<tool>")
    bytes: int = 0
    latency_ms: float = 0.0


class Answer(Dto):
    """A decision with its provenance: what `quarterdeck decide --json` prints, plus the calls made."""

    decision: Decision
    source: str
    rung: str = Field(description="primary, failover, cheap, cache, rules or hold")
    model: str = ""
    latency_ms: float = 0.0
    cost_usd: Exact = Decimal(0)
    tokens: int = 0
    errors: tuple[str, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    flags: tuple[str, ...] = Field(default=(), description="truncated, late:<role>, no_consensus, shrunk, ...")

    @property
    def is_fallback(self) -> bool:
        """Return whether this came from below the model's own rungs, and may therefore only reduce risk."""
        return self.rung not in ("primary", "failover", "cheap")


def hold(symbol: str, comment: str, source: str = "hold") -> Hold:
    """Return the decision to do nothing, saying why."""
    return Hold(symbol=symbol, comment=comment, reasoning=comment, source=source)
