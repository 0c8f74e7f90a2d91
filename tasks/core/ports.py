"""What the core and the tasks need from the outside world, as Protocols; adapters implement them.

Every method either does what it says or raises one of `core.errors`. Venue methods are async because their
client is; the store's are plain calls. There is deliberately no generic `query`: a reader sees every access here.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tasks.core.decision.kinds import Kind
from tasks.core.types import (
    Answer,
    Balance,
    Fill,
    Instrument,
    JsonObject,
    ModelCall,
    Order,
    OrderIntent,
    PromptRef,
    Question,
    VenuePosition,
)

if TYPE_CHECKING:
    import pandas as pd

Messages = Sequence[dict[str, str]]
Schema = JsonObject


class Decider(Protocol):
    """Frozen questions in, one decision for each, in the same order. Never raises for what a model did: it holds.

    kind: what it is, see `decision.kinds`. prompts: the versions it may send.
    """

    name: str
    kind: Kind
    prompts: tuple[PromptRef, ...]

    async def decide(self, questions: Sequence[Question]) -> list[Answer]: ...


class ModelRequest(NamedTuple):
    """`messages` that ask for one JSON object of `schema`, as `role`.

    functions: in OpenAI's form, what a model may call instead, where it can; the calls come back as that one object,
    `{"requests": [{"tool": name, its parameters}]}`. sample: which asking of the same question this is; 0 decides.
    """

    role: str
    prompt: PromptRef
    messages: Messages
    schema: Schema
    functions: Sequence[JsonObject] = ()
    sample: int = 0

    def call(self, model: str, **answer: Any) -> ModelCall:
        """Return the call that this request becomes, with what came of it."""
        asked = {"role": self.role, "prompt": self.prompt, "messages": tuple(self.messages), "sample": self.sample}
        return ModelCall(model=model, **asked | answer)


class Model(Protocol):
    """The one edge to language models. Never raises for what a provider did: `ModelCall.error` says it."""

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Send the request; return within the total deadline."""


class OrderBook(NamedTuple):
    """Best first; (price, quantity in base)."""

    bids: Sequence[tuple[Decimal, Decimal]]
    asks: Sequence[tuple[Decimal, Decimal]]


class Venue(Protocol):
    """An exchange account. Raises VenueUnavailable when the outcome is unknown, OrderRejected when refused.

    attaches_protection: an entry's stop and target are taken with it, in one request. Where not, the stop is set right
    after the fill, and targets are `protect`'s: `set_protection` and `submit` leave them out. keeps_ids: the id of an
    order that has ended is refused like that of an open one.
    """

    name: str
    attaches_protection: bool
    keeps_ids: bool

    async def now(self) -> datetime:
        """Return the venue's clock, aware UTC."""

    async def instrument(self, symbol: str) -> Instrument: ...

    async def fetch_bars(self, symbol: str, timeframe: str, since: datetime, until: datetime) -> "pd.DataFrame":
        """Return bars with since <= open_time and close time <= until: the forming bar is never among them."""

    async def fetch_book(self, symbol: str) -> OrderBook: ...

    async def funding_paid(
        self, symbols: Sequence[str], since: datetime, end: datetime
    ) -> list[tuple[datetime, str, Decimal]]:
        """Return the rates paid with since <= time < end, oldest first; none where the venue does not tell."""

    async def balance(self) -> Balance: ...

    async def positions(self) -> list[VenuePosition]: ...

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        """Return the order with this client id, open or closed; None only when the venue says there is none."""

    async def open_orders(self, symbol: str) -> list[Order]: ...

    async def submit(self, intent: OrderIntent) -> Order:
        """Send one intent, stop and target attached. Raises DuplicateOrder if the venue has the id already."""

    async def cancel(self, symbol: str, client_order_id: str) -> None: ...

    async def set_protection(
        self, symbol: str, stop: Decimal | None, target: Decimal | None, quantity: Decimal | None = None
    ) -> None:
        """Set the position's resting stop and/or target; None leaves that one as it is, 0 removes it.

        quantity: how much of the position is ours (base), which is what a stop covers where the venue can tell them
        apart; None: all of it.
        """

    async def fills(self, symbol: str, since: datetime) -> list[Fill]: ...

    async def close(self) -> None: ...
