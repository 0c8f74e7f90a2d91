"""Why a cycle ran, and everything it did: the record alone explains a decision."""

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, model_validator

from tasks.core.types.base import ZERO, Dto, Exact, Explained, Sparse, Texts, Utc
from tasks.core.types.decision import Answer
from tasks.core.types.money import HUNDRED
from tasks.core.types.orders import Fill, Order, OrderIntent
from tasks.core.types.portfolio import BY_HAND, AccountState, ClosedTrade, Ledger, Position
from tasks.core.types.question import Reason
from tasks.core.types.snapshot import Memory, News, OrderBookView, RoleInputs, Snapshot, TradeDigest
from tasks.core.types.strategy import FIRST_RULES, Strategy
from tasks.core.types.verdict import Verdict

Trigger = Literal["schedule", "event", "adhoc", "backtest"]


class CycleStatus(Explained):
    """How a cycle ended; `started` is one that has not, or whose process died."""

    STARTED = "started", "The cycle began and has not finished: it is running, or its process died."
    QUIET = "quiet", "Nothing had changed, so no decision was asked for."
    STALE = "stale", "The cycle came too late for its bar, so it held."
    MISSED = "missed", "Nothing ran when this bar closed, so nothing was decided."
    QUARANTINED = "quarantined", "The market data failed validation, so nothing was decided on it."
    HELD = "held", "It was decided to do nothing."
    DENIED = "denied", "The guard refused the decision; nothing was sent."
    PROPOSED = "proposed", "The guard allowed the decision; it waits for a person to approve it."
    DRY_RUN = "dry_run", "The guard allowed the decision; nothing was sent, because this was a dry run."
    EXECUTED = "executed", "Every order of the decision reached the venue."
    FAILED = "failed", "The cycle broke off, or the venue refused an order."


class DataFailure(Dto):
    """One failed expectation on one symbol and timeframe, with at most a few offending rows."""

    symbol: str
    timeframe: str
    expectation: str
    count: int = 0
    rows: Texts = ()  # open times or values of the first offenders


class Other(Dto):
    """A symbol that a decider was shown and not asked about."""

    symbol: str
    position: Position | None = None
    digest: TradeDigest = TradeDigest()


class Inputs(Dto):
    """What a cycle was given besides candles and reasons: with it everything it made can be computed again."""

    strategy: str | Strategy  # its hash; the whole of it in records of before they were kept
    state: AccountState | None = None  # as the decider saw it; None: as the guard did
    position: Position | None = None
    book: OrderBookView | None = None  # None: not recorded, so modelled
    digest: TradeDigest = TradeDigest()
    news: News | None = None
    memory: Memory | None = None
    ledger: Sparse[Ledger | None] = None  # None: records of before
    others: Sparse[tuple[Other, ...]] = ()
    judged_at: Utc | None = None  # the venue's clock at the guard; None: as_of
    known_at: Utc | None = None  # the wall clock when the candles were read

    @model_validator(mode="before")
    @classmethod
    def _first_rules(cls, document: Any) -> Any:
        """Convert a record older than stored strategies: build one, of the first rules, from its `terms`."""
        if not isinstance(document, dict) or "terms" not in document:
            return document
        told = {**document, "strategy": {**document["terms"], "rules": FIRST_RULES}}
        told["memory"] = told.get("memory") or {}
        return {key: value for key, value in told.items() if key != "terms"}


ApprovalPolicy = Literal["never", "entries", "all"]


class Approval(Dto):
    """What a person said of a proposed decision: how much of its size, in percent; 0: it is refused.

    most: that share of what they were shown, in base units; of an entry no more is sent, whatever has room by then.
    """

    who: str
    at: Utc
    share: Exact = Field(HUNDRED, ge=0, le=100)
    most: Exact | None = None


class CycleRecord(Dto):
    """Every stage's input and output of one cycle."""

    cycle_id: str
    strategy: str
    symbol: str
    as_of: Utc
    trigger: Trigger = "schedule"
    decider: str = ""
    status: CycleStatus = CycleStatus.STARTED
    reasons: tuple[Reason, ...] = ()
    failures: tuple[DataFailure, ...] = ()
    snapshot: Snapshot | None = None
    role_inputs: RoleInputs | None = None
    modelled_book: bool = False
    state: AccountState | None = None
    inputs: Inputs | None = None
    decided: Answer | None = None
    verdict: Verdict | None = None
    intents: tuple[OrderIntent, ...] = ()
    orders: tuple[Order, ...] = ()
    fills: tuple[Fill, ...] = ()
    error: str = ""
    approval: Sparse[Approval | None] = None


class Outcome(Dto):
    """What became of the decision that opened a position, attached when the position closes."""

    cycle_id: str
    position_id: str
    symbol: str
    executed: bool = True
    entry_price: Exact
    exit_price: Exact
    pnl: Exact  # quote, after fees
    pnl_pct: Exact  # of the entry notional
    outcome_r: Exact | None = None  # pnl over what its entries risked; None: one had no stop
    fees: Exact
    hold_seconds: int
    closed_at: Utc
    exit_reason: Sparse[str] = ""  # as the position's

    @property
    def trade(self) -> ClosedTrade:
        """Return what the guard looks back on."""
        return ClosedTrade.of(self, by_hand=self.exit_reason == BY_HAND)


class Halt(Dto):
    """A stop of new entries: why, by whom, since when, and when it was lifted."""

    halt_id: int
    reason: str
    who: str
    since: Utc
    flatten: bool = False  # protect closes our positions too
    resumed_at: Utc | None = None


class Lease(Dto):
    """The right to do what only one at a time may do; whoever shows an older token than the database's has lost it."""

    name: str
    holder: str
    token: int


ACCOUNT = "the account"  # whose curve is that of all strategies, where several share it


class EquityPoint(Dto):
    at: Utc
    strategy: str
    equity: Exact
    peak: Exact


class ShadowDecision(Dto):
    """What one decider, the champion or a challenger, answered in one cycle; nothing of a challenger is sent."""

    cycle_id: str
    strategy: str
    decider: str  # champion, or the challenger's name
    symbol: str
    as_of: Utc
    state: AccountState
    decided: Answer
    verdict: Verdict
    intents: tuple[OrderIntent, ...] = ()

    def in_r(self, return_pct: Decimal) -> Decimal | None:
        """Return what it earned, in percent of equity, as R of its orders; None where their risk is unknown."""
        risk_pct = self.verdict.trade_risk_pct
        return return_pct / risk_pct if risk_pct else None if return_pct else ZERO

    def in_place_of(self, champion: CycleRecord) -> CycleRecord:
        """Return the champion's cycle as it would have been with this answer, of which nothing was sent."""
        acted = CycleStatus.DRY_RUN if self.intents else CycleStatus.HELD
        return champion.replace(
            strategy=f"{self.strategy}/{self.decider}", decider=self.decider, state=self.state, decided=self.decided,
            verdict=self.verdict, status=acted if self.verdict.allowed else CycleStatus.DENIED,
            intents=(), orders=(), fills=(), error="",
        )  # fmt: skip


class PaperBookState(Dto):
    """An account on paper: the fill engine's state, and until when the market has passed over it."""

    state: str
    equity: Exact
    until: Utc
