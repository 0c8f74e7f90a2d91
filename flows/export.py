"""The RL dataset: every decision as a transition, with its reward and who decided."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from tasks.core.types import InputError
from tasks.settings import settings


@flow(name="export")
def export(out: str = "", records: str = "", formats: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write a dataset of what was decided, with what each allowed action would have been worth.

    Args:
        out: a new folder; empty makes one in HOME/exports.
        records: a backtest's records.jsonl; empty takes the cycles of this installation.
        formats: beside Parquet: minari, d3rlpy, and for language models sft, dpo, kto, grpo.
    """
    from prefect.artifacts import create_markdown_artifact

    from tasks.adapters.files.dataset_card import render
    from tasks.core.pages import inert
    from tasks.learn import export_dataset

    folder = Path(out or settings().home / "exports" / time.strftime("%Y-%m-%d_%H%M%S", time.gmtime()))
    card = export_dataset(folder, Path(records) if records else None, formats)
    create_markdown_artifact(key="rl-dataset", markdown=render(card), description=inert.markdown(str(folder)))
    return headline(card, folder)


@flow(name="train")
def train(
    dataset: str = "",
    out: str = "",
    algo: Literal["bc", "iql", "cql"] = "bc",
    seeds: Annotated[int, Field(gt=0, le=100)] = 3,
) -> dict[str, Any]:
    """Learn a small policy from a dataset, which `model:FILE.onnx` lets decide.

    Args:
        dataset: a folder that `export` wrote; empty takes the newest in HOME/exports.
        out: FILE.onnx; empty makes a new one in HOME/policies.
        algo: bc does what was done, iql and cql learn from what it earned; cql needs d3rlpy, installed by hand.
        seeds: tried; the best by validation is kept.
    """
    from tasks.learn import train_policy

    home, now = settings().home, time.strftime("%Y-%m-%d_%H%M%S", time.gmtime())
    written = sorted(folder for folder in (home / "exports").glob("*") if folder.is_dir())
    if not (dataset or written):
        raise InputError(f"{home / 'exports'}: no dataset is there; run `export` first, or name one")
    return train_policy(Path(dataset or written[-1]), Path(out or home / "policies" / f"{now}.onnx"), algo, seeds)


def headline(card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what of a card is shown at once; the rest stands beside the data."""
    names = ("transitions", "splits", "left_out", "examples", "first", "last", "spec_sha256")
    return {"out": str(folder), **{name: card[name] for name in names}}
