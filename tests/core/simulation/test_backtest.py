"""The replay: the same functions as live, the same figures every time, money that adds up."""

import asyncio
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import pytest
from replayed import backtest

from tasks.core.decision.baselines import HoldDecider, RecordedDecider
from tasks.core.decision.rules import RulesDecider
from tasks.core.errors import InputError
from tasks.core.market.bars import bar_frame
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.types.decision import DECISION, Answer
from tasks.core.types.limits import EventThresholds, Limits
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord, CycleStatus

SYMBOL, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
LONG = {
    "action": "OPEN_LONG", "symbol": SYMBOL, "size_pct": 40, "entry": {"type": "market"}, "stop_atr": 3, "tp_atr": 8,
    "confidence": 0.8, "comment": "x",
}  # fmt: skip
RULES = ("MOVE_STOP: breakeven on +0.5R", "TRIM 30% at +0.5R", "CLOSE_PARTIAL 50% at +1R", "CLOSE_ALL at +2R")


def walk(seed: int, n: int = 8000, start_ms: int = 1_735_689_600_000, minutes: int = 5) -> Market:
    """A seeded market with drifting regimes, 5m bars."""
    rng = np.random.default_rng(seed)
    drift = np.repeat(rng.normal(0, 4e-4, n // 400 + 1), 400)[:n]
    close = 60_000 * np.exp(np.cumsum(drift + rng.normal(0, 1.5e-3, n)))
    open_ = np.r_[60_000.0, close[:-1]]
    reach = np.abs(rng.normal(0, 1e-3, (2, n)))
    values = {
        "open": open_, "close": close, "volume": rng.lognormal(3, 0.7, n),
        "high": np.maximum(open_, close) * (1 + reach[0]), "low": np.minimum(open_, close) * (1 - reach[1]),
    }  # fmt: skip
    ts = start_ms + np.arange(n) * minutes * 60_000
    return Market.from_base(SYMBOL, bar_frame(ts, {k: np.round(v, 1) for k, v in values.items()}))


def replay(market: Market, decider: object, **plan: object) -> tuple[Backtest, list[CycleRecord]]:
    records: list[CycleRecord] = []
    run = backtest({SYMBOL: market}, decider, on_record=records.append, **plan)
    return asyncio.run(run.run()), records


@pytest.fixture(scope="module")
def market() -> Market:
    return walk(7)


def test_two_replays_print_the_same_fingerprint(market):
    first, _ = replay(market, RulesDecider())
    second, _ = replay(walk(7), RulesDecider())
    assert first.fingerprint == second.fingerprint
    assert first.summary() == second.summary()


@pytest.mark.parametrize("paid", [0, 1, 20])
def test_a_capped_replay_ends_before_the_decision_and_what_was_before_it_counts(market, paid):
    whole, records = replay(market, RulesDecider())
    answered: list[int] = []

    class Paid(RulesDecider):
        async def decide(self, questions: Sequence[Question]) -> list[Answer]:
            answered.append(len(questions))
            return await super().decide(questions)

    kind = partial(Backtest, is_capped=lambda: len(answered) > paid)
    capped, before = replay(market, Paid(), kind=kind)
    assert (capped.complete, whole.complete) == (False, True)
    assert before == records[:paid]
    assert capped.grid.closes_at(capped.grid.n - 1) == records[paid].as_of
    assert (capped.equity == whole.equity[: capped.grid.n]).all()
    assert capped.summary()["candles"] == len(capped.equity) < whole.summary()["candles"]


def test_another_market_prints_another_fingerprint(market):
    assert replay(market, RulesDecider())[0].fingerprint != replay(walk(8), RulesDecider())[0].fingerprint


def test_hold_is_asked_as_often_and_trades_nothing(market):
    held, records = replay(market, HoldDecider())
    assert held.summary()["calls"] > 0
    assert held.summary()["by_action"] == {"HOLD": held.summary()["calls"]}
    assert set(held.equity) == {10_000.0}
    assert {record.status for record in records} == {CycleStatus.HELD}


def test_equity_is_cash_plus_every_outcome_when_flat_at_the_end(market):
    result, _ = replay(market, RulesDecider())
    assert len(result.outcomes) > 5
    run = backtest({SYMBOL: market}, RulesDecider())
    asyncio.run(run.run())
    unrealized = run.account.balance({SYMBOL: Decimal(repr(float(run.symbols[SYMBOL].marks[-1])))}).equity
    realized = Decimal(10_000) + sum((o.pnl for o in run.outcomes), Decimal(0))
    if run.symbols[SYMBOL].position is None:
        assert unrealized == realized
    assert float(unrealized) == pytest.approx(result.equity[-1], rel=1e-12)


def test_every_entry_sends_its_stop_and_target_with_it(market):
    _, records = replay(market, RulesDecider())
    entries = [i for record in records for i in record.intents if not i.reduce_only]
    assert entries
    assert all(i.stop is not None and i.target is not None for i in entries)


def test_no_trade_risks_more_than_the_limit(market):
    _, records = replay(market, RulesDecider())
    assert max(record.verdict.trade_risk_pct for record in records) <= Decimal("0.75")


def test_a_decision_is_filled_at_the_next_bar_and_never_before(market):
    _, records = replay(market, RulesDecider())
    for record in records:
        assert all(fill.at >= record.as_of for fill in record.fills)


def test_the_window_bounds_every_decision(market):
    bars = market.bars["5m"].index
    start, end = bars[4000].to_pydatetime(), bars[6000].to_pydatetime()
    result, records = replay(market, RulesDecider(), start=start, end=end)
    assert result.summary()["candles"] == 2000
    assert all(start < record.as_of <= end for record in records)


def test_an_empty_window_says_so(market):
    after = market.bars["5m"].index[-1].to_pydatetime().replace(year=2030)
    with pytest.raises(InputError, match=r"no candles between .* these are from"):
        backtest({SYMBOL: market}, HoldDecider(), start=after)


class RandomDecider:
    """Does anything the action space allows, by a seed."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        return [Answer(decision=self._decision(question), source="random", rung="primary") for question in questions]

    def _decision(self, question: Question):
        draw, symbol = self.random, question.snapshot.pair
        enter = {
            "size_pct": draw.choice((5, 10, 15)), "stop_atr": draw.choice((1, 2)), "tp_atr": draw.choice((2, 4, 8)),
            "entry": draw.choice(({"type": "market"}, {"type": "limit", "offset_bps": draw.choice((2, 10, 30))})),
            "followups": draw.sample(RULES, draw.randint(0, 4)),
        }  # fmt: skip
        size = {"size_pct": draw.choice((20, 50, 100))}
        held = (
            {"action": "ADD", **enter}, {"action": "TRIM", **size}, {"action": "CLOSE_PARTIAL", **size},
            {"action": "MOVE_STOP", "to": {"kind": "breakeven"}}, {"action": "SET_TP", "tp_atr": 3},
            {"action": "CANCEL_TP"}, {"action": "HOLD"}, {"action": "CLOSE_ALL"},
        )  # fmt: skip
        flat = ({"action": "OPEN_LONG", **enter}, {"action": "OPEN_SHORT", **enter}, {"action": "HOLD"})
        fields = draw.choice(flat if question.snapshot.position.side == "flat" else held)
        return DECISION.validate_python({"symbol": symbol, "confidence": "0.9", **fields})


def assert_ledger_is_engine(run: Backtest) -> None:
    ours = {name: replay.position for name, replay in run.symbols.items() if replay.position}
    theirs = {p.symbol: p for p in run.account.positions()}
    assert set(ours) == set(theirs)
    for symbol, position in theirs.items():
        mine = ours[symbol]
        assert (mine.side, mine.quantity, mine.stop, mine.target) == (
            position.side, position.quantity, position.stop, position.target,
        )  # fmt: skip
        assert mine.avg_price == pytest.approx(position.avg_price, rel=Decimal("1e-12"))


@pytest.mark.parametrize("seed", range(6))
def test_the_ledger_holds_what_the_engine_holds_at_every_record_whatever_is_decided(seed):
    records: list[CycleRecord] = []

    def check(record: CycleRecord) -> None:
        records.append(record)
        assert_ledger_is_engine(run)

    markets = {SYMBOL: walk(seed, 3000), OTHER: Market.from_base(OTHER, walk(seed + 50, 3000).bars["5m"].iloc[700:])}
    thresholds = EventThresholds(drawdown_pct=0.1)
    run = backtest(markets, RandomDecider(seed), thresholds=thresholds, on_record=check)
    result = asyncio.run(run.run())
    assert_ledger_is_engine(run)
    assert run.booked == len(run.account.fills)
    assert len(result.outcomes) > 5
    marks = {symbol: Decimal(repr(float(state.marks[-1]))) for symbol, state in run.symbols.items()}
    assert float(run.account.balance(marks).equity) == pytest.approx(result.equity[-1], rel=1e-9)


def recorded(market: Market, at: pd.Timestamp, **changes: object) -> tuple[Backtest, Backtest, list[CycleRecord]]:
    """Replay with one decision of OPEN_LONG at `at`, else HOLD."""
    limits = Limits(max_offset_spreads=Decimal(100))
    plan = {"thresholds": changes.pop("thresholds", EventThresholds()), "limits": limits}
    line = json.dumps({"as_of": at.isoformat(), "symbol": SYMBOL, "reply": json.dumps({**LONG, **changes})})
    records: list[CycleRecord] = []
    run = backtest({SYMBOL: market}, RecordedDecider([line]), on_record=records.append, **plan)
    return run, asyncio.run(run.run()), records


@pytest.fixture(scope="module")
def points(market):
    return [record.as_of for record in replay(market, HoldDecider())[1]][5:80]


def first_with(market, points, seen, **changes):
    """Return the first replay, entering at one decision point after the other, in which `seen` is true."""
    for at in points:
        found = recorded(market, at, **changes)
        if seen(*found):
            return found
    raise AssertionError(f"no entry of {len(points)} shows it")


def exits(run: Backtest) -> list[str]:
    return [fill.reason for fill in run.account.fills if fill.reason != "entry"]


def test_a_close_all_follow_up_ends_the_trade(market, points):
    run, result, _ = first_with(market, points, lambda run, *_: "exit" in exits(run), followups=["CLOSE_ALL at +1.0R"])
    assert run.symbols[SYMBOL].position is None
    assert [float(o.outcome_r) for o in result.outcomes] == pytest.approx([1.0], abs=0.5)


def test_a_limit_entry_that_fills_later_becomes_a_trade_of_its_cycle(market, points):
    def asked_while_open(run, result, records):
        return result.outcomes and any(r.state.positions for r in records if r.as_of > run.account.fills[0].at)

    _, result, records = first_with(market, points, asked_while_open, entry={"type": "limit", "offset_bps": 15})
    entry = next(record for record in records if record.intents)
    assert entry.fills == ()
    assert result.outcomes[0].cycle_id == entry.cycle_id


def test_two_follow_ups_on_one_bar_keep_each_others_work(market, points):
    rules = ["MOVE_STOP: breakeven on +1.0R", "TRIM 10% at +1.0R"]
    done = []

    class Watched(Backtest):
        def _follow_up(self, symbol, position, k):
            super()._follow_up(symbol, position, k)
            if len(self.symbols[symbol].position.followups_done) == 2:
                assert_ledger_is_engine(self)
                done.append(self.symbols[symbol].position)

    for at in points[40:]:  # the first of which this comes
        line = json.dumps(
            {"as_of": at.isoformat(), "symbol": SYMBOL, "reply": json.dumps({**LONG, "followups": rules})}
        )
        asyncio.run(backtest({SYMBOL: market}, RecordedDecider([line]), Watched).run())
        if done:
            break
    assert done[0].stop >= done[0].avg_price
    assert done[0].quantity < done[0].entry_quantity


def test_a_follow_up_does_not_hide_the_r_that_called_it(market, points):
    _, _, records = first_with(market, points, lambda run, *_: "exit" in exits(run), followups=["TRIM 30% at +1.0R"])
    assert any(reason.rule == "RMultiple" and reason.detail == "+1.0R" for r in records for reason in r.reasons)


def test_a_symbol_that_starts_later_is_asked_about_only_then(market):
    later = Market.from_base(OTHER, walk(8).bars["5m"].iloc[3000:])
    records: list[CycleRecord] = []
    run = backtest({SYMBOL: market, OTHER: later}, HoldDecider(), on_record=records.append)
    asyncio.run(run.run())
    asked = {s: min(r.as_of for r in records if r.symbol == s) for s in (SYMBOL, OTHER)}
    assert asked[SYMBOL] < later.bars["5m"].index[0] < asked[OTHER]


def test_a_limit_that_expires_where_nothing_trades_is_cancelled_and_not_filled_by_the_gap(market, points):
    index = market.bars["5m"].index
    for at in points[5:35]:
        gone = (index > at) & (index < at + pd.Timedelta(minutes=30))
        cut = Market.from_base(SYMBOL, market.bars["5m"].loc[~gone])
        run, result, _ = recorded(cut, at, entry={"type": "limit", "offset_bps": 100})
        if run.account.orders:
            break
    assert [(order.status, order.reason) for order in run.account.orders] == [("cancelled", "expired")]
    assert result.outcomes == []


def test_an_entry_the_engine_refuses_is_recorded_as_failed_with_the_reason(market, points):
    bars = market.bars["5m"].copy()
    bars.loc[bars.index >= points[15], ["open", "high", "low", "close"]] *= 0.9  # opens beyond the stop
    run, _, records = recorded(Market.from_base(SYMBOL, bars), points[15])
    record = next(r for r in records if r.intents)
    assert (record.status, record.error, record.fills) == (CycleStatus.FAILED, "stop_wrong_side", ())
    assert run.account.orders == []


def test_a_loss_that_passes_the_drawdown_limit_is_a_decision_point_at_its_close(market, points):
    _, result, records = first_with(
        market, points, lambda run, result, _: result.outcomes and result.outcomes[0].pnl < -30,
        size_pct=90, stop_atr=1, thresholds=EventThresholds(drawdown_pct=0.1),
    )  # fmt: skip
    drawdowns = [r for r in records if any(reason.rule == "Drawdown" for reason in r.reasons)]
    assert [r.as_of for r in drawdowns][:1] == [result.outcomes[0].closed_at + timedelta(milliseconds=1)]
