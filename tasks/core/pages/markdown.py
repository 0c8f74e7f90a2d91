"""Markdown that is written in more than one place."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tasks.core.pages import inert


class Link(NamedTuple):
    """A text that leads to an address of ours; to none where that is empty."""

    text: str
    url: str

    def __str__(self) -> str:
        return self.text


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Lay out a table, every cell of `rows` escaped."""
    cells = (map(_cell, row) for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))


def _cell(value: object) -> str:
    text = " ".join(inert.markdown(str(value)).split())
    return f"[{text}]({value.url})" if isinstance(value, Link) and value.url else text
