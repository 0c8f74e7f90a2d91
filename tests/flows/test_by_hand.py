"""What a person asks for reaches the venue once, only reduces, and is told as done by hand."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from sandbox_cycles import OPEN, START, SYMBOL, die_at, protect_once, recorded, run
from sandbox_positions import ETH, limit_entry, manual, opened
from sandbox_server import advance, state

from deployments import forms
from deployments.cli import cli
from deployments.status import shown, status
from tasks import account, by_hand, crash_points
from tasks.connections import store, venue
from tasks.core.errors import InputError
from tasks.core.types.record import CycleStatus
from tasks.core.types.verdict import Code
from tasks.settings import load, settings

pytestmark = pytest.mark.slow


async def asked(*arguments: str) -> dict[str, object]:
    """Ask as in a shell where nothing else runs."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


async def test_half_is_closed_the_stop_tightened_and_the_rest_closed_with_nothing_else_running(home, exchange):
    [position] = await opened(home)
    await venue().close()
    half = await asked("close", SYMBOL, "--share", "50")
    assert (half["asked_for"], half["closed"]) == (half["closed"], float(position.quantity / 2))
    assert half["left"] == float(position.quantity / 2)
    assert (half["home"], half["strategy"], half["system"]) == (str(home), "default", "not running")
    price = D(str(half["price"]))
    tighter = position.stop + (price - position.stop) / 2
    moved = await asked("move-stop", SYMBOL, str(tighter))
    [held] = state(exchange)["positions"]
    [now] = store().positions.open("default")
    assert D(str(held["stopLoss"])) == now.stop == D(str(moved["stop"])) >= tighter
    assert D(held["size"]) == now.quantity
    rest = await asked("close", SYMBOL)
    assert rest["left"] == 0
    assert state(exchange)["positions"] == []
    assert store().positions.open("default") == []
    [closed] = store().positions.closed("default")
    [outcome] = store().outcomes.newest("default")
    assert (closed.exit_reason, outcome.exit_reason, outcome.trade.by_hand) == ("by hand", "by hand", True)
    mine = [own for own in store().intents.own("default", SYMBOL) if own.intent.asked_by == half["asked_by"]]
    assert [(own.intent.type, own.state) for own in mine] == [("market", "done"), ("stop", "done"), ("market", "done")]
    assert (await protect_once())["wrong"] == []


async def test_an_entry_that_rests_goes_with_the_position_that_is_closed_and_with_a_part_it_stays(home, exchange):
    [position] = await opened(home)
    entry = limit_entry()
    store().intents.save(position.cycle_id, (entry,), START)
    await venue().submit(entry)
    store().intents.mark(entry.client_order_id, "sent")
    await by_hand.close(SYMBOL, "50", "ann")
    assert (await venue().find_order(SYMBOL, entry.client_order_id)).status == "open"
    done = await by_hand.close(SYMBOL, "100", "ann")
    assert (await venue().find_order(SYMBOL, entry.client_order_id)).status == "cancelled"
    assert (done["left"], state(exchange)["positions"]) == (0, [])


async def test_after_a_close_by_hand_no_entry_is_allowed_at_once_and_the_next_question_says_why(home, exchange):
    await opened(home)
    await by_hand.close(SYMBOL, "100", "ann")
    advance(exchange, 900)
    again = await run(recorded(home, (await venue().now(), OPEN)))
    assert again.status is CycleStatus.DENIED
    assert Code.REENTRY_COOLDOWN in again.verdict.codes
    assert [trade.by_hand for trade in again.state.closed_trades] == [True]
    told = account.known_ledger("default", again.as_of)
    assert told.openings == ()


@pytest.mark.parametrize("step", ["protect_intent_saved", "before_send", "sent", "order_saved"])
async def test_a_close_that_died_is_finished_once_by_the_next_one(home, exchange, monkeypatch, step):
    [position] = await opened(home)
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at(step))
        with pytest.raises(KeyboardInterrupt):
            await by_hand.close(SYMBOL, "50", "ann")
    await venue().close()
    done = await by_hand.close(SYMBOL, "50", "ann")
    assert len([fill for fill in store().fills.since(START - timedelta(hours=1)) if fill.side == "sell"]) == 1
    [held] = state(exchange)["positions"]
    [ours] = store().positions.open("default")
    assert D(held["size"]) == ours.quantity == done["left"] == position.quantity / 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("close", "DOGE/USDT:USDT"), "symbol 'DOGE/USDT:USDT' is not the strategy's; there are BTC/USDT:USDT"),
        (("close", SYMBOL, "--share", "0"), "share 0: must be a number above 0"),
        (("close", SYMBOL, "--share", "101"), "share 101: must be above 0 and at most 100"),
        (("close", SYMBOL, "--share", "half"), "share half: must be a number above 0"),
        (("close", SYMBOL, "--share", "0.0001"), "that is too small to be sold"),
        (("move-stop", SYMBOL, "1"), "no tighter than"),
        (("move-stop", SYMBOL, "9000000"), "of a long it must be below the price"),
        (("move-stop", SYMBOL, "nan"), "stop nan: must be a number above 0"),
        (("pause", SYMBOL, "--minutes", "0"), "minutes 0: must be above 0 and at most 10080"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_sent(home, exchange, arguments, told):
    [before] = await opened(home)
    await venue().close()
    orders = len(state(exchange)["orders"])
    with pytest.raises(InputError) as refused:
        await asked(*arguments)
    assert told in str(refused.value)
    assert len(state(exchange)["orders"]) == orders
    assert store().positions.open("default") == [before]


async def test_a_persons_own_position_is_not_ours_to_close(home, exchange):
    await manual("buy", D("0.01"))
    with pytest.raises(InputError, match="no open position of ours; open: none"):
        await by_hand.close(SYMBOL, "100", "ann")
    assert len(state(exchange)["positions"]) == 1


async def test_a_pause_by_hand_denies_entries_until_it_ends(home, exchange):
    store()
    paused = await asked("pause", SYMBOL, "--minutes", "20")
    assert paused["paused_until"] == "2025-03-10T12:20:00Z"
    assert store().pauses.in_force(START) == {SYMBOL: START + timedelta(minutes=20)}
    assert store().pauses.in_force(START + timedelta(minutes=20)) == {}
    record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.DENIED
    assert Code.PAUSED in record.verdict.codes


def test_status_says_which_symbols_are_paused_until_when(home):
    until = datetime.now(UTC) + timedelta(hours=1)
    store().pauses.add("default", SYMBOL, until, "ann")
    store().pauses.reduce("default", until)
    report = status(settings())
    assert report["paused"] == {SYMBOL: until}
    assert f"{SYMBOL} paused until {until:%Y-%m-%d %H:%M} UTC: no entries" in [str(each) for each in shown(report)]


def test_forms_offer_the_symbols_there_are(home):
    fields = forms.read(load(symbols=(SYMBOL, ETH)))["flows.by_hand.close"].schema["properties"]
    assert fields["symbol"]["enum"] == [SYMBOL, ETH]
    assert (fields["share"]["exclusiveMinimum"], fields["share"]["maximum"]) == (0, 100)
