"""A record and the candles give what the cycle made, to the byte; anything changed afterwards is found and named."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from market_data import walk
from replayed import backtest, strategy

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.core.decision import ladder
from tasks.core.decision.cache import KeptDecision
from tasks.core.decision.kinds import Means
from tasks.core.decision.ladder import Breaker, BreakerState
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.decision.memory import SIDE, Vector, vector
from tasks.core.decision.rules import RulesDecider
from tasks.core.lab.recorded_replies import RecordedCache
from tasks.core.lab.replay import Replayer, remake, remake_question
from tasks.core.lab.what_if import changed_verdict, total
from tasks.core.market.features import ema
from tasks.core.market.market import Market
from tasks.core.simulation.candle_history import History, window_ema
from tasks.core.trading.judge import judged
from tasks.core.types.decision import Answer, ModelCall, Why, hold
from tasks.core.types.limits import Limits
from tasks.core.types.record import CycleRecord
from tasks.core.types.verdict import Code
from tasks.settings import settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
BARS = {BTC: walk(6_000, 11, price=50_000.0), ETH: walk(6_000, 12, price=50_000.0)}  # liquid enough to fill any order
STRATEGY = strategy(BTC, ETH)
LIVE = STRATEGY.model_copy(update={"history_bars": 1_000, "venue": "v"})
KNOWN = {each.sha256: each for each in (STRATEGY, LIVE)}


@pytest.fixture(scope="module")
def records() -> list[CycleRecord]:
    """Records of a replay of two symbols, read back from their JSON."""
    lines: list[str] = []
    markets = {symbol: Market.from_base(symbol, bars) for symbol, bars in BARS.items()}
    decider = build("random:5", settings())
    run = backtest(markets, decider, on_record=lambda r: lines.append(r.model_dump_json()))
    asyncio.run(run.run())
    return [CycleRecord.model_validate_json(line) for line in lines]


def histories(bars=BARS) -> dict[str, History]:
    return {symbol: History(symbol, Market.from_base(symbol, each).bars) for symbol, each in bars.items()}


def replay(records: list[CycleRecord], kept: dict[str, History] | None = None):
    kept = kept or histories()
    replayer = Replayer(
        lambda _, symbol: kept[symbol], KNOWN.__getitem__, load_prompt, lambda name: build(name, settings())
    )

    async def all_of_them():
        replayer.read_ahead(records)
        return [result for asked in replayer.questions(records) for result in await replayer.replay(asked)]

    return asyncio.run(all_of_them())


def test_every_record_of_a_replay_comes_out_again(records):
    results = replay(records)
    assert len(results) == len(records) > 100
    assert [result for result in results if result.differences or result.lacks] == []
    assert len({record.decided.decision.action for record in records}) > 4


def opened(records: list[CycleRecord]) -> CycleRecord:
    return next(r for r in records if r.intents and r.decided.decision.action.startswith("OPEN"))


def test_a_changed_size_and_a_changed_snapshot_are_named_with_both_values(records):
    record = opened(records)
    [intent] = record.intents
    forged = record.model_copy(update={"intents": (intent.model_copy(update={"quantity": Decimal("1.0")}),)})
    [result] = replay([forged])
    [found] = result.differences
    assert (found.path, found.recorded, found.replayed) == ("intents[0].quantity", "1.0", str(intent.quantity))

    anchors = record.snapshot.htf_anchors.model_copy(update={"daily_open_z": None})
    forged = record.model_copy(update={"snapshot": record.snapshot.model_copy(update={"htf_anchors": anchors})})
    [result] = replay([forged])
    assert [(each.path, each.recorded) for each in result.differences] == [
        ("snapshot.htf_anchors.daily_open_z", "None")
    ]


def test_a_trailing_zero_is_a_difference(records):
    record = opened(records)
    padded = record.verdict.model_copy(update={"quantity": Decimal(f"{record.verdict.quantity}0")})
    [result] = replay([record.model_copy(update={"verdict": padded})])
    assert [each.path for each in result.differences] == ["verdict.quantity"]


def test_other_candles_do_not_give_the_reasons_and_numbers_of_the_record(records):
    record = opened(records)
    other = histories(BARS | {record.symbol: walk(6_000, 13, price=50_000.0)})
    [result] = replay([record], other)
    paths = {each.path for each in result.differences}
    assert "reasons" in paths
    assert "snapshot.timeframes.5m.close" in paths


def test_a_record_that_lacks_something_says_what(records):
    old = records[0].model_copy(update={"inputs": None})
    quiet = records[1].model_copy(update={"decided": None})
    alien = records[2].model_copy(update={"decider": "oracle"})
    told = [result.lacks for result in replay([old, quiet, alien])]
    assert told[0] == "its inputs: it is older than they are recorded"
    assert told[1].startswith("a decision: it ended")
    assert "decider 'oracle' is unknown" in told[2]


class Ruled:
    """Answers what it is given, under the label of a rung below the model's."""

    name = "ruled"

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def decide(self, _questions) -> list[Answer]:
        return [self.answer]


@pytest.mark.parametrize(
    ("code", "known", "rung", "late_s"),
    [
        (Code.FALLBACK_MAY_NOT_OPEN, {}, "rules", 0),
        (Code.STALE, {}, "primary", 600),
        (Code.SYMBOL_NOT_ALLOWED, {"symbols": ("DOGE/USDT:USDT",)}, "primary", 0),
        (Code.LOW_CONFIDENCE, {"limits": Limits(min_confidence=Decimal(1))}, "primary", 0),
    ],
    ids=lambda given: given.value if isinstance(given, Code) else "",
)
def test_what_was_denied_for_its_rung_its_time_or_its_terms_is_denied_again(records, code, known, rung, late_s):
    """The record is made here by a judgement of its own, from all that the cycle had handed to it."""
    record = next(r for r in records if r.intents and r.decided.decision.action == "OPEN_LONG")
    answer = record.decided.model_copy(update={"rung": rung, "source": rung})
    answer = answer.model_copy(update={"decision": answer.decision.model_copy(update={"confidence": Decimal("0.9")})})
    judged_at, terms = record.as_of + timedelta(seconds=late_s), STRATEGY.model_copy(update=known)
    inputs = record.inputs.model_copy(update={"judged_at": judged_at, "strategy": terms.sha256})
    record = record.model_copy(update={"inputs": inputs, "decided": answer, "decider": "ruled"})
    kept = histories()
    question = remake_question(record, terms, kept[record.symbol].market(terms.thresholds, 0))
    verdict = judged(question, answer, record.state, terms, judged_at).verdict
    assert code in verdict.codes
    assert not verdict.allowed
    made = {"snapshot": question.snapshot, "role_inputs": question.role_inputs, "verdict": verdict, "intents": ()}
    replayer = Replayer(lambda _, symbol: kept[symbol], lambda _: terms, load_prompt, lambda _: Ruled(answer))
    [result] = asyncio.run(replayer.replay([record.model_copy(update=made)]))
    assert (result.lacks, result.differences) == ("", ())


@pytest.mark.parametrize("length", [50, 200])
def test_an_average_over_a_window_is_the_same_cut_out_of_all_of_history(length):
    close = BARS[BTC]["close"].to_numpy()[:2_000]
    windowed = window_ema(close, length, 1_000)
    for end in (1, 200, 999, 1_000, 1_001, 1_500, 2_000):
        assert windowed[end - 1] == pytest.approx(
            ema(close[max(0, end - 1_000) : end], length)[-1], rel=1e-12, nan_ok=True
        )


def live(record: CycleRecord, history: History, known_s: float) -> CycleRecord:
    """Return what a live cycle on the last 1,000 bars would have recorded: its features from exactly those."""
    known_at = record.as_of.fromtimestamp(known_s, tz=record.as_of.tzinfo)
    inputs = record.inputs.model_copy(update={"strategy": LIVE.sha256, "known_at": known_at})
    seen = record.model_copy(update={"inputs": inputs})
    asked = remake_question(seen, LIVE, history.seen(LIVE, known_at, record.as_of))
    return remake(seen, LIVE, asked, seen.decided)


def test_a_live_cycle_is_replayed_on_the_bars_it_saw_and_late_bars_are_left_out(records):
    record = next(r for r in reversed(records) if r.symbol == BTC)
    frames = Market.from_base(BTC, BARS[BTC]).bars
    at = record.as_of.timestamp()
    late = {tf: np.full(len(frame), at) for tf, frame in frames.items()}
    gap = int(np.searchsorted(frames["5m"].index, record.as_of - timedelta(hours=2)))
    late["5m"][gap] = at + 3600  # filled by a later fetch
    history = History(BTC, frames, late)
    made = live(record, history, at + 1)
    assert made.snapshot.timeframes["5m"].rsi != record.snapshot.timeframes["5m"].rsi
    [result] = replay([made], {BTC: history})
    assert result.differences == ()

    whole = History(BTC, frames, {tf: np.full(len(frame), at) for tf, frame in frames.items()})
    [result] = replay([live(record, whole, at + 1)], {BTC: whole})
    assert result.differences == ()
    [result] = replay([made], {BTC: whole})
    assert "snapshot.timeframes.5m.rsi" in {each.path for each in result.differences}


def test_other_limits_change_verdicts_and_what_they_would_have_earned(records):
    kept = histories()
    strict = {"max_trade_risk_pct": Decimal("0.1")}
    changed = [found for r in records if (found := changed_verdict(r, STRATEGY, strict, kept[r.symbol]))]
    entries = [r for r in records if r.intents and not r.intents[0].reduce_only]
    assert 0 < len(changed) <= len(entries)
    assert {each.action for each in changed} <= {"OPEN_LONG", "OPEN_SHORT", "ADD"}
    settled = [each for each in changed if each.difference is not None]
    assert sum(abs(each.would_pct) < abs(each.was_pct) for each in settled) > 0.9 * len(settled)
    sums = total(changed)
    assert sums["difference_pct"] == sum(each.difference for each in settled)
    same = Limits().model_dump(include={"max_trade_risk_pct"})
    assert not any(changed_verdict(r, STRATEGY, same, kept[r.symbol]) for r in records)


class Down:
    """A model that never answers."""

    async def ask(self, request):
        role, prompt, messages, *_ = request
        return ModelCall(role=role, model="m", prompt=prompt, messages=tuple(messages), error="timeout")


class Found(RecordedCache):
    """A near decision in the cache, or an open breaker, as found by a live ladder."""

    def __init__(self, kept: list[KeptDecision], breaker: BreakerState) -> None:
        self.kept, self.breaker = kept, breaker

    def change(self, *_: object) -> BreakerState:
        return self.breaker

    def decisions(self, *_: object) -> list[KeptDecision]:
        return self.kept


@pytest.mark.parametrize(("breaker_open", "rung"), [(False, "cache"), (True, "hold")])
def test_what_the_ladder_fell_back_to_comes_out_again(records, breaker_open, rung):
    record = next(r for r in records if r.snapshot.position.side == "flat" and r.inputs.state is None)
    record = record.model_copy(update={"decider": "llm:single", "trigger": "schedule"})
    history, prompt = histories()[record.symbol], load_prompt("single", "v001")
    question = remake_question(record, STRATEGY, history.market(STRATEGY.thresholds, 0))
    values = (None if v is None else v + 0.02 * (i % 3) for i, v in enumerate(vector(question.snapshot).values))
    moved = list(values)
    moved[SIDE] = vector(question.snapshot).values[SIDE]
    earlier = Answer(
        decision=hold(record.symbol, "waited").model_copy(update={"confidence": Decimal("0.70")}), source="llm:m",
        rung="primary", calls=(ModelCall(role="single", model="m", prompt=prompt.ref),),
    )  # fmt: skip
    kept = KeptDecision(as_of=record.as_of - timedelta(seconds=90), decided=earlier, vector=Vector(values=tuple(moved)),
                        reasons=question.snapshot.reason_for_call)  # fmt: skip
    until = record.as_of + timedelta(minutes=9, seconds=7)
    state = BreakerState(errors=5, retry_at=until) if breaker_open else BreakerState()
    standing = ladder.Ladder(
        SingleDecider(Down(), {"single": prompt}, Means()), RulesDecider(),
        ladder.Shared(*[Found([kept], state)] * 4),
        lambda: record.as_of, "default", Breaker(5, timedelta(minutes=15)), timedelta(hours=1), 0.15,
    )  # fmt: skip
    [decided] = asyncio.run(standing.decide([question]))
    assert decided.rung in (rung, "rules")
    made = remake(record, STRATEGY, question, decided)
    results = replay([made, older(made)])
    assert [(result.lacks, result.differences) for result in results] == [("", ()), ("", ())]


NEW = ("trail", "dropped", "late")


def older(record: CycleRecord) -> CycleRecord:
    """Return the record as the release before trails wrote it."""

    def without(value):
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in NEW}
        return [without(each) for each in value] if isinstance(value, list) else value

    return CycleRecord.model_validate(without(record.model_dump(mode="json")))


def test_records_older_than_trails_come_out_as_they_were(records):
    old = [older(record) for record in records]
    assert not any(record.decided.trail for record in old)
    assert [result for result in replay(old) if result.differences or result.lacks] == []


def test_a_forged_trail_is_a_difference(records):
    record = records[0]
    [rung] = record.decided.trail
    forged = record.decided.model_copy(update={"trail": (rung.model_copy(update={"why": Why.LATE}),)})
    [result] = replay([record.model_copy(update={"decided": forged})])
    assert [each.path for each in result.differences] == ["decided.trail[0].why"]
