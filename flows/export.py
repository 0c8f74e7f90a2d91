"""The RL dataset: every decision as a transition, with its reward and who decided."""

import time
from pathlib import Path
from typing import Any

from prefect import flow

from tasks.settings import settings


@flow(name="export")
def export(out: str = "", records: str = "", formats: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write a dataset; out: by default a new folder in HOME/exports, records: by default the store's cycles."""
    from prefect.artifacts import create_markdown_artifact

    from tasks.adapters.files.dataset_card import render
    from tasks.core.pages import inert
    from tasks.learn import export_dataset

    folder = Path(out or settings().home / "exports" / time.strftime("%Y-%m-%d_%H%M%S", time.gmtime()))
    card = export_dataset(folder, Path(records) if records else None, formats)
    create_markdown_artifact(key="rl-dataset", markdown=render(card), description=inert.markdown(str(folder)))
    return headline(card, folder)


def headline(card: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what of a card is shown at once; the rest stands beside the data."""
    names = ("transitions", "splits", "left_out", "first", "last", "spec_sha256")
    return {"out": str(folder), **{name: card[name] for name in names}}
