"""The one question: what is known and what is not; memory and news are part of it."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from market_data import walk
from replayed import backtest, strategy

from tasks.core.decision.baselines import HoldDecider
from tasks.core.decision.decider import variables_of
from tasks.core.decision.memory import Earlier, Remembered, SettledTrade, performance, vector
from tasks.core.decision.rules import RulesDecider
from tasks.core.market.market import Market
from tasks.core.simulation.backtest_inputs import World
from tasks.core.trading.question import order_size, question
from tasks.core.types.limits import Limits
from tasks.core.types.portfolio import AccountState
from tasks.core.types.snapshot import Headline, Memory, OrderBookView, Past, TradeDigest
from tasks.core.types.strategy import Told

BTC = "BTC/USDT:USDT"
MARKET = Market.from_base(BTC, walk(3_000, 11))
AT = MARKET.bars["5m"].index[-1].to_pydatetime()
FIVE = timedelta(minutes=5)


def ask(memory=None, news=None, book=None, limits=None, **given):
    chosen = strategy(BTC, limits=limits or Limits())
    return question(chosen, MARKET, AccountState(), book, news, memory, (), AT, **given)


def test_without_a_recorded_book_it_is_modelled_for_the_order_that_could_be_sent():
    modelled, recorded = ask().snapshot.orderbook, ask(book=OrderBookView()).snapshot.orderbook
    assert modelled.spread_bps > 1
    assert (recorded.spread_bps, recorded.slippage_bps_for_size) == (None, None)
    assert order_size(strategy(BTC), Decimal(10_000)) == 2_000
    larger = ask(limits=Limits(max_gross_pct=Decimal(300))).snapshot.orderbook
    assert larger.slippage_bps_for_size > modelled.slippage_bps_for_size
    assert larger.spread_bps == modelled.spread_bps


def test_unknown_memory_is_told_as_unknown_and_an_empty_one_as_none():
    told = [variables_of(ask(memory))["memory"] for memory in (None, Memory())]
    assert told == ["unknown", "none"]
    assert ask(Remembered()).memory == Memory(days=30)


def test_what_may_be_remembered_is_sorted_by_how_near_it_is_to_this_moment():
    here = vector(ask().snapshot)
    far = here.model_copy(update={"values": tuple(None if v is None else v + 0.3 for v in here.values)})
    flip = Past(as_of=AT, action="OPEN_LONG", confidence=0.7, reasons=("TrendFlip(1h up)",))
    made = [
        Earlier(flip.model_copy(update={"as_of": AT - n * FIVE, "outcome_r": float(n)}), each)
        for n, each in ((1, far), (2, here))
    ]
    found = ask(Remembered(made, made, Memory(decider_trades=2, decider_win_rate=0.5, decider_mean_r=1.5))).memory
    assert [past.outcome_r for past in found.recent] == [1.0, 2.0]
    assert [(past.outcome_r, past.distance) for past in found.similar] == [(2.0, 0.0), (1.0, 0.3)]
    assert (found.decider_trades, found.decider_win_rate, found.decider_mean_r) == (2, 0.5, 1.5)


def test_performance_counts_what_was_won_and_leaves_an_unknown_r_out_of_the_mean():
    old, new = frozenset({"single/v001"}), frozenset({"single/v002"})
    trades = [
        SettledTrade(Decimal(5), Decimal(1), 0.6, new), SettledTrade(Decimal(-5), None, 0.8, old),
        SettledTrade(Decimal(0), Decimal("-0.5"), 0.7, old),
    ]  # fmt: skip
    whole, first, second = performance("llm:single", trades, {"single/v001": 0.25, "single/v002": 0.5}).statistics
    assert (whole.names, whole.trades, whole.win_rate, whole.mean_r) == (("llm:single",), 3, 1 / 3, 0.25)
    assert (whole.best_r, whole.worst_r, whole.cost_usd) == (1, -0.5, 0.75)
    assert whole.mean_confidence == pytest.approx(0.7)
    assert (first.names, first.trades, first.win_rate, first.cost_usd) == (("single/v001",), 2, 0, 0.25)
    assert (second.names, second.trades, second.best_r, second.cost_usd) == (("single/v002",), 1, 1, 0.5)
    assert performance("rules", [], {}) == Memory(days=30)


def test_versions_with_the_same_trades_are_told_together():
    both = SettledTrade(Decimal(5), Decimal(1), 0.6, frozenset({"trend/v001", "risk/v001"}))
    [done] = performance("llm:panel", [both], {"trend/v001": 0.25, "risk/v001": 0.5}).statistics
    assert (done.names, done.cost_usd) == (("llm:panel", "risk/v001", "trend/v001"), 0.75)


def test_a_poor_score_is_told_as_tighten_and_tightens():
    assert ask(digest=TradeDigest(recent_performance_score=-0.51)).snapshot.risk.risk_mode == "tighten"
    assert ask(digest=TradeDigest(recent_performance_score=-0.5)).snapshot.risk.risk_mode == "normal"


def test_news_of_a_replay_are_what_was_out_by_then_the_newest_first():
    told = tuple(Headline(title=str(n), published_at=AT + n * FIVE) for n in range(-30, 3))
    assert World().news(AT) is None
    assert World(headlines=()).news(AT).headlines == ()
    found = World(headlines=told).news(AT).headlines
    assert [headline.title for headline in found] == [str(n) for n in range(0, -20, -1)]


class Noting(RulesDecider):
    """Rules that note what they are asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    async def decide(self, questions):
        self.asked += questions
        return await super().decide(questions)


@pytest.mark.parametrize("told", [True, False])
def test_a_replay_remembers_its_own_decisions_and_only_trades_that_have_ended(told):
    noting, records = Noting(), []
    run = backtest({BTC: MARKET}, noting, told=Told(memory=told), on_record=records.append)
    result = asyncio.run(run.run())
    assert len(result.outcomes) > 3
    if not told:
        assert {each.memory for each in noting.asked} == {None}
        return
    closed = {outcome.cycle_id: outcome for outcome in result.outcomes}
    by_close = {record.as_of: record for record in records}
    for each in noting.asked:
        at, memory = each.snapshot.as_of, each.memory
        before = [record for record in records if record.as_of < at]
        assert [past.as_of for past in memory.recent] == [record.as_of for record in before[:-11:-1]]
        for past in (*memory.recent, *memory.similar):
            outcome = closed.get(by_close[past.as_of].cycle_id)
            if outcome is not None and outcome.closed_at == at:
                continue  # closed by the very decision that is asked for here, or by the bar before it
            ended = outcome is not None and outcome.closed_at < at
            assert past.outcome_r == (float(outcome.outcome_r) if ended else None)
        ended = [sum(test(outcome.closed_at) for outcome in result.outcomes) for test in (at.__gt__, at.__ge__)]
        assert ended[0] <= sum(done.trades for done in memory.statistics) <= ended[1]
    assert any(each.memory.similar for each in noting.asked)


def test_remembering_changes_no_decision_of_who_does_not_read_it():
    prints = {
        told: asyncio.run(backtest({BTC: MARKET}, HoldDecider(), told=Told(memory=told)).run()).by_action
        for told in (True, False)
    }
    assert prints[True] == prints[False]
