"""Hours of stepped time through every story: the venue's own state says whether it went well."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sandbox_server import running_sandbox, state

from flows.step import step
from tasks.connections import store, venue
from tasks.settings import settings

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


@pytest.mark.slow
async def test_hours_of_stepped_time_leave_ledger_and_venue_equal(home, monkeypatch):
    start = datetime(2025, 1, 23, 4, 0, tzinfo=UTC)
    with running_sandbox(symbols=(BTC, ETH), start=start, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{BTC},{ETH}")
        monkeypatch.setenv("QUARTERDECK_DECIDER", "random:2")
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", "300")
        monkeypatch.setenv("QUARTERDECK_SAMPLE_QUIET", "1")  # every quarter of an hour is asked about
        settings.cache_clear()
        counts = await step(hours=2.5)
        await venue().close()
        seen = state(url)
    assert counts["executed"] >= 2, counts
    ids = [order["orderLinkId"] for order in seen["orders"] if order["orderLinkId"]]
    assert len(ids) == len(set(ids))
    assert set(seen["unprotected_s"].values()) == {0}
    assert store().halts.newest() is None
    at_venue = {each["symbol"]: (each["side"], Decimal(str(each["size"]))) for each in seen["positions"]}
    ours = {each.symbol: (each.side, each.quantity) for each in store().positions.open("default")}
    assert ours == at_venue
    paid = sum((Decimal(t["fees"]) - Decimal(t["funding"]) for t in seen["totals"].values()), Decimal(0))
    positions = [*store().positions.closed("default"), *store().positions.open("default")]
    assert sum((position.fees for position in positions), Decimal(0)) == paid
