"""Every recorded and documented body of a venue through its dialect, and every request against its documentation."""

from collections import Counter
from decimal import Decimal

import proof_bybit
import proof_hyperliquid
import proof_okx
import pytest
from proof import VENUES, bodies, connected, entry, flaws, params, read, recorded_request, refuse
from venue_stub import Asked, stub_venue

from tasks.adapters.venue import bybit_rows
from tasks.core.types.orders import OrderType

PROOFS = {each.venue: each for each in (proof_bybit.PROOF, proof_hyperliquid.PROOF, proof_okx.PROOF)}
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
    assert found == []
    assert len({proof.endpoint_of(asked) for asked in stub.asked} & set(documented)) > 8


BYBIT_ORDERS = {
    "docs_order_create-order_7": {
        "side": "sell", "type": OrderType.LIMIT, "price": Decimal(30000), "reduce_only": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BYBIT_ORDERS)
async def test_a_bybit_order_is_the_documented_one_field_by_field(name, monkeypatch):
    body = recorded_request("bybit", name)
    intent = entry("BTC/USDT:USDT", client_order_id=body["orderLinkId"], **BYBIT_ORDERS[name])
    assert bybit_rows.order_request(intent, {"id": "BTCUSDT", "spot": False}) == body


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
