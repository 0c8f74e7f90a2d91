"""The dataset card for people: what is in it, how it is to be read, and what it must not be taken for."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.core.pages.markdown import table


def render(card: Mapping[str, Any]) -> str:
    """Write the card as Markdown."""
    environment = Environment(  # noqa: S701  (no HTML: `table` escapes its cells)
        loader=PackageLoader("tasks.adapters.files", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("dataset_card.md.j2").render(card=card, table=table)
