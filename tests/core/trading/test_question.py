"""What a decider is handed says what the account, the position and the day are, and no more than may be done."""

from datetime import timedelta
from decimal import Decimal as D

import pytest
from guard_cases import BTC, ETH, GRID, account, closed, position
from market_data import START, walk

from tasks.core.market.market import Market
from tasks.core.trading.question import question
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.portfolio import AccountState, Position
from tasks.core.types.question import Question, Reason
from tasks.core.types.snapshot import OrderBookView, RoleInputs, TradeDigest
from tasks.core.types.strategy import Strategy

AT = START + timedelta(days=10)
MARKET = Market.from_base(BTC, walk(3_000, 5))
LAST = D(repr(MARKET.value("5m", "close", AT)))
ATR = MARKET.value("15m", "atr", AT)


def ask(state: AccountState | None = None, limits: Limits | None = None, **given: object) -> Question:
    """Make the question of AT; the one place here that says how."""
    given = {"symbols": (BTC, ETH), "costs": Costs(), "book": None, "reasons": (), **given}
    strategy = Strategy(symbols=given.pop("symbols"), costs=given.pop("costs"), limits=limits or Limits())
    book, reasons = given.pop("book"), given.pop("reasons")
    return question(strategy, MARKET, state or account(), book, None, None, reasons, AT, **given)


def ours(**changed: object) -> Position:
    plain = {
        "position_id": "p", "strategy": "default", "cycle_id": "c", "symbol": BTC, "side": "long", "quantity": D(2),
        "entry_quantity": D(2), "avg_price": LAST - 1, "initial_stop": LAST - 3, "stop": LAST - 2, "target": LAST + 4,
        "opened_at": AT - timedelta(minutes=62),
    }  # fmt: skip
    return Position(**{**plain, **changed})


@pytest.mark.parametrize(
    ("score", "mode"), [(None, "normal"), (0.0, "normal"), (-0.5, "normal"), (-0.51, "tighten"), (-1.0, "tighten")]
)
def test_a_poor_score_is_told_as_tighten(score, mode):
    assert ask(digest=TradeDigest(recent_performance_score=score)).snapshot.risk.risk_mode == mode


@pytest.mark.parametrize(
    ("changed", "mode"),
    [
        ({}, "normal"),
        ({"halt": "a test"}, "pause"),
        ({"halt": False}, "normal"),
        ({"paused_until": AT + timedelta(seconds=1)}, "pause"),
        ({"paused_until": AT}, "normal"),
        ({"day_start_equity": D("10152.3")}, "tighten"),  # half of the 3 % that halts
        ({"day_start_equity": D("10152.2")}, "normal"),
        ({"peak_equity": D("10810.9")}, "tighten"),  # half of the 15 %
        ({"peak_equity": D("10810.8")}, "normal"),
    ],
)
def test_a_halt_a_pause_and_half_a_halts_loss_are_told_as_the_risk_mode(changed, mode):
    assert ask(account(**changed)).snapshot.risk.risk_mode == mode


def test_a_pause_is_told_before_a_poor_score():
    poor = TradeDigest(recent_performance_score=-1.0)
    assert ask(account(halt="a test"), digest=poor).snapshot.risk.risk_mode == "pause"


def test_the_day_is_told_from_its_start_and_its_peak():
    risk = ask(account(day_start_equity=D(9_800), day_peak_equity=D(10_200))).snapshot.risk
    assert risk.daily_pnl_pct == pytest.approx(100 * (10_000 / 9_800 - 1), abs=1e-4)
    assert risk.max_drawdown_today_pct == pytest.approx(100 * (1 - 10_000 / 10_200), abs=1e-4)
    assert ask(account(day_peak_equity=D(9_000))).snapshot.risk.max_drawdown_today_pct == 0
    unknown = ask().snapshot.risk
    assert (unknown.daily_pnl_pct, unknown.max_drawdown_today_pct) == (None, None)


OPENS = {"OPEN_LONG", "OPEN_SHORT"}
EXITS = {"TRIM", "CLOSE_PARTIAL", "CLOSE_ALL", "MOVE_STOP", "SET_TP", "CANCEL_TP"}


@pytest.mark.parametrize(
    ("state", "given", "offered"),
    [
        (account(), {}, OPENS),
        (account(positions=(position(),)), {}, EXITS | {"ADD"}),
        (account(positions=(position(),), halt=True), {}, EXITS),
        (account(), {"symbols": (ETH,)}, set()),
        (account(rejections=2), {"limits": Limits(max_rejections=2)}, set()),
        (account(instrument=GRID.model_copy(update={"shorting": False})), {}, {"OPEN_LONG"}),
        (account(closed_trades=(closed(closed_at=AT - timedelta(minutes=59)),)), {}, set()),
        (account(closed_trades=(closed(closed_at=AT - timedelta(minutes=60)),)), {}, OPENS),
        # 150 may be at risk in all: what the exit costs is part of it
        (account(positions=(position(symbol=ETH, stop=D("85.1")),)), {}, set()),
        (account(positions=(position(symbol=ETH, stop=D("85.1")),)), {"costs": Costs(taker_bps=D(0))}, OPENS),
    ],
)
def test_only_what_the_account_leaves_open_is_offered(state, given, offered):
    told = ask(state, **given).snapshot.constraints.allowed_actions
    assert set(told) == offered | {"HOLD", "PAUSE"}


def test_the_limits_are_told_as_they_are():
    told = ask(limits=Limits(max_trade_risk_pct=D("0.3"), max_total_risk_pct=D("1.1"))).snapshot.constraints
    assert (told.max_trade_risk_pct, told.max_total_risk_pct) == (0.3, 1.1)


def test_a_position_is_told_in_equity_in_r_and_in_atr():
    view = ask(position=ours()).snapshot.position
    assert view.side == "long"
    assert view.size_pct == pytest.approx(float(2 * LAST / 10_000 * 100), abs=0.01)
    assert view.unrealized_R == pytest.approx(0.5)  # 1 above its price, which was 2 above the initial stop
    assert view.age_bars_5m == 12
    assert (view.stop_atr, view.tp_atr) == (pytest.approx(2 / ATR, abs=0.01), pytest.approx(4 / ATR, abs=0.01))


def test_a_short_is_told_as_one_and_its_quantity_is_negative():
    asked = ask(position=ours(side="short", avg_price=LAST + 1, initial_stop=LAST + 3, stop=None, target=None))
    assert (asked.snapshot.position.side, asked.quantity) == ("short", -2)
    assert asked.snapshot.position.unrealized_R == pytest.approx(0.5)
    assert (asked.snapshot.position.stop_atr, asked.snapshot.position.tp_atr) == (None, None)
    assert ask(position=ours()).quantity == 2


def test_what_was_added_is_in_the_average_and_not_in_r():
    """The first entry was 10 below the last price with its stop 10 further: 1 R, also once the average has moved."""
    first = {"first_price": LAST - 10, "initial_stop": LAST - 20}
    for average in (LAST - 10, LAST - 5):
        view = ask(position=ours(avg_price=average, **first)).snapshot.position
        assert (view.avg_price, view.unrealized_R) == (pytest.approx(float(average), rel=1e-5), 1.0)


def test_a_flat_account_holds_nothing():
    assert (ask().quantity, ask().snapshot.position.side) == (0, "flat")


def test_what_is_given_is_handed_on():
    reason = Reason(rule="AdHoc", symbol=BTC, detail="a test asks", as_of=AT, fingerprint="f")
    book = OrderBookView(spread_bps=1.5, slippage_bps_for_size=2.5)
    digest = TradeDigest(trade_count=7, win_rate=0.5)
    asked = ask(account(equity=D("9876.5"), last_price=D("101.25")), reasons=(reason,), book=book, digest=digest)
    assert asked.snapshot.reason_for_call == (str(reason),)
    assert (asked.snapshot.orderbook, asked.snapshot.digest) == (book, digest)
    assert (asked.equity, asked.last_price) == (9876.5, 101.25)
    assert (asked.snapshot.pair, asked.snapshot.as_of) == (BTC, AT)
    assert asked.role_inputs == ask().role_inputs != type(asked.role_inputs)()
    assert ask().last_price is None


def test_roles_are_told_when_averages_crossed_on_1h_and_a_record_of_before_is_not():
    def inputs(rules: int) -> RoleInputs:
        strategy = Strategy(symbols=(BTC, ETH), rules=rules)
        return question(strategy, MARKET, account(), None, None, None, (), AT).role_inputs

    now, before = inputs(5), inputs(4)
    assert now.timeframes["1h"].macd_cross is not None
    assert "cross" not in now.timeframes["15m"].model_dump_json()
    assert not {"ema_cross", "sma_cross", "macd_cross", "volatility_30d"} & {
        name for row in (before, *before.timeframes.values()) for name in row.model_dump(mode="json")
    }
    crosses = {"ema_cross", "sma_cross", "macd_cross"}
    for tf, row in now.timeframes.items():
        assert row.model_dump(exclude=crosses) == before.timeframes[tf].model_dump()
