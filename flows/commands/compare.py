"""The `compare` command: what to replay, what it may cost, and the table of what came out."""

from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import click

from flows.commands.options import PLACE, Finite, json_option, mask_option, replay_options
from flows.commands.output import echo, emit, progress, utc_time
from flows.commands.spending import agree, consent, max_cost_option
from tasks.core.types import InputError


def print_table(document: dict[str, Any]) -> None:
    """Print the table for a person, and where to read on."""
    import pandas as pd

    from flows.evaluate import COLUMNS, rows, spent_text

    echo(document["verdict"]["sentence"])
    first, *columns = COLUMNS
    names, *figures = zip(*rows(document), strict=True)
    table = pd.DataFrame(dict(zip(columns, figures, strict=True)), index=pd.Index(names))
    echo(table.rename_axis(columns=first).to_string())
    if overfit := document["overfit"]:
        among = f"{overfit['variants']} that traded, {overfit['splits']} splits"
        echo(f"PBO {overfit['pbo']:.1%} of {among}; tried {document['tried']}")
    spent = document["spent"]
    echo(f"models: {spent_text(spent)}" if spent["asked"] + spent["reused"] else "no model asked")
    if document["look_up"]:
        echo(f"masked: who looks questions up in candles finds {document['look_up']}")
    if not document["complete"]:
        echo("not complete: the agreed cost was reached")
    echo(f"report {document['report'] or 'not kept: name a folder with --out'}")
    if run := document["mlflow_run"]:
        may_lead = any(variant["prompts"] for variant in document["variants"])
        promote = f": quarterdeck prompts promote ROLE VERSION --alias champion --evidence {run}" if may_lead else ""
        echo(f"MLflow run {run}{promote}")


@click.command()
@partial(replay_options, required=False)
@click.option("--moments", default="", help="kept by `moments create`, instead of --candles: NAME or NAME@VERSION")
@click.option("--decider", "deciders", multiple=True, required=True, help="repeatable; llm:single@v002 names a version")
@click.option("--model", "models", multiple=True, help="repeatable; each is a variant of every llm decider")
@click.option("--windows", type=click.IntRange(1), default=1, help="walk-forward windows of equal length")
@click.option("--window-days", type=Finite(0), default=0, help="their length instead of their number")
@mask_option
@click.option("--perturb", is_flag=True, help="also replay with noise in the candles")
@click.option(
    "--quiet", type=click.IntRange(0), help="quiet closes put to everybody, per symbol; models: 0 unless said"
)
@click.option("--events", type=click.IntRange(0), help="closes with an event put to everybody; models: 25 unless said")
@click.option("--seeds", type=click.IntRange(1), default=200, help="random traders of equal turnover")
@click.option("--cutoff", "cutoffs", multiple=True, help="MODEL=DATE, what the model's maker states")
@max_cost_option
@click.option("--dask", default="", help="address of a Dask scheduler; else processes of this machine")
@click.option("--title", default="", help="of the report")
@click.option("--out", type=PLACE, help="a folder for report.html and each variant's files")
@json_option
def compare(
    files: dict[str, str],
    moments: str,
    cutoffs: tuple[str, ...],
    max_cost: Decimal | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Replay deciders over the same candles and say which is better, and how sure that is."""
    from flows.evaluate import carry_out, plan_work
    from tasks.adapters.files.folders import check_new
    from tasks.evaluate import ComparisonRequest

    if bool(files) == bool(moments):
        raise InputError("compare needs --candles, or --moments NAME")
    if moments:
        _over(moments, options["deciders"], options["models"], max_cost, as_json)
        return
    if out:
        check_new(out)
    request = ComparisonRequest(candles=files, cutoffs=dict(map(_cutoff, cutoffs)), max_cost=max_cost, **options)
    work, cap = plan_work(request), None
    if work.paid:
        cap = agree(work.paid, max_cost, work.quiet + work.events)
    with progress("compare", as_json, len(work.free) + len(work.paid)) as bar:
        document = carry_out(work, cap, out, done=lambda _: bar(advance=1))
    emit(document, True) if as_json else print_table(document)


def _over(
    name: str, deciders: tuple[str, ...], models: tuple[str, ...], max_cost: Decimal | None, as_json: bool
) -> None:
    """Put kept moments to the deciders, and say which is better: no account is replayed."""
    from flows.moments import compare as over

    document = over(name, deciders, models, lambda calls, usd: consent(calls, usd, max_cost))
    if not as_json:
        explained = ("verdict", "rulings", "differences", "moments_by_variant")
        echo(document["verdict"]["sentence"])
        document = {key: value for key, value in document.items() if key not in explained}
    emit(document, as_json)


def _cutoff(text: str) -> tuple[str, datetime]:
    model, sep, date = text.rpartition("=")
    at = utc_time(date, f"--cutoff {text}:") if sep and model else None
    if at is None:
        raise InputError(f"--cutoff {text!r}: write MODEL=DATE, e.g. openai/gpt-4o=2023-10-01")
    return model, at


COMMANDS = (compare,)
