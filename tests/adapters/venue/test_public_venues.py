"""Public data of many venues through ccxt's own classes: what is asked for, sizes in base, and a life on paper."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from urllib.parse import urlsplit

import ccxt.async_support as ccxt
import pytest
from public_worlds import VENUES, World, serve
from venue_stub import Stub, stub_venue

from deployments.up import up
from tasks import settings as config
from tasks.adapters.store.store import Store
from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue, connect
from tasks.adapters.venue.market import instrument_of
from tasks.adapters.venue.paper import PaperVenue
from tasks.core.errors import DataError, InputError
from tasks.core.types.orders import OrderIntent, OrderType


def perpetual(**changes: object) -> dict[str, object]:
    """A market as ccxt describes an OKX perpetual of a hundredth of a coin."""
    nothing = {"min": None, "max": None}
    return {
        "symbol": "BTC/USDT:USDT", "spot": False, "linear": True, "contractSize": 0.01,
        "precision": {"price": 0.1, "amount": 0.01},
        "limits": {"amount": {"min": 0.01, "max": 1e8}, "cost": nothing, "leverage": {"min": 1.0, "max": 100.0}},
        "info": {"maxMktSz": "12000"}, **changes,
    }  # fmt: skip


def test_an_instrument_of_contracts_is_told_in_base():
    told = instrument_of(perpetual())
    assert (told.tick, told.step, told.min_quantity) == (D("0.1"), D("0.0001"), D("0.0001"))
    assert (told.contract_size, told.max_quantity, told.max_leverage) == (D("0.01"), 120, 100)


@pytest.mark.parametrize(
    ("info", "largest"),
    [
        ({"maxMktSz": "12000"}, 120),
        ({"lotSizeFilter": {"maxMktOrderQty": "700"}}, 7),
        ({"market_order_size_max": "0", "marketMaxOrderQty": 900}, 9),
        ({"maxMktSz": ""}, 10**6),
        ([], 10**6),
    ],
)
def test_the_largest_market_order_is_the_least_of_what_is_told(info, largest):
    assert instrument_of(perpetual(info=info)).max_quantity == largest


def test_what_is_not_told_is_none():
    limits = perpetual()["limits"] | {"amount": {"min": None, "max": None}}
    assert instrument_of(perpetual(info={}, limits=limits)).max_quantity is None


@pytest.mark.parametrize("told", [None, 1.0])
def test_a_contract_of_no_leverage_is_one_of_which_nothing_is_told(told):
    limits = perpetual()["limits"] | {"leverage": {"min": None, "max": told}}
    assert instrument_of(perpetual(limits=limits)).max_leverage == 100
    assert instrument_of(perpetual(limits=limits, spot=True, contractSize=None)).max_leverage == 1


# --- every exchange of ccxt ---------------------------------------------------------------------------------------

LEFT_OUT = {"inverse", "option", "future", "hip3"}


@pytest.mark.parametrize("venue", ccxt.exchanges)
def test_every_client_keeps_the_form_of_its_own_market_types(venue):
    own = getattr(ccxt, venue)().options.get("fetchMarkets")
    given = client.build(config.load(profile="paper", venue=venue, venue_url="http://127.0.0.1:9")).options
    kept = given.get("fetchMarkets")
    assert type(kept) is type(own)
    types = own.get("types") if isinstance(own, dict) else None
    if isinstance(types, list):
        assert kept["types"]
        assert set(kept["types"]) <= set(types)
        assert venue == "bitrue" or set(types) - set(kept["types"]) <= LEFT_OUT
        assert venue in ("bitrue", "binancecoinm") or not set(kept["types"]) & LEFT_OUT
    elif isinstance(types, dict):
        assert kept["types"].keys() == types.keys()
        assert not kept["types"].get("inverse")


@pytest.mark.parametrize("venue", ccxt.exchanges)
def test_the_path_of_every_address_stays_at_a_server_of_ones_own(venue):
    own = addresses(getattr(ccxt, venue)().urls["api"])
    moved = addresses(
        client.build(config.load(profile="paper", venue=venue, venue_url="http://127.0.0.1:9/x/")).urls["api"]
    )
    assert moved == {name: "http://127.0.0.1:9/x" + urlsplit(url).path for name, url in own.items()}


def addresses(urls: object, name: str = "") -> dict[str, str]:
    """Flatten a tree of addresses."""
    if isinstance(urls, str):
        return {name: urls}
    return {key: url for each, below in urls.items() for key, url in addresses(below, f"{name}/{each}").items()}


# --- whole venues, over HTTP --------------------------------------------------------------------------------------

Open = Callable[..., tuple[World, CcxtVenue, str]]
# step, least quantity, size of a contract, largest market order, most leverage
TERMS = {
    "okx": ("0.0001", "0.0001", "0.01", 120, 100),
    "bitget": ("0.0001", "0.001", "1", 220, 125),
    "gate": ("0.0001", "0.0001", "0.0001", 30, 100),
    "kucoin": ("0.001", "0.001", "0.001", 1000, 125),
    "kucoinfutures": ("0.001", "0.001", "0.001", 1000, 125),
    "htx": ("0.001", "0.001", "0.001", None, 100),
    "hyperliquid": ("0.00001", "0", "1", None, 40),
    "binanceusdm": ("0.001", "0.001", "1", 120, 100),
    "kraken": ("0.000001", "0.00005", "1", None, 1),
}


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with stub_venue() as running:
        yield running


@pytest.fixture
async def open_venue(stub: Stub) -> AsyncIterator[Open]:
    opened: list[CcxtVenue] = []

    def open_one(venue: str, symbol: str = "", **changes: object) -> tuple[World, CcxtVenue, str]:
        world = World(**changes)
        symbol = serve(stub, venue, world) if not symbol else (serve(stub, venue, world), symbol)[1]
        opened.append(connect(config.load(profile="paper", venue=venue, venue_url=stub.url, symbols=(symbol,))))
        return world, opened[-1], symbol

    yield open_one
    for venue in opened:
        await venue.close()


def when(world: World, hours: float = 0) -> datetime:
    return datetime.fromtimestamp(world.now_ms / 1000, tz=UTC) + timedelta(hours=hours)


@pytest.mark.parametrize("venue", VENUES)
async def test_instruments_books_trades_and_bars_come_in_coins(open_venue, venue):
    world, opened, symbol = open_venue(venue)
    told = await opened.instrument(symbol)
    step, least, size, largest, leverage = TERMS[venue]
    assert (told.step, told.min_quantity, told.contract_size) == (D(step), D(least), D(size))
    assert (told.max_quantity, told.max_leverage) == (largest, leverage)
    book = await opened.fetch_book(symbol)
    assert (book.bids[0], book.asks[0]) == ((D("59999.5"), 3), (D("60000.5"), 4))
    for timeframe, minutes in (("1m", 1), ("5m", 5), ("1h", 60)):
        bars = await opened.fetch_bars(symbol, timeframe, when(world, -11), when(world))
        assert (bars.index[0], len(bars)) == (when(world, -11), 11 * 60 / minutes)
        assert bars["volume"].round(9).unique().tolist() == [2 * minutes]
    if venue != "hyperliquid":  # which tells trades of one account only, in ccxt
        assert await opened.market.fetch_trades(symbol, 5) == [(when(world), "buy", 60_000.0, 1.5)]


async def test_a_venue_that_gives_fewer_bars_than_asked_for_is_asked_on(open_venue, stub):
    world, opened, symbol = open_venue("kucoin")  # 200 of 500
    bars = await opened.fetch_bars(symbol, "1m", when(world, -30), when(world))
    assert (bars.index[0], len(bars)) == (when(world, -30), 1800)


async def test_a_spot_book_is_asked_for_in_a_depth_that_htx_takes(open_venue):
    _, opened, symbol = open_venue("htx", "BTC/USDT")
    assert (await opened.fetch_book(symbol)).asks[0] == (D("60000.5"), 4)


@pytest.mark.parametrize(
    ("venue", "symbol", "said"),
    [
        (
            "kraken",
            "BTC/USD:USD",
            "kraken lists no contracts, so no BTC/USD:USD: set QUARTERDECK_SYMBOLS to spot such as BTC/USD,",
        ),
        ("okx", "BTX/USDT:USDT", "unknown symbol 'BTX/USDT:USDT' at okx-paper; near it: BTC/USDT:USDT"),
        ("okx", "BTC/USD:BTC", "BTC/USD:BTC is neither spot nor a linear contract"),
    ],
)
async def test_what_cannot_be_traded_is_refused_in_a_line(open_venue, venue, symbol, said):
    _, opened, _ = open_venue(venue, symbol)
    with pytest.raises(InputError, match=said):
        await opened.instrument(symbol)


def test_up_starts_nothing_for_a_symbol_that_the_venue_does_not_list(stub, tmp_path):
    serve(stub, "okx", World())
    settings = config.load(
        profile="paper",
        venue="okx",
        venue_url=stub.url,
        symbols=("BTC/USDT:USDT", "BTX/USDT:USDT"),
        home=tmp_path / "h",
    )
    with pytest.raises(InputError, match="unknown symbol 'BTX/USDT:USDT' at okx-paper"):
        up(settings, once=True, detach=False, yes_live=False, as_json=False)
    with pytest.raises(InputError, match="QUARTERDECK_VENUE='okxx' is not a ccxt exchange id"):
        up(settings.replace(venue="okxx"), once=True, detach=False, yes_live=False, as_json=False)
    assert not settings.home.exists()


# --- a life on paper ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('worlds') / 'paper.db'}")
    store.migrate()
    yield store
    store.close()


def on_paper(opened: CcxtVenue, kept: Store, symbol: str, name: str) -> PaperVenue:
    settings = config.load(profile="paper", symbols=(symbol,), strategy=name, paper_cash="1000000")
    return PaperVenue(opened, kept.paper_books, settings)


def entry(symbol: str, quantity: str = "0.05", **changes: object) -> OrderIntent:
    return OrderIntent(
        client_order_id="e", symbol=symbol, side="buy", type=OrderType.MARKET, quantity=D(quantity), **changes
    )


@pytest.mark.parametrize("venue", ["okx", "kucoin", "bitget", "hyperliquid"])
async def test_an_entry_is_filled_in_coins_and_stopped_out_once(open_venue, kept, venue):
    world, opened, symbol = open_venue(venue)
    paper = on_paper(opened, kept, symbol, f"life-{venue}")
    order = await paper.submit(entry(symbol, stop=D(59_500)))
    assert (order.filled, round(order.avg_price)) == (D("0.05"), 60_001)
    world.falls_ms = world.now_ms + 5 * 60_000
    world.advance(10)
    again = on_paper(opened, kept, symbol, f"life-{venue}")
    assert await again.positions() == []
    fills = [fill for fill in await again.fills(symbol, when(world, -1)) if fill.reason != "funding"]
    assert [(fill.reason, fill.side, fill.quantity) for fill in fills] == [
        ("entry", "buy", D("0.05")), ("stop", "sell", D("0.05")),
    ]  # fmt: skip
    assert 58_900 < fills[1].price <= 59_500


async def test_an_order_larger_than_a_book_of_contracts_is_filled_as_far_as_its_coins_go(open_venue, kept):
    _, opened, symbol = open_venue("okx")
    order = await on_paper(opened, kept, symbol, "deep").submit(entry(symbol, "20"))
    assert order.filled == 13


async def test_a_stop_met_while_away_longer_than_1m_bars_reach_is_seen_in_coarser_ones(open_venue, kept, caplog):
    world, opened, symbol = open_venue("kraken")  # the last 720 bars
    paper = on_paper(opened, kept, symbol, "away")
    await paper.submit(entry(symbol, stop=D(59_500)))
    world.falls_ms = world.now_ms + 2 * 3_600_000
    world.rises_ms = world.falls_ms + 3_600_000
    world.advance(20 * 60)
    assert await paper.positions() == []
    stop = (await paper.fills(symbol, when(world, -21)))[-1]
    assert stop.reason == "stop"
    assert stop.at < when(world, -17)
    (line,) = [record.getMessage() for record in caplog.records if record.name.endswith("paper")]
    assert "1m bars" in line
    world.advance(1)
    await paper.positions()
    assert await paper.balance()


async def test_an_absence_that_no_bars_reach_back_over_is_refused_and_changes_nothing(open_venue, kept):
    world, opened, symbol = open_venue("hyperliquid")
    paper = on_paper(opened, kept, symbol, "gone")
    await paper.submit(entry(symbol, stop=D(59_500)))
    before = kept.paper_books.get("gone", "venue:hyperliquid-paper")
    world.kept = 5
    world.advance(9 * 24 * 60)
    with pytest.raises(
        DataError, match="what a stop met between is not known; begin anew with another QUARTERDECK_STRATEGY"
    ):
        await paper.positions()
    assert kept.paper_books.get("gone", "venue:hyperliquid-paper") == before
