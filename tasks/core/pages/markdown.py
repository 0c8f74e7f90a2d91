"""Markdown that is written in more than one place."""

from collections.abc import Iterable, Sequence

from tasks.core.pages import inert


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Lay out a table, every cell of `rows` escaped."""
    cells = ([" ".join(inert.markdown(str(cell)).split()) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells))
