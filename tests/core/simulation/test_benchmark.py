"""Buying and holding in a replay is bought and held; on an account that trades it is guarded like anyone."""

import asyncio
import subprocess
from datetime import timedelta
from decimal import Decimal

import pytest
from instrument_cases import linear
from market_data import recorded, walk
from replayed import backtest, strategy

from tasks.core.decision.baselines import BuyAndHoldDecider, HoldDecider
from tasks.core.decision.kinds import kind_of
from tasks.core.market import moments
from tasks.core.market.market import Market
from tasks.core.simulation import symbol_backtest
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import FundingRate
from tasks.core.simulation.benchmark import judge_of
from tasks.core.trading.judge import judged
from tasks.core.types.limits import EventThresholds
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord
from tasks.core.types.verdict import Code
from tasks.settings import ROOT

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


def replay(markets: dict[str, Market], **plan: object) -> tuple[Backtest, list[CycleRecord]]:
    records: list[CycleRecord] = []
    run = backtest(markets, BuyAndHoldDecider(), on_record=records.append, **plan)
    return asyncio.run(run.run()), records


def falling(seed: int, symbol: str) -> Market:
    """A market that loses most of its price: any stop would have been hit long before."""
    bars = walk(288 * 10, seed=seed, price=50_000.0)
    prices = bars[["open", "high", "low", "close"]].mul([0.9997**k for k in range(len(bars))], axis=0)
    return Market.from_base(symbol, bars.assign(**prices.round(2)))


def test_it_is_bought_at_the_first_close_and_held_to_the_end():
    market = falling(1, BTC)
    run, records = replay({BTC: market})
    bars, summary, [fill] = market.bars["5m"], run.summary(), run.account.fills
    moved = bars["close"].iloc[-1] / bars["open"].iloc[1] - 1
    assert moved < -0.4
    assert summary["return_pct"] == pytest.approx(99 * moved, abs=0.6)  # less fees, and the step's and the bar's part
    assert (summary["trades"], summary["by_action"]["OPEN_LONG"], summary["halted_at"]) == (0, 1, None)
    assert float(fill.price) == pytest.approx(bars["open"].iloc[1], rel=1e-3)
    assert (fill.at, float(fill.quantity * fill.price)) == (bars.index[1], pytest.approx(9900, rel=0.01))
    assert records[0].intents[0].stop is None
    assert str(records[0].reasons[0]) == "Calendar(the window begins now)"


def test_two_symbols_are_bought_with_half_each_and_pay_funding():
    markets = {BTC: falling(1, BTC), ETH: falling(2, ETH)}
    start = markets[BTC].bars["5m"].index[0].to_pydatetime()
    rates = {BTC: [FundingRate(start + timedelta(hours=8), Decimal("0.01"))]}
    run, _ = replay(markets, funding=rates)
    bought = [float(fill.quantity * fill.price) for fill in run.account.fills if fill.reason != "funding"]
    assert bought == [pytest.approx(4950, rel=0.012)] * 2
    assert run.summary()["funding_quote"] == pytest.approx(Decimal(47), abs=1)


def test_coming_reviews_of_a_position_are_read_together_and_alike(monkeypatch):
    reads, one_by_one = [], moments.read
    monkeypatch.setattr(moments, "read", lambda *asked: reads.append(1) or one_by_one(*asked))
    _, together = replay({BTC: falling(1, BTC)})
    monkeypatch.setattr(symbol_backtest, "REVIEWS_AHEAD", 1)
    few = len(reads)
    _, alone = replay({BTC: falling(1, BTC)})
    reviews = sum(record.reasons[0].rule == "Review" for record in together)
    assert (together, reviews > 150) == (alone, True)
    assert few < reviews / 4 < len(reads) - few


def test_the_same_answer_is_guarded_wherever_it_trades():
    market = Market.from_base(BTC, walk(288 * 12, seed=3, price=50_000.0))
    flat: list[CycleRecord] = []
    asyncio.run(backtest({BTC: market}, HoldDecider(), on_record=flat.append).run())
    asked = Question(snapshot=flat[-1].snapshot, reasons=flat[-1].reasons)
    answer = BuyAndHoldDecider().answer(asked)
    _, verdict, intents = judged(asked, answer, flat[-1].state, strategy(BTC, decider="buy-and-hold"))
    assert (verdict.allowed, verdict.codes, intents) == (False, (Code.STOP_TOO_FAR,), ())


def test_records_of_before_are_judged_as_they_were():
    market = Market.from_base(BTC, walk(288 * 12, seed=3, price=50_000.0))
    flat: list[CycleRecord] = []
    asyncio.run(backtest({BTC: market}, HoldDecider(), on_record=flat.append).run())
    asked = Question(snapshot=flat[-1].snapshot, reasons=flat[-1].reasons)
    case = (asked, BuyAndHoldDecider().answer(asked), flat[-1].state)
    judge, now = judge_of("buy-and-hold"), strategy(BTC, decider="buy-and-hold")
    assert judge(*case, now.replace(rules=2), None) == judged(*case, now.replace(rules=2))
    assert judge(*case, now, None).verdict.allowed


def test_only_replays_know_the_benchmark():
    """Whatever trades judges by `trading.judge`."""
    found = subprocess.run(
        ["git", "grep", "-l", "judge_of\\|benchmark.bought", "--", "tasks", "flows", "deployments", "infra"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(found.stdout.split()) <= {
        f"tasks/core/{name}.py" for name in ("simulation/benchmark", "simulation/backtest", "lab/replay")
    }
    assert not kind_of("ensemble:rules+buy-and-hold").benchmark


def test_recorded_bitcoin_that_lost_43_percent_loses_43_percent():
    market = Market.from_base(BTC, recorded("BTC"))
    unasked = EventThresholds(review_bars=0)  # each hour: that changes nothing, and takes ten thousand questions
    run, _ = replay({BTC: market}, instruments={BTC: linear(BTC, step=Decimal("0.00001"))}, thresholds=unasked)
    # 0.21372 at 46,321.34 x 1.00005, with 5.5 bps, and 26,189.02 in the end
    assert run.summary()["return_pct"] == pytest.approx(-43.09, abs=0.01)
