"""What the guard says: allowed or not, the decision as clamped, every code that fired, the inputs of each check."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from operator import itemgetter
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from tasks.core.types.base import Dto, Exact
from tasks.core.types.decision import Decision


class Code(StrEnum):
    """One member per guard rule; `core.trading.guard` says what each means."""

    # allowed, but less than asked for
    SIZE_CLAMPED = "SIZE_CLAMPED"
    TRADE_RISK_CLAMPED = "TRADE_RISK_CLAMPED"
    TOTAL_RISK_CLAMPED = "TOTAL_RISK_CLAMPED"
    GROSS_CLAMPED = "GROSS_CLAMPED"
    NET_CLAMPED = "NET_CLAMPED"
    AVAILABLE_CLAMPED = "AVAILABLE_CLAMPED"
    SYMBOL_CLAMPED = "SYMBOL_CLAMPED"
    CORRELATION_CLAMPED = "CORRELATION_CLAMPED"
    KELLY_CLAMPED = "KELLY_CLAMPED"
    SLIPPAGE_CLAMPED = "SLIPPAGE_CLAMPED"
    VOLATILITY_CLAMPED = "VOLATILITY_CLAMPED"
    COOL_OFF_CLAMPED = "COOL_OFF_CLAMPED"
    # allowed, and the whole position closed because the rest could not be sold later
    REMAINDER_CLOSED = "REMAINDER_CLOSED"
    # denied
    HALTED = "HALTED"
    STALE = "STALE"
    SYMBOL_NOT_ALLOWED = "SYMBOL_NOT_ALLOWED"
    SYMBOL_MISMATCH = "SYMBOL_MISMATCH"
    DATA_MISSING = "DATA_MISSING"
    ACTION_NOT_ALLOWED = "ACTION_NOT_ALLOWED"
    SHORTING_NOT_ALLOWED = "SHORTING_NOT_ALLOWED"
    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    POSITION_EXISTS = "POSITION_EXISTS"
    NO_POSITION = "NO_POSITION"
    MAX_POSITIONS = "MAX_POSITIONS"
    STOP_WRONG_SIDE = "STOP_WRONG_SIDE"
    STOP_WOULD_LOOSEN = "STOP_WOULD_LOOSEN"
    STOP_TOO_CLOSE = "STOP_TOO_CLOSE"
    STOP_TOO_FAR = "STOP_TOO_FAR"
    TARGET_WRONG_SIDE = "TARGET_WRONG_SIDE"
    REWARD_RISK_TOO_LOW = "REWARD_RISK_TOO_LOW"
    TOTAL_RISK_EXCEEDED = "TOTAL_RISK_EXCEEDED"
    GROSS_EXCEEDED = "GROSS_EXCEEDED"
    BELOW_MIN_QUANTITY = "BELOW_MIN_QUANTITY"
    BELOW_MIN_NOTIONAL = "BELOW_MIN_NOTIONAL"
    OPENS_PER_HOUR = "OPENS_PER_HOUR"
    OPENS_PER_DAY = "OPENS_PER_DAY"
    REENTRY_COOLDOWN = "REENTRY_COOLDOWN"
    DAILY_LOSS = "DAILY_LOSS"
    DRAWDOWN = "DRAWDOWN"
    PAUSED = "PAUSED"
    FALLBACK_MAY_NOT_OPEN = "FALLBACK_MAY_NOT_OPEN"
    COOL_OFF = "COOL_OFF"
    REJECTION_STREAK = "REJECTION_STREAK"
    LIQUIDATED = "LIQUIDATED"
    LIQUIDATION_NEAR = "LIQUIDATION_NEAR"
    STALE_PRICE = "STALE_PRICE"
    VENUE_NOT_ALLOWED = "VENUE_NOT_ALLOWED"
    STACKED = "STACKED"
    CHASING = "CHASING"
    OFFSET_TOO_FAR = "OFFSET_TOO_FAR"
    SLIPPAGE_TOO_HIGH = "SLIPPAGE_TOO_HIGH"


_SHOWN = Context(prec=12, rounding=ROUND_HALF_EVEN, traps=[])


class Check(tuple[Code, bool, Mapping[str, object]]):
    """One rule that looked at the decision: what it compared, and whether it fired.

    A tuple, because a decision meets some fifty of them; numbers become text when they are read, which is rarely.
    """

    __slots__ = ()

    def __new__(cls, code: Code, fired: bool, /, **inputs: object) -> "Check":
        return tuple.__new__(cls, (code, fired, inputs))

    def __getnewargs_ex__(self) -> tuple[tuple[Code, bool], Mapping[str, object]]:  # else no copy, no pickle
        return self[:2], self[2]

    code = property(itemgetter(0))
    fired = property(itemgetter(1))

    @property
    def inputs(self) -> dict[str, str]:
        """Return what was compared as text, computed numbers cut to 12 digits."""
        return {name: _text(value) for name, value in self[2].items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Check) and self[:2] == other[:2] and self.inputs == other.inputs

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        text = str(value)
        return text if len(text) <= _SHOWN.prec and "E" not in text else format(_SHOWN.plus(value), ".12g")
    return ",".join(value) if isinstance(value, tuple) else str(value)


Stored = tuple[Code, bool, dict[str, str]]
_STORED = TypeAdapter(tuple[Stored, ...])


def _checks(given: object) -> tuple[Check, ...]:
    if isinstance(given, tuple) and given and isinstance(given[0], Check):
        return given
    if isinstance(given, list) and given and isinstance(given[0], dict):  # as records before the tuples have them
        given = [(check["code"], check["fired"], check.get("inputs", {})) for check in given]
    return tuple(Check(code, fired, **inputs) for code, fired, inputs in _STORED.validate_python(given))


def _stored(checks: tuple[Check, ...]) -> list[Stored]:
    return [(c.code, c.fired, c.inputs) for c in checks]


Checks = Annotated[tuple[Check, ...], PlainValidator(_checks), PlainSerializer(_stored)]


class Verdict(Dto):
    """The guard's answer. With `allowed`, `decision` is what may be carried out; prices and quantity are final."""

    allowed: bool
    decision: Decision
    codes: tuple[Code, ...] = ()
    checks: Checks = ()
    quantity: Exact = Decimal(0)  # base, floored to the step
    price: Exact | None = None  # limit price, or the price the size was computed at
    stop: Exact | None = None
    target: Exact | None = None
    trade_risk_pct: Exact = Decimal(0)  # risk of this trade at its stop, percent of equity
    total_risk_pct: Exact = Decimal(0)  # risk of everything open with it, percent of equity
