"""The desk says what is open, what it is worth and why, and writes over its one artifact in Prefect."""

import asyncio
import json
from datetime import timedelta
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from sandbox_cycles import CLOSE, OPEN, START, SYMBOL, protect_once, recorded, run
from sandbox_positions import opened
from sandbox_server import advance

from deployments.cli import cli
from tasks import by_hand, desk
from tasks.adapters.charts.comparison_report import page_of
from tasks.connections import store, venue
from tasks.core.pages import alerts
from tasks.core.pages.desk import Judged, to_markdown
from tasks.core.types import CycleStatus
from tasks.settings import settings

pytestmark = pytest.mark.slow
HOSTILE = "<script>alert(1)</script> | [x](javascript:1)"


async def told(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["positions", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


async def test_the_page_adds_up_and_nothing_a_model_wrote_acts_on_it(home, exchange):
    [position] = await opened(home, comment=HOSTILE)
    advance(exchange, 300)
    await by_hand.close(SYMBOL, "50", "ann")
    store().halts.add("looking into it", "ann", START)
    await protect_once()
    seen = await desk.read(await desk.now())
    [held] = seen.positions
    mark = (await venue().fetch_book(SYMBOL)).bids[0][0]
    await venue().close()
    [left] = store().positions.open("default")
    [standing] = seen.standings
    assert standing.realized == left.realized_pnl - left.fees < 0
    assert (held.mark, held.pnl) == (mark, (mark - left.avg_price) * left.quantity)
    assert left.quantity == position.quantity / 2
    [judged] = seen.judged
    assert (judged.action, judged.status, judged.as_of) == ("OPEN_LONG", "executed", START)
    titles = [table.title for table in seen.tables]
    assert titles[:2] == ["Halts", "Open positions"]
    assert dict(seen.figures)["entries"] == "halted"
    assert seen.runs == []  # no Prefect server answers here
    page, text = page_of("desk.html.j2", desk=seen), to_markdown(seen)
    for shown in (page, text):
        assert "<script>" not in shown
        assert "looking into it" in shown
    assert "[x](" not in text


async def test_people_are_told_once_what_was_opened_and_what_came_of_it(home, exchange):
    await opened(home, comment="a break that held")
    await protect_once()
    advance(exchange, 3900)
    await by_hand.close(SYMBOL, "100", "ann")
    for _ in range(2):
        await protect_once()
    await venue().close()
    told = {kind: text for _, kind, text in store().alerts.since(START)}
    assert [kind for _, kind, _ in store().alerts.since(START)] == ["opened", "closed"]
    assert told["opened"].startswith("opened long 0.")
    assert told["opened"].endswith(": a break that held")
    assert " at 6" in told["closed"]
    assert "(by hand): " in told["closed"]
    assert " USDT, " in told["closed"]
    assert told["closed"].endswith(" R, after 1 h 5 min")


async def test_people_are_told_of_a_stop_that_the_venue_carried_out_during_an_outage(home, exchange):
    await opened(home)
    await protect_once()
    bid = (await venue().fetch_book(SYMBOL)).bids[0][0]
    await by_hand.move_stop(SYMBOL, bid - 1, "ann")
    await venue().close()
    advance(exchange, 4 * 3600)
    for _ in range(2):
        await protect_once()
    told = [text for _, kind, text in store().alerts.since(START) if kind == "closed"]
    assert len(told) == 1
    assert "(stop): -" in told[0]


def test_what_the_guard_refused_in_an_hour_is_one_message():
    def judged(minutes, symbol, status, *codes):
        return Judged(START + timedelta(minutes=minutes), symbol, "OPEN_LONG", D(1), "m", status, codes, "", "")

    denied, held = CycleStatus.DENIED, CycleStatus.HELD
    seen = [judged(0, "BTC", denied, "SPREAD"), judged(15, "ETH", denied, "SPREAD", "CHASING"), judged(30, "BTC", held)]
    seen += [judged(60, "SOL", denied, "SPREAD")]
    [alert] = alerts.of_denied(seen, START, START + timedelta(hours=1))
    assert alert.kind.is_news
    assert alert.text.startswith("2 entries denied from ")
    assert alert.text.endswith("in BTC, ETH: SPREAD 2, CHASING 1")
    assert alerts.of_denied(seen[2:3], START, START + timedelta(hours=1)) == []


async def test_pnl_is_split_by_why_a_trade_ended(home, exchange):
    await opened(home)
    await by_hand.close(SYMBOL, "100", "ann")
    advance(exchange, 2 * 3600)
    again = await venue().now()
    await run(recorded(home, (again, OPEN), (again + timedelta(minutes=5), CLOSE)))
    advance(exchange, 300)
    await run(recorded(home, (again + timedelta(minutes=5), CLOSE)))
    seen = await desk.read(await desk.now())
    await venue().close()
    by = {
        table.title: {row[0]: D(str(row[2])) for row in table.rows} for table in seen.tables if "PnL by" in table.title
    }
    assert by["PnL by exit reason"].keys() == {"by hand", "decision"}
    assert by["PnL by prompt version"].keys() == {"no model"}
    total = sum(outcome.pnl for outcome in store().outcomes.newest("default"))
    assert all(abs(sum(split.values()) - total) < D("0.02") for split in by.values())
    [standing] = seen.standings
    assert (standing.name, standing.realized) == ("default", total)


async def test_positions_are_a_table_and_a_document_and_a_silent_venue_leaves_marks_unknown(
    home, exchange, monkeypatch
):
    assert "there is no database, so nothing is open" in await told()
    [position] = await opened(home)
    await venue().close()
    document = json.loads(await told("--json"))
    [held] = document["positions"]
    assert (held["symbol"], held["side"], held["quantity"]) == (SYMBOL, "long", float(position.quantity))
    assert held["reason"].startswith("a test opens")
    assert held["mark"] is not None
    monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    assert "unknown" in await told()
    [held] = json.loads(await told("--json"))["positions"]
    assert (held["mark"], held["pnl"], held["r"]) == (None, None, None)
    assert held["stop"] == float(position.stop)


async def test_the_artifact_is_written_over(home, exchange, prefect_server):
    @flow
    async def renewed(minutes: int) -> None:
        await desk.show(START + timedelta(minutes=minutes))
        await venue().close()

    for minutes in (0, 7):
        await renewed(minutes)
    async with get_client() as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["desk"]))
        [only] = await client.read_artifacts(artifact_filter=wanted)
    assert "03-10 12:07 UTC" in only.data
