"""What holds of the guard for any decision and any account: it never raises, enlarges, or exceeds a cap."""

from datetime import timedelta
from decimal import Decimal as D
from fractions import Fraction

from guard_cases import BTC, ETH, NOON, account
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from instrument_cases import linear

from tasks.core.trading.guard import guard
from tasks.core.types.decision import (
    ACTIONS,
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
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
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.portfolio import AccountState, ClosedTrade, HeldPosition, PendingEntry
from tasks.core.types.snapshot import Constraints, OrderBookView, RiskView, Snapshot, TimeframeView, TradeDigest
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Code

COSTS = Costs()


def amounts(low, high, places=4):
    return st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False)


symbols = st.sampled_from([BTC, ETH])
sides = st.sampled_from(["long", "short"])
entries = st.builds(Entry, type=st.sampled_from(["market", "limit"]), offset_bps=amounts(0, 1000, 1))
common = {"symbol": symbols, "confidence": amounts(0, 1, 2)}
entering = {
    **common, "size_pct": amounts("0.0001", 1000), "entry": entries,
    "stop_atr": amounts("0.01", 20, 2), "tp_atr": amounts("0.01", 100, 2),
}  # fmt: skip
opens = st.one_of(*(st.builds(kind, **entering) for kind in (OpenLong, OpenShort, Add)))
targets = st.builds(StopTarget, kind=st.sampled_from(["breakeven", "atr"]), x=amounts(-20, 20, 2))
others = st.one_of(
    st.builds(Hold, **common),
    st.builds(Trim, **common, size_pct=amounts("0.01", 100, 2)),
    st.builds(ClosePartial, **common, size_pct=amounts("0.01", 100, 2)),
    st.builds(CloseAll, **common),
    st.builds(MoveStop, **common, to=targets),
    st.builds(SetTarget, **common, tp_atr=amounts("0.01", 100, 2)),
    st.builds(CancelTarget, **common),
    st.builds(Pause, **common, minutes=amounts(1, 10_000, 0)),
)
decisions = opens | others

prices = amounts("0.01", 200_000)
times = st.integers(-3000, 10).map(lambda minutes: NOON + timedelta(minutes=minutes))
held = st.builds(
    HeldPosition, symbol=st.sampled_from([BTC, ETH, "SOL/USDT:USDT"]), side=sides, quantity=amounts("0.0001", 100),
    avg_price=prices, stop=st.none() | prices, target=st.none() | prices, mark_price=st.none() | prices,
)  # fmt: skip
waiting = st.builds(
    PendingEntry, symbol=symbols, side=sides, quantity=amounts("0.001", 10), price=prices, stop=st.none() | prices
)
instruments = st.builds(
    linear, tick=st.sampled_from([D("0.0001"), D("0.1"), D(1), D(25)]),
    step=st.sampled_from([D("0.00001"), D("0.001"), D(1)]), min_quantity=amounts(0, 1), min_notional=amounts(0, 20),
    shorting=st.booleans(), kind=st.sampled_from(["linear", "spot"]), max_leverage=amounts(1, 100, 0),
)  # fmt: skip
states = st.builds(
    AccountState, equity=amounts(-100, 10_000_000), available=st.none() | amounts(-10, 10_000_000),
    peak_equity=st.none() | amounts(0, 10_000_000), day_start_equity=st.none() | amounts(0, 10_000_000),
    positions=st.lists(held, max_size=4).map(tuple), pending=st.lists(waiting, max_size=2).map(tuple),
    instrument=instruments,
    closed_trades=st.lists(st.builds(ClosedTrade, closed_at=times, pnl=amounts(-500, 500)), max_size=3).map(tuple),
    opens=st.lists(times, max_size=4).map(tuple), paused_until=st.none() | times,
    halt=st.sampled_from([None, False, True, "", "mismatch"]), last_price=st.none() | amounts(-1, 200_000),
)  # fmt: skip
floats = st.one_of(st.none(), st.floats(), st.floats(0.5, 100_000))
snapshots = st.builds(
    lambda pair, close, atr, mode, daily, score, told, offered: Snapshot(
        pair=pair, as_of=NOON, timeframes={"5m": TimeframeView(close=close), "15m": TimeframeView(atr=atr)},
        risk=RiskView(risk_mode=mode, daily_pnl_pct=daily), digest=TradeDigest(recent_performance_score=score),
        constraints=Constraints(max_trade_risk_pct=told, max_total_risk_pct=told * 2, allowed_actions=offered),
    ),
    symbols, floats, floats, st.sampled_from(["normal", "tighten", "pause"]), floats, floats, st.floats(),
    st.just(ACTIONS) | st.lists(st.sampled_from(ACTIONS)).map(tuple),
)  # fmt: skip


def calm(price=100.0, atr=2.0, mode="normal"):
    """A snapshot with nothing against an entry, so that properties are about sizes and not about denials."""
    return Snapshot(
        pair=BTC, as_of=NOON, risk=RiskView(risk_mode=mode),
        orderbook=OrderBookView(spread_bps=400.0, slippage_bps_for_size=5.0),
        timeframes={
            "5m": TimeframeView(close=price), "15m": TimeframeView(atr=atr, rsi=50.0),
            "1h": TimeframeView(ma_stack="50>20>200"),
        },
        constraints=Constraints(max_trade_risk_pct=5, max_total_risk_pct=9, allowed_actions=ACTIONS),
    )  # fmt: skip


calm_snapshots = st.builds(
    lambda price, mode, wild: calm(price, price * (0.0173 if wild else 0.004), mode),
    st.sampled_from([0.37, 98.76, 100.0, 65_432.1]),
    st.sampled_from(["normal", "tighten"]),
    st.booleans(),
)
sane_entries = st.one_of(
    *(
        st.builds(
            kind, symbol=st.just(BTC), confidence=st.just(D(1)), size_pct=amounts("0.01", 1000, 2), entry=entries,
            stop_atr=amounts("0.25", 5, 2), tp_atr=amounts(10, 20, 1),
        )
        for kind in (OpenLong, OpenShort)
    )
)  # fmt: skip
grids = st.builds(
    linear, tick=st.sampled_from([D("0.00001"), D("0.001")]),
    step=st.sampled_from([D("0.000001"), D("0.001"), D(1)]), min_notional=st.just(D(1)),
)  # fmt: skip
loaded = st.builds(
    AccountState, equity=amounts(500, 1_000_000, 2), available=st.none() | amounts(100, 1_000_000, 2), instrument=grids,
    positions=st.lists(
        st.builds(
            HeldPosition, symbol=st.just(ETH), side=sides, quantity=amounts("0.01", 50), avg_price=st.just(D(100)),
            stop=st.sampled_from([D("99.5"), D(100), D("100.5")]),
        ), max_size=1,
    ).map(tuple),
    correlations=st.sampled_from([None, {}, {ETH: 0.5}, {ETH: 0.9}, {ETH: -0.9}]),
    kelly=st.none() | amounts(-1, 1, 3),
    closed_trades=st.sampled_from([(), (ClosedTrade(closed_at=NOON, pnl=D(-1), symbol=ETH),) * 2]),
)  # fmt: skip
limits = st.builds(
    Limits, max_trade_risk_pct=amounts("0.1", 1, 2), max_total_risk_pct=amounts("0.5", 5, 2),
    leverage=amounts(1, 20, 0), max_gross_pct=amounts(10, 300, 0), max_net_pct=amounts(10, 300, 0),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(decisions, snapshots, states, limits, st.none() | times, st.booleans())
def test_it_is_total_and_explains_itself(decision, snapshot, state, limit, now, fallback):
    verdict = guard.judge(decision, snapshot, state, Strategy(limits=limit, symbols=(BTC,)), now=now, fallback=fallback)
    assert set(verdict.codes) == {c.code for c in verdict.checks if c.fired}
    assert verdict.allowed is guard.ALLOWED_WITH.issuperset(verdict.codes)
    if verdict.allowed and isinstance(decision, OpenLong | OpenShort | Add):
        assert verdict.quantity > 0
        assert verdict.stop is not None
    if isinstance(decision, CloseAll) and decision.symbol == snapshot.pair:
        assert verdict.allowed is (state.position(decision.symbol) is not None)


@settings(max_examples=300, deadline=None)
@given(sane_entries, calm_snapshots, loaded, limits)
def test_an_entry_never_grows_and_stays_under_every_cap(decision, snapshot, state, limit):
    verdict = guard.judge(decision, snapshot, state, Strategy(limits=limit))
    assume(verdict.allowed)
    equity, quantity, entry, stop = (Fraction(x) for x in (state.equity, verdict.quantity, verdict.price, verdict.stop))
    assert verdict.decision.size_pct <= decision.size_pct
    assert quantity * entry <= equity * Fraction(decision.size_pct) / 100
    way = Fraction("0.0006")
    lost = abs(entry - stop) + (entry + max(entry, stop)) * way
    assert quantity * lost * 100 <= equity * Fraction(limit.max_trade_risk_pct)
    others = Fraction(0)
    for p in state.positions:
        distance = (p.avg_price - p.stop) * (1 if p.side == "long" else -1)
        others += Fraction(p.quantity) * max(Fraction(distance) + Fraction(100 + max(100, p.stop)) * way, 0)
    assert (quantity * lost + others) * 100 <= equity * Fraction(limit.max_total_risk_pct)
    gross = sum(Fraction(p.quantity) * 100 for p in state.positions)
    assert (gross + quantity * entry) * 100 <= equity * Fraction(limit.max_gross_pct)
    assert gross + quantity * entry <= equity * Fraction(limit.leverage)
    free = Fraction(state.equity if state.available is None else state.available)
    assert quantity * entry * (1 / Fraction(limit.leverage) + way) <= free
    assert quantity * entry * 100 <= equity * Fraction(limit.max_symbol_pct)
    if state.kelly is not None:
        share = max(Fraction(state.kelly) * Fraction(limit.kelly_fraction), Fraction(limit.kelly_floor_pct) / 100)
        assert quantity * lost <= equity * share
    assert quantity % Fraction(state.instrument.step) == 0
    assert stop % Fraction(state.instrument.tick) == 0


@settings(max_examples=300, deadline=None)
@given(sane_entries, calm_snapshots, loaded, limits)
def test_guarding_a_verdicts_decision_again_changes_nothing(decision, snapshot, state, limit):
    first = guard.judge(decision, snapshot, state, Strategy(limits=limit))
    again = guard.judge(first.decision, snapshot, state, Strategy(limits=limit))
    for name in ("allowed", "decision", "quantity", "price", "stop", "target", "trade_risk_pct", "total_risk_pct"):
        assert getattr(again, name) == getattr(first, name), name
    if first.allowed:
        assert set(again.codes) <= {Code.SIZE_CLAMPED, Code.VOLATILITY_CLAMPED, Code.COOL_OFF_CLAMPED}


@settings(max_examples=300, deadline=None)
@given(sane_entries, calm_snapshots, loaded, limits)
def test_size_by_confidence_only_shrinks_and_once(decision, snapshot, state, limit):
    scaled = Strategy(limits=limit.replace(size_by_confidence=True))
    plain, shrunk = (guard.judge(decision, snapshot, state, by) for by in (Strategy(limits=limit), scaled))
    assert shrunk.quantity <= plain.quantity
    assert plain.allowed or not shrunk.allowed
    again = guard.judge(shrunk.decision, snapshot, state, scaled)
    assert (again.allowed, again.quantity, again.decision) == (shrunk.allowed, shrunk.quantity, shrunk.decision)
    if plain.allowed and shrunk.allowed and decision.confidence == 1:
        assert shrunk.quantity == plain.quantity


@settings(max_examples=300, deadline=None)
@given(others, snapshots, states, limits)
def test_guarding_an_exit_again_changes_nothing(decision, snapshot, state, limit):
    first = guard.judge(decision, snapshot, state, Strategy(limits=limit))
    again = guard.judge(first.decision, snapshot, state, Strategy(limits=limit))
    assert (again.allowed, again.decision, again.quantity, again.stop, again.target) == (
        first.allowed, first.decision, first.quantity, first.stop, first.target,
    )  # fmt: skip
    if first.allowed and isinstance(decision, Trim | ClosePartial | CloseAll):
        assert first.quantity <= state.position(decision.symbol).quantity


@settings(max_examples=200, deadline=None)
@given(sane_entries, calm_snapshots, amounts(100, 1_000_000, 2), amounts(0, 1_000_000, 2))
def test_more_equity_never_means_a_smaller_order(decision, snapshot, equity, more):
    poor = guard.judge(decision, snapshot, account(equity=equity), Strategy())
    rich = guard.judge(decision, snapshot, account(equity=equity + more), Strategy())
    assert rich.quantity >= poor.quantity


@settings(max_examples=300, deadline=None)
@given(targets, sides, amounts(90, 110, 2), amounts(80, 120, 2), st.sampled_from([D("0.01"), D(1)]))
def test_a_stop_is_only_ever_tightened_and_never_through_the_market(to, side, last, stop, tick):
    held = HeldPosition(symbol=BTC, side=side, quantity=D(1), avg_price=D("100.37"), stop=stop)
    state = account(positions=(held,), last_price=last, instrument=linear(tick=tick))
    verdict = guard.judge(MoveStop(symbol=BTC, to=to), calm(atr=0.8), state, Strategy())
    way = 1 if side == "long" else -1
    aim = D("100.37") + (way * to.x * D("0.8") if to.kind == "atr" else 0)
    if verdict.allowed:
        assert way * (verdict.stop - stop) >= 0
        assert way * (last - verdict.stop) > 0
        assert 0 <= way * (verdict.stop - aim) < tick
    else:
        assert way * (aim - stop) < 0 or way * (last - aim) < tick


@settings(max_examples=300, deadline=None)
@given(decisions, states, limits)
def test_what_is_not_offered_would_be_denied(decision, state, limit):
    offered = guard.allowed_actions(state, decision.symbol, Strategy(limits=limit), NOON, "normal")
    assume(decision.action not in offered)
    everything = calm().model_copy(update={"pair": decision.symbol})
    assert not guard.judge(decision, everything, state, Strategy(limits=limit)).allowed
