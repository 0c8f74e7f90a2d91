"""Numbers no venue means, in every numeric field of every answer that is read, one at a time, over HTTP.

While a field is insane nothing is lost, half written or halted; the symbol trades again once the venue is sane.
"""

import json
import os
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest
from insane import INSANE, numbers, spoiled
from sandbox_cycles import CLOSE, OPEN, START, SYMBOL, protect_once, recorded, run
from sandbox_server import advance, running_sandbox, state

from flows import protect as watch
from infra.sandbox import app
from infra.sandbox.api import rows
from infra.sandbox.api.answers import BybitAnswer
from tasks import execute, fetch, ledger, protect
from tasks.adapters.quality import suite
from tasks.connections import store
from tasks.core.errors import TradingError
from tasks.core.types.record import CycleStatus
from tasks.settings import settings

VARIABLE = "EVERY_FIELD"
EVERY = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"13 minutes; {VARIABLE}=1 runs it")
PATIENCE = 6  # bars; an entry that may have been sent counts until nothing of its cycle can be
LONG = {  # settings: no rule of the guard ends the loop
    "QUARTERDECK_LIMITS__OPENS_PER_HOUR": "1000", "QUARTERDECK_LIMITS__OPENS_PER_DAY": "1000",
    "QUARTERDECK_LIMITS__DAILY_LOSS_HALT_PCT": "90", "QUARTERDECK_LIMITS__DRAWDOWN_HALT_PCT": "90",
    "QUARTERDECK_LIMITS__REENTRY_COOLDOWN_MIN": "0", "QUARTERDECK_LIMITS__COOL_OFF_MIN": "0",
    "QUARTERDECK_LIMITS__MAX_REJECTIONS": "1000", "QUARTERDECK_HISTORY_BARS": "300",
}  # fmt: skip


class Wire:
    """What the sandbox's answers go through: it learns their numbers, and spoils the one that it is told to."""

    def __init__(self) -> None:
        self.path, self.spoil, self.value, self.hits, self.bars = "", None, None, 0, False
        self.seen = dict[tuple[str, str], None]()

    def through(self, answer: object) -> object:
        self.seen |= dict.fromkeys((self.path, name) for name in numbers(answer))
        if self.spoil is None or self.spoil[0] != self.path:
            return answer
        self.hits += 1
        self.bars |= "kline" in self.path
        return spoiled(answer, self.spoil[1], self.value)


@pytest.fixture
def wire(monkeypatch):
    seen = Wire()

    class Spoiled(BybitAnswer):
        def render(self, content):
            return json.dumps(seen.through(json.loads(BybitAnswer.render(self, content)))).encode()

    async def answer(self, request):
        seen.path = request.path_params["path"]
        return await ANSWER(self, request)

    ANSWER = app.SandboxApp._answer
    monkeypatch.setattr(app.SandboxApp, "_answer", answer)
    monkeypatch.setattr(app, "BybitAnswer", Spoiled)
    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.0)
    for module in (execute, protect, ledger, fetch):
        monkeypatch.setattr(module, "PAUSES", (0.01,))
    judge = suite.validate  # 300 ms a cycle: from the first spoiled bar on
    monkeypatch.setattr(suite, "validate", lambda frames, as_of: judge(frames, as_of) if seen.bars else [])
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)
    for name, value in LONG.items():
        monkeypatch.setenv(name, value)
    return seen


@pytest.fixture
def day(home, wire, monkeypatch):
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        settings.cache_clear()
        yield Day(url, home, wire)


class Day:
    """A sandbox's day in steps of a bar, on each of which a decider opens what is flat and closes what is open."""

    def __init__(self, url, home, wire) -> None:
        self.url, self.home, self.wire, self.now, self.replies = url, home, wire, START, []

    def go_on(self) -> None:
        advance(self.url, 300)
        self.now += timedelta(minutes=5)

    async def cycle(self):
        self.replies.append((self.now, CLOSE if state(self.url)["positions"] else OPEN))
        return await run(recorded(self.home, *self.replies[-20:]))

    def agrees(self) -> bool:
        """Return whether the ledger holds what the venue holds, with its stop."""
        at_venue = [(p["symbol"], Decimal(p["size"]), Decimal(p["stopLoss"])) for p in state(self.url)["positions"]]
        ours = [(p.symbol, p.quantity, p.stop) for p in store().positions.open("default")]
        return at_venue == ours

    async def insane(self, field, value):
        """Spoil a field for a cycle and a look of protect."""
        self.go_on()
        self.wire.spoil, self.wire.value, self.wire.hits = field, value, 0
        for story in (self.cycle, protect_once):
            with suppress(TradingError):
                await story()
        self.wire.spoil = None

    async def trades_again(self) -> int:
        """See that an order is carried out, and return at which bar: an entry without an answer is waited for."""
        for bar in range(PATIENCE):
            self.go_on()
            await protect_once()
            assert self.agrees()
            record = await self.cycle()
            if record.status is CycleStatus.EXECUTED:
                await protect_once()
                assert self.agrees()
                assert store().halts.newest() is None
                return bar
        raise AssertionError((record.error, record.verdict and record.verdict.codes))


async def learn(day):
    """Return every numeric field of every answer to a day of opening, holding and closing."""
    for _ in range(2):
        await day.trades_again()
    return list(day.wire.seen)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("some", [pytest.param("", marks=EVERY, id="all"), "exec", "size", "equity"])
async def test_every_numeric_field_insane_one_at_a_time_and_the_symbol_trades_again(day, some):
    fields = [field for field in await learn(day) if some in field[1]]
    tried, waited, failed = Counter(), Counter(), []
    for field in fields:
        for value in INSANE:
            await day.insane(field, value)
            if day.wire.hits:
                tried[field[0]] += 1
            try:
                waited[await day.trades_again()] += 1
            except (AssertionError, TradingError) as e:
                failed.append((field, value, str(e)[:300]))
    print(f"insane: {sum(tried.values())} of {len(fields)} fields x {len(INSANE)} values asked for; bars {waited}")
    assert failed == []
    assert len(fields) > 0
    assert some or {"execution/list", "position/list", "account/wallet-balance", "order/realtime"} <= tried.keys()


async def test_a_fee_that_cannot_be_valued_is_booked_and_its_position_managed(day, monkeypatch):
    sane = rows.execution_row
    monkeypatch.setattr(rows, "execution_row", lambda ex, fill: sane(ex, fill) | {"feeCurrency": "BNB"})
    day.go_on()
    await day.cycle()
    [kept] = store().fills.since(START, SYMBOL)
    assert kept.fee_currency != "USDT"
    assert [position.stop for position in store().positions.open("default")] != [None]
    await protect_once()
    assert day.agrees()
    assert store().halts.newest() is None
    assert [kind for _, kind, _ in store().alerts.since(START)] == ["opened"]
