"""What is looked at and said before real orders may be sent: whose account it is, how it is set, what may be lost."""

from decimal import Decimal

from pydantic import Field

from tasks.adapters.venue.account import Permissions
from tasks.adapters.venue.ccxt_venue import connect
from tasks.core.errors import InputError
from tasks.core.types.base import Dto
from tasks.settings import Settings


class ArmingReport(Dto):
    """An account as the venue describes it; empty or None where it does not tell."""

    venue: str
    key: Permissions
    margin_mode: str
    leverage: dict[str, Decimal | None] = Field(description="set at the venue, by contract")

    def __str__(self) -> str:
        withdraws = {True: "may withdraw", False: "may not withdraw", None: "withdrawal unknown"}[self.key.withdraw]
        set_now = ", ".join(f"{symbol} {value}x" for symbol, value in self.leverage.items() if value)
        return (
            f"account {self.key.account_id or 'of unknown id'} at {self.venue}: {withdraws}, one-way mode, "
            f"margin {self.margin_mode}, leverage {set_now or 'not told'}"
        )


async def examine(settings: Settings) -> ArmingReport:
    """Ask the venue about the account the keys belong to.

    Raises InputError in hedge mode and, on live, what the venue's first call raises: not armed for this account, or a
    key that may withdraw or not trade.
    """
    venue = connect(settings)
    try:
        account = venue.account
        key = await account.permissions()
        contracts = [symbol for symbol in settings.symbols if symbol not in account.spot]
        leverage = {symbol: await account.leverage(symbol, InputError) for symbol in contracts}
        return ArmingReport(venue=venue.name, key=key, margin_mode=await account.margin_mode(), leverage=leverage)
    finally:
        await venue.close()


def terms(settings: Settings) -> list[str]:
    """Return what a person confirms before live trading starts."""
    limits = settings.limits
    return [
        f"strategy {settings.strategy}, decider {settings.decider_name}, symbols {', '.join(settings.symbols)}",
        f"risk per trade {limits.max_trade_risk_pct} % of equity, open risk {limits.max_total_risk_pct} %, "
        f"leverage {limits.leverage}x (set at the venue before the first entry)",
        f"gross {limits.max_gross_pct} %, net {limits.max_net_pct} %, at most {limits.max_positions} positions, "
        f"{limits.opens_per_hour} opens an hour and {limits.opens_per_day} a day",
        f"entries stop at a daily loss of {limits.daily_loss_halt_pct} % and a drawdown of "
        f"{limits.drawdown_halt_pct} %; `quarterdeck halt` stops them at once",
    ]
