"""Somebody's words as one plain line of a prompt: a headline of a feed's, a thesis of a decider's own."""

import re
import unicodedata

from tasks.core.types import Decision

HEADLINE_CHARS, THESIS_CHARS = 160, 100
_FENCE_LIKE = re.compile("[<>«»‹›〈〉《》⟨⟩⟪⟫≪≫❮❯˂˃ᐸᐳ]|HEADLINES")


def plain_text(text: str, most: int = HEADLINE_CHARS) -> str:
    """Return one line of at most `most` characters, without control characters or anything like the fence."""
    folded = unicodedata.normalize("NFKC", text[: 10 * most])
    visible = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in folded)
    return " ".join(_FENCE_LIKE.sub(" ", visible).split())[:most].rstrip()


def thesis_of(decision: Decision) -> str:
    """Return why a decision was made, in one line: its comment, else the first line of its reasoning.

    A panel's are written by code out of typed words: what a role writes as text comes after that line.
    """
    return plain_text(decision.comment or decision.reasoning.partition("\n")[0], THESIS_CHARS).replace('"', "'")
