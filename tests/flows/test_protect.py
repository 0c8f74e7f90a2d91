"""What protect does when something is wrong: one symbol's trouble is not the others', and nothing stays naked."""

import contextlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from sandbox_cycles import (
    OPEN,
    START,
    SYMBOL,
    die_at,
    killed_after_the_intents_were_written,
    protect_once,
    recorded,
    run,
)
from sandbox_positions import ETH, both_opened, limit_entry, manual, opened, seen
from sandbox_server import advance, fault, state

from flows.protect import protect
from flows.trade import Request, run_cycles
from tasks import account, crash_points, fetch, ledger
from tasks import protect as stage
from tasks.adapters.venue.bybit import Bybit
from tasks.connections import store, venue
from tasks.core.errors import LedgerMismatch, StoreError, TradingError, VenueUnavailable
from tasks.core.trading.followups import Look
from tasks.core.types.decision import Add
from tasks.core.types.record import CycleStatus
from tasks.settings import settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hasty")]


async def test_one_symbols_ledger_mismatch_leaves_no_other_naked(home, two_symbols, monkeypatch):
    await both_opened(home)
    assert len(state(two_symbols)["positions"]) == 2
    await venue().set_protection(ETH, D(0), None)
    real = ledger.book_fills.fn

    async def broken(symbol: str):
        if symbol == SYMBOL:
            raise LedgerMismatch("fill x takes 2 out of 1; reconcile")
        return await real(symbol)

    monkeypatch.setattr(ledger.book_fills, "fn", broken)
    with pytest.raises(TradingError, match=f"booking {SYMBOL}"):
        await protect_once()
    assert all(position["stopLoss"] for position in state(two_symbols)["positions"])
    assert "fill x" in store().halts.newest().reason
    assert store().equity.last("default").at > START - timedelta(hours=1)


async def test_a_lookup_that_fails_does_not_keep_a_position_naked(home, exchange):
    await opened(home)
    store().intents.save(store().cycles.newest("default")[0].cycle_id, (limit_entry(),), START)
    await venue().set_protection(SYMBOL, D(0), None)
    fault(exchange, "http_500", "/v5/order/realtime", times=20)
    with pytest.raises(TradingError, match="working orders"):
        await protect_once()
    assert state(exchange)["positions"][0]["stopLoss"]


@pytest.mark.parametrize("path", ["/v5/position/list", "/v5/account/wallet-balance", "/v5/market/time"])
async def test_one_http_500_leaves_no_position_naked(home, exchange, path):
    await opened(home)
    await venue().set_protection(SYMBOL, D(0), None)
    fault(exchange, "http_500", path, times=1)
    with contextlib.suppress(TradingError):  # what it could not do it says; the stop is what counts
        await protect_once()
    assert state(exchange)["positions"][0]["stopLoss"]
    assert store().positions.open("default")


async def test_a_stop_whose_answer_is_lost_is_no_reason_to_close_the_position(home, exchange):
    await opened(home)
    await venue().set_protection(SYMBOL, D(0), None)
    fault(exchange, "http_500", "/v5/position/trading-stop", times=2)
    await protect_once()
    assert state(exchange)["positions"][0]["stopLoss"]


async def test_a_lost_stop_comes_back_where_it_was_moved_to(home, exchange):
    [position] = await opened(home)
    tighter = position.stop + D(10)
    store().positions.save(position.model_copy(update={"stop": tighter}))
    await venue().set_protection(SYMBOL, D(0), D(0))
    await protect_once()
    [at_venue] = state(exchange)["positions"]
    assert (D(str(at_venue["stopLoss"])), D(str(at_venue["takeProfit"]))) == (tighter, position.target)
    assert store().positions.open("default")[0].stop == tighter


async def test_a_position_not_booked_yet_gets_the_stop_of_its_entry(home, exchange, monkeypatch):
    async def unbooked(_: str):
        raise VenueUnavailable("no fills")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.book_fills, "fn", unbooked)
        with pytest.raises(TradingError):
            await run(recorded(home, (START, OPEN)))
        assert store().positions.open("default") == []
        await venue().set_protection(SYMBOL, D(0), None)
        with pytest.raises(TradingError):
            await protect_once()
    assert state(exchange)["positions"][0]["stopLoss"]


async def test_a_flatten_that_was_not_answered_is_sent_as_it_was_written(home, exchange, monkeypatch):
    [position] = await opened(home)

    async def silent(*_: object):
        raise VenueUnavailable("silent")

    with monkeypatch.context() as patch:
        patch.setattr(stage, "send", silent)
        with pytest.raises(VenueUnavailable):
            await stage.flatten(position, position.quantity)
    await stage.flatten(position, position.quantity / 2)
    await venue().close()
    assert state(exchange)["positions"] == []


async def test_a_trim_that_was_sent_and_not_noted_is_noted_and_not_sent_again(home, exchange, monkeypatch):
    [position] = await opened(home, followups=["TRIM 30% at +1.0R"])
    price = position.avg_price + 2 * (position.avg_price - position.initial_stop)

    def die(*_: object):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage.followups, "mark_done", die)
        with pytest.raises(KeyboardInterrupt):
            await stage.carry_out_followups.fn(position, seen(price))
    await ledger.book_fills.fn(SYMBOL)
    [trimmed] = store().positions.open("default")
    assert trimmed.quantity < position.quantity
    assert await stage.carry_out_followups.fn(trimmed, seen(price))
    await protect_once()
    [after] = store().positions.open("default")
    assert (after.quantity, len(after.followups_done)) == (trimmed.quantity, 1)


async def test_what_is_booked_while_a_followup_is_noted_is_not_written_over(home, exchange, monkeypatch):
    [position] = await opened(home, followups=["TRIM 30% at +1.0R"])
    price, booked = position.avg_price + 2 * (position.avg_price - position.initial_stop), position.quantity / 2

    def book_it(step: str) -> None:
        if step == "followup_sent":
            store().positions.save(position.model_copy(update={"quantity": booked}))

    monkeypatch.setattr(crash_points, "hook", book_it)
    await stage.carry_out_followups.fn(position, seen(price))
    await venue().close()
    [after] = store().positions.open("default")
    assert (after.quantity, len(after.followups_done)) == (booked, 1)


async def test_a_trailing_stop_is_moved_at_the_venue_with_each_better_close(home, exchange):
    [position] = await opened(home, followups=["TRAIL 1 ATR from +1R"])
    price, r = position.avg_price, position.avg_price - position.initial_stop
    trail, stops = ["TRAIL 1 ATR from +1R"], [position.stop]
    for best, done in ((D("0.9"), []), (D(1), trail), (D("1.2"), trail), (D("1.1"), [])):
        look = Look(START, price, price + best * r, D("1.5") * r)
        assert await stage.carry_out_followups.fn(position, look) == done
        [position] = store().positions.open("default")
        assert D(state(exchange)["positions"][0]["stopLoss"]) == position.stop
        stops.append(position.stop)
    assert [(stop - price) / r for stop in stops] == pytest.approx(
        [-1, -1, D("-0.5"), D("-0.3"), D("-0.3")], abs=D("0.01")
    )
    assert position.followups_done == ()
    await venue().close()


async def test_the_followups_of_an_add_join_those_of_the_entry(home, exchange):
    [position] = await opened(home, size_pct=5, followups=["TRIM 50% at +5.0R"])
    [record], kept = store().cycles.newest("default"), store()
    said = record.verdict.decision.model_dump() | {"action": "ADD", "followups": ("TRAIL 3 ATR from +4R",)}
    added = record.replace(cycle_id="c2", as_of=START + timedelta(minutes=5), status=CycleStatus.STARTED)
    kept.cycles.begin(added, START)
    added = added.replace(verdict=record.verdict.replace(decision=Add(**said)), status=CycleStatus.EXECUTED)
    kept.cycles.save(added, START, first=True)
    kept.intents.save("c2", [record.intents[0].replace(client_order_id="dec0" + "2" * 24 + "0001")], START)
    kept.fills.save(
        [
            record.fills[0].replace(
                client_order_id="dec0" + "2" * 24 + "0001", fill_id="f2", at=datetime(2040, 1, 1, tzinfo=UTC)
            )
        ]
    )
    joined = ("TRIM 50% at +5.0R", "TRAIL 3 ATR from +4R")
    assert ledger._with_followups(position).followups == joined
    assert ledger._with_followups(position.replace(followups=joined)).followups == joined


async def test_the_followups_of_decisions_about_a_position_join_its_own(home, exchange):
    [position] = await opened(home, followups=["TRIM 50% at +5.0R"])
    trim = {"action": "TRIM", "size_pct": 30, "followups": ["TRAIL 3 ATR from +4R", "TRIM 50% at +5.0R"]}
    hold = {"action": "HOLD", "followups": ["CLOSE after 96 bars below +0.5R", "to the moon"]}
    for said, status in ((trim, CycleStatus.EXECUTED), (hold, CycleStatus.HELD)):
        advance(exchange, 900)
        at = START + timedelta(minutes=15 if said is trim else 30)
        record = await run(recorded(home, (at, said)))
        assert record.status is status, record.error
    [kept] = ledger.open_in(position.symbol)
    assert kept.followups == (
        "TRIM 50% at +5.0R", "TRAIL 3 ATR from +4R", "CLOSE after 96 bars below +0.5R", "to the moon",
    )  # fmt: skip
    assert kept.quantity < position.quantity
    assert [each.text for each in record.verdict.unread] == ["to the moon"]


async def test_a_days_loss_is_one_reason_about_the_account_and_reduce_lasts_until_midnight(
    home, two_symbols, monkeypatch
):
    monkeypatch.setattr(account, "daily_pnl_pct", lambda *_: -2.5)
    reduce = {"symbol": SYMBOL, "action": "REDUCE", "confidence": 0.9}
    record = await run(recorded(home, (START, reduce)))
    assert [reason.detail for reason in record.reasons if reason.rule == "Drawdown"] == ["account -2.5%"]
    assert record.verdict.allowed
    assert store().pauses.reduced_until("default") == START + timedelta(hours=12)
    request = Request(symbols=(ETH,), decider="hold", reason="a test asks")
    [other] = await run_cycles(request)
    assert all(reason.rule != "Drawdown" for reason in other.reasons)
    assert other.inputs.state is None
    assert other.state.reduced_until == START + timedelta(hours=12)
    await venue().close()


async def test_no_follow_up_is_lost_where_a_process_dies_before_it_sends(home, exchange, monkeypatch):
    [position] = await opened(home)
    advance(exchange, 900)
    trim = {"action": "TRIM", "size_pct": 30, "followups": ["TRAIL 3 ATR from +4R"]}
    decider = recorded(home, (START + timedelta(minutes=15), trim))
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at("intents_saved"))
        with pytest.raises(KeyboardInterrupt):
            await run(decider)
    assert ledger.open_in(position.symbol) == [position]
    record = await run(decider)
    assert record.status is CycleStatus.EXECUTED, record.error
    [kept] = ledger.open_in(position.symbol)
    assert kept.followups == (*position.followups, "TRAIL 3 ATR from +4R")


async def test_followups_go_by_the_closes_since_the_position_opened(home, exchange):
    [position] = await opened(home)
    assert account.look(position, START) is None  # it opened at that close
    advance(exchange, 900)
    assert account.look(position, START + timedelta(minutes=15)) is None  # not stored
    await fetch.fetch_candles((SYMBOL,), START + timedelta(minutes=15))
    look = account.look(position.replace(followups=("TRAIL 1 ATR from +1R",)), START + timedelta(minutes=15))
    closes = store().candles.load(venue().name, SYMBOL, "5m", look.at, 3)["close"]
    assert (look.at, float(look.price), float(look.best)) == (
        START + timedelta(minutes=15),
        closes.iloc[-1],
        closes.max(),
    )
    assert look.atr > 0
    await venue().close()


async def test_what_a_followup_trims_is_booked_in_the_same_run(home, exchange, monkeypatch):
    [position] = await opened(home, followups=["TRIM 30% at +1.0R"])
    price = position.avg_price + 2 * (position.avg_price - position.initial_stop)
    monkeypatch.setattr(account, "look", lambda *_: seen(price))
    assert (await protect_once())["followups"] == ["TRIM 30% at +1R"]
    [trimmed] = store().positions.open("default")
    assert trimmed.quantity < position.quantity
    assert str(trimmed.quantity) == state(exchange)["positions"][0]["size"]


async def test_a_trim_that_was_written_and_not_sent_is_sent_as_it_was_written(home, exchange, monkeypatch):
    [position] = await opened(home, followups=["TRIM 30% at +1.0R"])
    price = position.avg_price + 2 * (position.avg_price - position.initial_stop)

    async def die(*_: object):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "send", die)
        with pytest.raises(KeyboardInterrupt):
            await stage.carry_out_followups.fn(position, seen(price))
    [written] = (own.intent for own in store().intents.open("default"))
    await manual("sell", position.quantity / 2)
    await protect_once()
    [halved] = store().positions.open("default")
    assert await stage.carry_out_followups.fn(halved, seen(price))
    await protect_once()
    [trimmed] = store().positions.open("default")
    assert trimmed.quantity == halved.quantity - written.quantity


async def test_an_entry_that_was_never_sent_ends_with_its_cycle(home, exchange, monkeypatch):
    await killed_after_the_intents_were_written(home, monkeypatch)
    await protect_once()
    assert store().intents.open("default")  # it may still be sent
    advance(exchange, 3600)
    await protect_once()
    assert store().intents.open("default") == []
    [record] = store().cycles.newest("default")
    assert record.status is CycleStatus.FAILED
    assert "abandoned" in record.error
    assert store().cycles.unfinished("default") == []


async def test_a_halt_cancels_working_entries(home, exchange):
    record = await run(recorded(home, (START, {**OPEN, "entry": {"type": "limit", "offset_bps": 2}})))
    assert [order.status for order in record.orders] == ["open"]
    await protect_once()
    assert store().intents.open("default")
    store().halts.add("a test", "tester", START)
    await protect_once()
    assert store().intents.open("default") == []
    assert await venue().open_orders(SYMBOL) == []
    await venue().close()


async def test_a_database_that_failed_while_ours_was_booked_as_closed_lets_nothing_of_a_persons_go(
    home, exchange, monkeypatch
):
    """Found by a simulated world: from a ledger that is behind, what they hold without a stop looks like ours."""
    [position] = await opened(home)
    advance(exchange, 300)
    await protect_once()
    await manual("sell", position.quantity)
    await manual("buy", D("0.012"), "manual-2")
    real, tries = ledger.book_fills.fn, []

    async def failing(symbol):
        tries.append(symbol)
        if len(tries) == 1:
            raise StoreError("database: the connection was lost at commit")
        return await real(symbol)

    monkeypatch.setattr(ledger.book_fills, "fn", failing)
    monkeypatch.setattr(ledger, "PAUSES", (0.01,))
    await protect_once()
    [held] = state(exchange)["positions"]
    assert (D(held["size"]), held["stopLoss"] or "") == (D("0.012"), "")
    assert store().positions.open("default") == []


@pytest.mark.parametrize("fails", [True, False])
async def test_nothing_is_closed_from_a_ledger_that_is_behind(home, exchange, monkeypatch, fails):
    """Ours closed unheard, a person opened beside it, and a halt asks for ours to go. Found by a simulated world."""
    [position] = await opened(home)
    advance(exchange, 300)
    await protect_once()
    await manual("sell", position.quantity)
    await manual("buy", D("0.012"), "manual-2")
    store().halts.add("all must go", "ann", START, flatten=True)
    if fails:

        async def failing(_symbol):
            raise StoreError("database: the connection was lost at commit")

        monkeypatch.setattr(ledger.book_fills, "fn", failing)
        monkeypatch.setattr(ledger, "PAUSES", (0.01,))
        with pytest.raises(TradingError, match="booking"):
            await protect_once()
    else:
        await protect_once()
    [held] = state(exchange)["positions"]
    assert D(held["size"]) == D("0.012")


async def test_what_a_person_opened_is_not_flattened_while_fills_cannot_be_booked(home, exchange, monkeypatch):
    """Ours was closed unheard, and the venue refuses the stop that it had. Found by a simulated world."""
    [position] = await opened(home)
    advance(exchange, 300)
    await protect_once()
    await manual("sell", position.quantity)
    await manual("buy", D("0.012"), "manual-2")

    async def failing(_symbol):
        raise StoreError("database: the connection was lost at commit")

    monkeypatch.setattr(ledger.book_fills, "fn", failing)
    monkeypatch.setattr(ledger, "PAUSES", (0.01,))
    fault(exchange, "refuse", "/v5/position/trading-stop", times=1000, code="10001")
    with pytest.raises(TradingError, match="not flattened, the venue holds another size"):
        await protect_once()
    assert [D(held["size"]) for held in state(exchange)["positions"]] == [D("0.012")]


@pytest.mark.parametrize("late", [True, False])
async def test_what_went_for_want_of_a_stop_is_not_closed_again_under_a_halt(home, exchange, monkeypatch, late):
    """Nothing is left to close, and that is no trouble. Found by a simulated world."""
    await opened(home)
    store().halts.add("all must go", "ann", START, flatten=True)
    real, looks = stage.venue_positions.fn, []

    async def racing():
        looks.append(1)
        if len(looks) == 2:  # the comparison's: booking is over
            await venue().set_protection(SYMBOL, D(0), None)
            fault(exchange, "refuse", "/v5/position/trading-stop", times=1000, code="10001")
            if late:
                fault(exchange, "late_fills", times=10, seconds=60)
        return await real()

    monkeypatch.setattr(stage.venue_positions, "fn", racing)
    await protect_once()
    assert state(exchange)["positions"] == []
    assert [len(store().positions.open("default")), store().halts.active()[0].reason] == [late, "all must go"]


async def test_a_position_that_closes_between_booking_and_comparing_halts_nothing(home, exchange, monkeypatch):
    [position] = await opened(home)
    real, looks = stage.venue_positions.fn, []

    async def racing():
        looks.append(1)
        if len(looks) == 2:  # the comparison's: booking is over
            await manual("sell", position.quantity)
        return await real()

    monkeypatch.setattr(stage.venue_positions, "fn", racing)
    await protect_once()
    assert len(looks) > 2
    assert store().halts.newest() is None
    assert store().positions.open("default") == []


async def test_a_stop_that_is_lost_while_a_difference_is_looked_at_again_waits_for_no_further_look(
    home, exchange, monkeypatch
):
    await opened(home)
    real, stops = stage.venue_positions.fn, []

    async def racing():
        at_venue = state(exchange)["positions"][0]
        stops.append(at_venue["stopLoss"])
        if len(stops) == 2:  # the comparison's first
            await manual("buy", D("0.001"))
            await venue().set_protection(SYMBOL, D(0), None)
        return await real()

    monkeypatch.setattr(stage.venue_positions, "fn", racing)
    await protect_once()
    assert len(stops) == 4
    assert all(stops)


@pytest.mark.parametrize("missing", [{2}, {2, 3}], ids=["in one look", "in two within a second"])
async def test_a_position_that_is_missing_for_a_moment_is_not_closed(home, exchange, monkeypatch, missing):
    await opened(home)
    real, looks = stage.venue_positions.fn, []

    async def blinking():
        looks.append(1)
        return [] if len(looks) in missing else await real()

    monkeypatch.setattr(stage.venue_positions, "fn", blinking)
    assert (await protect_once())["wrong"] == []
    assert len(looks) == 2 + len(missing)
    assert store().halts.newest() is None
    assert len(store().positions.open("default")) == 1


async def test_an_entry_stays_open_while_the_venue_tells_its_order_and_not_its_fills(home, exchange, monkeypatch):
    async def none_yet(*_: object) -> list[object]:
        return []

    with monkeypatch.context() as patch:
        patch.setattr(Bybit, "fills", none_yet)
        await run(recorded(home, (START, OPEN)))
        await protect_once()
    [own] = store().intents.open("default")
    assert own.state == "sent"
    assert store().halts.newest() is None


async def test_a_difference_that_stays_and_no_fill_explains_halts(home, exchange):
    await opened(home)
    fault(exchange, "late_fills", times=1000, seconds=3600)
    await manual("buy", D("0.001"))
    result = await protect_once()
    assert any(line.startswith(f"mismatch {SYMBOL}") for line in result["wrong"])
    assert "mismatch" in store().halts.newest().reason


async def test_a_manual_close_is_taken_over(home, exchange, caplog):
    [position] = await opened(home)
    await manual("sell", position.quantity)
    await protect_once()
    assert store().halts.newest() is None
    assert store().positions.open("default") == []
    assert f"a person closed {position.quantity} of ours" in caplog.text


async def test_a_symbol_that_left_the_settings_is_still_booked(home, two_symbols, monkeypatch):
    [position] = await opened(home)
    await manual("sell", position.quantity)
    monkeypatch.setenv("QUARTERDECK_SYMBOLS", ETH)
    settings.cache_clear()
    assert ledger.symbols_of_ours() == (ETH, SYMBOL)
    await protect_once()
    assert store().positions.open("default") == []
    assert store().halts.newest() is None


async def test_the_last_close_of_a_symbol_is_found_behind_many_of_others(home, exchange):
    [position] = await opened(home)
    closed = position.model_copy(update={"closed_at": START, "quantity": D(0)})
    store().positions.save(closed)
    for number in range(60):
        other = {"position_id": f"p{number}", "symbol": ETH, "closed_at": START + timedelta(minutes=number)}
        store().positions.save(closed.model_copy(update=other))
    assert ledger.view(SYMBOL).closed[0].closed_at == START


async def test_under_prefect_the_run_fails_only_after_everything_was_tried(home, exchange, prefect_server, monkeypatch):
    await opened(home)
    points = len(store().equity.since("default", START - timedelta(days=1)))
    await venue().set_protection(SYMBOL, D(0), None)
    advance(exchange, 60)

    def broken() -> int:
        raise TradingError("no cycles today")

    monkeypatch.setattr(store().cycles, "unfinished", lambda _: broken())
    done = await protect(return_state=True)
    await venue().close()
    assert done.is_failed()
    assert "no cycles today" in done.message
    assert state(exchange)["positions"][0]["stopLoss"]
    assert len(store().equity.since("default", START - timedelta(days=1))) == points + 1


async def test_a_stop_that_the_market_has_passed_meanwhile_stays_due_and_fails_nothing(home, exchange):
    [position] = await opened(home, followups=["MOVE_STOP: breakeven on +1.0R"])
    reached = position.avg_price + 2 * (
        position.avg_price - position.initial_stop
    )  # at the last close; the market is back at the entry
    assert await stage.carry_out_followups.fn(position, seen(reached)) == []
    [kept] = store().positions.open("default")
    assert (kept.stop, kept.followups_done) == (position.stop, ())
    await venue().close()
