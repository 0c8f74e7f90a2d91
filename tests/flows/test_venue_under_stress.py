"""A venue that is busy, tells late, refuses, or holds what a person opened: nothing of ours is sold for it."""

from datetime import timedelta
from decimal import Decimal as D

import pytest
from sandbox_cycles import CLOSE, OPEN, START, SYMBOL, die_at, protect_once, recorded, run
from sandbox_positions import opened
from sandbox_server import admin, advance, fault, state
from sqlalchemy import delete, update

from deployments.status import status
from flows.protect import COMPARISON
from tasks import crash_points, ledger, protect
from tasks.adapters.store.tables import IntentRow, PositionRow
from tasks.connections import store, venue
from tasks.core.errors import TradingError
from tasks.core.types.alert import AlertKind
from tasks.core.types.record import CycleStatus
from tasks.core.types.verdict import Code
from tasks.settings import settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hasty")]
STOP, CREATE = "/v5/position/trading-stop", "/v5/order/create"
BUSY = ["429", "-1", "170212"]


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_PATIENCE_S", "90")
    settings.cache_clear()


async def naked(home) -> D:
    [position] = await opened(home)
    await venue().set_protection(SYMBOL, D(0), None)
    return position.stop


def stop_at(url) -> D | None:
    [position] = state(url)["positions"]
    return position["stopLoss"] and D(str(position["stopLoss"]))


def by_hand(url, side: str, qty: str, **more: object) -> None:
    advance(url, 1)  # an instant has no order
    admin(url, "trades", {"symbol": SYMBOL, "side": side, "qty": qty, **more})


# --- busy is no refusal


@pytest.mark.parametrize("code", BUSY)
async def test_a_busy_venue_is_asked_for_the_stop_again_and_sells_nothing(home, exchange, code):
    stop = await naked(home)
    fault(exchange, "refuse", STOP, times=2, code=code)
    await protect_once()
    assert stop_at(exchange) == stop


async def test_a_venue_that_stays_busy_has_refused_nothing(home, exchange):
    stop = await naked(home)
    fault(exchange, "refuse", STOP, times=1000, code="429")
    for _ in range(2):
        with pytest.raises(TradingError, match=f"stop of {SYMBOL}"):
            await protect_once()
    assert stop_at(exchange) is None
    admin(exchange, "faults", method="DELETE")
    await protect_once()
    assert stop_at(exchange) == stop


@pytest.mark.parametrize(("times", "kept"), [(1, True), (100, False)])
async def test_the_position_goes_after_a_refusal_in_two_looks(home, exchange, times, kept):
    await naked(home)
    fault(exchange, "refuse", STOP, times=times, code="10001")
    await protect_once()
    assert bool(state(exchange)["positions"]) is kept


@pytest.mark.parametrize("code", ["10001", "429"])
async def test_the_position_goes_at_once_where_the_price_is_beyond_its_stop(home, exchange, code):
    await naked(home)
    [position] = store().positions.open("default")
    store().positions.save(position.model_copy(update={"stop": position.avg_price * 2}))
    fault(exchange, "refuse", STOP, times=3, code=code)
    result = await protect_once()
    assert state(exchange)["positions"] == []
    assert "flattened" in result["wrong"][0]


async def test_an_exit_is_sent_again_until_it_is_done(home, exchange):
    [position] = await opened(home)
    close = START + timedelta(minutes=5)
    advance(exchange, 300)
    fault(exchange, "refuse", CREATE, times=1000, code="429")
    with pytest.raises(TradingError):
        await run(recorded(home, (close, CLOSE)))
    await protect_once()  # not yet: its own run may be at it still
    advance(exchange, 181)
    with pytest.raises(TradingError):
        await protect_once()
    assert D(str(state(exchange)["positions"][0]["size"])) == position.quantity
    admin(exchange, "faults", method="DELETE")
    await protect_once()
    assert state(exchange)["positions"] == []
    assert store().positions.open("default") == []
    assert [order["side"] for order in state(exchange)["orders"] if order["type"] == "market"] == ["buy", "sell"]


# --- late is no difference


async def test_executions_a_minute_late_cause_no_halt_and_no_alert(home, exchange, patient):
    fault(exchange, "late_fills", times=10, seconds=60)
    assert await recorded_open(home) == []
    for _ in range(2):
        assert (await protect_once())["wrong"] == []
        advance(exchange, 29)
    advance(exchange, 5)
    assert (await protect_once())["wrong"] == []
    [position] = store().positions.open("default")
    assert position.stop == stop_at(exchange)
    told = [kind for _, kind, _ in store().alerts.since(START - timedelta(days=9999)) if not AlertKind(kind).is_news]
    assert (store().halts.newest(), told) == (None, [])


async def test_a_stop_out_told_a_minute_late_is_booked_and_halts_nothing(home, exchange, patient):
    [position] = await opened(home)
    fault(exchange, "late_fills", times=10, seconds=60)
    await venue().set_protection(SYMBOL, (await venue().fetch_book(SYMBOL)).bids[0][0], None)
    for _ in range(60):
        if not state(exchange)["positions"]:
            break
        advance(exchange, 1)
    for _ in range(4):
        assert (await protect_once())["wrong"] == []
        advance(exchange, 29)
    assert store().positions.open("default") == []
    assert store().positions.get(position.position_id).closed_at is not None
    assert store().halts.newest() is None


async def test_a_position_list_a_minute_old_halts_nothing(home, exchange, patient):
    [position] = await opened(home)
    fault(exchange, "stale_positions", times=100, seconds=60)
    assert (await protect_once())["wrong"] == []
    admin(exchange, "faults", method="DELETE")
    advance(exchange, 61)
    assert (await protect_once())["wrong"] == []
    assert store().positions.open("default") == [position]


async def test_a_halt_that_lateness_caused_lifts_itself_and_says_so(home, exchange):
    await opened(home)
    fault(exchange, "late_fills", times=10, seconds=60)
    await venue().set_protection(SYMBOL, (await venue().fetch_book(SYMBOL)).bids[0][0], None)
    for _ in range(60):
        if not state(exchange)["positions"]:
            break
        advance(exchange, 1)
    await protect_once()  # patience 0 here
    assert "venue flat" in store().halts.newest().reason
    advance(exchange, 61)
    await protect_once()
    assert store().halts.newest() is None
    assert [text for _, kind, text in store().alerts.since(START - timedelta(days=9999)) if "lifted" in text]


async def test_only_a_halt_for_a_difference_lifts_itself_and_a_persons_own_stays(home, exchange):
    await opened(home)
    store().halts.add("I am looking into it", "a person", START)
    store().halts.add("ledger mismatch: it was", COMPARISON, START)
    await protect_once()
    assert [halt.who for halt in store().halts.active()] == ["a person"]


async def test_what_no_fill_tells_halts_until_a_fill_tells_that_a_person_added_it(home, exchange):
    await opened(home)
    fault(exchange, "late_fills", times=1000, seconds=60)
    by_hand(exchange, "buy", "0.001")
    for _ in range(2):
        await protect_once()
        assert "mismatch" in store().halts.newest().reason
    advance(exchange, 61)
    assert (await protect_once())["wrong"] == [beside("0.001")]
    assert store().halts.newest() is None
    assert [look.about for look in store().differences.all_of("default")] == [beside("0.001")]


# --- what is not ours


async def test_no_entry_goes_out_beside_a_position_of_a_person(home, exchange):
    by_hand(exchange, "buy", "0.02")
    record = await run(recorded(home, (START, OPEN)))
    assert (record.status, Code.FOREIGN_POSITION in record.verdict.codes) == (CycleStatus.DENIED, True)
    [theirs] = state(exchange)["positions"]
    assert (D(str(theirs["size"])), theirs["stopLoss"]) == (D("0.02"), None)
    await protect_once()
    assert state(exchange)["positions"] == [theirs]
    by_hand(exchange, "sell", "0.02", reduce_only=True)
    advance(exchange, 300)
    record = await run(recorded(home, (START + timedelta(minutes=5), OPEN)))
    assert Code.FOREIGN_POSITION not in record.verdict.codes


async def test_no_decision_reduces_what_a_person_opened_once_ours_was_closed_unheard(home, exchange):
    """Nobody looked in between: the ledger still has ours, and the venue a position of the same side."""
    await opened(home)
    by_hand(exchange, "sell", "0.03", reduce_only=True)
    by_hand(exchange, "buy", "0.02")
    advance(exchange, 300)
    await run(recorded(home, (START + timedelta(minutes=5), CLOSE)))
    assert size_at(exchange) == D("0.02")
    assert store().positions.open("default") == []


@pytest.mark.parametrize("known", [{}, {"state": "sent", "expires_at": START}])
async def test_an_entry_that_the_venue_does_not_know_explains_no_position_of_a_person(
    home, exchange, monkeypatch, known
):
    """It was being sent when its process died, or rests in a restored backup only; a person then opens as it would."""
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at("before_send"))
        with pytest.raises(KeyboardInterrupt):
            await run(recorded(home, (START, OPEN)))
    [entry] = store().intents.open("default")
    assert entry.state == "sending"
    with store().database.writing() as connection:
        connection.execute(update(IntentRow).values(known or {"state": "sending"}))
    by_hand(exchange, "buy", "0.02")
    await protect_once()
    assert (size_at(exchange), stop_at(exchange)) == (D("0.02"), None)


def beside(quantity: str) -> str:
    return f"foreign position {SYMBOL} long {quantity}: left alone"


def told() -> list[str]:
    """Return what was told of what is not ours."""
    return [text for _, kind, text in store().alerts.since(START - timedelta(days=9999)) if kind == "foreign"]


def size_at(url) -> D:
    return sum((D(str(p["size"])) for p in state(url)["positions"]), D(0))


@pytest.mark.parametrize("ends", ["our exit", "a halt that flattens"])
async def test_what_a_person_adds_to_ours_is_named_and_stays_theirs(home, exchange, ends):
    [position] = await opened(home)
    by_hand(exchange, "buy", "0.01")
    for _ in range(2):
        assert (await protect_once())["wrong"] == [beside("0.010")]
    assert told() == [beside("0.010")] == status(settings())["differences"]
    assert store().halts.newest() is None
    assert store().positions.open("default") == [position]
    advance(exchange, 300)
    close = START + timedelta(minutes=5)
    record = await run(recorded(home, (close, {**OPEN, "action": "ADD"})))
    assert Code.FOREIGN_POSITION in record.verdict.codes
    if ends == "our exit":
        advance(exchange, 300)
        await run(recorded(home, (close + timedelta(minutes=5), CLOSE)))
    else:
        store().halts.add("everything out", "a person", START, flatten=True)
    await protect_once()
    await protect_once()
    assert store().positions.open("default") == []
    assert size_at(exchange) == D("0.01")
    assert stop_at(exchange) is None  # ours is no stop of theirs


async def test_our_stop_beside_what_a_person_added_is_for_ours_alone(home, exchange):
    [position] = await opened(home)
    by_hand(exchange, "buy", "0.01")
    await protect_once()
    await protect_once()
    [stop] = [o for o in await venue().open_orders(SYMBOL) if o.type == "stop"]
    assert (stop.price, stop.quantity) == (position.stop, position.quantity)
    assert (await protect_once())["wrong"] == [beside("0.010")]


@pytest.mark.parametrize("path", [STOP, CREATE])
async def test_a_gateway_that_forbids_has_refused_nothing(home, exchange, path):
    """HTTP 403 with a page: the venue itself has said nothing about the stop or the exit."""
    if path == STOP:
        stop = await naked(home)
    else:
        await opened(home)
    advance(exchange, 300)
    fault(exchange, "html", path, times=1000, status=403)
    close = START + timedelta(minutes=5)
    with pytest.raises(TradingError):
        await (protect_once() if path == STOP else run(recorded(home, (close, CLOSE))))
    assert size_at(exchange) > 0
    admin(exchange, "faults", method="DELETE")
    advance(exchange, 181)
    await protect_once()
    if path == STOP:
        assert stop_at(exchange) == stop
    else:
        assert state(exchange)["positions"] == []


async def test_what_a_person_closes_of_ours_is_booked_and_named(home, exchange):
    [position] = await opened(home)
    by_hand(exchange, "sell", "0.001", reduce_only=True)
    assert (await protect_once())["wrong"] == []
    [left] = store().positions.open("default")
    assert left.quantity == position.quantity - D("0.001") == size_at(exchange)
    [line] = told()
    assert line.startswith(f"{SYMBOL}: a person closed 0.001 of ours at ")
    by_hand(exchange, "buy", "0.005")  # and adds, and takes off more than that
    by_hand(exchange, "sell", "0.002", reduce_only=True)
    await protect_once()
    assert store().positions.open("default") == [left]
    by_hand(exchange, "sell", "0.004", reduce_only=True)
    await protect_once()
    assert [p.quantity for p in store().positions.open("default")] == [left.quantity - D("0.001")]
    assert store().halts.newest() is None


async def test_a_person_who_turns_our_position_has_closed_ours_and_holds_the_rest(home, exchange):
    [position] = await opened(home)
    by_hand(exchange, "sell", str(position.quantity + D("0.01")))
    await protect_once()
    await protect_once()
    assert store().positions.get(position.position_id).closed_at is not None
    assert store().halts.newest() is None
    assert (state(exchange)["positions"][0]["side"], size_at(exchange)) == ("short", D("0.01"))
    assert beside("0.010").replace("long", "short") in told()


async def test_a_halt_that_flattens_closes_what_the_venue_holds_and_no_fill_tells_of(home, exchange):
    fault(exchange, "late_fills", times=10, seconds=60)
    assert await recorded_open(home) == []
    store().halts.add("everything out", "a person", START, flatten=True)
    await protect_once()
    assert state(exchange)["positions"] == []
    advance(exchange, 61)
    await protect_once()
    assert store().positions.open("default") == []
    [closed] = store().positions.closed("default")
    assert closed.entry_quantity > 0


async def recorded_open(home) -> list[object]:
    await run(recorded(home, (START, OPEN)))
    await ledger.book_fills.fn(SYMBOL)
    return store().positions.open("default")


@pytest.mark.parametrize(("qty", "left"), [("0.03", []), ("0.002", [D("0.028")])], ids=["delivered", "moved"])
async def test_what_the_venue_takes_off_ours_by_no_trade_is_booked_as_an_exit(home, exchange, qty, left):
    [position] = await opened(home)
    assert position.quantity == D("0.03")
    fault(exchange, "told_fills", row={"execType": "Delivery"})
    by_hand(exchange, "sell", qty, reduce_only=True)
    for _ in range(3):
        assert (await protect_once())["wrong"] == []
    assert store().halts.newest() is None
    assert [p.quantity for p in store().positions.open("default")] == left
    assert [text for text in told() if "the venue closed" in text]


async def test_no_stop_waits_for_an_order_that_cannot_be_looked_up(home, exchange):
    """The entry was being sent when its process died: whether it made the position is not told."""
    stop = await naked(home)
    with store().database.writing() as connection:
        connection.execute(update(IntentRow).values(state="sending"))
        connection.execute(delete(PositionRow))
    at_venue = await venue().positions()
    fault(exchange, "refuse", "/v5/order/", times=1000, code="429")
    assert [action.stop for action in await protect.stops_wanted(at_venue)] == [stop]
