"""The ccxt client of each profile, and ccxt's errors turned into ours.

Left out on purpose: ccxt's own retries (0 by default). A retry of an order is a decision, and it starts with a look-up.
"""

import ipaddress
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.adapters import certificates
from tasks.adapters.venue.meaning import Meaning, answer_in, meaning_of, refused_rows
from tasks.core.errors import (
    DataError,
    DuplicateOrder,
    InputError,
    NotModified,
    OrderGone,
    OrderRejected,
    TradingError,
    VenueBusy,
    VenueError,
    VenueUnavailable,
)
from tasks.redaction import redacted
from tasks.settings import Settings

EXCHANGES = json.loads((Path(__file__).parent / "exchanges.json").read_text(encoding="utf-8"))
PRIVATE_NAMES = (".local", ".internal", ".svc", ".localhost")
TIMEOUT_MS = 10_000
KEY, SECRET, PASSWORD = "QUARTERDECK_VENUE_KEY", "QUARTERDECK_VENUE_SECRET", "QUARTERDECK_VENUE_PASSWORD"
SANDBOX_KEY, SANDBOX_SECRET = "QUARTERDECK_SANDBOX_KEY", "QUARTERDECK_SANDBOX_SECRET"
_ENDLESS = re.compile(r"\s*[-+]?[\d._]+[eE][-+]?[\d_]{3,}\s*")


def name_of(settings: Settings) -> str:
    """Return the name under which a profile's venue keeps what it tells: candles, instruments, books."""
    return f"{exchange_of(settings)}-{settings.profile}"


def exchange_of(settings: Settings) -> str:
    return "bybit" if settings.profile == "sandbox" else settings.venue


def build(settings: Settings) -> Any:
    """Make the ccxt client of a profile; opens no connection. Raises InputError naming what is missing."""
    import ccxt.async_support as ccxt

    venue = exchange_of(settings)
    if venue not in ccxt.exchanges:
        raise InputError(f"QUARTERDECK_VENUE={venue!r} is not a ccxt exchange id, such as bybit")
    _check_profile(settings, venue)
    # 100 ms between requests is Bybit's limit; a local server has none, and stepped time should not wait for it
    near = settings.profile == "sandbox" or bool(settings.venue_url)
    client = getattr(ccxt, venue)({"timeout": TIMEOUT_MS, "enableRateLimit": not near})
    client.ssl_context = certificates.trusted()
    if settings.venue_host:
        client.hostname = settings.venue_host
    _trim(client)
    if settings.profile == "sandbox":
        _to_server(client, settings.sandbox_url)
        client.apiKey = os.environ.get(SANDBOX_KEY, "sandbox")
        client.secret = os.environ.get(SANDBOX_SECRET, "sandbox")
        client.options["keyNames"] = (SANDBOX_KEY, SANDBOX_SECRET)
    elif settings.profile != "paper":
        _to_account(client, settings)
    elif settings.venue_url:
        _to_server(client, settings.venue_url)
    client.fetch = _only_json(client.fetch, venue)
    return client


def _check_profile(settings: Settings, venue: str) -> None:
    """Refuse what would send an order where its profile does not belong."""
    if settings.profile in ("testnet", "live") and venue not in EXCHANGES["takes_orders"]:
        raise InputError(
            f"profile {settings.profile} sends orders to {', '.join(EXCHANGES['takes_orders'])} only, not {venue}; "
            f"set QUARTERDECK_VENUE to one of them, or QUARTERDECK_PROFILE=paper for {venue}'s public data"
        )
    if settings.profile == "live" and not settings.live_account:
        raise InputError("profile live is not armed: set QUARTERDECK_LIVE_ACCOUNT to the venue's account id, typed out")
    known = EXCHANGES["hosts"].get(venue, ())
    if settings.venue_host and settings.venue_host not in known:
        told = ", ".join(known) or "it has no others"
        raise InputError(f"QUARTERDECK_VENUE_HOST={settings.venue_host!r} is no host of {venue}: {told}")
    if settings.venue_url and settings.profile in ("testnet", "live"):
        raise InputError(f"QUARTERDECK_VENUE_URL is for profile paper, not {settings.profile}: take it away")
    if settings.venue_url and not _is_near(settings.venue_url, loopback=True):
        raise InputError(f"QUARTERDECK_VENUE_URL={redacted(settings.venue_url)!r} is not http://127.0.0.1:PORT")
    if settings.profile == "sandbox" and not _is_near(settings.sandbox_url):
        url = redacted(settings.sandbox_url)
        raise InputError(f"QUARTERDECK_SANDBOX_URL={url!r} is no sandbox: not in this network")


def _is_near(url: str, *, loopback: bool = False) -> bool:
    """Return whether a server is on this machine or, unless `loopback`, in a private network or a cluster."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        inside = "." not in host or host.endswith(PRIVATE_NAMES)
        return host == "localhost" or (inside and bool(host) and not loopback)
    return address.is_loopback or (address.is_private and not loopback)


def _trim(client: Any) -> None:
    """Load only what is traded, named in each client's own form: no inverse contracts, options, futures, currencies."""
    client.has["fetchCurrencies"] = client.id in EXCHANGES["currencies_first"]
    wanted, left_out = client.options.get("fetchMarkets"), EXCHANGES["not_traded"]
    types = wanted.get("types") if isinstance(wanted, dict) and client.id not in EXCHANGES["takes_all_types"] else None
    if isinstance(types, dict):
        wanted["types"] = {kind: asked and kind not in left_out for kind, asked in types.items()}
    elif types:  # where nothing would be left, a symbol is refused for what it is
        wanted["types"] = [kind for kind in types if kind not in left_out] or types


def _to_server(client: Any, url: str) -> None:
    client.urls["api"] = _moved(client.urls["api"], url.rstrip("/"))
    client.timeout_on_exit = 0  # ccxt waits 250 ms for TLS to say goodbye; there is none here


def _moved(urls: Any, server: str) -> Any:
    """Return API addresses, or a tree of them, at another server; their paths stay, which no request names again."""
    if isinstance(urls, dict):
        return {name: _moved(each, server) for name, each in urls.items()}
    return server + urlsplit(urls).path


def _to_account(client: Any, settings: Settings) -> None:
    client.apiKey, client.secret = _needed(KEY, settings), _needed(SECRET, settings)
    client.walletAddress, client.privateKey = client.apiKey, client.secret  # where a wallet signs
    if client.requiredCredentials.get("password"):
        client.password = _needed(PASSWORD, settings)
    client.options["adjustForTimeDifference"] = True  # a drifting clock here must not make the venue refuse a close
    if settings.profile == "testnet":
        own = settings.venue_demo and client.id in EXCHANGES["own_demo"]
        (client.enable_demo_trading if own else client.set_sandbox_mode)(True)


def _needed(variable: str, settings: Settings) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise InputError(f"{variable} is not set: profile {settings.profile} needs a {settings.venue} API key")
    return value


def _only_json(fetch: Callable[..., Awaitable[object]], venue: str) -> Callable[..., Awaitable[object]]:
    """Refuse a page where JSON belongs: ccxt would read a proxy's HTML with status 200 as an empty answer.

    And a number that ccxt's arithmetic would write out digit by digit.
    """

    async def strict(*args: Any, **kwargs: Any) -> object:
        from ccxt.base.errors import BadResponse, ExchangeError

        answer = await fetch(*args, **kwargs)
        if not (isinstance(answer, dict | list) or str(answer).startswith('"')):
            raise BadResponse("the answer is not JSON")
        if "GET" not in args[1:2] and any(refused_rows(venue, answer)):  # in an answer that says it is a success
            raise ExchangeError(f"{venue} {json.dumps(answer)}")
        if found := next(_endless("", answer), None):
            raise VenueUnavailable("{} answered {} {!r:.40}: no number that can be reckoned with".format(venue, *found))
        return answer

    return strict


def _endless(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield numbers with an exponent of three digits and more, or beyond any float, with the names of their fields."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else ((name, each) for each in value)
        for key, part in parts:
            yield from _endless(key, part)
    elif isinstance(value, str):
        if not name.endswith(("Id", "ID")) and _ENDLESS.fullmatch(value):
            yield name, value
    elif isinstance(value, float) and not isfinite(value):
        yield name, value


@contextmanager
def translated(client: Any, doing: str, *, order: bool = False, fine: Meaning | None = None) -> Iterator[None]:
    """Let no ccxt error out: raise ours, saying what we were `doing`. With `order`, a refusal is OrderRejected.

    fine: an error of this meaning is none, there was nothing left to do.
    """
    from ccxt.base.errors import BaseError

    try:
        yield
    except BaseError as e:
        if meaning(client, e) is fine:
            return
        leaks = redacted(str(e)) != str(e)  # Bybit quotes a key when a signature is wrong
        raise ours(client, e, doing, order) from (None if leaks else e)


@contextmanager
def understood(what: str, error: type[TradingError] = VenueUnavailable) -> Iterator[None]:
    """Turn an answer of the wrong shape into `error`, saying `what` it should have been."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as e:
        raise error(f"{what}: malformed ({type(e).__name__}: {str(e)[:200]})") from e


@contextmanager
def reading(client: Any, what: str) -> Iterator[None]:
    """Read public data: ccxt's errors become ours, and so does an answer of the wrong shape."""
    with translated(client, f"fetch {what}"), understood(what, DataError):
        yield


def ours(client: Any, e: Exception, doing: str, order: bool = False) -> TradingError:
    """Choose our error for one of ccxt's, by what it means."""
    from ccxt.base import errors as theirs

    refused: type[TradingError] = OrderRejected if order else VenueError
    text = f"{doing}: {_explanation(client, e)}"
    if isinstance(e, theirs.AuthenticationError):
        names = " and ".join(client.options.get("keyNames", (KEY, SECRET)))
        text += f"; check the key in {names}, its permissions and its IP list"
    if not order and isinstance(e, theirs.BadSymbol | theirs.NotSupported):
        refused = InputError
    errors: dict[Meaning, type[TradingError]] = {
        Meaning.REFUSED: refused,
        Meaning.GONE: OrderGone,
        Meaning.DUPLICATE: DuplicateOrder,
        Meaning.NOT_MODIFIED: NotModified,
        Meaning.BUSY: VenueBusy,
    }
    return errors.get(meaning(client, e), VenueUnavailable)(text)


def meaning(client: Any, e: Exception) -> Meaning:
    """Judge a ccxt error: by the venue's code or words, by the HTTP status, else by its class."""
    from ccxt.base import errors as theirs

    answer = answer_in(client.id, str(e))
    judged = meaning_of(client.id, answer)
    if answer.code or judged is not Meaning.UNKNOWN or answer.mixed:
        return judged
    by_class: list[tuple[Any, Meaning]] = [
        (theirs.DDoSProtection | theirs.RateLimitExceeded | theirs.OnMaintenance | theirs.InvalidNonce, Meaning.BUSY),
        (theirs.OrderNotFound, Meaning.GONE),
        (theirs.DuplicateOrderId, Meaning.DUPLICATE),
        (theirs.NoChange | theirs.MarginModeAlreadySet, Meaning.NOT_MODIFIED),
        (theirs.OperationFailed, Meaning.UNKNOWN),
    ]
    otherwise = Meaning.UNKNOWN if type(e) is theirs.ExchangeError else Meaning.REFUSED
    return next((meaning for kinds, meaning in by_class if isinstance(e, kinds)), otherwise)


def _explanation(client: Any, e: Exception) -> str:
    """Return the venue's code and words, or what ccxt says, without keys; for an answer that is no answer, its kind."""
    from ccxt.base.errors import ExchangeError, OperationFailed

    answer = answer_in(client.id, str(e))
    if answer.code == "HTTP 403":
        text = f"{client.id} refuses this machine's address (HTTP 403): its country or network is blocked there"
        text += "; an account of a region has its own QUARTERDECK_VENUE_HOST" if client.id in EXCHANGES["hosts"] else ""
    elif answer.spoken:
        text = f"{client.id} answered {answer.code} {answer.words}".rstrip()
    elif isinstance(e, OperationFailed) or type(e) is ExchangeError:
        url = client.urls["api"]
        first = next(iter(url.values())) if isinstance(url, dict) else url
        host = client.implode_hostname(first) if isinstance(first, str) else client.id
        return f"{client.id} at {host} gave no usable answer ({type(e).__name__})"
    else:
        text = redacted(str(e))[:300]
    return redacted(text)
