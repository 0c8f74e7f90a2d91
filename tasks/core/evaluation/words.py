"""What a status and a guard code mean, in one sentence each, for the pages people read."""

from tasks.core.types.record import CycleStatus
from tasks.core.types.verdict import Code

STATUSES: dict[CycleStatus, str] = {
    CycleStatus.STARTED: "The cycle began and has not finished: it is running, or its process died.",
    CycleStatus.QUIET: "Nothing had changed, so no decision was asked for.",
    CycleStatus.STALE: "The cycle came too late for its bar, so it held.",
    CycleStatus.QUARANTINED: "The market data failed validation, so nothing was decided on it.",
    CycleStatus.HELD: "It was decided to do nothing.",
    CycleStatus.DENIED: "The guard refused the decision; nothing was sent.",
    CycleStatus.DRY_RUN: "The guard allowed the decision; nothing was sent, because this was a dry run.",
    CycleStatus.EXECUTED: "Every order of the decision reached the venue.",
    CycleStatus.FAILED: "The cycle broke off, or the venue refused an order.",
}

CODES: dict[Code, str] = {
    Code.SIZE_CLAMPED: "the size was cut to what may be held",
    Code.TRADE_RISK_CLAMPED: "the size was cut to the risk one trade may take",
    Code.TOTAL_RISK_CLAMPED: "the size was cut to the risk that all positions may take together",
    Code.GROSS_CLAMPED: "the size was cut to the limit on all positions added up",
    Code.NET_CLAMPED: "the size was cut to the limit on longs less shorts",
    Code.AVAILABLE_CLAMPED: "the size was cut to the funds that are free",
    Code.REMAINDER_CLOSED: "the whole position is closed, because the rest would be too small to sell",
    Code.HALTED: "trading is halted",
    Code.STALE: "the decision came too late for its bar",
    Code.SYMBOL_NOT_ALLOWED: "this symbol may not be entered",
    Code.SYMBOL_MISMATCH: "the decision is about another symbol than the one asked about",
    Code.DATA_MISSING: "a number the guard needs is missing",
    Code.ACTION_NOT_ALLOWED: "the action was not among those offered",
    Code.SHORTING_NOT_ALLOWED: "the venue does not let one short this instrument",
    Code.LOW_CONFIDENCE: "confidence is below what an entry needs",
    Code.POSITION_EXISTS: "there is a position or a working entry already",
    Code.NO_POSITION: "there is no position to act on",
    Code.MAX_POSITIONS: "as many positions are open as may be",
    Code.STOP_WRONG_SIDE: "the stop is on the wrong side of the entry",
    Code.STOP_WOULD_LOOSEN: "the stop may only tighten",
    Code.STOP_TOO_CLOSE: "the stop is so close that noise would hit it",
    Code.STOP_TOO_FAR: "the stop is too far away",
    Code.TARGET_WRONG_SIDE: "the target is on the wrong side of the entry",
    Code.REWARD_RISK_TOO_LOW: "the reward is too small for the risk",
    Code.TOTAL_RISK_EXCEEDED: "the risk of all positions is used up",
    Code.GROSS_EXCEEDED: "the limit on all positions added up is used up",
    Code.BELOW_MIN_QUANTITY: "what is left is below the venue's smallest quantity",
    Code.BELOW_MIN_NOTIONAL: "what is left is below the venue's smallest order value",
    Code.OPENS_PER_HOUR: "as many entries were sent this hour as may be",
    Code.OPENS_PER_DAY: "as many entries were sent in 24 hours as may be",
    Code.REENTRY_COOLDOWN: "the last exit from this symbol is too recent",
    Code.DAILY_LOSS: "the day's loss has reached its limit",
    Code.DRAWDOWN: "the drawdown from the peak has reached its limit",
    Code.PAUSED: "entries are paused",
    Code.FALLBACK_MAY_NOT_OPEN: "a fallback may only reduce risk",
}
