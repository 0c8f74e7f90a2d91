"""The `moments` commands: choose questions once, and keep them to compare prompts and deciders by."""

from typing import Any

import click

from flows.commands.options import candle_options, json_option, mask_option, span_options
from flows.commands.output import emit, say

LIVE = ("worst", "disagreed", "latest")


@click.group()
def moments() -> None:
    """Questions with what the market did next, kept in MLflow as evaluation datasets NAME@VERSION."""


@moments.command()
@click.argument("name")
@candle_options(required=False, stored=True)
@click.option("--venue", default="", help="of stored candles, as `ingest --venue` keeps them")
@span_options
@click.option("--instruments", default="", help="JSON or TOML, symbol -> tick, step, ...; else as stored or inferred")
@click.option("--events", type=click.IntRange(0), default=100, help="closes with an event, per symbol")
@click.option("--quiet", type=click.IntRange(0), default=0, help="closes without one, per symbol")
@click.option("--live", type=click.Choice(LIVE), help="of live decisions instead")
@click.option("--days", type=click.FloatRange(0, min_open=True), default=30, help="how far back live ones may lie")
@click.option("--most", type=click.IntRange(1), default=50, help="how many live ones")
@click.option("--strategy", help="whose symbols and decisions, where tables of quarterdeck.toml make more than one")
@mask_option
@json_option
def create(
    name: str, files: dict[str, str], live: str | None, strategy: str | None, as_json: bool, **options: Any
) -> None:
    """Keep moments as the next version of NAME: of --candles, of stored candles (--symbol), or of --live decisions."""
    from flows.moments import create as kept
    from tasks.moments import MomentsRequest
    from tasks.settings import settings

    request = MomentsRequest(name=name, candles=files, live=live or "", **options)
    with settings.of(settings.named(strategy)):
        emit(kept(request), as_json)


@moments.command(name="list")
@json_option
def list_moments(as_json: bool) -> None:
    """Every set of moments and its versions."""
    from tasks.adapters.mlflow.datasets import listed
    from tasks.moments import lab_server

    for each in listed(lab_server()):
        masked = ", masked" if each.masked else ""
        say(
            f"{each.name}@{each.version}  {each.moments} moments, {each.first[:10]} to {each.last[:10]}{masked}  "
            f"{each.source}",
            as_json, **each._asdict(),
        )  # fmt: skip


COMMANDS = (moments,)
