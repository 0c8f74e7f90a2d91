"""One of everything the store keeps, to vary in tests."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tasks.core.types.decision import Answer, Entry, Hold, ModelCall, OpenLong, PromptRef
from tasks.core.types.orders import Fill, Order, OrderIntent, OrderStatus, OrderType
from tasks.core.types.portfolio import Position
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord, CycleStatus, Outcome
from tasks.core.types.snapshot import Constraints, Snapshot, TimeframeView
from tasks.core.types.verdict import Code, Verdict, check

AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BTC = "BTC/USDT:USDT"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def a_cycle(cycle_id: str = "c1", **fields: object) -> CycleRecord:
    return CycleRecord(**{"cycle_id": cycle_id, "strategy": "default", "symbol": BTC, "as_of": AT, **fields})


def a_decision(comment: str = "trend", calls: int = 2) -> Answer:
    opening = OpenLong(symbol=BTC, confidence=Decimal("0.70"), comment=comment, size_pct=Decimal(20), entry=Entry(),
                       stop_atr=Decimal("1.5"), tp_atr=Decimal("3"))  # fmt: skip
    call = ModelCall(
        role="trader", model="openai/gpt-4o", prompt=PromptRef(name="trader", version="v001", sha256="ab" * 32),
        messages=({"role": "system", "content": "You trade."}, {"role": "user", "content": "x" * 3000}),
        raw_reply='{"action":"OPEN_LONG"}', latency_ms=812.25, cost_usd=Decimal("0.001230"),
        tokens_in=900, tokens_out=80,
    )  # fmt: skip
    return Answer(decision=opening, source="llm:openai/gpt-4o", rung="primary", model="openai/gpt-4o",
                   cost_usd=Decimal("0.002460"), tokens=1960, calls=(call,) * calls)  # fmt: skip


def a_snapshot() -> Snapshot:
    views = {
        name: TimeframeView(close=100.125, rsi=55.5, last3=((1, 2, 3, 4, 5.5),))
        for name in ("5m", "15m", "1h", "4h", "1d")
    }
    constraints = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD", "OPEN_LONG"))
    return Snapshot(pair=BTC, as_of=AT, reason_for_call=("TrendFlip(1h)",), timeframes=views, constraints=constraints)


def a_verdict() -> Verdict:
    fired = check(Code.SIZE_CLAMPED, True, **{"size_pct": "20", "max": "10"})
    return Verdict(allowed=True, decision=a_decision().decision, codes=(Code.SIZE_CLAMPED,), checks=(fired,),
                   quantity=Decimal("0.012"), price=Decimal("65000.10"), stop=Decimal("64000"), target=Decimal("67000"),
                   trade_risk_pct=Decimal("0.12"), total_risk_pct=Decimal("0.12"))  # fmt: skip


def a_full_cycle(cycle_id: str = "c1", **fields: object) -> CycleRecord:
    whole = {"status": CycleStatus.EXECUTED, "reasons": (a_reason(),), "snapshot": a_snapshot(),
             "decided": a_decision(), "verdict": a_verdict(), "intents": (an_intent(),),
             "orders": (an_order(),), "fills": (a_fill(),)}  # fmt: skip
    return a_cycle(cycle_id, **(whole | fields))


def a_hold() -> Answer:
    return Answer(decision=Hold(symbol=BTC, comment="nothing"), source="hold", rung="hold")


def a_reason(number: int = 1, **fields: object) -> Reason:
    values = {"rule": "TrendFlip", "symbol": BTC, "timeframe": "1h", "as_of": AT, "fingerprint": f"f{number}", **fields}
    return Reason(**values)


def an_intent(client_order_id: str = "qd-1", **fields: object) -> OrderIntent:
    values = {"client_order_id": client_order_id, "symbol": BTC, "side": "buy", "type": OrderType.MARKET,
              "quantity": Decimal("0.0120"), "stop": Decimal("64000.1"), "target": Decimal("67000")}  # fmt: skip
    return OrderIntent(**(values | fields))


def an_order(client_order_id: str = "qd-1", **fields: object) -> Order:
    values = {"client_order_id": client_order_id, "venue_order_id": "v1", "symbol": BTC, "side": "buy",
              "type": "market", "status": OrderStatus.OPEN, "quantity": Decimal("0.012"), "created_at": AT,
              "updated_at": AT}  # fmt: skip
    return Order(**(values | fields))


def a_fill(fill_id: str = "x1", **fields: object) -> Fill:
    values = {"fill_id": fill_id, "venue_order_id": "v1", "client_order_id": "qd-1", "symbol": BTC, "side": "buy",
              "quantity": Decimal("0.012"), "price": Decimal("65000.123456789012345678"),
              "fee": Decimal("0.429"), "at": AT}  # fmt: skip
    return Fill(**(values | fields))


def a_position(position_id: str = "p1", **fields: object) -> Position:
    values = {"position_id": position_id, "strategy": "default", "cycle_id": "c1", "symbol": BTC, "side": "long",
              "quantity": Decimal("0.012"), "entry_quantity": Decimal("0.012"), "avg_price": Decimal("65000.1"),
              "initial_stop": Decimal("64000"), "stop": Decimal("64000"), "followups": ("TRIM 30% at +1.5R",),
              "opened_at": AT, "risk": Decimal("12.0012")}  # fmt: skip
    return Position(**(values | fields))


def an_outcome(position_id: str = "p1", **fields: object) -> Outcome:
    values = {"cycle_id": "c1", "position_id": position_id, "symbol": BTC, "entry_price": Decimal("65000.1"),
              "exit_price": Decimal("66000"), "pnl": Decimal("11.57"), "pnl_pct": Decimal("1.48"),
              "fees": Decimal("0.43"), "outcome_r": Decimal("0.96"), "hold_seconds": 3600,
              "closed_at": AT + minutes(60)}  # fmt: skip
    return Outcome(**(values | fields))
