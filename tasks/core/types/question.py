"""Why a decider is asked, and what it is handed: frozen, no frame, no clock, no store."""

from tasks.core.types.base import Dto, Utc
from tasks.core.types.portfolio import Portfolio
from tasks.core.types.snapshot import Memory, News, Number, RoleInput, RoleInputs, Snapshot, TimeframeView

WAYS = {"up": 1, "down": -1}


class Reason(Dto):
    """Something changed at `as_of`, the close of the bar that shows it; the fingerprint makes it once per change."""

    rule: str
    symbol: str
    timeframe: str = ""
    detail: str = ""
    as_of: Utc
    fingerprint: str
    context: bool = False  # a bar close: said in the reasons, never a reason alone

    @property
    def is_about_account(self) -> bool:
        """Return whether it asks about the whole account, whichever symbol's question it is put with."""
        return self.rule == "Drawdown"

    @property
    def way(self) -> int:
        """Return +1 for a market event upwards, -1 downwards, 0 for what has no direction."""
        return WAYS.get(self.detail, 0)

    def __str__(self) -> str:
        inside = " ".join(part for part in (self.timeframe, self.detail) if part)
        return f"{self.rule}({inside})"


class Question(Dto):
    """What a decider is handed about one symbol; `core.trading.question` is the only one who makes it.

    news, memory, portfolio: None is unknown, as in a replay without them; empty ones are known to be empty. others: the
    strategy's symbols that are not asked about, for deciders that see all of them at once.
    """

    snapshot: Snapshot
    reasons: tuple[Reason, ...] = ()
    role_inputs: RoleInputs = RoleInputs()
    news: News | None = None
    memory: Memory | None = None
    portfolio: Portfolio | None = None
    others: tuple["Question", ...] = ()
    equity: Number = None
    last_price: Number = None  # unrounded; what the guard sizes at
    quantity: Number = None  # base held now, negative when short; 0 when flat
    masked: bool = False  # a model is shown little of it, see `decision.masked_question`

    def view(self, timeframe: str) -> TimeframeView:
        return self.snapshot.view(timeframe)

    def inputs(self, timeframe: str) -> RoleInput:
        """Return what roles are told besides; where there is nothing, all of it is unknown."""
        return self.role_inputs.timeframes.get(timeframe, RoleInput())
