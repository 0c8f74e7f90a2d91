"""The `export-rl`, `train`, `ope` and `loop` commands; a file of its own, so that asking for help loads no Prefect."""

from datetime import datetime, timedelta
from pathlib import Path

import click

from flows.commands.options import PLACE, Finite, candle_options, json_option
from flows.commands.output import emit
from tasks.adapters.files.dataset_formats import FORMATS
from tasks.core.errors import InputError

SPLITS = ("train", "validation", "test")


@click.command("export-rl")
@click.option("--out", required=True, type=PLACE, help="a new folder")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(FORMATS),
    help="repeatable; Parquet is always written",
)  # fmt: skip
@click.option("--records", type=PLACE, help="records.jsonl of a backtest; else the store's cycles")
@candle_options(required=False)
@click.option("--strategy", help="whose cycles, where tables of quarterdeck.toml make more than one")
@click.option("--margin", type=Finite(min=0), help="R between a good and a bad reply in dpo and kto; 0.2 without it")
@json_option
def export_rl(
    out: Path,
    formats: tuple[str, ...],
    records: Path | None,
    files: dict[str, str],
    strategy: str | None,
    margin: float | None,
    as_json: bool,
) -> None:
    """Write the RL dataset: transitions split by time, with a card that says what they are.

    With the --candles of a backtest each row also has what every allowed action would have earned in the day that
    followed; the store has its candles.
    """
    from flows.export import headline
    from tasks.learn import export_dataset
    from tasks.settings import settings

    with settings.of(settings.named(strategy)):
        emit(headline(export_dataset(out, records, formats, files, margin), out), as_json)


@click.command()
@click.option("--records", "data", required=True, type=PLACE, help="a folder of `export-rl`")
@click.option("--out", required=True, type=PLACE, help="FILE.onnx, for model:FILE.onnx")
@click.option(
    "--algo", default="bc", type=click.Choice(["bc", "iql", "cql"]), help="cql needs d3rlpy, installed by hand"
)
@click.option("--seeds", default=3, type=click.IntRange(1, 100), help="tried; the best by validation is kept")
@json_option
def train(data: Path, out: Path, algo: str, seeds: int, as_json: bool) -> None:
    """Learn a small policy from a dataset.

    bc does what was done; iql and cql learn from what it earned. What was learnt trades in no profile but the sandbox
    until it is promoted, as a prompt is.
    """
    from tasks.adapters.files.folders import check_writable
    from tasks.learn import train_policy

    check_writable(out.parent)
    emit(train_policy(data, out, algo, seeds), as_json)


@click.command()
@click.option(
    "--records", "data", required=True, type=PLACE, help="a folder of `export-rl`, of a decider that tries things"
)
@click.option("--policy", required=True, help="model:FILE.onnx, hold or random")
@click.option("--split", "splits", multiple=True, default=("test",), type=click.Choice(SPLITS), help="repeatable")
@click.option("--horizon", default=3, type=click.IntRange(1, 50), help="decisions that make an episode")
@click.option("--min-ess", default=50.0, type=click.FloatRange(2), help="effective episodes below which it refuses")
@click.option("--plot", type=PLACE, help="FILE.png: how far policy and records overlap; drawn where it refuses, too")
@json_option
def ope(
    data: Path, policy: str, splits: tuple[str, ...], horizon: int, min_ess: float, plot: Path | None, as_json: bool
) -> None:
    """Estimate from records what another policy would have earned in their place.

    Four estimators (importance sampling, weighted, doubly robust, fitted Q evaluation) with 95 % intervals, of the log
    return of an episode.
    """
    from tasks.adapters.files.folders import check_writable
    from tasks.adapters.rl import off_policy

    if plot is not None:
        check_writable(plot.parent)
    emit(off_policy.evaluate(data, policy, splits, horizon, min_ess, plot), as_json)


@click.command()
@click.option("--records", required=True, type=PLACE, help="records.jsonl of a backtest")
@candle_options()
@click.option("--decider", "deciders", multiple=True, help="also compared; repeatable")
@click.option("--out", required=True, type=PLACE, help="a new folder")
@json_option
def loop(records: Path, files: dict[str, str], deciders: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Export, train, replay and compare in one go.

    Dataset, policy.onnx and comparison go into --out; the comparison begins an embargo after the last cut, where the
    policy has not learnt. A decider that asks models is for `quarterdeck compare`, which says first what it costs.
    """
    from flows.commands.compare import print_table
    from flows.evaluate import carry_out, plan_work
    from tasks.adapters.files.folders import check_new
    from tasks.core.decision.kinds import kind_of
    from tasks.evaluate import ComparisonRequest
    from tasks.learn import export_dataset, train_policy

    check_new(out)
    if paid := [name for name in deciders if kind_of(name).asks_model]:
        raise InputError(f"--decider {paid[0]}: asks models; compare it with `quarterdeck compare`")
    model = out / "policy.onnx"
    card = export_dataset(out / "dataset", records, (), files)
    trained = train_policy(out / "dataset", model)
    start = datetime.fromisoformat(card["cuts"][-1]) + timedelta(seconds=card["embargo_s"])
    request = ComparisonRequest(
        candles=files, deciders=(f"model:{model.resolve()}", *deciders), start=start,
        end=datetime.fromisoformat(card["last"]), title="a policy cloned from records, where it has not learnt",
    )  # fmt: skip
    learned = {"dataset": card["splits"], "trained": trained, "from": start}
    compared = carry_out(plan_work(request), None, out / "comparison")
    emit({**learned, "compared": compared} if as_json else learned, as_json)
    if not as_json:
        print_table(compared)


COMMANDS = (export_rl, train, ope, loop)
