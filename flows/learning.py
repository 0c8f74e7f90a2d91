"""The `export-rl`, `train` and `loop` commands; a file of its own, so that asking for help loads no Prefect."""

from pathlib import Path

import click

from flows.options import candle_options, json_option
from flows.output import emit


@click.command("export-rl")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="a new folder")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["parquet", "minari", "finrl"]), default=("parquet",),
    help="repeatable; Parquet is always written",
)  # fmt: skip
@click.option("--records", type=click.Path(path_type=Path), help="records.jsonl of a backtest; else the store's cycles")
@json_option
def export_rl(out: Path, formats: tuple[str, ...], records: Path | None, as_json: bool) -> None:
    """Write the RL dataset: transitions split by time, with a card that says what they are."""
    from flows.export import said
    from tasks.learn import export_dataset

    emit(said(export_dataset(out, records, formats), out), as_json)


@click.command()
@click.option("--records", "data", required=True, type=click.Path(path_type=Path), help="a folder of `export-rl`")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="FILE.onnx, for model:FILE.onnx")
@json_option
def train(data: Path, out: Path, as_json: bool) -> None:
    """Clone the behaviour of a dataset into a small policy."""
    from tasks.learn import train_policy

    emit(train_policy(data, out), as_json)


@click.command()
@click.option("--records", required=True, type=click.Path(path_type=Path), help="records.jsonl of a backtest")
@candle_options()
@click.option("--decider", "deciders", multiple=True, help="also compared; repeatable")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="a new folder")
@json_option
def loop(records: Path, files: dict[str, str], deciders: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Export, train, replay and compare in one go."""
    from flows.compare import print_table
    from flows.policy import close_loop

    document = close_loop(records, files, out, deciders)
    if as_json:
        emit(document, True)
        return
    emit({name: document[name] for name in ("dataset", "trained", "from")}, False)
    print_table(document["compared"])


COMMANDS = (export_rl, train, loop)
