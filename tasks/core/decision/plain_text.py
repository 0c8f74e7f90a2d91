"""Somebody's words as one plain line of a prompt: a headline of a feed's, a thesis of a decider's own."""

import re
import unicodedata
from collections.abc import Iterable

from tasks.core.types import Decision

HEADLINE_CHARS, THESIS_CHARS, RULE_CHARS = 160, 100, 40
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
    return _unquoted(decision.comment or decision.reasoning.partition("\n")[0], THESIS_CHARS)


def rule_of(text: str) -> str:
    """Return a follow-up that nobody could read, for between quotation marks."""
    return _unquoted(text, RULE_CHARS)


def not_understood(rules: Iterable[str]) -> str:
    """Name such follow-ups to whom they are of."""
    return "not understood: " + "; ".join(f'"{rule}"' for rule in rules)


def _unquoted(text: str, most: int) -> str:
    return plain_text(text, most).replace('"', "'")
