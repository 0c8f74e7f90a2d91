"""Models in a replay: every reply is paid for once, and never more is spent than was agreed to.

A question is named by model, address, prompt hash, messages and schema. What was answered before is answered again
from the store, with the cost it had, so that a repeat has the same records; `Spending` counts what was paid now. What
failed is remembered for this run only. Replies carry no latency: how long a provider took is no input of a replay.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from tasks.core.decision.budget import Prices, Replies, settled
from tasks.core.decision.cache import content_hash
from tasks.core.ports import Model, ModelRequest
from tasks.core.types import ZERO, Json, ModelCall, Rung, Why

EVER = datetime(1970, 1, 1, tzinfo=UTC)
CAPPED = "max_cost"


@dataclass
class Spending:
    """What a comparison may cost, None without a limit, and has cost; all its variants share one."""

    cap_usd: Decimal | None = None
    spent_usd: Decimal = ZERO
    held_usd: Decimal = ZERO
    asked: int = 0
    reused: int = 0
    errors: int = 0
    reached: bool = False

    def summary(self) -> Json:
        """Return what a person reads of it."""
        return {name: getattr(self, name) for name in ("asked", "reused", "errors")} | {"usd": self.spent_usd}

    def hold(self, worst: Decimal) -> bool:
        """Set the worst case of a call aside; False, from then on always, when it might break the cap."""
        over = self.cap_usd is not None and self.spent_usd + self.held_usd + worst > self.cap_usd
        self.reached |= over
        self.held_usd += ZERO if self.reached else worst
        return not self.reached


@dataclass
class KeptModel:
    """Implements `ports.Model` around one model without failover: a result must be that of the model it names."""

    model: Model
    name: str
    address: str
    kept: Replies
    prices: Prices
    spending: Spending
    clock: Callable[[], datetime]
    failed: dict[str, ModelCall] = field(default_factory=dict)

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Answer from the store; else ask, if the cap allows its worst case, and keep the reply."""
        schema = {"role": "schema", "content": json.dumps(request.schema, sort_keys=True)}
        whole = request._replace(messages=[*request.messages, schema])
        question = content_hash(f"{self.name} {self.address}".strip(), whole)
        if (kept := self.kept.find([question], EVER)) is not None:
            self.spending.reused += 1
            paid = kept.model_dump(include={"raw_reply", "cost_usd", "pricing", "tokens_in", "tokens_out"})
            return request.call(self.name, **paid)
        if question not in self.failed:
            worst = await asyncio.to_thread(self.prices.worst, (self.name,), request)
            if not self.spending.hold(worst):
                capped = Rung(rung="primary", source=f"llm:{self.name}", role=request.role, why=Why.BUDGET_REFUSED)
                return request.call(self.name, error=CAPPED, trail=(capped,))
            call = await self._pay(request, worst)
            if not call.error:
                self.kept.keep(question, call, self.clock())
                return call
            self.failed[question] = call
        return self.failed[question]

    async def _pay(self, request: ModelRequest, worst: Decimal) -> ModelCall:
        spending, cost = self.spending, worst
        spending.asked += 1
        try:
            call = settled(await self.model.ask(request), worst, self.prices)
            cost = call.cost_usd
        finally:
            spending.held_usd -= worst
            spending.spent_usd += cost
        spending.errors += bool(call.error)
        alone = {"model": self.name, "attempts": (), "trail": ()}
        return call.replace(latency_ms=0.0, **alone)


class Probe:
    """Implements `ports.Model`: notes what would be asked and answers nothing; for estimates."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []

    async def ask(self, request: ModelRequest) -> ModelCall:
        """Note the question."""
        self.asked.append(request)
        return request.call("", error="estimate")
