"""What the guard says: allowed or not, the decision as clamped, every code that fired, the inputs of each check."""

from decimal import Decimal
from enum import StrEnum

from pydantic import Field

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


class Check(Dto):
    """One rule that looked at the decision: what it compared, and whether it fired."""

    code: Code
    fired: bool
    inputs: dict[str, str] = {}


class Verdict(Dto):
    """The guard's answer. With `allowed`, `decision` is what may be carried out; prices and quantity are final."""

    allowed: bool
    decision: Decision
    codes: tuple[Code, ...] = ()
    checks: tuple[Check, ...] = ()
    quantity: Exact = Field(default=Decimal(0), description="base, floored to the step")
    price: Exact | None = Field(default=None, description="limit price, or the price the size was computed at")
    stop: Exact | None = None
    target: Exact | None = None
    trade_risk_pct: Exact = Field(default=Decimal(0), description="risk of this trade at its stop, percent of equity")
    total_risk_pct: Exact = Field(default=Decimal(0), description="risk of everything open with it, percent of equity")
