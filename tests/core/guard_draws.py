"""What `guard_fuzz` draws: decisions, markets, accounts and limits, calm or as bad as their types allow."""

from datetime import datetime, timedelta
from decimal import Decimal
from random import Random

from guard_cases import BTC, ETH, NOON
from instrument_cases import linear

from tasks.core.types.decision import (
    ACTIONS,
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    Decision,
    Entry,
    Hold,
    MoveStop,
    OpenLong,
    OpenShort,
    Pause,
    SetTarget,
    StopTarget,
    Trim,
)
from tasks.core.types.limits import Limits, SymbolLimits
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

SOL = "SOL/USDT:USDT"
SYMBOLS = (BTC, ETH, SOL)
ENTRIES = (OpenLong, OpenShort, Add)
ODD = (None, 0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300)


def _amount(rng: Random, low: float, high: float, places: int = 2) -> Decimal:
    return Decimal(repr(round(rng.uniform(low, high), places)))


def draw_decision(rng: Random, calm: bool) -> Decision:
    symbol = BTC if calm else rng.choice(SYMBOLS)
    common = {"symbol": symbol, "confidence": _amount(rng, 0.5 if calm else 0, 1)}
    if rng.random() < 0.8:
        size = 10 ** rng.uniform(-2, 3)
        offset = _amount(rng, 0, rng.choice((3, 30) if calm else (3, 1000)), 1)
        stop = 10 ** (rng.uniform(-0.2, 1) if calm else rng.uniform(-1.5, 1.3))
        return rng.choice(ENTRIES)(
            **common, size_pct=_amount(rng, size / 2, size, 4), stop_atr=_amount(rng, stop / 2, stop, 3),
            tp_atr=_amount(rng, stop * (2 if calm else 0.5), stop * 4, 3),
            entry=Entry(type="limit", offset_bps=offset) if rng.random() < 0.4 else Entry(),
        )  # fmt: skip
    share = _amount(rng, 0.01, 100)
    return rng.choice((
        lambda: Hold(**common), lambda: Trim(**common, size_pct=share), lambda: CloseAll(**common),
        lambda: ClosePartial(**common, size_pct=share), lambda: CancelTarget(**common),
        lambda: MoveStop(**common, to=StopTarget(kind="breakeven")),
        lambda: MoveStop(**common, to=StopTarget(kind="atr", x=_amount(rng, -20, 20))),
        lambda: SetTarget(**common, tp_atr=share), lambda: Pause(**common, minutes=share),
    ))()  # fmt: skip


def draw_snapshot(rng: Random, calm: bool) -> Snapshot:
    price = 100.0 if calm else rng.choice((0.37, 98.76, 100.0, 65_432.1))

    def number(value: float) -> float | None:
        return value if calm or rng.random() < 0.8 else rng.choice(ODD)

    return Snapshot(
        pair=BTC if calm else rng.choice(SYMBOLS), as_of=NOON,
        reason_for_call=rng.choice(((), ("RangeBreak(15m 2.1)",), ("TrendFlip(1h)",))),
        timeframes={
            "5m": TimeframeView(close=number(price)),
            "15m": TimeframeView(
                atr=number(price * 10 ** rng.uniform(*((-3.3, -1.7) if calm else (-5, -1)))),
                rsi=number(rng.uniform(15, 85)),
                price_z20=number(rng.uniform(-3, 3)), vol_spike=rng.choice((None, True, False)),
            ),
            "1h": TimeframeView(ma_stack=rng.choice((None, "20>50>200", "200>50>20", "50>20>200"))),
        },
        orderbook=OrderBookView(
            spread_bps=number(rng.uniform(0, 40)), slippage_bps_for_size=number(rng.uniform(0, 15 if calm else 30))
        ),
        risk=RiskView(
            risk_mode=rng.choice(("normal", "normal", "tighten") if calm else ("normal", "pause")),
            daily_pnl_pct=number(rng.uniform(-2.9 if calm else -4, 3)),
        ),
        constraints=Constraints(
            max_trade_risk_pct=rng.choice((0.75, 1.0, 0.3) if calm else (-1.0, 0.75, float("nan"))),
            max_total_risk_pct=rng.choice((1.5, 5.0)),
            allowed_actions=ACTIONS if calm else tuple(rng.sample(ACTIONS, 6)),
        ),
        confluence=Confluence(score=rng.randint(0, 5), direction=rng.choice((-1, 0, 1))),
        digest=TradeDigest(recent_performance_score=number(rng.uniform(-1, 1))),
    )  # fmt: skip


def draw_state(rng: Random, calm: bool) -> AccountState:
    price = 100.0 if calm else rng.choice((0.37, 98.76, 100.0, 65_432.1))
    equity = Decimal(repr(round(10 ** rng.uniform(2, 8), 2))) if calm or rng.random() < 0.9 else Decimal(-5)
    far, drawn = (0.02, (0.99, 1.03)) if calm else (0.2, (0.9, 1.2))

    def near() -> Decimal:
        return Decimal(repr(round(price * rng.uniform(1 - far, 1 + far), 6)))

    def lots() -> Decimal:
        return Decimal(repr(float(abs(equity)) / price * 10 ** rng.uniform(-4, -1 if calm else 0)))

    def ago() -> datetime:
        return NOON - timedelta(minutes=rng.choice((61, 90, 300, 1441) if calm else (-5, 1, 30, 59, 61, 1439, 3000)))

    def some(*share: object) -> object:
        return share[0] if rng.random() < (share[1] if len(share) > 1 else 0.5) else None

    positions = tuple(
        HeldPosition(
            symbol=symbol, side=rng.choice(("long", "short")), quantity=lots(), avg_price=near(),
            stop=near() if calm else some(near()), target=some(near()), initial_stop=some(near()),
            mark_price=some(near()) if symbol == BTC else near(),
        ) for symbol in rng.sample(SYMBOLS[rng.random() < 0.6 :], rng.choice((0, 1, 1, 2)))
    )  # fmt: skip
    pending = tuple(
        PendingEntry(
            symbol=symbol, side=rng.choice(("long", "short")), quantity=lots(), price=near(),
            stop=near() if calm else some(near()),
        ) for symbol in rng.sample(SYMBOLS[1:] if calm else SYMBOLS, rng.choice((0, 0, 1)))
    )  # fmt: skip
    closed = tuple(
        ClosedTrade(
            closed_at=NOON - timedelta(minutes=rng.randint(1, 80)) if calm else ago(),
            pnl=equity * _amount(rng, -0.01, 0.01, 4), symbol=ETH if calm else rng.choice(("", *SYMBOLS)),
        ) for _ in range(rng.choice((0, 0, 1, 3)))
    )  # fmt: skip
    return AccountState(
        equity=equity, available=some(abs(equity) * _amount(rng, 0.1, 1, 3)),
        peak_equity=some(abs(equity) * _amount(rng, *drawn, 4)), positions=positions, pending=pending,
        day_start_equity=some(abs(equity) * _amount(rng, *drawn, 4)), closed_trades=closed,
        opens=tuple(ago() for _ in range(rng.choice((0, 2) if calm else (0, 13)))),
        instrument=linear(
            tick=rng.choice((Decimal("0.0001"), Decimal("0.01"), Decimal(1))),
            step=rng.choice((Decimal("0.000001"), Decimal("0.001"), Decimal(1))), min_quantity=_amount(rng, 0, 0.01, 3),
            min_notional=_amount(rng, 0, 20), max_leverage=Decimal(rng.choice((1, 2, 50, 100))),
            shorting=calm or rng.random() < 0.5, kind=rng.choice(("linear",) * 4 + ("spot",)),
        ),
        paused_until=None if calm else some(ago()), halt=None if calm else some("mismatch", 0.2),
        last_price=some(near()), last_price_at=some(NOON - timedelta(seconds=rng.randint(0, 300 if calm else 600))),
        correlations=some({s: rng.uniform(-1, 1) for s in rng.sample(SYMBOLS, rng.randint(1, 3))}),
        kelly=some(_amount(rng, -0.5, 0.5, 4)), rejections=rng.randint(0, 2 if calm else 4),
        last_liquidation=None if calm else some(ago()),
    )  # fmt: skip


def draw_limits(rng: Random, calm: bool) -> Limits:
    if calm and rng.random() < 0.5:
        return Limits()
    return Limits(
        max_trade_risk_pct=_amount(rng, 0.1, 1), max_total_risk_pct=_amount(rng, 0.5, 5),
        leverage=Decimal(rng.randint(1, 20)), max_gross_pct=Decimal(rng.randint(10, 300)),
        max_net_pct=Decimal(rng.randint(*rng.choice(((3, 30), (10, 300))))),
        max_symbol_pct=Decimal(rng.randint(5, 200)),
        per_symbol={BTC: SymbolLimits(leverage=Decimal(2), max_pct=Decimal(30))} if rng.random() < 0.3 else {},
        target_atr_pct=_amount(rng, 0.1, 5), fallback_may_open=rng.random() < 0.2,
        cool_off=rng.choice(("half", "pause")), min_reward_risk=_amount(rng, 0, 2),
        stack_min_r=_amount(rng, 0, 1), max_offset_spreads=_amount(rng, 0, 10), max_positions=rng.randint(1, 5),
    )  # fmt: skip
