"""Runs are called what they are about, in lists and in alerts."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from flows import clock

DUE = datetime(2026, 3, 1, 12, 15, 10, tzinfo=UTC)
MADE_UP = "licensed-alpaca"
REVIEW = {"review_only": True}
FOUR = ["BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "XRP/USDT:USDT"]


@pytest.mark.parametrize(
    ("name", "flow", "parameters", "shown"),
    [
        (MADE_UP, "watch", {"max_age_s": 60}, "watch 12:15"),
        (MADE_UP, "trade", {"trigger": "schedule", "symbols": None}, "trade BTC ETH 12:15 (schedule)"),
        ("Licensed-Emu", "trade", {"trigger": "event", "symbols": "ETH/USDT:USDT"}, "trade ETH 12:15 (event)"),
        (MADE_UP, "trade", {"trigger": "schedule", "symbols": FOUR, **REVIEW}, "trade 4 symbols 12:15 (review)"),
        (MADE_UP, "trade", {"trigger": "adhoc", "as_of": DUE.replace(hour=9)}, "trade BTC ETH 09:15 (adhoc)"),
        (MADE_UP, "evaluate", {"candles": "may", "symbols": None}, "evaluate 12:15"),
        (MADE_UP, "close", {"symbol": "ETH/USDT:USDT", "share": 50}, "close ETH 12:15"),
        ("before the news", "trade", {"trigger": "adhoc"}, "before the news"),
    ],
)  # fmt: skip
def test_a_run_says_what_it_is_about_unless_a_person_named_it(home, monkeypatch, name, flow, parameters, shown):
    monkeypatch.setenv("QUARTERDECK_SYMBOLS", "BTC/USDT:USDT,ETH/USDT:USDT")
    run = SimpleNamespace(id="1", name=name, flow_name=flow, parameters=parameters, scheduled_start_time=DUE)
    monkeypatch.setattr(clock, "flow_run", run)
    assert clock.run_name() == shown
