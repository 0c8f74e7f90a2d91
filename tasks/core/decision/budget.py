"""What model calls may cost: each is reserved with its worst case before it is made, and settled with its real cost.

`BudgetedModel` stands where the model stood, so every call of every decider is counted, whatever a decider does. A
call whose end nobody saw (a timeout, a cancelled stage, an answer without usage) is taken to have cost its worst case.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple, Protocol

from tasks.core.ports import Model, ModelRequest
from tasks.core.types import ZERO, Budget, Dto, Exact, ModelCall, Pricing, Rung, Texts, Utc, Why

NANO = Decimal("1e-9")
SCOPES = ("day", "session", "symbol_day", "decision")


class Charge(Dto):
    """To whom a call is charged."""

    session: str
    symbol: str
    decision: str


class Spent(Dto):
    """What one scope has used, reservations included."""

    usd: Exact = ZERO
    calls: int = 0


class Reserved(Dto):
    """A reservation, or why there is none."""

    budget_id: int = 0
    refused: str = ""


def refusal(budget: Budget, spent: dict[str, Spent], worst_usd: Decimal) -> str:
    """Return the first cap that one more call of `worst_usd` would break, with its numbers; empty: it may be made."""
    for scope in SCOPES:
        used, usd, calls = spent[scope], getattr(budget, f"usd_per_{scope}"), getattr(budget, f"calls_per_{scope}")
        if usd is not None and used.usd + worst_usd > usd:
            return f"usd_per_{scope} {used.usd:f} + {worst_usd:f} > {usd:f}"
        if calls is not None and used.calls + 1 > calls:
            return f"calls_per_{scope} {used.calls} + 1 > {calls}"
    return ""


class KeptReply(Dto):
    """A reply that was paid for."""

    model: str
    raw_reply: str
    created_at: Utc
    cost_usd: Exact = ZERO
    pricing: Pricing = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Purse(Protocol):
    """The budget that all processes share."""

    def reserve(self, charge: Charge, worst_usd: Decimal, budget: Budget, at: datetime) -> Reserved: ...

    def settle(self, budget_id: int, usd: Decimal) -> None: ...


class Replies(Protocol):
    """The replies that were paid for, by the hash of their question."""

    def keep(self, content_hash: str, call: ModelCall, at: datetime) -> None: ...

    def find(self, content_hashes: Sequence[str], since: datetime) -> KeptReply | None:
        """Return the newest of them kept at `since` or later."""


class Prices(Protocol):
    """What calls may cost and did; may be slow the first time."""

    def worst(self, models: Sequence[str], request: ModelRequest) -> Decimal: ...

    def cost(self, call: ModelCall) -> Decimal: ...

    def pricing(self, model: str, usd: Decimal = ZERO) -> Pricing:
        """Return how the cost of a call is known; usd: what its provider said."""


def settled(call: ModelCall, worst: Decimal, prices: Prices) -> ModelCall:
    """Return a call with what it is taken to have cost: what is known, and the worst case of tries nobody told of.

    That is the cost in every table and on every page, in whole billionths of a USD, as budgets count.
    """
    guessed = worst * (call.unmetered or int(call.error == "timeout"))
    usd, trail = prices.cost(call) + guessed, call.trail
    if usd != (whole := usd.quantize(NANO, ROUND_CEILING)):
        usd = whole
    if trail and usd != call.cost_usd:
        trail = (*trail[:-1], trail[-1].replace(cost_usd=trail[-1].cost_usd + usd - call.cost_usd))
    pricing = "assumed" if guessed else prices.pricing(call.model, call.cost_usd)
    return call.replace(cost_usd=usd, pricing=pricing if usd or pricing == "free" else "", trail=trail)


@dataclass
class Ticket:
    """One decision's way through budget and cache; its asks find it in TICKET. `refused`: one of them was not made."""

    charge: Charge
    purse: Purse
    replies: Replies
    clock: Callable[[], datetime]
    refused: bool = False


TICKET: ContextVar[Ticket] = ContextVar("ticket")


class Tier(NamedTuple):
    """A model and the names it fails over along."""

    model: Model
    names: Texts


@dataclass
class BudgetedModel:
    """Implements `ports.Model`: the first tier whose worst case still fits is asked; none does: error `budget ...`."""

    tiers: Sequence[Tier]
    prices: Prices
    budget: Budget

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Reserve, ask, settle."""
        ticket, refused, why = TICKET.get(), list[Rung](), ""
        for tier in self.tiers:
            worst = await asyncio.to_thread(self.prices.worst, tier.names, request)
            held = ticket.purse.reserve(ticket.charge, worst, self.budget, ticket.clock())
            if not held.refused:
                usd = worst
                try:
                    call = await tier.model.ask(request)
                    call = settled(call, worst, self.prices)
                    usd = call.cost_usd
                finally:
                    ticket.purse.settle(held.budget_id, usd)
                if refused:
                    tried = (rung.replace(rung="cheap") for rung in call.tried())
                    call = call.replace(trail=(*refused, *tried))
                return call
            why = why or held.refused
            refused.append(
                Rung(
                    rung="cheap" if refused else "primary",
                    source=f"llm:{tier.names[0]}",
                    role=request.role,
                    why=Why.BUDGET_REFUSED,
                )
            )
        ticket.refused = True
        return request.call(self.tiers[0].names[0], error=f"budget {why}", trail=tuple(refused))
