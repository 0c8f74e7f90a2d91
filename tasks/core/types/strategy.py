"""What trades, and how: the one frozen value that every stage takes, kept once under its hash."""

import json
from decimal import Decimal
from hashlib import sha256
from typing import Any

from pydantic import Field

from tasks.core.types.base import Dto, Exact, Sparse, Texts
from tasks.core.types.limits import Costs, EventThresholds, Limits, PanelTerms, ToolLimits, ToolRates
from tasks.core.types.orders import Instrument

# raised when the code comes to parse, word or guard differently; 1: records of before strategies were kept; 2: size
# impact was no part of the risk at the stop; 3: client order ids had 36 characters; 4: a verdict named no follow-up
# that nobody could read, and replies were read as they stood
RULES = 5
FIRST_RULES = 1


def hash_of(document: Any) -> str:
    """Return the hash of a strategy's JSON, keys sorted; of one written earlier, whatever fields have come since."""
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Told(Dto):
    """What a decider is told beside the market and the account; a replay that lacks one says unknown in its place."""

    memory: bool = True
    news: bool = True
    masked: Sparse[bool] = False  # left out, older strategies keep their hash


class Strategy(Dto):
    """A named way to trade: who decides, on what, with which money, limits and costs.

    A challenger, a dry run and a gate sample are strategies of their own name. `rules` says which wording and guard
    were in force, so that a record replays as it was recorded.
    """

    name: str = "default"
    rules: int = RULES
    decider: str = ""  # as asked for; empty in records of before
    models: Texts = ()
    symbols: Texts = ()
    instruments: dict[str, Instrument] = {}
    capital: Exact = Decimal(10_000)  # quote, what a replay begins with
    limits: Limits = Limits()
    costs: Costs = Costs()
    thresholds: EventThresholds = EventThresholds()
    told: Told = Told()
    panel: PanelTerms = Field(PanelTerms(), exclude_if=lambda terms: terms == PanelTerms())
    venue: str = ""  # whose stored candles; empty: candle files
    history_bars: int = 0  # bars per timeframe that the features see; 0: all
    tools: ToolLimits | None = None
    tool_rates: ToolRates | None = None

    @property
    def sha256(self) -> str:
        """Return what names this very strategy."""
        return hash_of(self.model_dump(mode="json"))

    def called(self, name: str, decider: str) -> "Strategy":
        """Return the same strategy under another name, with another decider: a challenger, a dry run."""
        return self.replace(name=name, decider=decider)
