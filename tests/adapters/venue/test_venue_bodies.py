"""Every recorded and documented body of a venue through its dialect, and every request against its documentation."""

from collections import Counter
from decimal import Decimal
from urllib.parse import parse_qsl

import proof_binanceusdm
import proof_bitget
import proof_bybit
import proof_hyperliquid
import proof_okx
import pytest
from proof import VENUES, Body, bodies, connected, entry, flaws, params, read, recorded_request, refuse
from venue_stub import Asked, stub_venue

from tasks.core.errors import VenueError
from tasks.core.types.orders import OrderType

ALL = (proof_binanceusdm, proof_bitget, proof_bybit, proof_hyperliquid, proof_okx)
PROOFS = {each.PROOF.venue: each.PROOF for each in ALL}
AT_HAND = {venue: bodies(proof.folder) for venue, proof in PROOFS.items()}
BODIES = [
    pytest.param(venue, body, id=f"{venue}-{body.name}")
    for venue, at_hand in AT_HAND.items()
    for body in at_hand
    if PROOFS[venue].kind_of(body) != "error"
]
pytestmark = pytest.mark.skipif(not BODIES, reason=f"needs the recorded data in {VENUES}")


@pytest.mark.parametrize(("venue", "body"), BODIES)
async def test_a_body_is_read_whole_and_as_written_or_is_no_answer_to_us(venue, body, monkeypatch):
    await read(PROOFS[venue], body, monkeypatch)


@pytest.mark.parametrize("venue", PROOFS)
async def test_an_error_is_one_of_ours_for_an_order_and_for_a_question(venue, monkeypatch):
    errors = [body for body in AT_HAND[venue] if PROOFS[venue].kind_of(body) == "error"]
    assert len(errors) > 3
    await refuse(PROOFS[venue], errors, monkeypatch)


@pytest.mark.parametrize("venue", PROOFS)
def test_bodies_of_every_kind_are_at_hand(venue):
    kinds = Counter(PROOFS[venue].kind_of(body) for body in AT_HAND[venue])
    assert {"order", "fill", "position", "balance", "instrument", "book", "error"} <= set(kinds)
    assert sum(kinds.values()) - kinds[""] > 20


# --- what is asked


@pytest.mark.parametrize("venue", PROOFS)
async def test_every_request_has_the_documented_fields_and_no_other(venue, monkeypatch):
    proof = PROOFS[venue]
    documented = params(proof.folder)
    with stub_venue() as stub:
        async with connected(proof, stub, monkeypatch) as opened:
            await proof.life(opened, stub)
    found = sorted({flaw for asked in stub.asked for flaw in flaws(proof, asked, documented)})
    assert not found, "\n".join(found)
    assert len({proof.endpoint_of(asked) for asked in stub.asked} & set(documented)) > 8


ORDERS: dict[str, dict[str, dict[str, object]]] = {
    "bybit": {
        "docs_order_create-order_7": {
            "symbol": "BTC/USDT:USDT", "side": "sell", "type": OrderType.LIMIT, "price": Decimal(30000),
            "reduce_only": True, "client_order_id": "usdt-test-02",
        },
        "gn_createOrder_02": {"symbol": "LTC/USDT:USDT"},
        "gn_createOrder_06": {"symbol": "LTC/USDT:USDT", "side": "sell", "reduce_only": True},
    },
    "binanceusdm": {
        "gn_createOrder_02": {"symbol": "LTC/USDT:USDT"},
        "gn_createOrder_06": {"symbol": "LTC/USDT:USDT", "side": "sell", "reduce_only": True},
        "cx_createOrder_05": {"symbol": "LTC/USDT:USDT", "quantity": Decimal("0.1")},
    },
    "hyperliquid": {
        "gn_createOrder_02": {"symbol": "SOL/USDC:USDC"},
        "gn_createOrder_06": {"symbol": "SOL/USDC:USDC", "side": "sell", "reduce_only": True},
        "gn_createOrder_07": {
            "symbol": "SOL/USDC:USDC", "client_order_id": "1234567890abcdef1234567890abcdef", "price": Decimal(100),
            "type": OrderType.LIMIT,
        },
        "gn_createOrder_11": {
            "symbol": "SOL/USDC:USDC", "price": Decimal(100), "type": OrderType.LIMIT, "stop": Decimal(90),
            "target": Decimal(120),
        },
    },
}  # fmt: skip


async def sent_by(proof, stub, monkeypatch, **changes):
    """Return an order as it goes out, without what recorded ones are stripped of."""
    proof.serve(stub)
    async with connected(proof, stub, monkeypatch) as opened:
        market = await opened.market.listing(changes["symbol"])
        await opened.account.create(entry(**changes), market)
    body = [asked for asked in stub.asked if asked.path in proof.refuses and asked.method == "POST"][-1]
    return proof.fields_of(body) if proof.venue != "hyperliquid" else body.body["action"]


@pytest.mark.parametrize("venue", ["bybit", "binanceusdm"])
async def test_an_order_has_the_recorded_ones_fields(venue, monkeypatch):
    proof = PROOFS[venue]
    for name, changes in ORDERS[venue].items():
        recorded = recorded_request(proof.folder, name)
        recorded = recorded if isinstance(recorded, dict) else dict(parse_qsl(recorded))
        with stub_venue() as stub:
            sent = await sent_by(proof, stub, monkeypatch, **changes)
        kept = {field: value for field, value in sent.items() if field not in proof.left_out - set(recorded)}
        assert kept == recorded, name


async def test_an_order_at_hyperliquid_is_the_recorded_one_but_for_exits_at_market(monkeypatch):
    """A limit at the trigger, as recorded, rests above a market that fell through it."""
    for name, changes in ORDERS["hyperliquid"].items():
        with stub_venue() as stub:
            sent = await sent_by(PROOFS["hyperliquid"], stub, monkeypatch, **changes)
        recorded = recorded_request("hyperliquid", name)["action"]
        for leg, known in zip(sent["orders"], recorded["orders"], strict=True):
            if "c" not in known:
                leg.pop("c", None)
            if trigger := known["t"].get("trigger"):
                trigger["isMarket"] = True
                known["p"] = str(Decimal(trigger["triggerPx"]) * Decimal("0.95")).rstrip("0").rstrip(".")
        assert sent == recorded, name


RECORDED = {
    ("okx", "cx_createOrderWithTakeProfitAndStopLoss_01"): (
        "ADA-USDT-SWAP", entry("ADA/USDT:USDT", quantity=Decimal("0.05"), stop=Decimal("0.2"), target=Decimal(2)),
    ),
    ("bitget", "cx_createOrder_05"): (
        "BTCUSDT",
        entry("BTC/USDT:USDT", quantity=Decimal("0.001"), type=OrderType.LIMIT, price=Decimal(25_000)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("venue", "name"), RECORDED)
async def test_an_order_is_the_recorded_one_field_by_field(venue, name, monkeypatch):
    recorded, proof = recorded_request(venue, name), PROOFS[venue]
    market_id, intent = RECORDED[venue, name]
    row = {"instId": market_id, "symbol": market_id}
    with stub_venue() as stub:
        stub.answers |= proof.answers("", Body("", "", "", None, []), [row])
        stub.answers[proof.refuses[0]] = {"code": "1", "msg": "refused", "data": []}
        async with connected(proof, stub, monkeypatch) as opened:
            with pytest.raises(VenueError):
                await opened.submit(intent)
    [sent] = [asked for asked in stub.requests(proof.refuses[0]) if asked.method == "POST"]
    ours = {key: value for key, value in sent.body.items() if value != intent.client_order_id}
    assert ours == (recorded[0] if isinstance(recorded, list) else recorded)


def test_an_unknown_a_missing_and_a_mistyped_field_are_each_found():
    typed = [
        {"name": "qty", "required": True, "type": "string"}, {"name": "idx", "required": True, "type": "integer"},
        {"name": "flag", "required": False, "type": "boolean"},
    ]  # fmt: skip
    asked = Asked("POST", "/order", {}, '{"qty": 1, "flag": "true", "stopLoss": {"price": "1"}}')
    assert sorted(flaws(PROOFS["bybit"], asked, {"POST /order": typed})) == [
        "POST /order: flag='true' is no boolean",
        "POST /order: idx is missing",
        "POST /order: qty=1 is no string",
        "POST /order: stopLoss={'price': '1'} is unknown",
    ]
    assert list(flaws(PROOFS["bybit"], asked, {})) == ["POST /order is in no documentation"]
