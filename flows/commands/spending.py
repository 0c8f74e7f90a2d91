"""Before a replay asks models: how often, at most how much, and a yes."""

import asyncio
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click

from flows.commands.output import echo
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError
from tasks.settings import settings

ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


def agree(paid: Any, max_cost: Decimal | None, moments: int = 0, votes: int = 1) -> Decimal:
    """Show what replays will ask models and cost, and get consent: `--max-cost`, or a person's. Returns the cap."""
    from tasks.adapters.variants import estimate

    return consent(*asyncio.run(estimate(paid, settings(), moments, votes)), max_cost)


def consent(calls: int, usd: Decimal, max_cost: Decimal | None) -> Decimal:
    """Show what models will be asked and cost at most, and return what may be spent; raises InputError, Abort."""
    echo(f"models will be asked at most {calls} times, for at most {usd} USD; kept replies cost nothing", err=True)
    if max_cost is not None:
        return max_cost
    if not sys.stdin.isatty():
        raise InputError("--max-cost: say what this may cost in USD, as there is no terminal to ask on")
    click.confirm("go on?", abort=True, err=True)
    return usd


def _usd(_: Any, __: Any, text: str | None) -> Decimal | None:
    """Read an amount of USD; raises InputError."""
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except ArithmeticError:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise InputError(f"--max-cost {text!r}: not an amount in USD such as 2.50")
    return amount


max_cost_option = click.option(
    "--max-cost", callback=_usd, help="USD that models may cost; needed where nobody can be asked"
)


def decider_for(job: Any, max_cost: Decimal | None, votes: int = 1) -> tuple[Any, Any]:
    """Return the decider a backtest replays, asked so often about each question, and what it may spend."""
    from tasks.adapters.deciders import build
    from tasks.core.simulation.paid_replies import Spending

    name = job.strategy.decider
    if not kind_of(name).asks_model:  # before the imports that only models need: they take seconds
        return build(name, settings()), Spending()
    from tasks.adapters import variants
    from tasks.connections import store

    variant = variants.variants((name,), (), {}, settings())[0]
    spending = Spending(agree([(variant, job)], max_cost, votes=votes))
    return variants.paid_decider(variant, settings(), store(), spending, votes=votes), spending
