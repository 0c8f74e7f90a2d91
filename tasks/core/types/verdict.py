"""What the guard says: allowed or not, the decision as clamped, every code that fired, the inputs of each check."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Annotated, NamedTuple

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from tasks.core.types.base import ZERO, Dto, Exact, Explained, Sparse
from tasks.core.types.decision import Decision


class Code(Explained):
    """One member per guard rule; `core.trading.guard` says what each means."""

    # allowed, but less than asked for
    SIZE_CLAMPED = "SIZE_CLAMPED", "the size was cut to what may be held"
    TRADE_RISK_CLAMPED = "TRADE_RISK_CLAMPED", "the size was cut to the risk one trade may take"
    TOTAL_RISK_CLAMPED = "TOTAL_RISK_CLAMPED", "the size was cut to the risk that all positions may take together"
    GROSS_CLAMPED = "GROSS_CLAMPED", "the size was cut to the limit on all positions added up"
    NET_CLAMPED = "NET_CLAMPED", "the size was cut to the limit on longs less shorts"
    AVAILABLE_CLAMPED = "AVAILABLE_CLAMPED", "the size was cut to the funds that are free"
    SYMBOL_CLAMPED = "SYMBOL_CLAMPED", "the size was cut to what one symbol may take"
    CORRELATION_CLAMPED = "CORRELATION_CLAMPED", "the size was cut: what moves alike counts as one risk"
    KELLY_CLAMPED = "KELLY_CLAMPED", "the size was cut to what this decider's results so far justify"
    SLIPPAGE_CLAMPED = "SLIPPAGE_CLAMPED", "the size was cut to what the market takes without moving too far"
    VOLATILITY_CLAMPED = "VOLATILITY_CLAMPED", "the size was cut because the market moves more than usual"
    COOL_OFF_CLAMPED = "COOL_OFF_CLAMPED", "the size was halved after losing trades in a short time"
    CONFIDENCE_CLAMPED = "CONFIDENCE_CLAMPED", "the size was cut to the share that the decision is confident of"
    REDUCED_CLAMPED = "REDUCED_CLAMPED", "the size was halved for the day, as was decided about the account"
    # allowed, and the whole position closed because the rest could not be sold later
    REMAINDER_CLOSED = "REMAINDER_CLOSED", "the whole position is closed, because the rest would be too small to sell"
    # denied
    HALTED = "HALTED", "trading is halted"
    STALE = "STALE", "the decision came too late for its bar"
    SYMBOL_NOT_ALLOWED = "SYMBOL_NOT_ALLOWED", "this symbol may not be entered"
    SYMBOL_MISMATCH = "SYMBOL_MISMATCH", "the decision is about another symbol than the one asked about"
    DATA_MISSING = "DATA_MISSING", "a number the guard needs is missing"
    ACTION_NOT_ALLOWED = "ACTION_NOT_ALLOWED", "the action was not among those offered"
    SHORTING_NOT_ALLOWED = "SHORTING_NOT_ALLOWED", "the venue does not let one short this instrument"
    LOW_CONFIDENCE = "LOW_CONFIDENCE", "confidence is below what an entry needs"
    LARGEST_ORDER_CLAMPED = "LARGEST_ORDER_CLAMPED", "reduced to the largest order the venue takes"
    FOREIGN_POSITION = "FOREIGN_POSITION", "the venue holds a position in this contract that is not ours"
    POSITION_EXISTS = "POSITION_EXISTS", "there is a position or a working entry already"
    NO_POSITION = "NO_POSITION", "there is no position to act on"
    MAX_POSITIONS = "MAX_POSITIONS", "as many positions are open as may be"
    STOP_WRONG_SIDE = "STOP_WRONG_SIDE", "the stop is on the wrong side of the entry"
    STOP_WOULD_LOOSEN = "STOP_WOULD_LOOSEN", "the stop may only tighten"
    STOP_TOO_CLOSE = "STOP_TOO_CLOSE", "the stop is so close that noise would hit it"
    STOP_TOO_FAR = "STOP_TOO_FAR", "the stop is too far away"
    TARGET_WRONG_SIDE = "TARGET_WRONG_SIDE", "the target is on the wrong side of the entry"
    REWARD_RISK_TOO_LOW = "REWARD_RISK_TOO_LOW", "the reward is too small for the risk"
    TOTAL_RISK_EXCEEDED = "TOTAL_RISK_EXCEEDED", "the risk of all positions is used up"
    GROSS_EXCEEDED = "GROSS_EXCEEDED", "the limit on all positions added up is used up"
    BELOW_MIN_QUANTITY = "BELOW_MIN_QUANTITY", "what is left is below the venue's smallest quantity"
    BELOW_MIN_NOTIONAL = "BELOW_MIN_NOTIONAL", "what is left is below the venue's smallest order value"
    OPENS_PER_HOUR = "OPENS_PER_HOUR", "as many entries were sent this hour as may be"
    OPENS_PER_DAY = "OPENS_PER_DAY", "as many entries were sent in 24 hours as may be"
    REENTRY_COOLDOWN = "REENTRY_COOLDOWN", "the last exit from this symbol is too recent"
    DAILY_LOSS = "DAILY_LOSS", "the day's loss has reached its limit"
    DRAWDOWN = "DRAWDOWN", "the drawdown from the peak has reached its limit"
    PAUSED = "PAUSED", "entries are paused"
    FALLBACK_MAY_NOT_OPEN = "FALLBACK_MAY_NOT_OPEN", "a fallback may only reduce risk"
    COOL_OFF = "COOL_OFF", "too many trades were lost in a short time"
    REJECTION_STREAK = "REJECTION_STREAK", "the venue refused several entries in a row"
    LIQUIDATED = "LIQUIDATED", "the last liquidation is too recent"
    LIQUIDATION_NEAR = "LIQUIDATION_NEAR", "the stop is too near the price of liquidation"
    STALE_PRICE = "STALE_PRICE", "the last price is too old"
    VENUE_NOT_ALLOWED = "VENUE_NOT_ALLOWED", "this venue may not be entered on"
    STACKED = "STACKED", "what is held in this direction does not earn enough to add to it"
    CHASING = "CHASING", "the price has run away already"
    OFFSET_TOO_FAR = "OFFSET_TOO_FAR", "the limit price is too far from the market for the spread"
    SLIPPAGE_TOO_HIGH = "SLIPPAGE_TOO_HIGH", "the order book would fill it at too bad a price"
    NOT_APPROVED = "NOT_APPROVED", "a person refused it, or nobody answered in time"


_SHOWN = Context(prec=12, rounding=ROUND_HALF_EVEN, traps=[])


class Check(NamedTuple):
    """One rule that looked at the decision: what it compared, and whether it fired.

    A tuple, because a decision meets some fifty of them; numbers become text when they are read, which is rarely.
    """

    code: Code
    fired: bool
    compared: Mapping[str, object]

    @property
    def inputs(self) -> dict[str, str]:
        """Return what was compared as text, computed numbers cut to 12 digits."""
        return {name: _text(value) for name, value in self.compared.items()}


def check(code: Code, fired: bool, /, **compared: object) -> Check:
    """Return what a rule has found."""
    return Check(code, fired, compared)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        text = str(value)
        return text if len(text) <= _SHOWN.prec and "E" not in text else format(_SHOWN.plus(value), ".12g")
    return ",".join(value) if isinstance(value, tuple) else str(value)


Stored = tuple[Code, bool, dict[str, str]]
_STORED = TypeAdapter(tuple[Stored, ...])


def _checks(checks: object) -> tuple[Check, ...]:
    if isinstance(checks, tuple) and checks and isinstance(checks[0], Check):
        return checks
    if isinstance(checks, list) and checks and isinstance(checks[0], dict):  # as records before the tuples have them
        checks = [(check["code"], check["fired"], check.get("inputs", {})) for check in checks]
    return tuple(Check(*stored) for stored in _STORED.validate_python(checks))


def _stored(checks: tuple[Check, ...]) -> list[Stored]:
    return [(c.code, c.fired, c.inputs) for c in checks]


Checks = Annotated[tuple[Check, ...], PlainValidator(_checks), PlainSerializer(_stored)]


class RejectedFollowup(Dto):
    """A follow-up nobody will carry out, and why."""

    text: str
    reason: str


class Verdict(Dto):
    """The guard's answer. With `allowed`, `decision` is what may be carried out; prices and quantity are final."""

    allowed: bool
    decision: Decision
    codes: tuple[Code, ...] = ()
    checks: Checks = ()
    quantity: Exact = ZERO  # base, floored to the step
    price: Exact | None = None  # limit price, or the price the size was computed at
    stop: Exact | None = None
    target: Exact | None = None
    trade_risk_pct: Exact = ZERO  # risk of this trade at its stop, percent of equity
    total_risk_pct: Exact = ZERO  # risk of everything open with it, percent of equity
    unread: Sparse[tuple[RejectedFollowup, ...]] = ()  # of its follow-ups
