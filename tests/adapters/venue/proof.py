"""What a venue's bodies prove of its dialect: every row is read, every number as it stands there, in base units.

A `Proof` per venue (`proof_bybit.py`, ...) says which body answers which of our questions, and reads each row a second
time, by the names the venue documents and nothing of ours. The real ccxt client asks a server on this machine.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from shared_data import SHARED
from venue_stub import Asked, Stub, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue, client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.errors import TradingError
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

VENUES = SHARED / "venues"
Row = Mapping[str, Any]
Facts = dict[str, object]
ID = "da7e0123456789abcdef0123456789ab"
KEYS = {client.KEY: "0x" + "a1" * 20, client.SECRET: "0x" + "11" * 32, client.PASSWORD: "word"}


@dataclass(frozen=True)
class Body:
    """A recorded or documented body: `path` is where it answered, if that is known."""

    name: str
    method: str
    path: str
    request: Any
    body: Any


def bodies(folder: str, kind: str = "rest") -> list[Body]:
    """Return the bodies at hand, none in a fresh clone."""
    read = [(path, json.loads(path.read_text())) for path in sorted((VENUES / folder / kind).glob("*.json"))]
    return [
        Body(path.stem, row.get("method") or "", row.get("path") or "", row.get("request"), row["body"])
        for path, row in read
    ]


def time_of(milliseconds: object) -> datetime:
    return datetime.fromtimestamp(int(str(milliseconds)) / 1000, tz=UTC)


def some(value: object) -> Decimal | None:
    """Return a number; None for what venues write where there is none."""
    return Decimal(str(value)) or None if value not in (None, "") else None


@dataclass(frozen=True)
class Proof:
    """How one venue is proven.

    kind_of: which question of ours a body answers: order, fill, position, balance, instrument, book, bars, funding,
    key, error; "" for none (`unasked` has its endpoint or name, or the proof fails).
    rows: a body's rows. symbol: a row's unified symbol. The rest read a row by the venue's own names, as the fields of
    our DTOs; `instrument` gives None for a market that we refuse to trade.
    answers: what the server says so that a body can be read, by path: with `rows`, listed as markets.
    """

    venue: str
    folder: str
    quote: str
    kind_of: Callable[[Body], str]
    unasked: Callable[[Body], bool]
    rows: Callable[[str, Any], list[Row]]
    symbol: Callable[[Row], str]
    answers: Callable[[str, Body, list[Row]], dict[str, Any]]
    one_order: Callable[[Row, str], dict[str, Any]]
    order: Callable[[Row], Facts]
    fill: Callable[[Row], Facts | None]
    position: Callable[[Row], Facts | None]
    balance: Callable[[Any], Facts]
    instrument: Callable[[Row], Facts | None]
    book: Callable[[Any], tuple[str, list[Any], list[Any]]]
    bars: Callable[[Any], tuple[str, list[list[str]]]]
    funding: Callable[[Any], tuple[str, list[tuple[datetime, Decimal]]]]
    key: Callable[[Any], Facts]
    refuses: tuple[str, ...]  # the paths that answer an order and the question for the balance
    life: Callable[[CcxtVenue, Stub], Awaitable[None]]  # every request there is, see `ask_everything`
    endpoint_of: Callable[[Asked], str]
    fields_of: Callable[[Asked], Mapping[str, Any]]
    serve: Callable[[Stub], None] = lambda _: None  # an answer to everything: a position in BTC, others flat
    left_out: frozenset[str] = frozenset()  # fields of ours that recorded orders are stripped of
    undocumented: frozenset[str] = frozenset()  # endpoints that params.json does not have
    extra: Mapping[str, frozenset[str]] = field(default_factory=dict)  # parameters it lacks, by endpoint
    optional: Mapping[str, frozenset[str]] = field(default_factory=dict)  # and wrongly calls required

    @property
    def bitcoin(self) -> str:
        return f"BTC/{self.quote}:{self.quote}"


@asynccontextmanager
async def connected(proof: Proof, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CcxtVenue]:
    """Connect the venue's real ccxt client, with keys, to the server."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ccxt_venue, "LOOKS", (0.0, 0.0))
    symbols = (proof.bitcoin,)
    settings = config.load(profile="testnet", venue=proof.venue, venue_demo=False, symbols=symbols)
    real = client.build(settings)
    real.enableRateLimit = False
    client._to_server(real, stub.url)
    venue = CcxtVenue(real, settings)
    try:
        yield venue
    finally:
        await venue.close()


# --- (a) what is read


async def read(proof: Proof, body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a body answer the question it answers, and compare."""
    kind = proof.kind_of(body)
    if not kind:
        assert proof.unasked(body), f"{body.name} ({body.path}) is asked by nothing here"
        return
    rows = proof.rows(kind, body.body)
    with stub_venue() as stub:
        stub.answers |= proof.answers(kind, body, rows)
        async with connected(proof, stub, monkeypatch) as venue:
            await CHECKS[kind](proof, venue, stub, body, rows)


async def refuse(proof: Proof, errors: list[Body], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer an order and a question with each error: neither a crash nor taken for done."""
    with stub_venue() as stub:
        stub.answers |= proof.answers("error", errors[0], [])
        async with connected(proof, stub, monkeypatch) as venue:
            await venue.market.ready()
            for body in errors:
                stub.answers |= dict.fromkeys(proof.refuses, body.body)
                for ask in (lambda: venue.submit(entry(proof.bitcoin)), venue.balance):
                    with pytest.raises(TradingError) as refused:
                        await ask()
                    assert len(str(refused.value)) < 600, body.name


def same(read: object, expected: Facts, of: object = "") -> None:
    wrong = {name: (value, getattr(read, name)) for name, value in expected.items() if getattr(read, name) != value}
    assert not wrong, f"{of}: expected, read {wrong}"


async def _orders(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    facts = [proof.order(row) for row in rows]
    for symbol in {str(each["symbol"]) for each in facts}:
        listed = {order.venue_order_id: order for order in await venue.open_orders(symbol)}
        for each in facts:
            if (each["symbol"], each["status"]) == (symbol, OrderStatus.OPEN):
                same(listed.pop(str(each["venue_order_id"])), each)
        assert not listed, f"listed, but not open: {listed}"
    for row, each in zip(rows, facts, strict=True):
        name = str(each["client_order_id"] or ID)
        stub.answers |= proof.one_order(row, name)
        found = await venue.find_order(str(each["symbol"]), name)
        assert found, f"{each} was not found"
        same(found, each | {"client_order_id": name}, row)


async def _fills(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    facts = [each for row in rows if (each := proof.fill(row))]
    wanted = {str(each["symbol"]): [other for other in facts if other["symbol"] == each["symbol"]] for each in facts}
    for symbol, expected in wanted.items():
        since = min((each["at"] for each in expected), default=await venue.now()) - timedelta(seconds=1)
        told = await venue.fills(symbol, since)
        assert [fill.at for fill in told] == sorted(fill.at for fill in told)
        by_id = {(fill.fill_id, fill.at): fill for fill in told}
        assert len(by_id) == len({(each["fill_id"], each["at"]) for each in expected}), symbol
        for each in expected:
            same(by_id[each["fill_id"], each["at"]], each)


async def _positions(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    expected = [facts for row in rows if (facts := proof.position(row))]
    told = {(position.symbol, position.side): position for position in await venue.positions()}
    assert len(told) == len(expected)
    for facts in expected:
        same(told[facts["symbol"], facts["side"]], facts)


async def _balance(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    expected = proof.balance(body.body)
    if expected["equity"]:
        same(await venue.balance(), expected)
        return
    with suppress(TradingError):  # a wallet without the coin we trade against may be told so
        assert not (await venue.balance()).equity


async def _instruments(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    for row in rows:
        expected, symbol = proof.instrument(row), proof.symbol(row)
        if expected is None:
            with pytest.raises(TradingError):
                await venue.instrument(symbol)
        else:
            same(await venue.instrument(symbol), expected, row)


async def _book(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    symbol, bids, asks = proof.book(body.body)
    book = await venue.fetch_book(symbol)
    assert list(book.bids) == sorted(bids, reverse=True)[: len(book.bids)]
    assert list(book.asks) == sorted(asks)[: len(book.asks)]
    assert (len(book.bids), len(book.asks)) == (min(50, len(bids)), min(50, len(asks)))


async def _bars(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    symbol, expected = proof.bars(body.body)
    times = [time_of(row[0]) for row in expected]
    bars = await venue.fetch_bars(symbol, "1h", min(times), max(times) + timedelta(hours=2))
    assert list(bars.index) == sorted(times)
    by_time = {time_of(row[0]): [float(value) for value in row[1:6]] for row in expected}
    for open_time, values in zip(bars.index, bars.to_numpy().tolist(), strict=True):
        assert values == by_time[open_time]


async def _funding(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    symbol, expected = proof.funding(body.body)
    told = await venue.market.fetch_funding(symbol, 1000)
    assert {(at, float(rate)) for at, rate in expected} <= set(told)


async def _key(proof: Proof, venue: CcxtVenue, stub: Stub, body: Body, rows: list[Row]) -> None:
    same(await venue.account.permissions(), proof.key(body.body))


CHECKS: dict[str, Callable[[Proof, CcxtVenue, Stub, Body, list[Row]], Awaitable[None]]] = {
    "order": _orders, "fill": _fills, "position": _positions, "balance": _balance, "instrument": _instruments,
    "book": _book, "bars": _bars, "funding": _funding, "key": _key,
}  # fmt: skip


# --- (b) what is asked


def entry(symbol: str, **changes: object) -> OrderIntent:
    """Return a market entry of 1 base unit, unless changed."""
    fields: dict[str, object] = {"client_order_id": ID, "symbol": symbol, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal(1)} | changes)


async def ask_everything(venue: CcxtVenue, symbol: str) -> None:
    """Call all that a venue offers for a symbol; the server has an answer for each call."""
    account, market, contract = venue.account, venue.market, ":" in symbol
    now = await venue.now()
    await venue.instrument(symbol)
    await venue.fetch_book(symbol)
    await venue.fetch_bars(symbol, "1h", now - timedelta(hours=3), now)
    if market.client.has["fetchTrades"]:
        await market.fetch_trades(symbol, 10)
    if contract:
        await market.fetch_funding(symbol, 3)
        await account.leverage(symbol, TradingError)
    await account.permissions()
    await account.margin_mode()
    await venue.balance()
    await venue.positions()
    await venue.fills(symbol, now - timedelta(days=10))
    await venue.open_orders(symbol)
    await venue.find_order(symbol, ID)
    exits = {"stop": Decimal(80_000), "target": Decimal(95_000)} if contract else {}
    for changes in (
        exits,
        {"type": OrderType.LIMIT, "price": Decimal(86_000), **exits},
        {"side": "sell", "reduce_only": contract},
        {"side": "sell", "type": OrderType.LIMIT, "price": Decimal(88_000), "reduce_only": contract},
    ):
        await venue.submit(entry(symbol, **changes))
    await venue.set_protection(symbol, Decimal(81_000), None, client_order_id=ID)
    if contract:
        await venue.set_protection(symbol, Decimal(81_500), Decimal(94_000), client_order_id=ID)
        await venue.set_protection(symbol, None, Decimal(0), client_order_id=ID)
    await venue.cancel(symbol, ID)


def params(folder: str) -> dict[str, list[Row]]:
    """Return the documented parameters by endpoint."""
    path = VENUES / folder / "params.json"
    return {row["endpoint"]: row["params"] for row in json.loads(path.read_text())}


def flaws(proof: Proof, asked: Asked, documented: Mapping[str, list[Row]]) -> Iterator[str]:
    """Yield what is wrong with a request by the venue's documentation: unknown, missing and mistyped fields."""
    endpoint, sent = proof.endpoint_of(asked), proof.fields_of(asked)
    if endpoint not in documented:
        if endpoint not in proof.undocumented:
            yield f"{endpoint} is in no documentation"
        return
    known = {row["name"]: row for row in documented[endpoint]}
    for name in set(sent) - set(known) - proof.extra.get(endpoint, frozenset()):
        yield f"{endpoint}: {name}={sent[name]!r} is unknown"
    for name, row in known.items():
        if row["required"] and name not in sent and name not in proof.optional.get(endpoint, ()):
            yield f"{endpoint}: {name} is missing"
        if name in sent and not _typed(row["type"], sent[name], loose=not asked.raw.startswith("{")):
            yield f"{endpoint}: {name}={sent[name]!r} is no {row['type']}"


def _typed(type_: str, value: object, *, loose: bool) -> bool:
    """loose: a query string has only text, so that numbers and booleans are written out."""
    if type_ in ("integer", "int", "long"):
        return isinstance(value, int) or (loose and str(value).isdigit())
    if type_ == "boolean":
        return isinstance(value, bool) or (loose and value in ("true", "false"))
    return isinstance(value, str) or type_ not in ("string", "str")


def query_and_body(asked: Asked) -> Mapping[str, Any]:
    """Return the fields of a request that is JSON, a form or a query."""
    if not asked.raw:
        return asked.query
    return asked.query | (json.loads(asked.raw) if asked.raw.startswith("{") else dict(parse_qsl(asked.raw, True)))


def recorded_request(folder: str, name: str) -> Any:
    path: Path = VENUES / folder / "requests" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"needs the recorded request in {path}")
    return json.loads(path.read_text())["body"]
