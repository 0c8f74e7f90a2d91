"""What a sandbox is started with, checked: every wrong input is one clear line."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, CliSuppress

from infra.sandbox.market.crash import Crash
from tasks.core.types import Costs, InputError, Kind, Texts

DEFAULT_SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
QUOTE = "USDT"


class SandboxConfig(
    BaseSettings,
    frozen=True,
    use_attribute_docstrings=True,
    env_prefix="QUARTERDECK_SANDBOX_",
    cli_prog_name="sandbox",
    cli_implicit_flags=True,
    cli_exit_on_error=False,
    cli_hide_none_type=True,
):
    """A local exchange in Bybit's V5 dialect"""

    candles: dict[str, Path] = {}
    """SYMBOL=FILE, parquet or CSV; repeat; without any, symbols get a synthetic market of the seed"""
    symbols: Texts = ()
    """e.g. BTC/USDT:USDT,ETH/USDT"""
    seed: int = Field(7, ge=0)
    cash: Decimal = Field(Decimal(10_000), gt=0)
    start: Annotated[datetime, AfterValidator(lambda at: at if at.tzinfo else at.replace(tzinfo=UTC))] | None = None
    """ISO 8601; without a zone it is UTC; else now on a synthetic market, and some way into the files on candles"""
    speed: float = Field(1.0, gt=0)
    """market seconds per second"""
    stepped: bool = False
    """time moves through POST /__admin/clock only"""
    state: Path | None = None
    """a file: keep orders and positions there over a restart"""
    scenario: Literal["crash"] | None = None
    """-40 % within an hour, an hour after the start"""
    host: str = "127.0.0.1"
    """0.0.0.0 in a container: whoever reaches it may trade on it"""
    port: int = 8891
    key: CliSuppress[str] = "sandbox"
    secret: CliSuppress[str] = "sandbox"  # noqa: S105  (of a local exchange that has no money)
    costs: CliSuppress[Costs] = Costs()
    risk_limit: CliSuppress[Decimal] = Field(Decimal(2_000_000), gt=0)
    """the largest position, in quote, at the highest leverage; with a tenth of that, ten times as much"""
    funding_rate: CliSuppress[Decimal] = Decimal("0.0001")
    crash: CliSuppress[Crash | None] = None

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
