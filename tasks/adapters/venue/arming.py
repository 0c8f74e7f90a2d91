"""What is looked at and said before real orders may be sent: whose account it is, how it is set, what may be lost."""

from tasks.adapters.venue import ArmingFacts, Permissions, lacking
from tasks.adapters.venue.ccxt_venue import connect
from tasks.core.types import Dto, InputError
from tasks.settings import Settings


class ArmingReport(Dto):
    """An account as the venue describes it; empty or None where it does not tell."""

    venue: str
    key: Permissions
    facts: ArmingFacts

    def __str__(self) -> str:
        withdraws = {True: "may withdraw", False: "may not withdraw", None: "withdrawal unknown"}[self.key.withdraw]
        set_now = ", ".join(f"{symbol} {value}x" for symbol, value in self.facts.leverage.items() if value)
        said = (
            f"account {self.key.account_id or 'of unknown id'} at {self.venue}: {withdraws}, one-way mode, "
            f"margin {self.facts.margin_mode}, leverage {set_now or 'not told'}"
        )
        return "; ".join([said, *self.facts.notes])


async def examine(settings: Settings) -> ArmingReport:
    """Ask the venue about the account the keys belong to.

    Raises InputError, saying what to change, for an account or a key that cannot trade as we do, and on live what the
    venue's first call raises: not armed for this account, or a key that may withdraw.
    """
    venue = connect(settings)
    try:
        key, facts = await venue.account.permissions(), await venue.account.arming()
        if flaws := [*facts.flaws, *([f"the key {lacking(key)}"] if key.lacks else [])]:
            raise InputError(f"{venue.name} cannot be traded on: {'; '.join(flaws)}")
        return ArmingReport(venue=venue.name, key=key, facts=facts)
    finally:
        await venue.close()


def terms(settings: Settings) -> list[str]:
    """Return what a person confirms before live trading starts."""
    limits = settings.limits
    return [
        *(
            f"strategy {each.strategy}, decider {each.decider_name}, symbols {', '.join(each.symbols)}"
            for each in settings.every()
        ),
        f"risk per trade {limits.max_trade_risk_pct} % of equity, open risk {limits.max_total_risk_pct} %, "
        f"leverage {limits.leverage}x (set at the venue before the first entry)",
        f"gross {limits.max_gross_pct} %, net {limits.max_net_pct} %, at most {limits.max_positions} positions, "
        f"{limits.opens_per_hour} opens an hour and {limits.opens_per_day} a day",
        f"entries stop at a daily loss of {limits.daily_loss_halt_pct} % and a drawdown of "
        f"{limits.drawdown_halt_pct} %; `quarterdeck halt` stops them at once",
    ]
