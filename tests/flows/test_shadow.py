"""Challengers beside the champion: asked, judged, scored; never sent."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from guard_cases import GRID, NOON, account, seen
from sandbox_server import advance, running_sandbox, state
from store_samples import a_cycle, a_decision, a_verdict, an_intent

from flows.settle import settle_all
from flows.trade import Request, run_cycles
from tasks import fetch, shadow
from tasks.adapters.venue.ccxt_venue import connect
from tasks.adapters.venue.paper import PaperVenue
from tasks.connections import store, venue
from tasks.core.errors import InputError
from tasks.core.lab.moments import evaluated
from tasks.core.market.bars import bar_frame
from tasks.core.simulation.account import SimulatedAccount
from tasks.core.types.portfolio import AccountState
from tasks.core.types.question import Question
from tasks.core.types.record import Inputs, ShadowDecision
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Code
from tasks.kept_history import store_replayer
from tasks.moments import MomentsRequest, gather
from tasks.settings import settings

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
OPEN = {
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market"}, "stop_atr": 1.5,
    "tp_atr": 3, "confidence": 0.8, "comment": "a test opens",
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    replies = home / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": START.isoformat(), "symbol": SYMBOL, "reply": json.dumps(OPEN)}))
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_SHADOW", f"recorded:{replies},hold,no-such-decider")
        settings.cache_clear()
        yield url


async def test_a_challenger_sends_nothing_and_is_scored_like_the_champion(home, exchange):
    champion, challenger = "champion", f"recorded:{home / 'replies.jsonl'}"
    request = Request(symbols=(SYMBOL,), decider="hold", reason="a test asks", as_of=START)
    await run_cycles(request)
    assert state(exchange)["orders"] == []
    kept = store().shadow.between("default", challenger, START - timedelta(minutes=5), START)
    assert [shadow.decided.decision.action for shadow in kept] == ["OPEN_LONG"]
    assert kept[0].intents
    await settle_all()
    assert store().shadow.scores("default") == {}  # a day has to pass first
    advance(exchange, 25 * 3600)
    await fetch.fetch_candles.fn((SYMBOL,), START + timedelta(hours=25))
    await settle_all()
    await venue().close()
    scores = store().shadow.scores("default")
    assert set(scores) == {champion, challenger, "hold"}
    [cycle_id] = scores[champion]
    assert scores[champion][cycle_id] == scores["hold"][cycle_id] == 0
    assert scores[challenger][cycle_id] != 0
    books = {name: store().paper_books.get("default", name) for name in (challenger, "hold")}
    assert books["hold"].equity == 10_000
    assert books[challenger].equity != 10_000
    assert state(exchange)["orders"] == []

    now = START + timedelta(hours=25)
    [disagreed] = gather.fn(MomentsRequest(name="m", live="disagreed"), now)
    assert disagreed.cycle_id == cycle_id
    assert gather.fn(MomentsRequest(name="m", live="worst"), now) == [disagreed]
    [kept] = store().shadow.between("default", challenger, START - timedelta(minutes=5), START + timedelta(minutes=5))
    strategy = store_replayer().strategy(store().cycles.get(cycle_id))
    pct = evaluated(disagreed, kept.decided, strategy).net_pct
    assert pct == scores[challenger][cycle_id]  # the one fill engine, over the same day
    [hidden] = gather.fn(MomentsRequest(name="m", live="latest", mask=True), now)
    assert SYMBOL not in hidden.model_dump_json()
    assert hidden.question.masked
    with pytest.raises(InputError, match="moments m: none in the records asked for"):
        gather.fn(MomentsRequest(name="m", live="latest"), now + timedelta(days=31))


@pytest.mark.parametrize("seconds", [0, 391])
async def test_a_challenger_is_judged_at_the_champions_time(home, monkeypatch, seconds):
    replies = home / "replies.jsonl"
    replies.write_text(json.dumps({"as_of": NOON.isoformat(), "symbol": SYMBOL, "reply": json.dumps(OPEN)}))
    monkeypatch.setenv("QUARTERDECK_SHADOW", f"recorded:{replies}")
    settings.cache_clear()
    inputs = Inputs(strategy="", judged_at=NOON + timedelta(seconds=seconds))
    record = a_cycle(as_of=NOON, state=account(), inputs=inputs)
    store().cycles.begin(record, NOON)
    strategy = Strategy(symbols=(SYMBOL,), instruments={SYMBOL: GRID})
    await shadow.decide_shadows.fn(strategy, [Question(snapshot=seen())], [record])
    [kept] = store().shadow.between("default", f"recorded:{replies}", NOON - timedelta(minutes=5), NOON)
    assert (Code.STALE in kept.verdict.codes) == bool(seconds)


async def test_a_challengers_long_pays_the_funding_that_the_paper_venues_pays(home, exchange, monkeypatch):
    begin = datetime(2025, 3, 10, 15, 30, tzinfo=UTC)  # half an hour before the rate is paid
    advance(exchange, (begin - START).total_seconds())
    monkeypatch.setenv("QUARTERDECK_SHADOW", "hold")
    settings.cache_clear()
    long, paper = an_intent(stop=None, target=None), PaperVenue(connect(settings()), store().paper_books, settings())
    await paper.submit(long)
    store().cycles.begin(a_cycle(as_of=begin), begin)
    store().shadow.keep(
        ShadowDecision(
            cycle_id="c1", strategy="default", decider="hold", symbol=SYMBOL, as_of=begin, state=AccountState(),
            decided=a_decision(), verdict=a_verdict(), intents=(long,),
        )
    )  # fmt: skip
    advance(exchange, 3600)
    await fetch.fetch_candles.fn((SYMBOL,), begin + timedelta(hours=1))
    [equity] = (await shadow.run_paper_books.fn(begin + timedelta(hours=1))).values()
    stored = store().paper_books.get("default", "hold")
    book = SimulatedAccount(settings().paper_cash, {}, settings().costs)
    book.load(stored.state)
    [theirs] = [fill for fill in book.fills if fill.reason == "funding"]
    [ours] = [fill for fill in await paper.fills(SYMBOL, begin) if fill.reason == "funding"]
    await venue().close()
    assert theirs.fee == ours.fee > 0
    assert theirs.at == ours.at == begin + timedelta(minutes=30)
    held, paid = book.wallet.holdings[SYMBOL], sum(fill.fee for fill in book.fills)
    assert equity == settings().paper_cash - paid + (book.wallet.last[SYMBOL] - held.avg_price) * held.quantity


async def test_a_challengers_order_waits_for_a_bar_with_trades_from_one_run_to_the_next(home, exchange, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_SHADOW", "hold")
    settings.cache_clear()
    store().cycles.begin(a_cycle(as_of=START), START)
    store().shadow.keep(
        ShadowDecision(
            cycle_id="c1", strategy="default", decider="hold", symbol=SYMBOL, as_of=START, state=AccountState(),
            decided=a_decision(), verdict=a_verdict(), intents=(an_intent(stop=None, target=None),),
        )
    )  # fmt: skip
    ms = int(START.timestamp() * 1000) + np.arange(4) * 300_000
    prices = {name: np.full(4, 60_000.0) for name in ("open", "high", "low", "close")}
    bars = bar_frame(ms, prices | {"volume": np.array([0.0, 0.0, 1e6, 1e6])})
    store().candles.save(venue().name, {(SYMBOL, "5m"): bars}, START)
    filled = []
    for n in range(1, 5):
        await shadow.run_paper_books.fn(START + n * timedelta(minutes=5))
        book = SimulatedAccount(settings().paper_cash, {}, settings().costs)
        book.load(store().paper_books.get("default", "hold").state)
        filled.append([fill.at for fill in book.fills])
    await venue().close()
    assert filled == [[], [], [START + timedelta(minutes=10)], [START + timedelta(minutes=10)]]
