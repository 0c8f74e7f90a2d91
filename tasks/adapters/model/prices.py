"""What model calls cost, by litellm's bundled price list; a model that is not on it has the budget's assumed price."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

from tasks.adapters.model.litellm_model import litellm
from tasks.core.ports import ModelRequest
from tasks.core.types import ZERO, ModelCall, Pricing, exact_sum

USD_PER_1K_TOKENS = Decimal("0.01")  # where neither list nor settings have a price
MARGIN = Decimal("1.25")  # tokens are counted with OpenAI's tokenizer; other providers' find up to a quarter more


class LiteLLMPrices:
    """Implements `budget.Prices`."""

    def __init__(
        self, usd_per_1k_tokens: Decimal, thinking: Callable[[str], int] = lambda _: 0, free: bool = False
    ) -> None:
        """thinking: the tokens a model may write before its answer, beside the prompt's `max_tokens`.

        free: the models are served on this machine.
        """
        self.assumed, self.thinking, self.free = usd_per_1k_tokens / 1000, thinking, free

    def worst(self, models: Sequence[str], request: ModelRequest) -> Decimal:
        """Return the cost if every model of the failover is paid, each for all the tokens it may write."""
        if self.free:
            return ZERO
        count = partial(litellm().token_counter, model="gpt-4o")
        tokens = count(messages=list(request.messages)) + count(text=json.dumps([request.schema, *request.functions]))
        costs = []
        for model in models:
            paid_in, paid_out = self._price(model) or (self.assumed, self.assumed)
            written = request.prompt.max_tokens + self.thinking(model)
            costs.append(MARGIN * tokens * paid_in + written * paid_out)
        return exact_sum(costs)

    def cost(self, call: ModelCall) -> Decimal:
        """Return what the provider took, as far as prices are known."""
        match self.pricing(call.model, call.cost_usd):
            case "free":
                return ZERO
            case "assumed":
                return self.assumed * (call.tokens_in + call.tokens_out)
        return call.cost_usd

    def pricing(self, model: str, usd: Decimal = ZERO) -> Pricing:
        """Return how the cost of a call is known; usd: what its provider said."""
        if self.free:
            return "free"
        return "" if usd or self._price(model) else "assumed"

    def _price(self, model: str) -> tuple[Decimal, Decimal] | None:
        prices = litellm().model_cost
        found = prices.get(model) or prices.get(model.partition("/")[2])
        names = ("input_cost_per_token", "output_cost_per_token")
        if not found or any(found.get(name) is None for name in names):
            return None
        paid_in, paid_out = (Decimal(str(found[name])) for name in names)
        return paid_in, paid_out
