"""What a venue says of our key and account, and what an order is before it lists it."""

from datetime import datetime
from decimal import Decimal

from tasks.adapters.venue import client
from tasks.core.simulation.rejections import PROTECTIVE
from tasks.core.types import Described, InputError, Order, OrderIntent, OrderRejected, OrderStatus, OrderType
from tasks.settings import Settings


class Permissions(Described):
    """What the venue says about our key; None where it does not say."""

    account_id: str
    withdraw: bool | None = None
    read_only: bool | None = None
    lacks: tuple[str, ...] = ()
    """rights that trading takes, in the venue's words"""


class ArmingFacts(Described):
    """How an account is set, as the venue tells it."""

    margin_mode: str
    leverage: dict[str, Decimal | None]
    """set at the venue, by contract; None: not told"""
    flaws: tuple[str, ...] = ()
    """what keeps it from trading, each with its remedy"""
    notes: tuple[str, ...] = ()
    """what a person should know"""


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
    return Order.of(
        intent,
        venue_order_id=venue_order_id,
        type=intent.type.value,
        status=OrderStatus.CANCELLED if intent.type is OrderType.CANCEL_TARGET else OrderStatus.OPEN,
        reduce_only=intent.reduce_only or intent.type in PROTECTIVE,
        created_at=when,
        updated_at=when,
    )
