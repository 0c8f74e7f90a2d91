"""A bad day: -40 % in an hour, a gap through every stop, wide spreads, and three of ten requests failing."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sandbox_server import advance, running_sandbox, state

from flows.protect import reconcile
from flows.trade import Request, run_cycles
from infra.sandbox.market.crash import Crash
from tasks import execute, fetch
from tasks import protect as stage
from tasks.connections import store, venue
from tasks.core.errors import TradingError
from tasks.core.types.record import CycleStatus
from tasks.settings import settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
EVENING = datetime(2025, 3, 10, 21, 0, tzinfo=UTC)
CRASH = EVENING + timedelta(minutes=20)
MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.slow


def opens(symbol: str) -> dict[str, object]:
    return {
        "symbol": symbol, "action": "OPEN_LONG", "size_pct": 45, "entry": {"type": "market"}, "stop_atr": 1.5,
        "tp_atr": 3, "confidence": 0.9, "comment": "a test opens",
    }  # fmt: skip


async def tried(story) -> object:
    """Run what a schedule runs, and once more if it fails; None if the venue lets neither come through."""
    for _ in range(2):
        with suppress(TradingError):
            return await story()
    return None


class Day:
    """The sandbox's clock and what the schedules do at its closes."""

    def __init__(self, url: str, replies: Path) -> None:
        self.url, self.now, self.replies, self.lines = url, EVENING, replies, []

    async def at(self, when: datetime):
        """Go on to `when`; protect, ask for a long in both symbols, protect. Returns BTC's record, if any."""
        advance(self.url, (when - self.now).total_seconds())
        self.now = when
        for symbol in (BTC, ETH):
            line = {"as_of": when.isoformat(), "symbol": symbol, "reply": json.dumps(opens(symbol))}
            self.lines.append(json.dumps(line))
        self.replies.write_text("\n".join(self.lines))
        request = Request(symbols=(BTC, ETH), decider=f"recorded:{self.replies}", as_of=when, reason="a test asks")
        await tried(reconcile)
        records = await tried(lambda: run_cycles(request)) or [None]
        await tried(reconcile)
        assert all(position["stopLoss"] for position in state(self.url)["positions"])
        return records[0]


async def test_a_crash_ends_trading_for_the_day_and_the_next_day_it_goes_on_by_itself(home, monkeypatch):
    for module in (execute, stage, fetch):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))
    options = {"symbols": (BTC, ETH), "start": EVENING, "stepped": True, "seed": 3, "crash": Crash(CRASH)}
    with running_sandbox(**options) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{BTC},{ETH}")
        settings.cache_clear()
        day = Day(url, home / "replies.jsonl")
        assert (await day.at(EVENING + 5 * MINUTE)).status is CycleStatus.EXECUTED
        equity = float(state(url)["equity"])
        await day.at(CRASH + 25 * MINUTE)
        seen = state(url)
        assert [fill for fill in seen["fills"] if fill["reason"] == "stop"]
        assert float(seen["equity"]) < 0.97 * equity
        after = await day.at(CRASH + 70 * MINUTE)
        assert after.status is CycleStatus.DENIED
        assert "DAILY_LOSS" in after.verdict.codes
        assert store().halts.newest() is None
        assert state(url)["positions"] == []
        midnight = EVENING.replace(hour=0) + timedelta(days=1)
        tomorrow = await day.at(midnight + 30 * MINUTE)
        await venue().close()
        assert tomorrow.status is CycleStatus.EXECUTED, (tomorrow.error, tomorrow.verdict and tomorrow.verdict.codes)
        assert state(url)["positions"][0]["stopLoss"]
        assert max(state(url)["unprotected_s"].values()) == 0
