"""Bodies captured from Bybit itself, where they are at hand, read by the translation."""

import json
from decimal import Decimal

import bybit_rows as translate
import pytest
from shared_data import SHARED

from tasks.core.types.orders import OrderStatus

CAPTURED = SHARED / "wire/nautilus/bybit"
pytestmark = pytest.mark.skipif(not CAPTURED.is_dir(), reason=f"{CAPTURED} is not here")
MARKET = {"symbol": "S", "settle": "USDT", "quote": "USDT", "base": "S", "spot": False}


def rows(name: str) -> list[dict[str, object]]:
    body = json.loads((CAPTURED / f"{name}.json").read_text())
    return body["data"] if "data" in body else body["result"]["list"]


def test_every_captured_order_can_be_read():
    names = [path.stem for prefix in ("http_get_orders", "ws_account_order") for path in CAPTURED.glob(f"{prefix}_*")]
    names.append("http_get_order_partially_filled_rejected")
    read = {name: [translate.order_of(row, "S") for row in rows(name)] for name in names}
    assert len(read) > 10
    target, stop = read["http_get_orders_realtime_tp_sl"]
    assert (target.type, target.price, target.reduce_only) == ("target", Decimal("55000.00"), True)
    assert (stop.type, stop.price) == ("stop", Decimal("48000.00"))
    (partly,) = read["http_get_order_partially_filled_rejected"]
    assert (partly.status, partly.filled) == (OrderStatus.CANCELLED, Decimal("0.005"))
    assert partly.reason == "INSUFFICIENT_MARGIN"


def test_captured_positions_can_be_read():
    long, short, flat = (translate.position_of(row, "S") for row in rows("http_get_positions"))
    assert (long.side, long.quantity, long.stop) == ("long", Decimal("0.5"), Decimal("48000.00"))
    assert (short.side, short.target) == ("short", Decimal("2800.00"))
    assert flat is None


def test_captured_fills_can_be_read():
    maker, taker = (translate.fill_of(row, MARKET) for row in rows("http_get_executions"))
    assert (maker.liquidity, maker.fee, maker.reason) == ("maker", Decimal("0.0150"), "")
    assert (taker.liquidity, taker.side) == ("taker", "sell")
    (reduced,) = (translate.fill_of(row, MARKET) for row in rows("ws_account_execution"))
    assert reduced.quantity == Decimal("0.5")
    assert [translate.fill_of(row, MARKET).reason for row in rows("ws_account_execution_adl")] == ["liquidation"]


@pytest.mark.parametrize(
    ("name", "equity", "available"),
    [
        ("http_get_wallet_balance", "1000.50", "3.00326056"),
        ("ws_account_wallet", "10226.20575506", "9556.6056555"),
        ("ws_account_wallet_locked_exceeds_total", "100.0", "0"),
    ],
)
def test_captured_wallets_can_be_read(name, equity, available):
    balance = translate.balance_of(rows(name)[0])
    assert (balance.equity, balance.available) == (Decimal(equity), Decimal(available))


def test_the_captured_key_may_not_withdraw():
    body = json.loads((CAPTURED / "http_get_user_query_api.json").read_text())
    key = translate.permissions_of(body["result"], {"ContractTrade": ("Order", "Position"), "Spot": ("None",)})
    assert (key.account_id, key.withdraw, key.read_only) == ("1448939", False, True)
    assert key.lacks == ("Spot: None",)
