"""The paper venue on the sandbox's public data: the venue contract, bars that fire, restarts, several processes."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from sandbox_server import admin, advance, running_sandbox, state
from venue_contract import CHECKS

from tasks import settings as config
from tasks.adapters.store.store import Store
from tasks.adapters.venue.ccxt_venue import connect
from tasks.adapters.venue.paper import PaperVenue
from tasks.core.errors import InputError, OrderRejected, VenueUnavailable
from tasks.core.types.bars import floor_time
from tasks.core.types.limits import Limits, SymbolLimits
from tasks.core.types.orders import Fill, OrderIntent, OrderStatus, OrderType
from tasks.settings import Settings

BTC, SPOT = "BTC/USDT:USDT", "BTC/USDT"
START = datetime(2025, 6, 2, 12, 3, tzinfo=UTC)
Open = Callable[..., PaperVenue]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_sandbox(symbols=(BTC, SPOT), stepped=True, start=START) as running:
        yield running
        assert state(running)["orders"] == []  # nothing of a paper account ever reaches the venue
        assert state(running)["positions"] == []


def paper_settings(url: str, **changes: object) -> Settings:
    given = {"profile": "paper", "venue_url": url, "strategy": f"s{uuid4().hex[:8]}", "symbols": (BTC, SPOT)}
    return config.load(**given | changes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('paper') / 'paper.db'}")
    store.migrate()
    yield store
    store.close()


@pytest.fixture
async def open_paper(url: str, kept: Store) -> AsyncIterator[Open]:
    """Open paper venues, each with an account of its own unless `strategy` is given."""
    await asyncio.to_thread(advance, url, 1)
    opened: list[PaperVenue] = []

    def open_one(**changes: object) -> PaperVenue:
        settings = paper_settings(url, **changes)
        opened.append(PaperVenue(connect(settings), kept.paper_books, settings))
        return opened[-1]

    yield open_one
    for venue in opened:
        await venue.close()
    admin(url, "faults", method="DELETE")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check, open_paper, url):
    async def let_pass(seconds: float) -> None:
        await asyncio.to_thread(advance, url, seconds)

    await check(open_paper(), BTC, let_pass)


def entry(client_order_id: str, **changes: object) -> OrderIntent:
    fields: dict[str, object] = {"symbol": BTC, "side": "buy", "type": OrderType.MARKET, "quantity": Decimal("0.010")}
    return OrderIntent(client_order_id=client_order_id, **fields | changes)


async def until(url: str, done: Callable[[], object], minutes: int = 24 * 60) -> None:
    for _ in range(minutes // 5):
        await asyncio.to_thread(advance, url, 300)
        if await done():
            return
    raise AssertionError(f"did not happen in {minutes} min")


async def test_a_market_order_pays_the_ask_of_the_book_and_the_fee(open_paper):
    venue = open_paper(costs={"impact_bps_per_million": "0"})
    ask = (await venue.fetch_book(BTC)).asks[0][0]
    order = await venue.submit(entry("ask"))
    assert (order.status, order.avg_price) == (OrderStatus.FILLED, ask)
    (fill,) = await venue.fills(BTC, START)
    assert fill.fee == ask * Decimal("0.010") * Decimal("0.00055")


async def test_margin_is_reckoned_with_the_symbols_own_leverage(open_paper):
    limits = Limits(leverage=Decimal(10), per_symbol={BTC: SymbolLimits(leverage=Decimal(2))})
    venue = open_paper(limits=limits)
    order = await venue.submit(entry("own-leverage"))
    balance = await venue.balance()
    assert round(balance.equity - balance.available, 6) == round(order.filled * order.avg_price / 2, 6)


async def test_an_order_larger_than_the_book_is_filled_as_far_as_the_book_goes(open_paper):
    venue = open_paper(paper_cash="1e12")
    depth = sum(quantity for _, quantity in (await venue.fetch_book(BTC)).asks)
    order = await venue.submit(entry("deep", quantity=depth // 1 + 1000))
    assert (order.status, order.filled) == (OrderStatus.CANCELLED, depth)


@pytest.mark.parametrize("step", ["1m", "5m"])
async def test_bars_that_pass_the_stop_close_the_position_at_it_and_only_once(open_paper, url, step):
    venue = open_paper()
    assert venue._step == "1m"
    venue._step = step  # 5m is for venues without 1m
    stop = (await venue.fetch_book(BTC)).bids[-1][0]
    await venue.submit(entry("stopped", stop=stop))

    async def flat() -> bool:
        return not await venue.positions()

    await until(url, flat)
    fills = [fill for fill in await venue.fills(BTC, START) if fill.reason != "funding"]
    assert [(f.client_order_id, f.reason, f.side) for f in fills] == [("stopped", "entry", "buy"), ("", "stop", "sell")]
    assert fills[1].price <= stop
    at = fills[1].at + timedelta(milliseconds=1)
    assert at == floor_time(at, step)  # just before the close of the bar that passed it
    assert await venue.fills(BTC, START) == await venue.fills(BTC, START)


async def test_what_a_long_absence_missed_is_made_up_for_bar_by_bar(open_paper, url):
    looked, absent = open_paper(), open_paper()
    stop = (await looked.fetch_book(BTC)).bids[0][0] * Decimal("0.99") // 1
    for venue in (looked, absent):
        await venue.submit(entry("away", stop=stop, target=stop * Decimal("1.02") // 1))
    for _ in range(12):
        await asyncio.to_thread(advance, url, 3600)
        await looked.positions()
    seen = [[essence(fill) for fill in await venue.fills(BTC, START)] for venue in (looked, absent)]
    assert seen[0] == seen[1]
    assert len(seen[0]) > 1


def essence(fill: Fill) -> tuple[object, ...]:
    return fill.reason, fill.side, fill.quantity, fill.price, fill.fee, fill.at


async def test_the_account_survives_a_restart(open_paper):
    before = open_paper()
    await before.submit(entry("kept", stop=Decimal(1), target=Decimal(10**7)))
    held, fills = await before.positions(), await before.fills(BTC, START)
    again = open_paper(strategy=before._settings.strategy)
    assert (await again.positions(), await again.fills(BTC, START)) == (held, fills)
    assert (await again.find_order(BTC, "kept")).status is OrderStatus.FILLED


async def test_strategies_have_accounts_of_their_own_and_begin_with_the_cash_that_was_set(open_paper):
    rich, other = open_paper(paper_cash="5000"), open_paper()
    await other.submit(entry("mine"))
    assert await rich.positions() == []
    assert (await rich.balance()).equity == 5000


async def test_funding_is_paid_on_its_hour_and_moves_no_quantity(open_paper, url):
    venue = open_paper()
    await venue.submit(entry("funded"))
    await asyncio.to_thread(advance, url, 8 * 3600 + 120)
    (funding,) = [fill for fill in await venue.fills(BTC, START) if fill.reason == "funding"]
    assert (funding.quantity, funding.at.hour % 8, funding.at.minute) == (0, 0, 0)
    wallet = (await venue._read()).wallet
    (held,) = wallet.holdings.values()
    equity = (await venue.balance()).equity
    paid = sum(fill.fee for fill in await venue.fills(BTC, START))
    assert equity == 10_000 + held.unrealized(wallet.mark(held, {})) - paid
    assert funding.fee > 0


async def test_a_limit_is_filled_by_the_bar_that_trades_through_it_as_maker(open_paper, url):
    venue = open_paper()
    price = (await venue.fetch_book(BTC)).bids[-1][0]
    await venue.submit(entry("resting", type=OrderType.LIMIT, price=price, stop=price // 2))

    async def filled() -> bool:
        return (await venue.find_order(BTC, "resting")).status is OrderStatus.FILLED

    await until(url, filled)
    assert [(f.price, f.liquidity) for f in await venue.fills(BTC, START) if f.reason == "entry"] == [(price, "maker")]
    assert (await venue.positions())[0].stop == price // 2


async def test_a_limit_that_expired_is_gone(open_paper, url):
    venue = open_paper()
    price = (await venue.fetch_book(BTC)).bids[0][0] * Decimal("0.9") // 1
    late = await venue.now() + timedelta(minutes=10)
    await venue.submit(entry("late", type=OrderType.LIMIT, price=price, expires_at=late))
    await asyncio.to_thread(advance, url, 900)
    assert (await venue.find_order(BTC, "late")).status is OrderStatus.CANCELLED


async def test_spot_is_bought_stopped_and_never_sold_short(open_paper):
    venue = open_paper()
    with pytest.raises(OrderRejected, match="shorting"):
        await venue.submit(entry("short", symbol=SPOT, side="sell"))
    await venue.submit(entry("spot", symbol=SPOT))
    await venue.set_protection(SPOT, Decimal(100), None)
    (held,) = await venue.positions()
    assert (held.symbol, held.stop) == (SPOT, 100)
    with pytest.raises(InputError, match="it has no funding"):
        await connect(venue._settings).market.fetch_funding(SPOT, 1)


async def test_an_outage_leaves_the_account_as_it_was(open_paper, url):
    venue = open_paper()
    await venue.submit(entry("before"))
    await asyncio.to_thread(advance, url, 120)
    admin(url, "faults", {"kind": "http_500", "path": "/v5/market/kline", "times": 2})
    with pytest.raises(VenueUnavailable):
        await venue.positions()
    admin(url, "faults", method="DELETE")
    assert len(await venue.positions()) == 1


async def test_one_account_has_one_quote(open_paper):
    with pytest.raises(InputError, match="one quote currency, not USD and USDT"):
        await open_paper(symbols=(BTC, "BTC/USD")).balance()


async def test_old_orders_and_fills_are_forgotten_but_not_the_position(open_paper, url, monkeypatch):
    venue = open_paper()
    await venue.submit(entry("old", stop=Decimal(1)))
    monkeypatch.setattr("tasks.adapters.venue.paper.KEPT", timedelta(0))
    await asyncio.to_thread(advance, url, 1)
    (held,) = await venue.positions()
    assert held.stop == 1
    assert await venue.fills(BTC, START) == []
    assert await venue.find_order(BTC, "old") is None


# --- several processes --------------------------------------------------------------------------------------------

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tasks.adapters.venue.paper", "tasks.adapters.venue.ccxt_venue", "ccxt.async_support", "pandas"]
)
ORDERS = 4


def trade(url: str, store_url: str, strategy: str, name: str, ready: object) -> None:
    async def send() -> None:
        settings = paper_settings(url, strategy=strategy)
        store = Store(store_url)
        venue = PaperVenue(connect(settings), store.paper_books, settings)
        await venue.now()
        await asyncio.to_thread(ready.wait, 120)
        for n in range(ORDERS):
            await venue.submit(entry(f"{name}-{n}", quantity=Decimal("0.001")))
        await venue.close()
        store.close()

    asyncio.run(send())


async def test_orders_of_two_processes_at_once_are_all_filled_and_none_twice(url, store_url, open_store):
    strategy, ready = f"s{uuid4().hex[:8]}", FORKS.Barrier(2)
    children = [FORKS.Process(target=trade, args=(url, store_url, strategy, name, ready)) for name in ("a", "b")]
    for child in children:
        child.start()
    for child in children:
        await asyncio.to_thread(child.join, 180)
    assert [child.exitcode for child in children] == [0, 0]
    settings = paper_settings(url, strategy=strategy)
    venue = PaperVenue(connect(settings), open_store(store_url).paper_books, settings)
    fills = await venue.fills(BTC, START)
    sent = sorted(f"{name}-{n}" for name in ("a", "b") for n in range(ORDERS))
    assert sorted(fill.client_order_id for fill in fills) == sent
    assert (await venue.positions())[0].quantity == Decimal("0.001") * 2 * ORDERS
    await venue.close()


def test_a_book_that_others_changed_is_not_overwritten(store):
    from tasks.core.types.record import PaperBookState

    first, second = (PaperBookState(state=s, equity=Decimal(1), until=START) for s in ("one", "two"))
    assert store.paper_books.save("s", "d", first, None)
    assert not store.paper_books.save("s", "d", second, None)
    assert store.paper_books.save("s", "d", second, first)
    assert not store.paper_books.save("s", "d", first, first)
    assert store.paper_books.get("s", "d") == second
