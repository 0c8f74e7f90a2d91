"""What happens to one symbol or one order while others act: nobody waits, loosens, overwrites or counts too little."""

from datetime import timedelta
from decimal import Decimal as D

import pytest
from sandbox_cycles import OPEN, START, SYMBOL, protect_once, recorded, run
from sandbox_positions import ETH, both_opened, opened, seen
from sandbox_server import state
from store_samples import a_cycle

from flows.watch import look
from tasks import account, detect, features, ledger, unfinished
from tasks.adapters.venue.bybit import Bybit
from tasks.connections import store, venue
from tasks.core.errors import TradingError
from tasks.core.types.record import CycleStatus
from tasks.leases import Leases

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hasty")]


async def test_a_defect_in_one_symbols_booking_leaves_no_other_naked(home, two_symbols, monkeypatch):
    await both_opened(home)
    await venue().set_protection(ETH, D(0), None)
    real = ledger.book_fills.fn

    async def broken(symbol: str):
        return {}["a defect"] if symbol == SYMBOL else await real(symbol)

    monkeypatch.setattr(ledger.book_fills, "fn", broken)
    with pytest.raises(TradingError, match=f"booking {SYMBOL}: KeyError"):
        await protect_once()
    assert all(position["stopLoss"] for position in state(two_symbols)["positions"])
    assert store().equity.last("default").at > START - timedelta(hours=1)


async def test_a_defect_in_one_symbols_features_leaves_the_others_their_cycles_and_their_bells(
    home, two_symbols, monkeypatch
):
    real = features.build_market
    broken = lambda symbol, *rest: {}["a defect"] if symbol == SYMBOL else real(symbol, *rest)  # noqa: E731
    monkeypatch.setattr(features, "build_market", broken)
    with pytest.raises(KeyError):
        await both_opened(home)
    assert [position.symbol for position in store().positions.open("default")] == [ETH]
    monkeypatch.setattr(detect, "claimable", lambda *_: 1)
    assert await look(as_of=START) == {ETH: 1}
    await venue().close()


async def test_an_entry_counts_as_pending_until_the_venue_has_told_its_fills(home, exchange, monkeypatch):
    async def none_yet(*_: object) -> list[object]:
        return []

    with monkeypatch.context() as patch:
        patch.setattr(Bybit, "fills", none_yet)
        record = await run(recorded(home, (START, OPEN)))
    assert record.status is CycleStatus.EXECUTED
    assert [own.intent.client_order_id for own in store().intents.open("default")] == [
        record.intents[0].client_order_id
    ]
    await protect_once()
    assert store().intents.open("default") == []
    assert len(store().positions.open("default")) == 1


def test_a_cycle_that_ends_by_itself_is_not_called_abandoned(home, monkeypatch):
    begun = a_cycle("c1")
    store().cycles.begin(begun, begun.as_of)
    found = store().cycles.unfinished("default")
    ended = begun.model_copy(update={"status": CycleStatus.EXECUTED})
    cycles = store().cycles
    monkeypatch.setattr(cycles, "unfinished", lambda _: [cycles.save(ended, begun.as_of), *found][1:])
    unfinished.end_abandoned_cycles.fn(begun.as_of + timedelta(hours=1))
    assert store().cycles.get("c1").status is CycleStatus.EXECUTED


async def test_a_follow_up_never_loosens_a_stop_that_a_cycle_has_moved_until_it_had_the_lease(
    home, exchange, monkeypatch
):
    [position] = await opened(home, followups=["MOVE_STOP: breakeven on +1.0R"])
    price = position.avg_price + (position.avg_price - position.initial_stop)
    tighter = (position.avg_price + (position.avg_price - position.initial_stop) / 100).quantize(D("0.1"))
    real = Leases.take

    async def after_a_cycle(self: Leases, name: str) -> object:
        store().positions.save(position.model_copy(update={"stop": tighter}))
        return await real(self, name)

    monkeypatch.setattr(Leases, "take", after_a_cycle)
    monkeypatch.setattr(account, "look", lambda *_: seen(price))
    await protect_once()
    [kept] = store().positions.open("default")
    assert (kept.stop, kept.followups_done) == (tighter, ("MOVE_STOP: breakeven on +1R",))
