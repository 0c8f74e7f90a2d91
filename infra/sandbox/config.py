"""What a sandbox is started with, checked: every wrong input is one clear line."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from infra.sandbox.scenario import Crash
from tasks.core.errors import InputError
from tasks.core.types.limits import Costs

DEFAULT_SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
QUOTE = "USDT"


@dataclass(frozen=True)
class SandboxConfig:
    """`candles` maps symbols to files; without any, `symbols` get a synthetic market of `seed`.

    start: None means wall time on a synthetic market, and some way into the files on candles (`clock`).
    state: a file that keeps the account over a restart. crash: the market crashes then.
    speed: market seconds per wall second; with `stepped` time moves through the admin endpoint only.
    """

    candles: dict[str, Path] = field(default_factory=dict)
    symbols: tuple[str, ...] = ()
    seed: int = 7
    cash: Decimal = Decimal(10_000)
    start: datetime | None = None
    speed: float = 1.0
    stepped: bool = False
    key: str = "sandbox"
    secret: str = "sandbox"  # noqa: S105  (of a local exchange that has no money)
    costs: Costs = field(default_factory=Costs)
    funding_rate: Decimal = Decimal("0.0001")
    state: Path | None = None
    crash: Crash | None = None

    def traded(self) -> tuple[str, ...]:
        """Return the symbols this sandbox lists; raises InputError naming the first that makes no sense."""
        chosen = self.symbols or tuple(self.candles) or DEFAULT_SYMBOLS
        for symbol in chosen:
            split_symbol(symbol)
            if self.candles and symbol not in self.candles:
                raise InputError(f"symbol {symbol} has no candle file: add --candles {symbol}=FILE")
        if self.crash and self.state:
            raise InputError("--scenario with --state: a restart would be another market; leave one of them out")
        if self.speed <= 0:
            raise InputError(f"speed is {self.speed}: give a number above 0")
        return chosen


def split_symbol(symbol: str) -> tuple[str, str, str]:
    """Return (base, quote, category) of a ccxt unified symbol; raises InputError for any other form."""
    pair, _, settle = symbol.partition(":")
    base, slash, quote = pair.partition("/")
    fits = slash and base.isalnum() and quote == QUOTE and settle in ("", quote)
    if not fits:
        raise InputError(f"symbol {symbol!r}: write BTC/{QUOTE}:{QUOTE} (perpetual) or BTC/{QUOTE} (spot)")
    return base.upper(), quote, "linear" if settle else "spot"
