"""Learning from what was decided: the dataset, and a policy cloned from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.connections import log, store
from tasks.retries import stage
from tasks.settings import settings


@stage
def export_dataset(out: Path, records: Path | None, formats: Sequence[str]) -> dict[str, Any]:
    """Write the RL dataset of a backtest's records, or of the store's cycles, and return its card."""
    from tasks.adapters.files import dataset

    source = dataset.file_source(records) if records else dataset.store_source(store(), settings().strategy)
    card = dataset.export(source, out, formats)
    log().info("export transitions=%d splits=%s out=%s", card["transitions"], card["splits"], out)
    return card


@stage
def train_policy(data: Path, out: Path) -> dict[str, Any]:
    """Clone the behaviour of a dataset into an ONNX file and return how well it imitates."""
    from tasks.adapters.model import onnx_policy

    report = onnx_policy.train(data, out)
    log().info("train decider=%s validation=%s", report["decider"], report.get("validation"))
    return report
