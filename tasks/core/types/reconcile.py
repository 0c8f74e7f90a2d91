"""What ledger and venue say at one moment, and what `reconcile` wants done about it: one class per action."""

from typing import Literal

from tasks.core.types.alert import AlertKind
from tasks.core.types.base import ZERO, Dto, Exact, Utc
from tasks.core.types.limits import Limits
from tasks.core.types.orders import FINAL_STATES, Fill, Order, OrderIntent, OrderStatus, PositionSide, VenuePosition
from tasks.core.types.portfolio import Position
from tasks.core.types.record import CycleRecord, Halt


class OwnIntent(Dto):
    """An order intent of ours, and what the ledger has of its order."""

    intent: OrderIntent
    cycle_id: str
    state: str
    persisted_at: Utc
    sending_at: Utc | None = None  # when it last began to be sent under a lease
    order_status: OrderStatus | None = None  # as the venue last told of the order
    filled: Exact = ZERO  # as the venue last told of the order
    booked: Exact = ZERO  # its fills in the ledger; only where it is looked up
    adds: bool = False  # to a position there was; only where it is looked up

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


class LedgerView(Dto):
    """Our side: one strategy's positions and orders, as far as they were read."""

    strategy: str
    open: tuple[Position, ...] = ()
    closed: tuple[Position, ...] = ()  # lately, newest first
    intents: tuple[OwnIntent, ...] = ()
    known: frozenset[str] = frozenset()  # ids of orders that any strategy here has sent
    unfinished: tuple[CycleRecord, ...] = ()
    halts: tuple[Halt, ...] = ()
    dust: dict[str, Exact] = {}  # by symbol: less than this cannot be sold and counts as nothing
    beside: dict[str, Exact] = {}  # by symbol: what a person added to our position, by the fills
    limits: Limits = Limits()
    attaches_protection: bool = True

    @property
    def entries(self) -> dict[str, tuple[str, OrderIntent]]:
        """Return our intents by client order id, with their cycle."""
        return {own.intent.client_order_id: (own.cycle_id, own.intent) for own in self.intents}

    def position(self, symbol: str, side: PositionSide | None = None) -> Position | None:
        """Return our open position in `symbol`, on that side if one is named."""
        return next((p for p in self.open if p.symbol == symbol and side in (None, p.side)), None)

    def intent(self, client_order_id: str) -> OwnIntent | None:
        """Return our intent with this id."""
        return next((own for own in self.intents if own.intent.client_order_id == client_order_id), None)


class ToldFills(Dto):
    """One symbol's fills since our position there was last flat, and which of them the ledger did not have."""

    since: Utc
    fills: tuple[Fill, ...]
    new: frozenset[str] = frozenset()


class VenueView(Dto):
    """The venue's side. What is None or has no key was not asked or not answered: never the same as nothing there."""

    positions: tuple[VenuePosition, ...] | None = None
    booked: frozenset[str] | None = None  # symbols whose fills were told for this look
    refused: frozenset[str] = frozenset()  # symbols whose stop the venue would not take
    orders: dict[str, Order | None] = {}  # looked up, by client id; None: it has none
    resting: dict[str, tuple[Order, ...]] = {}  # all working orders, by symbol
    fills: dict[str, ToldFills] = {}
    prices: dict[str, tuple[Exact | None, Exact | None]] | None = None  # best bid and ask


class Finding(Dto):
    """Something wrong, to be told to a person; nothing else is done about it but to stop new entries."""

    kind: AlertKind
    symbol: str
    text: str
    halts: bool = False


class SetStop(Dto):
    """Set a position's stop, and its target beside it; position: None: not booked yet."""

    symbol: str
    stop: Exact
    target: Exact | None = None
    position: Position | None = None
    text: str
    tell: bool = True  # false: it may be the venue that tells late


class Flatten(Dto):
    """Close a position of ours, or as much of it as there is."""

    symbol: str
    position: Position
    quantity: Exact
    why: Literal["flatten", "target"] = "flatten"
    text: str


class KeepOrder(Dto):
    """Keep what the venue says of an order of ours."""

    order: Order


class SendAgain(Dto):
    """Send an exit of ours that the venue does not have: it was busy, or its answer was lost."""

    intent: OrderIntent


class CancelOrder(Dto):
    """Cancel a working entry of ours, and look it up again."""

    symbol: str
    client_order_id: str


class EndIntent(Dto):
    """Note that nothing more comes of an intent."""

    client_order_id: str
    state: Literal["done", "rejected"]
    reason: str = ""


class Adopt(Dto):
    """Take over an order of ours that the ledger does not know; cycle: begun with it, where its id proves it."""

    order: Order
    intent: OrderIntent
    cycle_id: str
    cycle: CycleRecord | None = None
    state: Literal["sent", "done"]


class BookFills(Dto):
    """Keep what a symbol's fills have made of our positions.

    foreign, manual: new fills of others, ours taken over. aside: ids of those that fit nowhere, each with why.
    """

    symbol: str
    positions: tuple[Position, ...] = ()
    foreign: tuple[Fill, ...] = ()
    manual: tuple[Fill, ...] = ()
    aside: tuple[str, ...] = ()


class LookAgain(Dto):
    """No fact yet: book the symbol's fills, then look once more at what it is about (a symbol, or a client id)."""

    symbol: str
    about: str
    since: Utc


class EndCycle(Dto):
    """End a cycle whose process died."""

    record: CycleRecord
    error: str


Action = (
    SetStop | Flatten | KeepOrder | SendAgain | CancelOrder | EndIntent | Adopt | BookFills | LookAgain | Finding
    | EndCycle
)  # fmt: skip
