"""What a sandbox is started with, checked: every wrong input is one clear line."""

from datetime import datetime
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, Field

from infra.sandbox.market.crash import Crash
from tasks.core.errors import InputError
from tasks.core.types import Costs, Kind, Texts

DEFAULT_SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
QUOTE = "USDT"


class SandboxConfig(BaseModel, frozen=True):
    """`candles` maps symbols to files; without any, `symbols` get a synthetic market of `seed`.

    start: None means wall time on a synthetic market, and some way into the files on candles (`exchange`).
    state: a file that keeps the account over a restart. crash: the market crashes then.
    risk_limit: the largest position, in quote, at the highest leverage; with a tenth of that, ten times as much.
    speed: market seconds per wall second; with `stepped` time moves through the admin endpoint only.
    """

    candles: dict[str, Path] = {}
    symbols: Texts = ()
    seed: int = Field(7, ge=0)
    cash: Decimal = Field(Decimal(10_000), gt=0)
    start: datetime | None = None
    speed: float = Field(1.0, gt=0)
    stepped: bool = False
    key: str = "sandbox"
    secret: str = "sandbox"  # noqa: S105  (of a local exchange that has no money)
    costs: Costs = Costs()
    risk_limit: Decimal = Field(Decimal(2_000_000), gt=0)
    funding_rate: Decimal = Decimal("0.0001")
    state: Path | None = None
    crash: Crash | None = None
    host: str = "127.0.0.1"
    port: int = 8891

    def traded(self) -> Texts:
        """Return the symbols this sandbox lists; raises InputError naming the first that makes no sense."""
        chosen = self.symbols or tuple(self.candles) or DEFAULT_SYMBOLS
        for symbol in chosen:
            split_symbol(symbol)
            if self.candles and symbol not in self.candles:
                raise InputError(f"symbol {symbol} has no candle file: add --candles {symbol}=FILE")
        if self.crash and self.state:
            raise InputError("--scenario with --state: a restart would be another market; leave one of them out")
        return chosen


def split_symbol(symbol: str) -> tuple[str, str, Kind]:
    """Return (base, quote, category) of a ccxt unified symbol; raises InputError for any other form."""
    pair, _, settle = symbol.partition(":")
    base, slash, quote = pair.partition("/")
    if not (slash and base.isalnum() and quote == QUOTE and settle in ("", quote)):
        raise InputError(f"symbol {symbol!r}: write BTC/{QUOTE}:{QUOTE} (perpetual) or BTC/{QUOTE} (spot)")
    return base.upper(), quote, "linear" if settle else "spot"
