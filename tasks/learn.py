"""The dataset of what was decided, to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.connections import log, store
from tasks.settings import settings
from tasks.stage import stage


@stage
def export_dataset(out: Path, records: Path | None, formats: Sequence[str] = ()) -> dict[str, Any]:
    """Write the RL dataset of a backtest's records, or of the store's cycles, and return its card."""
    from tasks.adapters.files import dataset

    source = dataset.file_source(records) if records else dataset.store_source(store(), settings().strategy)
    card = dataset.export(source, out, formats)
    log().info("export transitions=%d splits=%s out=%s", card["transitions"], card["splits"], out)
    return card
