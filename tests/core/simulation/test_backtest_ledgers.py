"""Small replays worked out on paper: hand-typed candles, a scripted decider, and money to the last digit.

Sixty bars of 99-101 around 100 make the 15m ATR exactly 2; the first decision is at 05:00, close of bar 59, and its
market order meets the open of bar 60. Half the spread is 5 bps, taker 10 bps, maker 4 bps, no impact. OPEN_LONG of
10 % is 1,000 quote, so 10 units at 100; its stop is 1 ATR away at 98, its target 4 ATR away at 108. Bought at
100 x 1.0005 = 100.05 for 1000.5 with a fee of 1.0005.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
from instrument_cases import linear
from replayed import backtest

from tasks.core.errors import InputError
from tasks.core.market.bars import bar_frame
from tasks.core.market.calendar import CalendarEvent
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import FundingRate, World, coverage
from tasks.core.types.bars import COLUMNS
from tasks.core.types.decision import DECISION, Answer, hold
from tasks.core.types.limits import Costs, EventThresholds, Limits
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord

A, B = "A/USDT:USDT", "B/USDT:USDT"
START = datetime(2025, 1, 6, tzinfo=UTC)
FIVE = timedelta(minutes=5)
FLAT = (100, 101, 99, 100)
BEFORE = [FLAT, FLAT, (100, 101, 99, 99.5), (99.5, 101, 99, 100), *[FLAT] * 56]  # moves once: without that no RSI
COSTS = Costs(taker_bps=10, maker_bps=4, half_spread_bps=5, impact_bps_per_million=0)
LIMITS = Limits(
    max_trade_risk_pct=1, max_total_risk_pct=5, target_atr_pct=100, stack_min_r=0, reentry_cooldown_min=0,
    cool_off_min=0, min_reward_risk=0, max_slippage_bps=100, max_offset_spreads=100, chase_rsi=100,
)  # fmt: skip
LONG = {"action": "OPEN_LONG", "size_pct": 10, "stop_atr": 1, "tp_atr": 4}
SHORT = LONG | {"action": "OPEN_SHORT"}
LIMIT = LONG | {"entry": {"type": "limit", "offset_bps": 50}}
CLOSE = {"action": "CLOSE_ALL"}
Bar = tuple[float, ...]  # open, high, low, close and perhaps volume, else 1,000


class Scripted:
    """Says what stands in the script for a bar and symbol, else holds."""

    name = "scripted"

    def __init__(self, script: dict[Any, dict[str, Any]]) -> None:
        self.script = {(key if isinstance(key, tuple) else (key, A)): told for key, told in script.items()}

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._one(question.snapshot.pair, question.snapshot.as_of) for question in questions]

    def _one(self, symbol: str, as_of: datetime) -> Answer:
        told = self.script.get(((as_of - START) // FIVE - 1, symbol))
        decision = hold(symbol, "not in the script")
        if told:
            decision = DECISION.validate_python({"symbol": symbol, "confidence": Decimal(1), **told})
        return Answer(decision=decision, source="scripted", rung="primary")


def market(symbol: str, bars: Sequence[Bar], scale: float = 1.0) -> Market:
    rows = np.array([(*bar[:4], bar[4] if len(bar) > 4 else 1000) for bar in [*BEFORE, *bars]], dtype=float)
    rows[:, :4] *= scale
    ms = int(START.timestamp() * 1000) + np.arange(len(rows)) * 300_000
    return Market.from_base(symbol, bar_frame(ms, dict(zip(COLUMNS, rows.T, strict=True))))


def replay(bars: Sequence[Bar], script: dict[Any, dict[str, Any]], other: Sequence[Bar] = (), **plan: Any) -> Backtest:
    """Replay `bars` after the sixty flat ones, `other` for symbol B at half the price; asked at each bar scripted."""
    markets = {A: market(A, bars)} | ({B: market(B, other, 0.5)} if other else {})
    at = {key[0] if isinstance(key, tuple) else key for key in script}
    calendar = tuple(CalendarEvent(at=START + (k + 1) * FIVE, title=str(k)) for k in sorted(at))
    instruments = {symbol: linear(symbol, step=Decimal("0.01")) for symbol in markets}
    given = {"limits": LIMITS, "costs": COSTS, "calendar": calendar, "instruments": instruments} | plan
    run = backtest(markets, Scripted(script), **given)
    run.result = asyncio.run(run.run())
    return run


def equity(run: Backtest) -> Decimal:
    """Return the wallet of an account that is flat, after checking it against outcomes and curve."""
    assert run.account.positions() == []
    assert run.account.wallet.cash == 10_000 + sum(outcome.pnl for outcome in run.outcomes)
    assert run.equity[-1] == pytest.approx(float(run.account.wallet.cash), rel=1e-15)
    return run.account.wallet.cash


def fills(run: Backtest) -> list[tuple[str, str]]:
    return [(fill.reason, f"{fill.price.normalize():f}") for fill in run.account.fills]


def test_a_gap_through_the_stop_is_filled_at_the_open() -> None:
    run = replay([FLAT, (95, 96, 94, 95), (95, 96, 94, 95)], {59: LONG})
    # out at the open of 95, not at 98: 95 x 0.9995 = 94.9525, fee 949.525 x 0.001 = 0.949525
    # 949.525 - 1000.5 - 1.0005 - 0.949525 = -52.925025
    assert fills(run) == [("entry", "100.05"), ("stop", "94.9525")]
    assert equity(run) == Decimal("9947.074975")


def test_the_stop_comes_first_when_one_bar_touches_both() -> None:
    run = replay([FLAT, (100, 110, 97, 109), (109, 109, 109, 109)], {59: LONG})
    # out at 98 x 0.9995 = 97.951, fee 0.97951: 979.51 - 1000.5 - 1.0005 - 0.97951 = -22.97001
    assert fills(run) == [("entry", "100.05"), ("stop", "97.951")]
    assert equity(run) == Decimal("9977.02999")


def test_an_entry_takes_no_more_than_its_bar_traded() -> None:
    run = replay([(100, 101, 99, 100, 40), (100, 109, 99, 108), FLAT], {59: LONG})
    # a tenth of 40, 4 of 10 units: 4 x 100.05 = 400.2, fee 0.4002
    # the target is a market order at 108: 107.946 x 4 = 431.784, fee 0.431784; - 400.2 - 0.4002 - 0.431784 = 30.752016
    assert next((o.type, o.status.value, o.filled) for o in run.account.orders) == ("market", "cancelled", 4)
    assert fills(run) == [("entry", "100.05"), ("target", "107.946")]
    assert equity(run) == Decimal("10030.752016")


@pytest.mark.parametrize(("volume", "status", "error"), [(0.05, "failed", "{} filled nothing"), (40, "executed", "")])
def test_a_market_order_that_finds_nothing_failed_as_in_live(volume: float, status: str, error: str) -> None:
    records: list[CycleRecord] = []
    replay([(100, 101, 99, 100, volume), FLAT], {59: LONG}, on_record=records.append)
    [record] = [each for each in records if each.intents]
    assert (record.status, record.error) == (status, error.format(record.intents[0].client_order_id))


def test_a_limit_entry_takes_its_share_of_each_bar_until_it_is_full() -> None:
    through = (100, 101, 99.4, 100, 40)
    run = replay([through, through, (100, 101, 99.6, 100), (100, 101, 99.6, 100)], {59: LIMIT, 61: CLOSE})
    # a tenth of 40 twice, 8 of 10.05 units at 99.5 for 796, fee 0.3184; out at 99.95: 799.6, fee 0.7996
    # 799.6 - 796 - 0.3184 - 0.7996 = 2.482
    assert [(f.reason, f.quantity, f.price) for f in run.account.fills] == [
        ("entry", 4, Decimal("99.5")), ("entry", 4, Decimal("99.5")), ("exit", 8, Decimal("99.95")),
    ]  # fmt: skip
    assert equity(run) == Decimal("10002.482")


def test_the_rest_of_a_limit_leaves_a_stop_that_was_moved_meanwhile() -> None:
    through, rise = (100, 101, 99.4, 100, 40), (100, 102.5, 99.6, 102.4)
    bars = [through, rise, (102.4, 102.4, 99.4, 100, 40), FLAT, FLAT]
    moved = LIMIT | {"followups": ["MOVE_STOP: -0.4R on +1.0R"]}
    run = replay(bars, {59: moved})
    # 4 at 99.5 with the stop at 97.5; at 102.4 it goes to 99.5 - 0.4 x 2 = 98.7, and 4 more follow at 99.5
    assert [(f.reason, f.quantity) for f in run.account.fills] == [("entry", 4), ("entry", 4)]
    assert [(p.quantity, p.stop) for p in run.account.positions()] == [(8, Decimal("98.7"))]
    assert run.symbols[A].position.stop == Decimal("98.7")


def test_the_rest_of_an_entry_ends_with_its_position() -> None:
    through, rise, again = (100, 101, 99.4, 100, 40), (100, 103, 99.6, 103), (100, 101, 99, 100)
    run = replay([through, (99.6, 101, 99.6, 100), again, again], {59: LIMIT, 60: CLOSE})
    assert [(f.reason, f.quantity) for f in run.account.fills] == [("entry", 4), ("exit", 4)]
    assert [(o.status.value, o.filled) for o in run.account.orders] == [("cancelled", 4), ("filled", 4)]
    moved, add, high = (
        LONG | {"followups": ["MOVE_STOP: breakeven on +1R"]},
        LIMIT | {"action": "ADD"},
        (103, 104, 102.9, 103),
    )
    run = replay([rise, high, high, high, again, again], {59: moved, 61: add, 62: CLOSE})
    assert [fill.reason for fill in run.account.fills] == ["entry", "exit"]
    assert [(o.type, o.status.value, o.filled) for o in run.account.orders if not o.reduce_only][1:] == [
        ("limit", "cancelled", 0)
    ]


def test_an_order_under_way_when_the_run_is_capped_was_refused_by_nobody() -> None:
    still, records = (*FLAT, 0), []
    asked: list[datetime] = []

    class Capped(Scripted):
        async def decide(self, questions: Sequence[Question]) -> list[Answer]:
            asked.extend(question.snapshot.as_of for question in questions)
            return await super().decide(questions)

    script = {59: LONG, (60, B): LONG}
    markets = {A: market(A, [still, still, FLAT]), B: market(B, [FLAT] * 3, 0.5)}
    calendar = tuple(CalendarEvent(at=START + n * FIVE, title=str(n)) for n in (60, 61))
    kind = partial(Backtest, is_capped=lambda: max(asked) > START + 60 * FIVE)
    run = backtest(
        markets, Capped(script), kind, on_record=records.append, limits=LIMITS, costs=COSTS, calendar=calendar
    )
    asyncio.run(run.run())
    assert [(r.symbol, len(r.intents), r.status.value, r.error) for r in records if r.intents] == [
        (A, 1, "executed", "")
    ]
    assert run.account.fills == []


def test_the_rest_of_a_stop_goes_on_at_the_next_open() -> None:
    run = replay([FLAT, (99, 99, 97, 97.5, 60), (97, 99, 96, 99, 20), (99, 100, 98.5, 99), FLAT], {59: LONG})
    # 6 units at the stop of 98, then 2 at 97 and 2 at 99, less half the spread each
    # 587.706 + 193.903 + 197.901 = 979.51; - 1000.5 - 1.0005 - 0.97951 = -22.97001
    assert fills(run)[1:] == [("stop", "97.951"), ("stop", "96.9515"), ("stop", "98.9505")]
    assert [fill.quantity for fill in run.account.fills] == [10, 6, 2, 2]
    assert equity(run) == Decimal("9977.02999")
    assert len(run.outcomes) == 1


def test_nothing_fills_on_a_bar_without_trades() -> None:
    dead = (100, 110, 90, 100, 0)  # through the limit, the stop and the target, were there trades
    run = replay([dead, FLAT, dead, (99, 99, 97, 98), FLAT], {59: LONG})
    assert [(f.reason, f.at) for f in run.account.fills] == [
        ("entry", START + 61 * FIVE), ("stop", START + 64 * FIVE - timedelta(milliseconds=1)),
    ]  # fmt: skip
    resting = replay([dead, dead, dead, FLAT], {59: LIMIT})
    assert fills(resting) == []


def test_a_target_beyond_which_a_bar_opens_is_filled_at_that_open() -> None:
    run = replay([FLAT, (110, 111, 109, 110), FLAT], {59: LONG})
    assert fills(run) == [("entry", "100.05"), ("target", "109.945")]


def test_follow_ups_are_looked_at_on_the_close_of_the_bar_that_filled_a_limit() -> None:
    told = LIMIT | {"followups": ["TRIM 50% at +1.0R"]}
    run = replay([(100, 102.5, 99.4, 102), (103, 103, 102, 103), FLAT], {59: told, 61: CLOSE})
    # 99.5 less 1 ATR is 97.5; the close of 102 is 1.25 R: half of 10.05 in whole steps is out at the next open, 103
    assert [(f.reason, f.quantity, f.at) for f in run.account.fills] == [
        ("entry", Decimal("10.05"), START + 61 * FIVE - timedelta(milliseconds=1)),
        ("exit", Decimal("5.02"), START + 61 * FIVE),
        ("exit", Decimal("5.03"), START + 62 * FIVE),
    ]


def test_a_close_knows_nothing_of_what_fills_after_it() -> None:
    told, records = LONG | {"followups": ["TRIM 50% at +1.0R"]}, []
    bars = [FLAT, (101, 103, 100.5, 102.5), (103, 103, 102, 102.5), FLAT]
    replay(bars, {59: told, 61: {"action": "HOLD"}, 62: CLOSE}, on_record=records.append)
    at = {record.as_of: record.state for record in records}
    entered, trimmed = at[START + 62 * FIVE], at[START + 63 * FIVE]
    assert entered.positions[0].quantity == 10, "the trim at this close is under way"
    assert entered.equity == Decimal("10000") - Decimal("1.0005") + 10 * (Decimal("102.5") - Decimal("100.05"))
    assert trimmed.positions[0].quantity == 5
    assert trimmed.equity - entered.equity == Decimal("1.7277575")  # 5 sold at 103 x 0.9995, less the fee


def test_an_entry_does_not_wait_over_a_gap_and_an_exit_does() -> None:
    script = {59: LONG, 65: CLOSE}
    whole = market(A, [FLAT] * 20)
    for missing, said in (((60, 62), []), ((66, 70), [("entry", "100.05"), ("exit", "99.95")])):
        bars = whole.bars["5m"].drop(whole.bars["5m"].index[slice(*missing)])
        plan = {"limits": LIMITS, "costs": COSTS, "instruments": {A: linear(A, step=Decimal("0.01"))}}
        calendar = tuple(CalendarEvent(at=START + (k + 1) * FIVE, title=str(k)) for k in script)
        run = backtest({A: Market.from_base(A, bars)}, Scripted(script), calendar=calendar, **plan)
        asyncio.run(run.run())
        assert fills(run) == said


@pytest.mark.parametrize(
    ("hours", "share"),
    [
        (range(0, 96, 8), 1),  # as a venue pays
        (range(0, 96), 1),
        (range(0, 24, 8), 1 / 3),  # the last one before its 24:00, and 8 h more
        ((40,), 16 / 72),
        ((), 0),
        (range(200, 300, 8), 0),
        ((*range(0, 25, 8), *range(48, 97, 8)), 56 / 72),  # none for a day
    ],
)
def test_funding_is_known_no_further_than_its_interval_from_a_rate(hours: Sequence[int], share: float) -> None:
    rates = [FundingRate(START + timedelta(hours=h), Decimal("0.0001")) for h in hours]
    covered = coverage(rates, START, START + timedelta(hours=72))
    assert covered == pytest.approx(share, abs=0.001)
    assert (covered == 1) == (share == 1)


def test_funding_is_paid_on_the_close_at_its_time_and_received_by_a_short() -> None:
    rates = {A: [FundingRate(START + timedelta(hours=h), Decimal("0.0001")) for h in (0, 4, 8, 16)]}
    run = replay([FLAT] * 45, {59: LONG, 100: CLOSE}, funding=rates)
    # at 08:00 alone there is a position: 10 x 100 x 0.0001 = 0.1; out at 100 x 0.9995 = 99.95, fee 0.9995
    # 999.5 - 1000.5 - 1.0005 - 0.9995 - 0.1 = -3.1
    assert fills(run) == [("entry", "100.05"), ("funding", "100"), ("exit", "99.95")]
    assert equity(run) == Decimal("9996.9")
    assert run.result.summary()["funding_quote"] == Decimal("0.1")
    assert run.outcomes[0].outcome_r == Decimal("-3.1") / Decimal("20.5")  # 10 x (100.05 - 98) were at risk
    assert run.result.summary()["fees_quote"] == 2
    short = replay([FLAT] * 45, {59: SHORT, 100: CLOSE}, funding=rates)
    # sold for 999.5, bought back for 1000.5, fees 0.9995 + 1.0005, received 0.1: -1 - 2 + 0.1
    assert equity(short) == Decimal("9997.1")


def test_funding_without_rates_is_unknown_and_free() -> None:
    run = replay([FLAT] * 45, {59: LONG, 100: CLOSE})
    assert equity(run) == 9997
    assert (run.result.summary()["funding"], run.result.summary()["funding_unknown"]) == ("unknown", (A,))


@pytest.mark.parametrize(("taker", "maker", "wallet"), [(10, 4, "10003.62001"), (3, 1, "10004.6235025")])
def test_a_fee_tier_charges_makers_and_takers_its_own_share(taker: int, maker: int, wallet: str) -> None:
    costs = Costs(taker_bps=taker, maker_bps=maker, half_spread_bps=0, impact_bps_per_million=0)
    run = replay([(100, 101, 99.4, 100), (100, 101, 99, 100), FLAT], {59: LIMIT, 60: CLOSE}, costs=costs)
    # 50 bps below 100 is 99.5; 1000 / 99.5 = 10.0502.. -> 10.05 units for 999.975, sold for 1005: +5.025
    # default tier: 999.975 x 0.0004 = 0.39999 and 1005 x 0.001 = 1.005: 5.025 - 1.40499 = 3.62001
    # better tier:  999.975 x 0.0001 = 0.0999975 and 1005 x 0.0003 = 0.3015: 5.025 - 0.4014975 = 4.6235025
    assert fills(run) == [("entry", "99.5"), ("exit", "100")]
    assert [fill.liquidity for fill in run.account.fills] == ["maker", "taker"]
    assert equity(run) == Decimal(wallet)


def test_a_short_earns_what_the_price_loses() -> None:
    run = replay([FLAT, (100, 100, 91.9, 93), (93, 93, 93, 93)], {59: SHORT})
    # sold at 99.95 for 999.5, fee 0.9995; target 100 - 8 = 92, x 1.0005 = 92.046: 920.46, fee 0.92046
    # 999.5 - 920.46 - 0.9995 - 0.92046 = 77.12004
    assert fills(run) == [("entry", "99.95"), ("target", "92.046")]
    assert equity(run) == Decimal("10077.12004")


def test_an_add_moves_the_average_and_a_trim_realizes_half() -> None:
    bars = [FLAT, (100, 102, 99.5, 102), (102, 102.5, 101.5, 102), (102, 103, 101.5, 103), (104, 105, 103.5, 104.5)]
    to_breakeven = {"action": "MOVE_STOP", "to": {"kind": "breakeven"}}  # the guard adds to what is safe
    add, trim = LONG | {"action": "ADD"}, {"action": "TRIM", "size_pct": 50}
    run = replay([*bars, (105, 105, 104, 105)], {59: LONG, 61: to_breakeven, 62: add, 63: trim, 64: CLOSE})
    # equity at 102: 10000 - 1.0005 + 19.5 = 10018.4995; a tenth / 102 = 9.822.. -> 9.82 units at 102 x 1.0005 = 102.051
    # = 1002.14082, fee 1.00214082; 19.82 units cost 2002.64082
    # half of 19.82 = 9.91 at 104 x 0.9995 = 103.948: 1030.12468, fee 1.03012468
    # the rest at 105 x 0.9995 = 104.9475: 1040.029725, fee 1.040029725
    # 1030.12468 + 1040.029725 - 2002.64082 - 1.0005 - 1.00214082 - 1.03012468 - 1.040029725 = 63.440789775
    assert fills(run) == [("entry", "100.05"), ("entry", "102.051"), ("exit", "103.948"), ("exit", "104.9475")]
    assert equity(run).quantize(Decimal("1e-20")) == Decimal("10063.440789775")
    assert len(run.outcomes) == 1


def test_the_stop_moved_to_breakeven_ends_the_trade_there() -> None:
    told = LONG | {"followups": ["MOVE_STOP: breakeven on +1.0R"]}
    run = replay([FLAT, (101, 103, 100.5, 102.5), (102, 102, 99, 99.5), FLAT], {59: told})
    # risk 100.05 - 98 = 2.05; the close of 102.5 earned 2.45 / 2.05 = 1.195 R: the stop goes to 100.05, on a tick 100.1
    # out at 100.1 x 0.9995 = 100.04995, fee 1.0004995: 1000.4995 - 1000.5 - 1.0005 - 1.0004995 = -2.0014995
    assert fills(run) == [("entry", "100.05"), ("stop", "100.04995")]
    assert equity(run) == Decimal("9997.9985005")
    assert run.outcomes[0].outcome_r == Decimal("-2.0014995") / Decimal("20.5")  # breakeven costs its fees


def test_a_trailing_stop_follows_the_best_close_by_the_atr_of_then() -> None:
    told = LONG | {"tp_atr": 20, "followups": ["TRAIL 1 ATR from +1.0R"]}
    bars = [FLAT, (101, 103, 100.5, 102.5), (102, 104, 101, 103.5), (103, 103, 101, 101.5)]
    run = replay([*bars, FLAT], {59: told})
    # the close of 102.5 earned 1.195 R: the stop goes to 102.5 - 2 = 100.5. The next one ends 15m of 99-104, and
    # ATR(14) is (13 x 2 + 5) / 14 = 2.214..: 103.5 - 2.214.. is 101.3 on a tick
    # out at 101.3 x 0.9995 = 101.24935, fee 1.0124935: 1012.4935 - 1000.5 - 1.0005 - 1.0124935 = 9.9805065
    moved = [intent.price for _, intent in run.intents.values() if intent.type == "stop"]
    assert moved == [Decimal("100.5"), Decimal("101.3")]
    assert fills(run) == [("entry", "100.05"), ("stop", "101.24935")]
    assert equity(run) == Decimal("10009.9805065")


def test_the_follow_ups_of_an_add_join_those_of_the_entry() -> None:
    first, second = "TRIM 50% at +5.0R", "MOVE_STOP: breakeven on +0.5R"
    bars = [FLAT, (100, 102, 99.5, 102), (102, 102.5, 101.5, 102), (102, 103, 101.5, 103)]
    bars, to_breakeven = [*bars, (103, 103, 102, 103)], {"action": "MOVE_STOP", "to": {"kind": "breakeven"}}
    add = LONG | {"action": "ADD", "followups": [second, first]}
    run = replay(bars, {59: LONG | {"followups": [first]}, 61: to_breakeven, 62: add})
    position = run.symbols[A].position
    assert position.followups == (first, second)
    assert position.followups_done == ("MOVE_STOP: breakeven on +0.5R",)


@pytest.mark.parametrize(("scope", "paused"), [("symbol", {A}), ("account", {A, B})])
def test_a_pause_is_of_one_symbol_or_of_all(scope: str, paused: set[str]) -> None:
    pause = {"action": "PAUSE", "minutes": 10, "scope": scope}
    run = replay([FLAT] * 5, {(59, A): pause, (60, A): LONG, (60, B): LONG, (62, B): LONG}, [FLAT] * 5)
    entered = [(fill.symbol, (fill.at - START) // FIVE) for fill in run.account.fills]
    assert entered == [(B, 61)] * (B not in paused) + [(B, 63)] * (B in paused)


@pytest.mark.parametrize("word", ["HOLD", "TRIM", "MOVE_STOP"])
def test_follow_ups_of_a_decision_about_a_position_join_its_own(word):
    first, second = "TRIM 50% at +5.0R", "MOVE_STOP: breakeven on +0.5R"
    fields = {"TRIM": {"size_pct": 10}, "MOVE_STOP": {"to": {"kind": "atr", "x": -1}}}.get(word, {})
    bars = [FLAT, FLAT, (100, 102, 99.5, 102), (102, 103, 101.5, 103)]
    about = {"action": word, "followups": [second, first], **fields}
    run = replay(bars, {59: LONG | {"followups": [first]}, 60: about})
    position = run.symbols[A].position
    assert position.followups == (first, second)
    assert position.followups_done == ("MOVE_STOP: breakeven on +0.5R",)


def test_a_days_loss_is_one_question_about_the_account_and_reduce_halves_what_is_entered_that_day() -> None:
    bars, records = [FLAT, (95, 96, 94, 95), (95, 96, 94, 95), FLAT, FLAT], list[CycleRecord]()
    script = {59: LONG, (61, A): {"action": "REDUCE"}, (63, B): LONG, (62, B): {"action": "REDUCE"}}
    run = replay(
        bars, script, [FLAT] * 5, on_record=records.append, thresholds=EventThresholds(drawdown_pct=0.1),
    )  # fmt: skip
    asked = [record for record in records if any(reason.rule == "Drawdown" for reason in record.reasons)]
    assert [(record.symbol, str(record.reasons[-1])) for record in asked] == [(A, "Drawdown(account -0.5%)")]
    assert "REDUCE" in asked[0].snapshot.constraints.allowed_actions
    assert [(r.as_of, r.verdict.allowed) for r in records if r.verdict.decision.action == "REDUCE"] == [
        (START + 62 * FIVE, True), (START + 63 * FIVE, False),
    ]  # fmt: skip
    [entry] = [fill for fill in run.account.fills if fill.symbol == B]
    # half of a tenth of 9947.07 at 50: 9.947 units at 50, down to the step
    assert entry.quantity == Decimal("9.94")


def test_an_open_position_is_reviewed_once_an_hour_on_a_close_of_its_own() -> None:
    records: list[CycleRecord] = []
    run = replay([FLAT] * 32, {59: LONG}, on_record=records.append, thresholds=EventThresholds())
    reviews = [(r.as_of - START, str(r.reasons[0])) for r in records if r.reasons[0].rule == "Review"]
    assert reviews == [
        (timedelta(hours=6, minutes=5), "Review(5m open 13 bars)"),
        (timedelta(hours=7, minutes=5), "Review(5m open 25 bars)"),
    ]
    assert run.symbols[A].position is not None
    quiet = replay([FLAT] * 32, {59: LONG}, thresholds=EventThresholds(review_bars=0))
    assert quiet.summary()["calls"] == len(records) - 2


def test_a_trade_that_is_old_and_has_earned_too_little_is_closed_at_the_next_open() -> None:
    told = LONG | {"followups": ["CLOSE after 3 bars below +0.5R"]}
    run = replay([FLAT, FLAT, FLAT, (100.2, 101, 99, 100), FLAT], {59: told})
    # opened with bar 60, which is the first of the three: out at the open of bar 63, 100.2 x 0.9995 = 100.1499
    # fee 1.001499: 1001.499 - 1000.5 - 1.0005 - 1.001499 = -1.002999
    assert fills(run) == [("entry", "100.05"), ("exit", "100.1499")]
    assert equity(run) == Decimal("9998.997001")


def test_an_add_leaves_the_levels_of_r_and_its_stop_counts_in_what_came_of_it() -> None:
    bars = [FLAT, (100, 106, 99.5, 106), (106, 110, 105, 110), (110, 112, 109, 112), (112, 120, 111, 120)]
    told = LONG | {"stop_atr": 5, "tp_atr": 40, "followups": ["MOVE_STOP: breakeven on +0.5R"]}
    add, records = LONG | {"action": "ADD", "tp_atr": 40}, []
    run = replay(
        [*bars, *[(120, 121, 119, 120)] * 2], {59: told, 62: add, 65: CLOSE}, on_record=records.append,
        costs=Costs(taker_bps=0, maker_bps=0, half_spread_bps=0, impact_bps_per_million=0),
    )  # fmt: skip
    # 10 at 100 with the stop at 90: +1 R is 110 and +2 R is 120, also after the add at 110
    assert [fill.price for fill in run.account.fills] == [100, 110, 120]
    reasons = [(record.as_of, str(reason)) for record in records for reason in record.reasons]
    crossed = [(int((at - START) / FIVE) - 1, text) for at, text in reasons if text.startswith("RMultiple")]
    assert crossed == [(62, "RMultiple(5m +1.0R)"), (64, "RMultiple(5m +2.0R)")]
    told_r = [record.snapshot.position.unrealized_R for record in records if record.snapshot.position.side == "long"]
    assert told_r == [0.0, 1.0, 1.2, 2.0, 2.0]
    [entry, added, _] = run.account.fills
    stop = next(i.stop for record in records for i in record.intents if i.client_order_id == added.client_order_id)
    risked = 10 * (entry.price - 90) + added.quantity * (added.price - stop)
    [outcome] = run.outcomes
    assert outcome.pnl.quantize(Decimal("1e-20")) == 10 * 20 + added.quantity * 10
    assert outcome.outcome_r == outcome.pnl / risked
    assert run.result.summary()["expectancy_r"] == float(outcome.outcome_r)


def test_a_limit_that_is_not_traded_through_in_time_costs_nothing() -> None:
    quiet = (100, 101, 99.5, 100)  # touches 99.5 and does not trade through
    run = replay([quiet, quiet, quiet, (100, 101, 99, 100), FLAT], {59: LIMIT})
    # good for 15 minutes, the three bars to 05:15; the fourth would have filled it
    assert [(o.status.value, o.reason) for o in run.account.orders] == [("cancelled", "expired")]
    assert equity(run) == 10_000


def test_two_symbols_share_one_account() -> None:
    bars = [FLAT, (100, 109, 99, 108), FLAT]
    other = [FLAT, (100, 102.5, 99, 102), FLAT]  # at half the price: ATR 1, stop 51
    run = replay(bars, {(59, A): LONG, (59, B): SHORT}, other)
    # A: 107.946 x 10 - 1000.5 - 1.0005 - 1079.46 x 0.001 = 76.88004
    # B is sized at the same close, before A has filled: a tenth of 10000 / 50 = 20 units
    # sold at 50 x 0.9995 = 49.975, back at 51 x 1.0005 = 51.0255: 20 x -1.0505 = -21.01
    # fees 999.5 x 0.001 + 1020.51 x 0.001 = 2.02001: -23.03001
    assert sorted(fills(run)) == [("entry", "100.05"), ("entry", "49.975"), ("stop", "51.0255"), ("target", "107.946")]
    assert equity(run) == Decimal("10053.85003")
    assert {o.symbol: o.pnl for o in run.outcomes} == {A: Decimal("76.88004"), B: Decimal("-23.03001")}


def test_an_order_arrives_after_the_latency_at_a_price_gone_that_far_to_the_worse() -> None:
    run = replay([FLAT, FLAT, FLAT], {59: LONG, 60: CLOSE}, latency_s=60)
    # a fifth into the bar: 100 + (101 - 100) / 5 = 100.2, x 1.0005 = 100.2501; out: 99.8 x 0.9995 = 99.7501
    # -5 - 1.002501 - 0.997501 = -7.000002
    assert fills(run) == [("entry", "100.2501"), ("exit", "99.7501")]
    assert equity(run) == Decimal("9992.999998")
    closes = [START + 60 * FIVE, START + 61 * FIVE]
    assert [fill.at for fill in run.account.fills] == [at + timedelta(seconds=60) for at in closes]


def test_a_latency_of_a_bar_or_more_is_refused() -> None:
    with pytest.raises(InputError, match="latency 300 s: must be from 0 to less than 300"):
        World(latency_s=300)
