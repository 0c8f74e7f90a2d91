"""The dataset of what was decided, to learn from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.connections import log, store
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.settings import settings
from tasks.stage import stage


@stage
def export_dataset(
    out: Path, records: Path | None, formats: Sequence[str] = (), candles: Mapping[str, str] = {},
    margin_r: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the RL dataset of a backtest's records, or of the store's cycles, and return its card.

    candles: the files that the backtest was made from, by symbol: with them every allowed action has its value. The
    store has its own. margin_r: see `dataset.export`.
    """
    from tasks.adapters.files import dataset
    from tasks.core.lab.action_values import Future
    from tasks.kept_history import file_replayer, store_replayer

    if candles and not records:
        raise InputError("--candles goes with --records; the store has its own")
    source = dataset.file_source(records) if records else dataset.store_source(store(), settings().strategy)
    replayer = file_replayer(candles, dataset.records_file(records)) if records else store_replayer()
    symbol, path = next(iter(sorted(candles.items())), ("", ""))
    world = {"candles": path, "symbol": symbol} if path else {}
    source = source._replace(future=Future(replayer, source.span[1]), world=world)
    card = dataset.export(source, out, formats, dataset.MARGIN_R if margin_r is None else margin_r)
    log().info("export transitions=%d splits=%s out=%s", card["transitions"], card["splits"], out)
    return card


@stage
def train_policy(data: Path, out: Path, algo: str = "bc", seeds: int = 1) -> dict[str, Any]:
    """Learn a policy from a dataset, register it in MLflow where that is, and return what came of it."""
    from tasks.adapters.files.dataset import sha256_of
    from tasks.adapters.rl import training

    trained = training.train(data, out, algo, seeds)
    log().info("train algo=%s seed=%d out=%s", algo, trained["seed"], out)
    if not settings().mlflow_url:
        return trained
    from tasks.adapters.mlflow.policies import log_policy

    tags = {"sha256": sha256_of(out), "data_sha256": sha256_of(data / "train.parquet")}
    try:
        return trained | log_policy(settings().mlflow_url, out, trained, tags)
    except TrackingUnavailable as e:
        log().warning("the policy is not in MLflow: %s", e)
        return trained
