"""Hyperliquid's dialect against a scripted server: an order's life on the wire, and its traps."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from proof import KEYS
from venue_stub import NOW_MS, Asked, Stub, stub_venue

from tasks import settings as config
from tasks.adapters.venue import ccxt_venue as venue_module
from tasks.adapters.venue import client
from tasks.adapters.venue.ccxt_venue import CcxtVenue
from tasks.core.errors import InputError, OrderRejected, VenueUnavailable
from tasks.core.types.limits import Limits
from tasks.core.types.orders import OrderIntent, OrderStatus, OrderType

BTC, ID, WALLET = "BTC/USDC:USDC", "dec00123456789abcdef0123456789ab", KEYS[client.KEY]
NOW = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
ENTRY = {
    "coin": "BTC", "side": "B", "limitPx": "91362", "sz": "0.0", "oid": 71, "timestamp": NOW_MS - 900, "origSz": "0.3",
    "orderType": "Limit", "isTrigger": False, "triggerPx": "0.0", "triggerCondition": "N/A", "children": [],
    "isPositionTpsl": False, "reduceOnly": False, "tif": "Ioc", "cloid": f"0x{ID}",
}  # fmt: skip
STOP = ENTRY | {
    "side": "A", "limitPx": "81700", "sz": "0.3", "oid": 72, "orderType": "Stop Market", "isTrigger": True, "tif": None,
    "triggerPx": "86000.0", "triggerCondition": "Price below 86000", "reduceOnly": True, "cloid": None,
}  # fmt: skip
TARGET = STOP | {"oid": 73, "orderType": "Take Profit Market", "triggerPx": "91000.0", "limitPx": "86450"}
HELD = {
    "coin": "BTC", "szi": "0.3", "entryPx": "87012.3", "positionValue": "26100", "unrealizedPnl": "-3",
    "marginUsed": "9", "leverage": {"type": "cross", "value": 3}, "liquidationPx": None, "maxLeverage": 40,
}  # fmt: skip
FILL = {
    "coin": "BTC", "px": "87012.3", "sz": "0.3", "side": "B", "time": NOW_MS - 850, "startPosition": "0.0",
    "dir": "Open Long", "closedPnl": "0.0", "hash": "0xaa", "oid": 71, "crossed": True, "fee": "11.7", "tid": 501,
    "feeToken": "USDC", "twapId": None,
}  # fmt: skip


def placed(*statuses: object) -> dict[str, object]:
    return {"status": "ok", "response": {"type": "order", "data": {"statuses": list(statuses)}}}


def state(*held: dict[str, object]) -> dict[str, object]:
    return {
        "assetPositions": [{"type": "oneWay", "position": each} for each in held],
        "marginSummary": {"accountValue": "1000.5", "totalMarginUsed": "100.25"}, "withdrawable": "800", "time": NOW_MS,
    }  # fmt: skip


class Wire(Stub):
    """The two paths of the venue: `told` answers questions by their type, `done` actions."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, object] = {
            "exchangeStatus": {"time": NOW_MS, "specialStatuses": None},
            "metaAndAssetCtxs": [
                {"universe": [{"name": "BTC", "szDecimals": 5, "maxLeverage": 40}]}, [{"markPx": "87000"}],
            ],
            "spotMetaAndAssetCtxs": [{"universe": [], "tokens": []}, []], "userAbstraction": "default",
            "l2Book": {
                "coin": "BTC", "levels": [[{"px": "87011", "sz": "9"}], [{"px": "87012", "sz": "9"}]], "time": NOW_MS,
            },
            "clearinghouseState": state(), "frontendOpenOrders": [], "userFillsByTime": [],
            "orderStatus": {"status": "unknownOid"},
        }  # fmt: skip
        self.done: dict[str, object] = {
            "updateLeverage": {"status": "ok", "response": {"type": "default"}},
            "order": placed({"filled": {"totalSz": "0.3", "avgPx": "87012.3", "oid": 71}}),
            "cancel": {"status": "ok", "response": {"type": "cancel", "data": {"statuses": ["success"]}}},
        }
        self.done["cancelByCloid"] = self.done["cancel"]
        self.answers = {"/info": self._told, "/exchange": self._done}

    def _told(self, asked: Asked) -> object:
        answer = self.told[asked.body["type"]]
        return answer(asked) if callable(answer) else answer

    def _done(self, asked: Asked) -> object:
        answer = self.done[asked.body["action"]["type"]]
        return answer(asked) if callable(answer) else answer

    def actions(self, type_: str) -> list[dict[str, object]]:
        actions = [asked.body["action"] for asked in self.requests("/exchange")]
        return [action for action in actions if action["type"] == type_]


def status(*orders: tuple[dict[str, object], str]):
    """Tell an order by its id of either kind."""

    def told(asked: Asked) -> object:
        for order, word in orders:
            if asked.body["oid"] in (order["oid"], order["cloid"]):
                return {"status": "order", "order": {"order": order, "status": word, "statusTimestamp": NOW_MS}}
        return {"status": "unknownOid"}

    return told


@pytest.fixture
def wire():
    with stub_venue(Wire()) as running:
        yield running


async def opened(wire, monkeypatch, **changes):
    for name, value in (KEYS | changes).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(venue_module, "LOOKS", (0.0, 0.0))
    settings = config.load(profile="testnet", venue="hyperliquid", symbols=[BTC], limits=Limits(leverage=3))
    real = client.build(settings)
    client._to_server(real, wire.url)
    real.enableRateLimit = False
    return CcxtVenue(real, settings)


@pytest.fixture
async def venue(wire, monkeypatch):
    connected = await opened(wire, monkeypatch)
    yield connected
    await connected.close()


def entry(**changes: object) -> OrderIntent:
    fields: dict[str, object] = {"client_order_id": ID, "symbol": BTC, "side": "buy", "type": OrderType.MARKET}
    return OrderIntent(**fields | {"quantity": Decimal("0.3")} | changes)


# --- a life -------------------------------------------------------------------------------------------------------


async def test_a_life_from_the_entry_to_the_stop_out(venue, wire, monkeypatch):
    """Entry with stop and target, half filled, read back, moved, stopped out; then a new process finds the entry."""
    wire.told["orderStatus"] = status((ENTRY | {"sz": "0.15"}, "open"))
    sent = await venue.submit(entry(stop=Decimal(86_000), target=Decimal(91_000)))
    assert (sent.status, sent.type, sent.quantity, sent.filled) == (
        OrderStatus.OPEN, "market", Decimal("0.3"), Decimal("0.15"),
    )  # fmt: skip
    assert wire.actions("updateLeverage") == [{"type": "updateLeverage", "asset": 0, "isCross": True, "leverage": 3}]
    assert wire.actions("order") == [{
        "type": "order", "grouping": "normalTpsl", "orders": [
            {"a": 0, "b": True, "p": "91363", "s": "0.3", "r": False, "t": {"limit": {"tif": "Ioc"}}, "c": f"0x{ID}"},
            {"a": 0, "b": False, "p": "86450", "s": "0.3", "r": True,
             "t": {"trigger": {"isMarket": True, "triggerPx": "91000", "tpsl": "tp"}}},
            {"a": 0, "b": False, "p": "81700", "s": "0.3", "r": True,
             "t": {"trigger": {"isMarket": True, "triggerPx": "86000", "tpsl": "sl"}}},
        ],
    }]  # fmt: skip
    assert len(wire.requests("/exchange")) == 2  # neither a referrer is named nor a builder's fee approved

    wire.told |= {"clearinghouseState": state(HELD), "frontendOpenOrders": [STOP, TARGET]}
    (held,) = await venue.positions()
    assert (held.side, held.quantity, held.avg_price) == ("long", Decimal("0.3"), Decimal("87012.3"))
    assert (held.stop, held.target) == (Decimal(86_000), Decimal(91_000))
    balance = await venue.balance()
    assert (balance.equity, balance.available, balance.currency) == (Decimal("1000.5"), Decimal("900.25"), "USDC")

    await venue.set_protection(BTC, Decimal(87_100), None, client_order_id="ab" * 16)
    done = [asked.body["action"] for asked in wire.requests("/exchange")[2:]]
    assert [action["type"] for action in done] == ["order", "cancel"]  # the new one rests before the old one goes
    assert done[0]["orders"][0]["t"]["trigger"] == {"isMarket": True, "triggerPx": "87100", "tpsl": "sl"}
    assert done[1]["cancels"] == [{"a": 0, "o": 72}]
    await venue.set_protection(BTC, Decimal(86_000), Decimal(91_000))  # what rests already
    assert len(wire.requests("/exchange")) == 4

    out = FILL | {"tid": 502, "oid": 72, "side": "A", "px": "85990", "dir": "Close Long", "time": NOW_MS}
    wire.told |= {
        "clearinghouseState": state(), "frontendOpenOrders": [], "userFillsByTime": [FILL, out],
        "orderStatus": status((ENTRY, "filled"), (STOP | {"sz": "0.0"}, "filled")),
    }  # fmt: skip
    await venue.close()
    again = await opened(wire, monkeypatch)
    found = await again.find_order(BTC, ID)
    assert (found.status, found.filled, found.venue_order_id) == (OrderStatus.FILLED, Decimal("0.3"), "71")
    bought, stopped = await again.fills(BTC, NOW - timedelta(minutes=5))
    assert (bought.client_order_id, bought.reason, bought.fee) == (ID, "", Decimal("11.7"))
    assert (stopped.client_order_id, stopped.reason, stopped.price) == ("", "stop", Decimal(85_990))
    asked = len(wire.asked)
    await again.fills(BTC, NOW - timedelta(minutes=5))
    assert len(wire.asked) == asked + 2  # the clock and the fills: what an order was for is asked once
    assert await again.positions() == []
    await again.close()


async def test_a_limit_rests_with_its_exits_is_cancelled_and_one_that_is_gone_is_fine(venue, wire):
    resting = ENTRY | {"sz": "0.3", "tif": "Gtc", "limitPx": "86500.0", "children": [STOP, TARGET]}
    wire.done["order"] = placed({"resting": {"oid": 71}}, "waitingForFill", "waitingForFill")
    wire.told |= {"orderStatus": status((resting, "open")), "frontendOpenOrders": [resting]}
    sent = await venue.submit(
        entry(type=OrderType.LIMIT, price=Decimal(86_500), stop=Decimal(86_000), target=Decimal(91_000))
    )
    assert (sent.type, sent.price, sent.status, sent.filled) == ("limit", Decimal(86_500), OrderStatus.OPEN, 0)
    assert (sent.stop, sent.target) == (Decimal(86_000), Decimal(91_000))
    assert [order.client_order_id for order in await venue.open_orders(BTC)] == [ID]
    await venue.cancel(BTC, ID)
    gone = {"error": "Order was never placed, already canceled, or filled."}
    wire.done["cancelByCloid"] = {"status": "ok", "response": {"type": "cancel", "data": {"statuses": [gone]}}}
    await venue.cancel(BTC, ID)
    assert wire.actions("cancelByCloid")[0]["cancels"] == [{"asset": 0, "cloid": f"0x{ID}"}]


# --- traps, some from reports about other systems ------------------------------------------------------------------


async def test_a_stop_refused_in_a_row_of_an_answer_that_is_ok_is_refused(venue, wire):
    """sanketagarwal/hyperliquid-trading-agent#6: `status: ok`, and no stop rests."""
    wire.told["clearinghouseState"] = state(HELD)
    wire.done["order"] = placed({"error": "Invalid TP/SL price. asset=0"})
    with pytest.raises(OrderRejected, match="Invalid TP/SL price"):
        await venue.set_protection(BTC, Decimal(88_000), None)


async def test_an_entry_taken_with_its_stop_refused_is_unknown_so_that_it_is_looked_up(venue, wire):
    wire.done["order"] = placed({"filled": {"totalSz": "0.3", "avgPx": "87012", "oid": 71}}, {"error": "Invalid TP/SL"})
    with pytest.raises(VenueUnavailable):
        await venue.submit(entry(stop=Decimal(86_000)))


@pytest.mark.parametrize(("side", "stop", "trigger", "limit"), [
    ("long", "80000.4", "80001", "76001"), ("short", "95000.6", "95000", "99750"), ("long", "80000", "80000", "76000"),
])  # fmt: skip
async def test_a_stop_is_rounded_tighter_and_its_limit_is_beyond_its_trigger(venue, wire, side, stop, trigger, limit):
    """nautechsystems/nautilus_trader#3611: a limit on the near side of the trigger is refused."""
    wire.told["clearinghouseState"] = state(HELD | {"szi": "0.3" if side == "long" else "-0.3"})
    wire.done["order"] = placed("waitingForTrigger")
    await venue.set_protection(BTC, Decimal(stop), None)
    [leg] = wire.actions("order")[-1]["orders"]
    assert (leg["t"]["trigger"]["triggerPx"], leg["p"], leg["b"]) == (trigger, limit, side == "short")
    assert "c" not in leg


async def test_a_liquidation_is_told_by_its_row_and_other_coins_are_left_out(venue, wire):
    forced = FILL | {
        "side": "A", "dir": "Close Long", "tid": 503,
        "liquidation": {"liquidatedUser": WALLET.upper().replace("X", "x"), "markPx": "80000", "method": "market"},
    }  # fmt: skip
    wire.told["userFillsByTime"] = [forced, FILL | {"coin": "ETH"}, FILL | {"tid": 504, "cloid": f"0x{ID}"}]
    liquidated, ours = sorted(await venue.fills(BTC, NOW - timedelta(minutes=5)), key=lambda fill: fill.fill_id)
    assert (liquidated.reason, ours.reason, ours.client_order_id) == ("liquidation", "", ID)


async def test_fills_of_all_coins_fill_a_page_and_the_next_one_is_read_too(venue, wire, monkeypatch):
    monkeypatch.setattr("tasks.adapters.venue.hyperliquid.Hyperliquid.page", 2)
    later = [FILL | {"tid": 9, "time": NOW_MS, "cloid": f"0x{ID}"}]
    first = [FILL | {"coin": "ETH"}, FILL | {"tid": 8, "cloid": f"0x{ID}"}]
    wire.told["userFillsByTime"] = lambda asked: first if asked.body["startTime"] < FILL["time"] else later
    assert [fill.fill_id for fill in await venue.fills(BTC, NOW - timedelta(minutes=5))] == ["8", "9"]


async def test_whose_key_it_is_and_what_it_may(venue, wire, monkeypatch):
    wire.told["userRole"] = {"role": "agent", "data": {"user": WALLET}}
    agent = await venue.account.permissions()
    assert (agent.account_id, agent.withdraw, agent.read_only) == (WALLET, False, False)
    wire.told["userRole"] = {"role": "missing"}
    assert (await venue.account.permissions()).read_only
    own = venue.market.client.eth_get_address_from_private_key(KEYS[client.SECRET])
    master = await opened(wire, monkeypatch, **{client.KEY: own})
    assert (await master.account.permissions()).withdraw
    await master.close()
    garbled = await opened(wire, monkeypatch, **{client.SECRET: "no key"})
    with pytest.raises(InputError, match=client.SECRET):
        await garbled.account.permissions()
    await garbled.close()


async def test_a_unified_accounts_money_is_its_spot_money(venue, wire):
    wire.told |= {
        "userAbstraction": "unifiedAccount",
        "spotClearinghouseState": {"balances": [{"coin": "USDC", "total": "50.5", "hold": "10", "entryNtl": "0"}]},
    }
    balance = await venue.balance()
    assert (balance.equity, balance.available) == (Decimal("50.5"), Decimal("40.5"))
    assert await venue.account.margin_mode() == "unifiedAccount"


@pytest.mark.parametrize(("word", "left", "read", "filled"), [
    ("filled", "0.3", OrderStatus.FILLED, "0.3"), ("filled", "0.0", OrderStatus.FILLED, "0.3"),
    ("canceled", "0.1", OrderStatus.CANCELLED, "0.2"), ("iocCancelRejected", "0.3", OrderStatus.REJECTED, "0"),
    ("scheduledCancel", "0.3", OrderStatus.CANCELLED, "0"),
])  # fmt: skip
async def test_what_became_of_an_order(venue, wire, word, left, read, filled):
    """JKorf/HyperLiquid.Net#46: a filled order is told with all of it remaining."""
    wire.told["orderStatus"] = status((ENTRY | {"sz": left}, word))
    found = await venue.find_order(BTC, ID)
    assert (found.status, found.filled) == (read, Decimal(filled))


async def test_an_entry_that_finds_less_gets_its_exits_at_once(venue, wire):
    """They went with the rest of it: a group's exits rest once all of the entry is filled."""
    taken = placed({"filled": {"totalSz": "0.1", "avgPx": "87012.3", "oid": 71}})
    wire.done["order"] = lambda asked: taken if len(asked.body["action"]["orders"]) > 1 else placed("waitingForTrigger")
    wire.told |= {
        "orderStatus": status((ENTRY | {"sz": "0.2"}, "canceled")),
        "clearinghouseState": lambda asked: state(*[HELD | {"szi": "0.1"}] * bool(wire.actions("order"))),
    }
    sent = await venue.submit(entry(stop=Decimal(86_000)))
    assert (sent.status, sent.filled) == (OrderStatus.CANCELLED, Decimal("0.1"))
    [leg] = wire.actions("order")[1]["orders"]
    assert (leg["s"], leg["t"]["trigger"]["triggerPx"]) == ("0.1", "86000")
    wire.told["clearinghouseState"] = (500, "")  # it stays an entry that was taken
    assert (await venue.account.create(entry(stop=Decimal(86_000), reduce_only=True), await market(venue))).status


async def market(venue):
    return await venue.market.listing(BTC)


async def test_a_position_in_a_coin_that_is_not_listed_hides_no_other(venue, wire):
    wire.told["clearinghouseState"] = state(HELD, HELD | {"coin": "GONE", "szi": "-2"})
    ours, unlisted = await venue.positions()
    assert (ours.symbol, unlisted.symbol, unlisted.side, unlisted.quantity) == (BTC, "GONE/USDC:USDC", "short", 2)


async def test_portfolio_margin_is_not_armed(venue, wire):
    assert not (await venue.account.arming()).flaws
    wire.told["userAbstraction"] = "portfolioMargin"
    assert "portfolio margin" in (await venue.account.arming()).flaws[0]


async def test_an_empty_book_takes_no_market_order(venue, wire):
    wire.told["l2Book"] = {"coin": "BTC", "levels": [[], []], "time": 1}
    with pytest.raises(OrderRejected, match="the book"):
        await venue.submit(entry())
    assert not wire.actions("order")
