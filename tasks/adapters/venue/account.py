"""What an exchange's dialect is: our account there, in the words of `core.types.orders`. One subclass per exchange."""

from abc import ABC, abstractmethod
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from pydantic import Field

from tasks.adapters.venue import client, trials
from tasks.adapters.venue.market import MarketData
from tasks.adapters.venue.wire import Row
from tasks.core.errors import InputError, OrderRejected, TradingError
from tasks.core.types import Balance, Dto, Fill, Order, OrderIntent, OrderStatus, OrderType, VenuePosition
from tasks.settings import Settings

PROTECTION = (OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET)


class Permissions(Dto):
    """What the venue says about our key; None where it does not say."""

    account_id: str
    withdraw: bool | None = None
    read_only: bool | None = None
    lacks: tuple[str, ...] = Field((), description="rights that trading takes, in the venue's words")


class ArmingFacts(Dto):
    """How an account is set, as the venue tells it."""

    margin_mode: str
    leverage: dict[str, Decimal | None] = Field(description="set at the venue, by contract; None: not told")
    flaws: tuple[str, ...] = Field((), description="what keeps it from trading, each with its remedy")
    notes: tuple[str, ...] = Field((), description="what a person should know")


class Dialect(ABC):
    """Our account at one exchange; see `ports.Venue` for what the methods of the same names promise.

    attaches: a contract's entry goes out with its stop and target, in one request; a recorded request shows it.
    takes_spot: the dialect can trade spot too. quotes: what it settles in. Quantities are base here, whatever the
    venue counts in.
    """

    attaches: ClassVar[bool] = True
    takes_spot: ClassVar[bool] = False
    quotes: ClassVar[tuple[str, ...]] = ("USDT",)

    def __init__(self, market: MarketData, settings: Settings) -> None:
        self.market, self.settings = market, settings
        self.spot = tuple(symbol for symbol in settings.symbols if ":" not in symbol)
        if settings.profile == "live":
            market.check_key = self._check_key

    # --- what there is

    @abstractmethod
    async def balance(self) -> Balance: ...

    @abstractmethod
    async def positions(self) -> list[VenuePosition]: ...

    @abstractmethod
    async def fills(self, symbol: str, since: datetime) -> list[Fill]: ...

    @abstractmethod
    async def find_order(self, symbol: str, client_order_id: str) -> Order | None: ...

    @abstractmethod
    async def open_orders(self, symbol: str) -> list[Order]:
        """Return working orders, resting stops and targets among them (types stop and target)."""

    # --- what is done

    @abstractmethod
    async def prepare(self, market: Row) -> None:
        """Before a contract's first entry: one-way mode is required, and the leverage the limits reckon with is set."""

    @abstractmethod
    async def create(self, intent: OrderIntent, market: Row) -> Order:
        """Send a market or limit intent once; return it as acknowledged (`accepted`), not yet as listed."""

    async def traded(self, market: Row, order: Order) -> None:  # noqa: B027  (most venues have nothing to do)
        """Bring what rests at the venue up to a trade of ours; nothing where the venue does so by itself."""

    @abstractmethod
    async def protect(
        self, market: Row, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None, client_order_id: str
    ) -> None:
        """Set a position's stop and target as `ports.Venue.set_protection` says."""

    @abstractmethod
    async def cancel(self, market: Row, client_order_id: str) -> None:
        """Cancel a working order; one that is already gone is fine."""

    # --- whose it is

    @abstractmethod
    async def permissions(self) -> Permissions:
        """Return whose key this is and what it may do."""

    async def arming(self) -> ArmingFacts:
        """Return how the account is set and what keeps it from trading; raises InputError in hedge mode."""
        contracts = [symbol for symbol in self.settings.symbols if symbol not in self.spot]
        leverage = {symbol: await self.leverage(symbol, InputError) for symbol in contracts}
        lack = (await self.balance()).lack
        flaws = (lack,) if lack else ()
        return ArmingFacts(margin_mode=await self.margin_mode(), leverage=leverage, flaws=flaws)

    @abstractmethod
    async def margin_mode(self) -> str:
        """Return how the account's margin is reckoned, in the venue's word."""

    @abstractmethod
    async def leverage(self, symbol: str, refusal: type[TradingError]) -> Decimal | None:
        """Return the leverage set for a contract, None where it is not told; raise `refusal` in hedge mode."""

    # --- underneath

    async def _check_key(self) -> None:
        trials.require(self.settings)
        check_key(await self.permissions(), self.settings)
        self.market.check_key = None

    async def allowed(self, doing: str, ready: bool = True) -> None:
        """Before every signed call: none goes out on paper. ready: load the markets first."""
        if self.settings.profile == "paper":
            raise InputError(f"{doing}: profile paper has no account at {self.market.client.id}")
        if ready:
            await self.market.ready()

    async def tradable(self, symbol: str, doing: str) -> Row:
        market, settled = await self.market.listing(symbol), " or ".join(self.quotes)
        kind = market["linear"] or (self.takes_spot and market["spot"])
        if not kind or (market["settle"] or market["quote"]) not in self.quotes:
            spot = f" nor spot against {settled}" if self.takes_spot else ""
            raise OrderRejected(f"{doing}: {symbol} is no {settled}-settled linear contract{spot}")
        return market


def check_key(key: Permissions, settings: Settings) -> None:
    """Live only: refuse a key that is not the armed account's, may withdraw, or may not trade."""
    armed = settings.live_account
    if key.account_id != armed:
        raise InputError(f"QUARTERDECK_LIVE_ACCOUNT={armed!r}, but the key belongs to account {key.account_id}")
    if key.withdraw is not False:
        flaw = "may withdraw" if key.withdraw else "does not say whether it may withdraw"
        raise InputError(f"the key in {client.KEY} {flaw}: make one without withdrawal permission")
    if key.read_only:
        raise InputError(f"the key in {client.KEY} is read-only: make one that may trade contracts")
    if key.lacks:
        raise InputError(f"the key in {client.KEY} {lacking(key)}")


def lacking(key: Permissions) -> str:
    return f"lacks {', '.join(key.lacks)}: give it these rights at the venue"


def protection_of(intent: OrderIntent) -> tuple[Decimal | None, Decimal | None]:
    """Return (stop, target) as `set_protection` takes them for an intent that only changes these."""
    if intent.type is OrderType.CANCEL_TARGET:
        return None, Decimal(0)
    if intent.price is None:
        raise OrderRejected(f"send order {intent.client_order_id}: a {intent.type} needs a trigger price")
    return (intent.price, None) if intent.type is OrderType.STOP else (None, intent.price)


def accepted(intent: OrderIntent, venue_order_id: str, when: datetime) -> Order:
    """Describe what the venue acknowledged but does not list: not yet, or as protection never."""
    fields = {"client_order_id", "symbol", "side", "quantity", "price", "stop", "target"}
    return Order(
        **intent.model_dump(include=fields),
        venue_order_id=venue_order_id,
        type=intent.type.value,
        status=OrderStatus.CANCELLED if intent.type is OrderType.CANCEL_TARGET else OrderStatus.OPEN,
        reduce_only=intent.reduce_only or intent.type in PROTECTION,
        created_at=when,
        updated_at=when,
    )
