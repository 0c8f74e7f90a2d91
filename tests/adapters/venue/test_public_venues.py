"""Public data of many venues through ccxt's own classes: what is asked for, and sizes in base."""

from decimal import Decimal as D
from urllib.parse import urlsplit

import ccxt.async_support as ccxt
import pytest

from tasks import settings as config
from tasks.adapters.venue import client
from tasks.adapters.venue.market import instrument_of


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
