"""Comparing: windows, pairs on common days, random traders of equal turnover, leakage, kept replies and their cap."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from instrument_cases import linear
from market_data import START, walk
from replayed import strategy

from tasks.core.decision.budget import KeptReply
from tasks.core.decision.rules import RulesDecider
from tasks.core.errors import InputError
from tasks.core.lab import compare, moments, random_traders
from tasks.core.lab.compare import Point, Trial, Variant, VariantsTried
from tasks.core.lab.random_traders import Trade, TradedBars
from tasks.core.market.bars import epoch_s
from tasks.core.market.market import Market
from tasks.core.ports import ModelRequest
from tasks.core.simulation.account import SimulatedAccount, price_bars
from tasks.core.simulation.backtest_inputs import World
from tasks.core.simulation.paid_replies import CAPPED, KeptModel, Spending
from tasks.core.types.decision import ModelCall, PromptRef
from tasks.core.types.limits import Costs
from tasks.core.types.orders import OrderIntent, OrderType

BTC = "BTC/USDT:USDT"
DAY = 86_400
T0 = int(START.timestamp())
COSTS = Costs()


def path_of(bars: pd.DataFrame) -> TradedBars:
    return TradedBars(bars["open"].to_numpy(), bars["close"].to_numpy(), epoch_s(bars.index) + 300)


def trade(opened: int, bars: int, side: str = "long", notional: float = 2000.0, **other: object) -> Trade:
    opened_s = T0 + opened * 300
    fees = 2 * notional * float(COSTS.taker_bps) / 1e4
    given = {"pnl": 1.0, "fees": fees, "outcome_r": 0.1, "decided_s": opened_s}
    return Trade(BTC, side, notional, opened_s, opened_s + bars * 300, **(given | other))


def trial(
    label: str, returns: np.ndarray, first_day: int = 0, treatment: str = "raw", window: int = 0, **other: object
) -> Trial:
    days = T0 + DAY * (first_day + np.arange(len(returns) + 1))
    summary = {
        "max_drawdown_pct": 1.0,
        "fees_quote": Decimal(3),
        "llm_cost_usd": Decimal("0.5"),
        "fingerprint": "f",
        "funding": "unknown",
        "funding_coverage": 0.0,
    }
    given = {"trades": [], "points": [], "summary": summary}
    return Trial(label, window, treatment, days, 10_000 * np.r_[1, np.cumprod(1 + returns)], **(given | other))


def point(at: int, action: str) -> Point:
    return Point(T0 + at * 300, BTC, action, 0.9, 1, "")


def compared(trials: list[Trial], windows: int = 1, cutoff: datetime | None = None):
    labels = list(dict.fromkeys(each.label for each in trials))
    variants = [Variant(label=label, decider=label, cutoff=cutoff) for label in labels]
    cuts = compare.split(START, START + timedelta(days=60), windows)
    paths = {BTC: path_of(walk(288 * 61))}
    return compare.compare(variants, cuts, trials, paths, VariantsTried(5, 0.01), "", 10_000.0, COSTS, seeds=20)


# --- windows


def test_windows_meet_at_midnights_and_cover_everything():
    windows = compare.split(START + timedelta(hours=5), START + timedelta(days=31), 3)
    assert [w.index for w in windows] == [0, 1, 2]
    assert all(a.end == b.start and a.end.hour == 0 for a, b in pairwise(windows))
    assert (windows[0].start, windows[-1].end) == (START + timedelta(hours=5), START + timedelta(days=31))


def test_windows_by_length_are_whole():
    windows = compare.split(START, START + timedelta(days=31), days=10)
    assert [w.end - w.start for w in windows] == [timedelta(days=10)] * 3


@pytest.mark.parametrize(("span", "count", "days"), [(2, 3, 0), (5, 1, 10), (0, 1, 0)])
def test_windows_shorter_than_a_day_are_refused(span, count, days):
    with pytest.raises(InputError, match="windows of a day"):
        compare.split(START, START + timedelta(days=span), count, days)


def test_daily_points_are_start_midnights_and_end():
    closes = T0 + 300 * (1 + np.arange(288 + 100))
    days, equity = compare.daily(np.linspace(101, 200, 388), closes, 100.0)
    assert days.tolist() == [T0, T0 + DAY, T0 + 388 * 300]
    assert equity[0] == 100
    assert equity[2] == 200


# --- random traders


def test_random_trades_cost_what_the_fill_engine_takes():
    """The same trades, at the places drawn, through the one fill engine: the same equity at every midnight."""
    bars = walk(288 * 6, seed=3, price=50_000.0)
    trades = [trade(0, 40), trade(100, 7, "short"), trade(300, 400), trade(900, 150, "short", 5000.0)]
    at, path = random_traders.place(trades, len(bars), np.random.default_rng(4)), path_of(bars)
    days = T0 + DAY * np.arange(7)
    found = random_traders.earned(trades, at, path, days, COSTS)

    instrument = linear(BTC, step=Decimal("1e-12"), tick=Decimal("1e-12"), min_notional=Decimal(0))
    account, tape, equity = SimulatedAccount(Decimal(10_000), {BTC: instrument}, COSTS), price_bars(bars), []
    for k, bar in enumerate(tape):
        if k % 288 == 0:
            equity.append(account.balance({BTC: tape[k - 1].close if k else bar.open}).equity)
        for i in np.flatnonzero(at.exit == k):
            held = account.position(BTC)
            side = "sell" if held.side == "long" else "buy"
            account.submit(market_order(f"x{i}", side, held.quantity, reduce_only=True), bar.open, bar.open_time)
        for i in np.flatnonzero(at.entry == k):
            one = trades[at.order[i]]
            quantity = Decimal(one.notional / path.opens[k]).quantize(Decimal("1e-12"))
            account.submit(
                market_order(f"e{i}", "buy" if one.side == "long" else "sell", quantity), bar.open, bar.open_time
            )
    equity.append(account.balance({BTC: tape[-1].close}).equity)
    assert np.allclose(np.array(equity, dtype=float) - 10_000, found, atol=1e-5)


def market_order(name: str, side: str, quantity: Decimal, **other: object) -> OrderIntent:
    return OrderIntent(client_order_id=name, symbol=BTC, side=side, type=OrderType.MARKET, quantity=quantity, **other)


def test_random_trades_never_overlap_and_keep_holding_time_and_turnover():
    trades = [trade(k * 50, 1 + k % 30) for k in range(60)]
    for seed in range(20):
        at = random_traders.place(trades, 3000, np.random.default_rng(seed))
        assert (at.entry[1:] >= at.exit[:-1]).all()
        assert sorted(at.exit - at.entry) == sorted(1 + k % 30 for k in range(60))
        assert sorted(at.order) == list(range(60))


def test_a_variant_that_knows_the_future_beats_every_seed():
    bars = walk(288 * 30, seed=1)
    path, days = path_of(bars), T0 + DAY * np.arange(31)
    rises = [k for k in range(0, 288 * 30 - 12, 12) if path.opens[k + 12] > path.opens[k] * 1.01]
    trades = [trade(k, 12) for k in rises]
    at = random_traders.Placed(np.arange(len(rises)), np.array(rises), np.array(rises) + 12)
    equity = 10_000 + random_traders.earned(trades, at, path, days, COSTS)
    seeds = random_traders.random_returns(trades, {BTC: path}, days, 10_000.0, COSTS, seeds=200)
    found = random_traders.standing(equity[1:] / equity[:-1] - 1, seeds, len(trades))
    assert (found.seeds, found.beaten) == (200, 1.0)
    assert found.low_return_pct < found.median_return_pct < found.high_return_pct


# --- rows, pairs, leakage


def test_a_better_variant_is_ahead_and_the_interval_says_so():
    rng = np.random.default_rng(0)
    market = rng.normal(0, 0.01, 60)
    found = compared([trial("good", market + 0.002 + rng.normal(0, 1e-4, 60)), trial("plain", market)])
    [pair] = found.pairs
    assert (pair.a, pair.b, pair.daily_bps.n) == ("good", "plain", 60)
    assert pair.daily_bps.low < 20 < pair.daily_bps.high
    assert pair.daily_bps.low > 15


def test_variants_are_compared_on_the_days_both_have():
    returns = np.random.default_rng(1).normal(0, 0.01, 60)
    found = compared([trial("whole", returns), trial("half", returns[:30], complete=False)])
    assert found.pairs[0].daily_bps.n == 30
    assert found.pairs[0].daily_bps.estimate == pytest.approx(0, abs=1e-9)
    assert [row.complete for row in found.rows] == [True, False]
    assert not found.complete


def test_windows_are_put_together_by_compounding():
    parts = [trial("v", np.full(20, 0.01), 20 * k, window=k) for k in range(3)]
    [row] = compared(parts, windows=3).rows
    assert row.return_pct == pytest.approx((1.01**60 - 1) * 100)
    assert [round(w.return_pct, 4) for w in row.windows] == [round((1.01**20 - 1) * 100, 4)] * 3
    assert row.llm_cost_usd == 1.5


def test_a_drawdown_may_span_windows():
    parts = [trial("v", np.full(20, -0.01), 20 * k, window=k) for k in range(3)]
    assert compared(parts, windows=3).rows[0].max_drawdown_pct == pytest.approx((1 - 0.99**60) * 100)


def test_cost_per_decision_and_unusable_replies_are_counted():
    points = [point(0, "HOLD"), point(1, "OPEN_LONG")._replace(errors="malformed")]
    [row] = compared([trial("v", np.full(30, 0.001), points=points)]).rows
    assert (row.decisions, row.invalid, row.cost_per_decision_usd) == (2, 1, 0.25)


def test_an_ended_trade_counts_with_the_confidence_it_was_entered_with():
    points = [point(0, "OPEN_LONG"), point(1, "HOLD")._replace(confidence=0.1), point(50, "OPEN_LONG")]
    trades = [
        trade(0, 10, outcome_r=1.5),
        trade(50, 10, pnl=-1.0, outcome_r=-1.0),
        trade(999, 10),
    ]  # the last is of no decision
    first = trial("v", np.full(30, 0.001), points=points, trades=trades)
    second = trial("v", np.full(30, 0.001), 30, window=1)
    found = compared([first, second], windows=2).rows[0].calibration
    assert (found.entries, found.brier) == (2, pytest.approx((0.1**2 + 0.9**2) / 2))
    assert [(g.confidence, g.won, g.expectancy_r) for g in found.deciles] == [(0.9, 0.5, 0.25)]


def test_masked_gap_agreement_and_input_dependency():
    rng = np.random.default_rng(2)
    raw, lost = rng.normal(0.003, 0.01, 60), rng.normal(-0.003, 0.01, 60)
    seen = [point(0, "HOLD"), point(1, "OPEN_LONG"), point(2, "HOLD"), point(3, "HOLD")]
    other = [point(0, "HOLD"), point(1, "HOLD"), point(2, "HOLD"), point(9, "HOLD")]
    found = compared([
        trial("v", raw, points=seen), trial("v", lost, treatment="masked", points=other),
        trial("v", raw, treatment="perturbed", points=seen),
    ])  # fmt: skip
    [leak] = found.leakage
    assert leak.masked_gap_bps.estimate == pytest.approx((raw - lost).mean() * 1e4)
    assert leak.masked_agreement == pytest.approx(2 / 3)
    assert leak.input_dependency == 0
    assert leak.masked_sharpe < leak.sharpe


def test_windows_lie_before_after_or_across_the_cutoff():
    parts = [trial("v", np.random.default_rng(k).normal(0, 0.01, 40), 40 * k, window=k) for k in range(3)]
    found = compared(parts, windows=3, cutoff=START + timedelta(days=30))
    assert [w.cutoff for w in found.rows[0].windows] == ["before", "spans", "after"]
    assert found.leakage[0].before_sharpe != found.leakage[0].after_sharpe


def test_few_days_on_which_it_moved_have_no_sharpe_ratio_anywhere():
    """Two trades in fifty hours once were a Sharpe ratio of 17.6; so are two in a year of days without any."""
    rng = np.random.default_rng(3)
    idle = np.zeros(60)
    idle[:2] = 0.01, 0.012
    plain = rng.normal(0, 0.01, 60)
    found = compared([trial("idle", idle), trial("short", plain[:29]), trial("v", plain)], cutoff=START)
    rows = {row.label: row for row in found.rows}
    assert [(r.sharpe, r.psr, r.dsr, r.windows[0].sharpe) for r in (rows["idle"], rows["short"])] == [(None,) * 4] * 2
    assert rows["v"].sharpe == pytest.approx(plain.mean() / plain.std(ddof=1) * 365**0.5)
    assert rows["v"].windows[0].sharpe == rows["v"].sharpe
    assert {(pair.sharpe.estimate, pair.sharpe.low) for pair in found.pairs} == {(None, None)}
    assert [leak.sharpe is None for leak in found.leakage] == [True, True, False]


def test_one_variant_has_no_pair_and_no_overfit():
    found = compared([trial("v", np.full(40, 0.001))])
    assert (found.pairs, found.overfit) == ((), None)


# --- quiet bars


def test_quiet_and_event_closes_become_the_same_moments_for_everybody():
    market = Market.from_base(BTC, walk(288 * 40, seed=5, price=50_000.0))
    window, mine = (START + timedelta(days=21), START + timedelta(days=39)), strategy(market.symbol)
    chosen = moments.of_candles(market, mine, World(*window), 30, 30)
    assert chosen == moments.of_candles(market, mine, World(*window), 30, 30)
    events = set(market.event_closes.tolist())
    assert {each.kind for each in chosen} == {"quiet", "event"}
    assert all((each.as_of.timestamp() in events) is (each.kind == "event") for each in chosen)
    assert 10 <= sum(each.kind == "quiet" for each in chosen) <= 60
    assert all(each.opened_s[0] == each.as_of.timestamp() and len(each.opened_s) <= 288 for each in chosen)
    assert len({each.moment_id for each in chosen}) == len(chosen)

    found = asyncio.run(moments.evaluate(chosen, RulesDecider(), mine))
    assert [each.moment for each in found] == chosen
    held = [each for each in found if each.answer.decision.action == "HOLD"]
    assert held and all(each.net_pct == each.hold_pct == each.value_r == 0 for each in held)  # noqa: PT018
    for each in found:
        if each.verdict.allowed and each not in held:
            assert each.risk_pct == each.verdict.trade_risk_pct
            assert each.value_r == pytest.approx(float(each.net_pct / each.verdict.trade_risk_pct))
            assert each.brier == (float(each.answer.decision.confidence) - (each.net_pct > 0)) ** 2


def test_a_moment_is_written_and_read_without_losing_a_digit():
    market = Market.from_base(BTC, walk(288 * 40, seed=5, price=50_000.0))
    window, mine = (START + timedelta(days=21), START + timedelta(days=39)), strategy(market.symbol)
    for one in moments.of_candles(market, mine, World(*window), 3, 3):
        read = moments.Moment.model_validate_json(one.model_dump_json())
        assert read == one
        assert read.moment_id == one.moment_id
        pd.testing.assert_frame_equal(read.bars, one.bars)


# --- kept replies


class Answering:
    """A model that answers with its count, or fails."""

    def __init__(self, error: str = "") -> None:
        self.asked, self.error = 0, error

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, *_ = request
        self.asked += 1
        cost = Decimal(0) if self.error else Decimal("0.01")
        return ModelCall(
            role=role, model="m", prompt=prompt, messages=tuple(messages), raw_reply=str(self.asked),
            error=self.error, cost_usd=cost, latency_ms=7.0,
        )  # fmt: skip


class Desk:
    """Keeps replies in memory, as the store does in its database."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptReply] = {}

    def keep(self, content_hash, call, at) -> None:
        paid = call.model_dump(include={"model", "raw_reply", "cost_usd", "pricing", "tokens_in", "tokens_out"})
        self.kept[content_hash] = KeptReply(created_at=at, **paid)

    def find(self, content_hashes, since) -> KeptReply | None:
        return next((self.kept[one] for one in content_hashes if one in self.kept), None)


class Prices:
    def worst(self, models, request) -> Decimal:
        return Decimal("0.02")

    def cost(self, call: ModelCall) -> Decimal:
        return call.cost_usd

    def pricing(self, model: str, usd: Decimal) -> str:
        return "assumed"


PROMPT = PromptRef(name="single", version="v001", sha256="0" * 64)
HELLO = [{"role": "user", "content": "hello"}]


def kept(model: Answering, desk: Desk, spending: Spending, name: str = "m", address: str = "") -> KeptModel:
    return KeptModel(model, name, address, desk, Prices(), spending, lambda: datetime(2026, 1, 1, tzinfo=UTC))


def ask(model: KeptModel, text: str = "hello", prompt: PromptRef = PROMPT, schema: dict | None = None) -> ModelCall:
    messages = [{"role": "user", "content": text}]
    return asyncio.run(model.ask(ModelRequest("single", prompt, messages, schema or {"type": "object"})))


def test_a_reply_is_paid_for_once_and_is_the_same_call_ever_after():
    model, desk, spending = Answering(), Desk(), Spending()
    first = ask(kept(model, desk, spending))
    again = ask(kept(model, desk, spending))
    assert model.asked == 1
    assert again == first
    assert (spending.asked, spending.reused, spending.spent_usd) == (1, 1, Decimal("0.01"))


def test_another_model_address_prompt_message_or_schema_is_another_question():
    model, desk, spending = Answering(), Desk(), Spending()
    ask(kept(model, desk, spending))
    ask(kept(model, desk, spending, name="other"))
    ask(kept(model, desk, spending, address="http://localhost:1/v1"))
    ask(kept(model, desk, spending), prompt=PROMPT.model_copy(update={"sha256": "1" * 64}))
    ask(kept(model, desk, spending), text="good bye")
    ask(kept(model, desk, spending), schema={"type": "array"})
    assert (model.asked, spending.reused) == (6, 0)


def test_the_cap_is_never_passed_and_what_was_kept_still_answers():
    model, desk, spending = Answering(), Desk(), Spending(cap_usd=Decimal("0.035"))
    asked = kept(model, desk, spending)
    calls = [ask(asked, text) for text in ("a", "b", "c", "d", "a")]
    assert [call.error for call in calls] == ["", "", CAPPED, CAPPED, ""]
    assert (model.asked, spending.spent_usd, spending.reached) == (2, Decimal("0.02"), True)


def test_a_failure_is_not_kept_but_not_repeated_within_a_run():
    model, desk, spending = Answering(error="rate_limited"), Desk(), Spending()
    asked = kept(model, desk, spending)
    assert ask(asked).error == ask(asked).error == "rate_limited"
    assert (model.asked, spending.errors) == (1, 1)
    ask(kept(model, desk, spending))
    assert model.asked == 2
