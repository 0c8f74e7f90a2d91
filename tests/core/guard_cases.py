"""Cases for the guard's tests: BTC at 100, ATR 2, equity 10,000, nothing open; every argument moves one thing.

A plain entry: stop 98, target 104, 10 units. Costs are 5.5 + 0.5 bps in and out, both at the entry's 100 for a long:
one unit loses 2 + 0.12 = 2.12 at its stop.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

from instrument_cases import linear

from tasks.core.trading.guard import guard
from tasks.core.types.decision import ACTIONS, Add, Decision, MoveStop, OpenLong, OpenShort, StopTarget
from tasks.core.types.limits import Limits
from tasks.core.types.portfolio import AccountState, ClosedTrade, HeldPosition, PendingEntry
from tasks.core.types.snapshot import (
    Confluence,
    Constraints,
    OrderBookView,
    RiskView,
    Snapshot,
    TimeframeView,
    TradeDigest,
)
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Verdict

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATE, STEP = NOON + timedelta(seconds=390), timedelta(seconds=1)
GRID = linear(min_quantity=D("0.001"))


def ago(**span: float) -> datetime:
    return NOON - timedelta(**span)


def seen(
    pair: str = BTC,
    close: float | None = 100.0,
    atr: float | None = 2.0,
    offered: tuple[str, ...] = ACTIONS,
    mode: str = "normal",
    daily: float | None = None,
    score: float | None = None,
    told: tuple[float, float] = (1.0, 5.0),
    stack: str | None = "50>20>200",
    votes: int = 0,
    spread: float | None = 50.0,
    slippage: float | None = 5.0,
    reasons: tuple[str, ...] = (),
    **view: object,
) -> Snapshot:
    """A market without order, in the middle of its range, with a wide book; `view`: more of 15m."""
    return Snapshot(
        pair=pair,
        as_of=NOON,
        reason_for_call=reasons,
        timeframes={
            "5m": TimeframeView(close=close),
            "15m": TimeframeView(**{"atr": atr, "rsi": 50.0, "price_z20": 0.0, **view}),
            "1h": TimeframeView(ma_stack=stack),
        },
        orderbook=OrderBookView(spread_bps=spread, slippage_bps_for_size=slippage),
        confluence=Confluence(score=abs(votes), direction=(votes > 0) - (votes < 0)),
        risk=RiskView(risk_mode=mode, daily_pnl_pct=daily),
        constraints=Constraints(max_trade_risk_pct=told[0], max_total_risk_pct=told[1], allowed_actions=offered),
        digest=TradeDigest(recent_performance_score=score),
    )


def asked(kind: type[OpenLong] | type[OpenShort] | type[Add] = OpenLong, **changed: object) -> Decision:
    plain = {"symbol": BTC, "confidence": D("0.7"), "size_pct": D(10), "stop_atr": D(1), "tp_atr": D(2)}
    return kind(**{**plain, **changed})


def account(**changed: object) -> AccountState:
    return AccountState(**{"instrument": GRID, **changed})


def holding(**changed: object) -> AccountState:
    """10 BTC long from 100, stop at 99: 11.2 at risk with costs, 0.112 % of equity."""
    return account(positions=(position(**changed),))


def position(**changed: object) -> HeldPosition:
    plain = {"symbol": BTC, "side": "long", "quantity": D(10), "avg_price": D(100), "stop": D(99), "target": D(110)}
    return HeldPosition(**{**plain, **changed})


def pending(**changed: object) -> PendingEntry:
    plain = {"symbol": ETH, "side": "long", "quantity": D(10), "price": D(100), "stop": D(99)}
    return PendingEntry(**{**plain, **changed})


def closed(**changed: object) -> ClosedTrade:
    return ClosedTrade(**{"closed_at": ago(hours=2), "pnl": D(0), "symbol": BTC, **changed})


def beside(correlation, **changed):
    """A position in another symbol, and how their returns go together."""
    return account(positions=(position(**changed),), correlations={changed["symbol"]: correlation})


def lost(**span):
    """Two trades lost in ETH, the first `span` ago."""
    losses = (
        closed(closed_at=ago(minutes=1), pnl=D(-1), symbol=ETH),
        closed(closed_at=ago(**span), pnl=D(-1), symbol=ETH),
    )
    return account(closed_trades=losses)


def grid(**changed):
    return account(instrument=GRID.model_copy(update=changed))


def move(kind="breakeven", x=0):
    return MoveStop(symbol=BTC, to=StopTarget(kind=kind, x=D(x)))


def many(n, **span):
    return account(opens=tuple(ago(**span) for _ in range(n)))


def five(n):
    return account(positions=tuple(position(symbol=f"X{i}", quantity=D("0.1")) for i in range(n)))


def judge(
    decision: Decision | None = None,
    state: AccountState | None = None,
    snapshot: Snapshot | None = None,
    limits: dict[str, object] | None = None,
    symbols: tuple[str, ...] = (),
    **options: object,
) -> Verdict:
    limits = {"target_atr_pct": D(5), **(limits or {})}  # an ATR of 2 % is nothing out of the ordinary here
    strategy = Strategy(limits=Limits(**limits), symbols=symbols)
    return guard.judge(decision or asked(), snapshot or seen(), state or account(), strategy, **options)
