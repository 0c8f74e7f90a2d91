"""One moment through live, shadow, backtest and replay: the same question, byte for byte, memory and news included.

The book alone is set apart: a replay has none on record and models it.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from market_data import walk
from sandbox_server import advance, running_sandbox
from store_samples import a_cycle, a_position

from flows.step import one_close
from tasks import connections
from tasks.adapters.news import read_news
from tasks.connections import store, venue
from tasks.core.decision.baselines import RecordedDecider
from tasks.core.lab.replay import remake_question
from tasks.core.market.calendar import CalendarEvent
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.trading.question import question
from tasks.core.types.decision import Answer, OpenLong
from tasks.core.types.portfolio import AccountState
from tasks.core.types.question import Question
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.core.types.snapshot import OrderBookView
from tasks.kept_history import store_replayer
from tasks.settings import settings

pytestmark = pytest.mark.slow

SYMBOL = "BTC/USDT:USDT"
FIVE = timedelta(minutes=5)
BARS = walk(900, 11).round({"volume": 0})  # whole, so that bars of hours add up the same everywhere
LAST = BARS.index[-1].to_pydatetime()
START = (LAST - timedelta(hours=3)).replace(minute=0)
CLOSES = [START + n * FIVE for n in range(1, 13)]
TRADED = START - timedelta(days=2)  # the earlier decision whose trade has ended since
NEWS = (("A coin is mentioned", START - timedelta(hours=2)), ("Another one too", START - timedelta(hours=1)))


class Feed(BaseHTTPRequestHandler):
    """An RSS feed of the two headlines."""

    def do_GET(self) -> None:
        items = "".join(
            f"<item><title>{title}</title><pubDate>{at:%a, %d %b %Y %H:%M:%S} GMT</pubDate></item>"
            for title, at in NEWS
        )
        body = f'<?xml version="1.0"?><rss version="2.0"><channel><title>t</title>{items}</channel></rss>'.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def feed() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Feed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rss"
    server.shutdown()
    server.server_close()


class Spy:
    """Notes what a decider is handed."""

    def __init__(self, decider: object) -> None:
        self._decider, self.seen = decider, dict[datetime, Question]()

    def __getattr__(self, name: str) -> object:
        return getattr(self._decider, name)

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        self.seen |= {each.snapshot.as_of: each for each in questions}
        return await self._decider.decide(questions)


def replies(folder: Path) -> Path:
    """Record a HOLD for every close."""
    hold = json.dumps({"symbol": SYMBOL, "action": "HOLD", "confidence": 0.6, "comment": "waits"})
    path = folder / "replies.jsonl"
    lines = (json.dumps({"as_of": at.isoformat(), "symbol": SYMBOL, "reply": hold}) for at in CLOSES)
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def exchange(home: Path, feed: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path, calendar = home / "candles.parquet", home / "calendar.csv"
    ts = BARS.index.astype("datetime64[ms, UTC]").astype("int64")
    BARS.assign(ts=np.asarray(ts)).to_parquet(path)
    calendar.write_text("at,title\n" + "\n".join(f"{at.isoformat()},e{at.minute}" for at in CLOSES[3::3]))
    recorded = f"recorded:{replies(home)}"
    with running_sandbox(candles={SYMBOL: path}, start=START, stepped=True) as url:
        for name, value in {
            "SANDBOX_URL": url, "SYMBOLS": SYMBOL, "DECIDER": recorded, "SHADOW": "hold", "NEWS_FEEDS": feed,
            "CALENDAR": str(calendar),
        }.items():  # fmt: skip
            monkeypatch.setenv(f"QUARTERDECK_{name}", value)
        settings.cache_clear()
        yield url


def earlier() -> tuple[Question, Answer]:
    """Return a decision of two days ago; its trade won 2 R."""
    market = Market.from_base(SYMBOL, BARS)
    strategy = connections.strategy("", {})
    asked = question(strategy, market, AccountState(), OrderBookView(), None, None, (), TRADED)
    entered = OpenLong(symbol=SYMBOL, size_pct=Decimal(5), stop_atr=Decimal(1), tp_atr=Decimal(2), confidence="0.7")
    return asked, Answer(decision=entered, source="recorded", rung="primary")


def remember_live(asked: Question, answer: Answer, decider: str) -> None:
    kept, ended = store(), TRADED + timedelta(hours=1)
    kept.cycles.begin(a_cycle("c0", as_of=TRADED, symbol=SYMBOL, strategy="default", decider=decider), TRADED)
    kept.decisions.keep("c0", answer, TRADED)
    kept.memory.keep("c0", asked.snapshot, answer.decision)
    kept.cycles.save(a_cycle("c0", as_of=TRADED, symbol=SYMBOL, strategy="default", decider=decider, status="executed"),
                    TRADED)  # fmt: skip
    kept.positions.save(closed(ended))
    kept.outcomes.save(outcome(ended))


def closed(at: datetime):
    return a_position(
        "p0", cycle_id="c0", symbol=SYMBOL, strategy="default", quantity=Decimal(0), exit_price=Decimal(66000),
        initial_stop=Decimal(63000), opened_at=TRADED, closed_at=at,
    )  # fmt: skip


def outcome(at: datetime):
    from tasks.core.trading import ledger

    return ledger.outcome(closed(at))


@pytest.fixture
async def live(exchange, monkeypatch) -> tuple[dict[str, Spy], list[CycleRecord]]:
    """Step an hour of closes; returns what champion and challenger were handed, and the champion's records."""
    build, spies = connections.decider, dict[str, Spy]()

    @cache
    def spied(name: str, shadow: bool = False, **more: Any) -> Spy:
        return spies.setdefault("challenger" if shadow else "champion", Spy(build(name, shadow, **more)))

    monkeypatch.setattr(connections, "decider", spied)
    remember_live(*earlier(), settings().decider_name)
    records = []
    for close in CLOSES:
        now = await venue().now()
        advance(exchange, (close - now).total_seconds() + 5)
        records += [record for record in await one_close(close) if record.decided is not None]
    await venue().close()
    return spies, records


def text(asked: Question) -> str:
    """Return the question without the book, its vote, and how that moves the moment in feature space."""
    seen = asked.model_dump(mode="json")
    for past in seen["memory"]["similar"]:
        del past["distance"]
    del seen["snapshot"]["orderbook"]
    for part in ("book", "score", "direction"):
        del seen["snapshot"]["confluence"][part]
    return json.dumps(seen, indent=1)


async def test_one_moment_is_the_same_question_everywhere(home, live):
    spies, records = live
    asked = spies["champion"].seen
    assert len(asked) == len(records) >= 4
    assert spies["challenger"].seen == asked  # the very same, book included

    strategy = store().strategies.get(records[0].inputs.strategy)
    spy = Spy(RecordedDecider(replies(home).read_text().split("\n")))
    run = Backtest({SYMBOL: Market.from_base(SYMBOL, BARS)}, spy, strategy, world(home))
    run.symbols[SYMBOL].remember("c0", *earlier(), status=CycleStatus.EXECUTED)
    run.opened_by["c0"] = earlier()[1]
    run._close(run.symbols[SYMBOL], outcome(TRADED + timedelta(hours=1)), 0)
    run.losses.clear()
    await run.run()
    assert list(spy.seen) == list(asked)
    for at, each in asked.items():
        assert text(spy.seen[at]).splitlines() == text(each).splitlines()

    replayer = store_replayer()
    for record in records:
        history = replayer.history(strategy.venue, SYMBOL)
        market = history.seen(strategy, record.inputs.known_at, record.as_of)
        assert remake_question(record, strategy, market) == asked[record.as_of]

    last = asked[max(asked)]
    assert [each.title for each in last.news.headlines] == [title for title, _ in reversed(NEWS)]
    assert [past.action for past in last.memory.recent][:2] == ["HOLD", "HOLD"]
    assert [(past.action, past.outcome_r is not None) for past in last.memory.similar] == [("OPEN_LONG", True)]
    [done] = last.memory.statistics
    assert (done.trades, done.mean_confidence) == (1, 0.7)


def world(folder: Path) -> World:
    """Return what the live hour had besides candles."""
    file = folder / "news.jsonl"
    lines = ({"at": at.isoformat(), "title": title, "source": "127.0.0.1"} for title, at in NEWS)
    file.write_text("\n".join(map(json.dumps, lines)))
    events = tuple(CalendarEvent(at=at, title=f"e{at.minute}") for at in CLOSES[3::3])
    return World(start=START, end=CLOSES[-1], calendar=events, headlines=read_news(file))
