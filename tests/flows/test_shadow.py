"""Challengers beside the champion: asked, judged, scored; never sent."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sandbox_server import advance, running_sandbox, state

from flows.settle import settle_all
from flows.trade import Request, run_cycles
from tasks import fetch
from tasks.connections import store, venue
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
        monkeypatch.setenv("QUARTERDECK_SHADOW", f"recorded:{replies},hold,no-such-decider")
        settings.cache_clear()
        yield url


async def test_a_challenger_sends_nothing_and_is_scored_like_the_champion(home, exchange):
    champion, challenger = "champion", f"recorded:{home / 'replies.jsonl'}"
    request = Request(symbols=(SYMBOL,), decider="hold", reason="a test asks", as_of=START)
    await run_cycles(request)
    assert state(exchange)["orders"] == []
    kept = store().shadows_between("default", challenger, START - timedelta(minutes=5), START)
    assert [shadow.decided.decision.action for shadow in kept] == ["OPEN_LONG"]
    assert kept[0].intents
    await settle_all()
    assert store().shadow_scores("default") == {}  # a day has to pass first
    advance(exchange, 25 * 3600)
    await fetch.fetch_candles.fn((SYMBOL,), START + timedelta(hours=25))
    await settle_all()
    await venue().close()
    scores = store().shadow_scores("default")
    assert set(scores) == {champion, challenger, "hold"}
    [cycle_id] = scores[champion]
    assert scores[champion][cycle_id] == scores["hold"][cycle_id] == 0
    assert scores[challenger][cycle_id] != 0
    books = {name: store().paper_book("default", name) for name in (challenger, "hold")}
    assert books["hold"].equity == 10_000
    assert books[challenger].equity != 10_000
    assert state(exchange)["orders"] == []
