"""Hyperliquid's dialect: perpetuals settled in USDC; the key is a wallet's address, the secret a private key for it.

Orders and cancels are put together from ccxt's order rows and signed by it, but not sent by its calls: these first
approve a builder's fee and name a referrer, give one client id to all legs, and send stops as limits. Only the entry
carries our id. A fill that tells none is asked about by its order, which also says whether that was a stop. A market
order is an IOC limit `SLIPPAGE` through the best price. Exits in a group rest once all of their entry is filled: where
a market order finds less they are set at once, and while a limit rests half filled by the look that misses them. Left
out on purpose: spot, other builders' markets, coins on isolated margin only (the venue refuses their leverage), funding
payments among the fills.
"""

from collections.abc import Sequence
from contextlib import suppress
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, ClassVar

from tasks.adapters.venue import (
    SECRET,
    Dialect,
    Exit,
    MarketData,
    Meaning,
    Permissions,
    Row,
    exact,
    number,
    price_or_none,
    translated,
    understood,
    wire,
)
from tasks.core.types import (
    Fill,
    InputError,
    JsonObject,
    Order,
    OrderIntent,
    OrderRejected,
    TradingError,
    VenueError,
    VenuePosition,
)
from tasks.settings import Settings

SLIPPAGE = "0.05"
DIGITS = 5  # of a price, unless it is whole
EXITS: dict[str, Exit] = {"Stop": "stop", "Take Profit": "target"}  # by how the venue's order types begin
ASKED = {"stop": "stopLossPrice", "target": "takeProfitPrice"}
FORCED = ("Liquidat", "Auto-Delever")
MARKET = ("IOC", "FRONTENDMARKET")
STATUS = {"scheduledCancel": "canceled", "waitingForFill": "open", "waitingForTrigger": "open"}  # ccxt's lacks them


class Hyperliquid(Dialect):
    """Orders in Hyperliquid's words; see `Dialect`."""

    quote = "USDC"
    page = 2000  # fills of all coins in one answer, oldest first
    newest_first = False
    flawed: ClassVar = {"portfolioMargin": "portfolio margin: switch the account to standard mode at Hyperliquid"}

    def __init__(self, market: MarketData, settings: Settings) -> None:
        super().__init__(market, settings)
        market.client.has["fetchTrades"] = False  # ccxt's are our own fills

    # --- what there is

    def funds_of(self, answer: Row, coin: str) -> tuple[Decimal, Decimal]:
        account = answer["info"]
        if "balances" in account:  # a unified account's money is its spot money
            return super().funds_of(answer, coin)
        summary = account.get("marginSummary") or account["crossMarginSummary"]
        equity = number(summary, "accountValue")
        return equity, equity - number(summary, "totalMarginUsed")

    def order_of(self, row: Row, market: Row, exit_: tuple[Exit, Decimal] | None = None) -> Order:
        """Read an order with the exits that wait for it: its children. One that is filled is so whole."""
        raw = row["info"].get("order", row["info"])
        exits: dict[str, Decimal | None] = dict.fromkeys(ASKED.values())
        exits |= {ASKED[found[0]]: found[1] for child in raw.get("children") or () if (found := _exit_of(child))}
        told = {
            "clientOrderId": (row["clientOrderId"] or "").removeprefix("0x"),
            "status": STATUS.get(row["status"], row["status"]),
            "amount": row["amount"] or row["remaining"],
            "type": "market" if row["timeInForce"] in MARKET else row["type"],
            "filled": row["amount"] if row["status"] == "closed" else row["filled"],
        }
        return super().order_of({**row, **exits, **told}, market, exit_ or _exit_of(raw))

    async def trades(self, doing: str, _market: Row, asked: JsonObject) -> Any:
        asked |= {"type": "userFillsByTime", "user": self._wallet}
        return await self.call(doing, "public_post_info", asked)

    def fill_of(self, row: Row, market: Row) -> Fill:
        raw = row["info"]
        id_ = str(raw.get("tid") or f"{raw['hash']}-{raw['startPosition']}")  # old rows have no id of their own
        liquidated = (raw.get("liquidation") or {}).get("liquidatedUser", "")
        forced = liquidated.lower() == self._wallet.lower() or raw["dir"].startswith(FORCED)
        ours = {"reason": "liquidation"} if forced else {"client_order_id": (raw.get("cloid") or "").removeprefix("0x")}
        return super().fill_of(row, market).replace(fill_id=id_, **ours)

    # --- what is done

    def wire_id(self, client_order_id: str) -> str:
        return f"0x{client_order_id}"

    async def send(self, doing: str, intent: OrderIntent, market: Row) -> Row:
        """Send an entry with its exits: as one group, signed once."""
        side, price = intent.side, intent.price
        if price is None:
            book = await self.market.fetch_book(intent.symbol)
            with understood(f"{doing}: the book", OrderRejected):
                price = (book.asks if side == "buy" else book.bids)[0][0]
        terms = {"clientOrderId": self.wire_id(intent.client_order_id), "reduceOnly": intent.reduce_only}
        legs = [self._leg(market, intent.type.value, side, intent.quantity, price, terms)]
        for kind, trigger in (("target", intent.target), ("stop", intent.stop)):
            if trigger is not None:
                legs.append(self._exit_leg(market, side == "sell", kind, intent.quantity, trigger))
        taken = await self._order(doing, legs)
        if intent.stop and taken["short"]:  # its exits went with the rest of it
            with suppress(VenueError):  # else the look that misses the stop sets it
                await self.protect(market, intent.stop, intent.target, None, "")
        return taken

    async def _order(self, doing: str, legs: list[JsonObject]) -> Row:
        group = "normalTpsl" if len(legs) > 1 else "na"
        answer = await self._signed(doing, {"type": "order", "orders": legs, "grouping": group})
        with understood(doing):
            first = answer["response"]["data"]["statuses"][0]
            taken, size = {} if isinstance(first, str) else next(iter(first.values())), exact(legs[0]["s"])
            return {"id": taken.get("oid"), "short": exact(taken.get("totalSz") or size) < size}

    def _exit_leg(self, market: Row, buy: bool, kind: str, quantity: Decimal, trigger: Decimal) -> JsonObject:
        """Write a stop or target at market. Its trigger has the digits the venue takes, none of them looser."""
        whole = trigger.adjusted() + 1
        places = min(max(DIGITS - whole, 0), 6 - int(market["info"]["szDecimals"]))
        price = trigger.quantize(Decimal(1).scaleb(-places), ROUND_FLOOR if buy else ROUND_CEILING)
        terms = {ASKED[kind]: wire(price), "reduceOnly": True}
        return self._leg(market, "market", "buy" if buy else "sell", quantity, price, terms)

    def _leg(
        self, market: Row, type_: str, side: str, quantity: Decimal, price: Decimal, terms: JsonObject
    ) -> JsonObject:
        client, terms = self.market.client, {**terms, "slippage": SLIPPAGE}
        with translated(client, f"write a {market['symbol']} order", order=True):
            leg: JsonObject = client.create_order_request(
                market["symbol"], type_, side, wire(quantity), wire(price), terms
            )
        return leg

    async def _signed(self, doing: str, action: JsonObject, fine: Meaning | None = None) -> Any:
        client = self.market.client
        nonce = client.incrementing_nonce()
        with understood(f"{doing}: sign with {SECRET}", InputError):
            signature = client.sign_l1_action(action, nonce)
        asked: JsonObject = {"action": action, "nonce": nonce, "signature": signature}
        return await self.call(doing, "private_post_exchange", asked, order=True, fine=fine)

    async def rest(self, market: Row, held: VenuePosition, kind: Exit, trigger: Decimal, _client_order_id: str) -> None:
        """A stop carries no id, so that its fill tells what it is."""
        leg = self._exit_leg(market, held.side == "short", kind, held.quantity, trigger)
        await self._order(f"set {market['symbol']} {kind}={trigger}", [leg])

    async def unrest(self, market: Row, orders: Sequence[Order]) -> None:
        for order in orders:  # one by one: of a batch, one that is gone makes the answer's meaning unknown
            cancel = {"a": int(market["baseId"]), "o": int(order.venue_order_id)}
            action: JsonObject = {"type": "cancel", "cancels": [cancel]}
            await self._signed(f"cancel {order.symbol} {order.type} {order.venue_order_id}", action, fine=Meaning.GONE)

    async def cancel(self, market: Row, client_order_id: str) -> None:
        cancel = {"asset": int(market["baseId"]), "cloid": self.wire_id(client_order_id)}
        action: JsonObject = {"type": "cancelByCloid", "cancels": [cancel]}
        await self._signed(f"cancel order {client_order_id}", action, fine=Meaning.GONE)

    # --- whose it is

    async def permissions(self) -> Permissions:
        """The wallet's own key may do all; an agent's that the venue knows may trade and not withdraw."""
        with understood(f"the private key in {SECRET}", InputError):
            signer = self.market.client.eth_get_address_from_private_key(self.market.client.privateKey)
        if signer.lower() == self._wallet.lower():
            return Permissions(account_id=self._wallet, withdraw=True, read_only=False)
        doing, asked = "ask what the key may do", {"type": "userRole", "user": signer}
        answer = await self.call(doing, "public_post_info", asked, ready=False)
        with understood(doing):
            ours = answer["role"] == "agent" and answer["data"]["user"].lower() == self._wallet.lower()
        return Permissions(account_id=self._wallet, withdraw=False, read_only=not ours)

    async def margin_mode(self) -> str:
        asked = {"type": "userAbstraction", "user": self._wallet}
        return str(await self.call("ask the margin mode", "public_post_info", asked)).strip('"')

    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:  # noqa: ARG002
        """Not told for a flat coin; there is no hedge mode."""
        return None

    @property
    def _wallet(self) -> str:
        return str(self.market.client.walletAddress)


def _exit_of(raw: Row) -> tuple[Exit, Decimal] | None:
    """Return the kind and the trigger of an order that only closes, None for others."""
    kind = next((EXITS[word] for word in EXITS if str(raw.get("orderType")).startswith(word)), None)
    trigger = price_or_none(raw, "triggerPx") if kind and raw["reduceOnly"] else None
    return (kind, trigger) if kind and trigger else None
