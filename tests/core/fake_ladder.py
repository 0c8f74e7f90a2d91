"""What ladders share, in memory: the real arithmetic of budget and breaker without a database."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tasks.core.decision.budget import KeptReply, Reserved, Spent, refusal
from tasks.core.decision.ladder import BreakerState
from tasks.core.types.decision import ModelCall, PromptRef

NOW = datetime(2026, 1, 2, 3, 5, 20, tzinfo=UTC)
REF = PromptRef(name="single", version="v001", sha256="ab" * 32, max_tokens=900)
MESSAGES = [{"role": "system", "content": "You trade."}, {"role": "user", "content": "BTC"}]
HOLD = '{"action":"HOLD","confidence":0.5}'


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class FakeDesk:
    """Implements all parts of `ladder.Shared`; every scope is one and the same."""

    def __init__(self) -> None:
        self.usd: dict[int, Decimal] = {}
        self.breakers: dict[str, BreakerState] = {}
        self.replies: dict[str, tuple[ModelCall, datetime]] = {}
        self.kept = []
        self.charges = []

    def reserve(self, charge, worst_usd, budget, at) -> Reserved:
        spent = Spent(usd=sum(self.usd.values(), Decimal(0)), calls=len(self.usd))
        refused = refusal(budget, dict.fromkeys(("day", "session", "symbol_day", "decision"), spent), worst_usd)
        if refused:
            return Reserved(refused=refused)
        self.charges.append(charge)
        self.usd[len(self.usd) + 1] = worst_usd
        return Reserved(budget_id=len(self.usd))

    def settle(self, budget_id, usd) -> None:
        self.usd[budget_id] = usd

    def keep(self, content_hash, call, at) -> None:
        self.replies[content_hash] = (call, at)

    def find(self, content_hashes, since) -> KeptReply | None:
        found = [self.replies[h] for h in content_hashes if h in self.replies and self.replies[h][1] >= since]
        return (
            KeptReply(model=found[0][0].model, raw_reply=found[0][0].raw_reply, created_at=found[0][1])
            if found
            else None
        )

    def change(self, session, change) -> BreakerState:
        before = self.breakers.get(session, BreakerState())
        self.breakers[session] = change(before)
        return before

    def decisions(self, strategy, symbol, since, before):
        return [one for one in self.kept if since <= one.as_of < before]


class FakePrices:
    """One USD at worst for each model of a tier."""

    def worst(self, models, request) -> Decimal:
        return sum((Decimal("0.10") if "cheap" in model else Decimal(1) for model in models), Decimal(0))

    def cost(self, call) -> Decimal:
        return call.cost_usd

    def pricing(self, model, usd) -> str:
        return "" if usd else "assumed"


class FakeModel:
    """Answers with `reply`, or fails with `error`."""

    def __init__(self, name: str = "openai/big", reply: str = HOLD, error: str = "", usd: str = "0.25") -> None:
        self.name, self.reply, self.error, self.usd, self.asked = name, reply, error, Decimal(usd), 0

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, *_ = request
        self.asked += 1
        return ModelCall(
            role=role, model=self.name, prompt=prompt, messages=tuple(messages), error=self.error,
            raw_reply="" if self.error else self.reply, cost_usd=Decimal(0) if self.error else self.usd,
        )  # fmt: skip
