"""The dataset card for people: what is in it, how it is to be read, and what it must not be taken for."""

from collections.abc import Iterator, Mapping
from typing import Any

CAVEATS = (
    "`reward` is of the whole account: with several symbols on it, it holds what the others made too; use "
    "`reward_symbol`.",
    "`reward_r` stands on the step on which a trade closed; a trade that opened before a cut may close after it.",
    "Steps are decision points, not bars: their length varies (`elapsed_s`), and quiet bars are not among them. "
    "Discount by time, not by steps.",
    "Actions are the behaviour policy's after the guard; what it never did, no dataset can teach. `propensity` of kind "
    "`vote_share` is no probability.",
    "Fills of a replay are modelled, its book too, and its funding is unknown; a live account's are the venue's.",
    "A language model's decisions about a time before its training cutoff may be memory: see `decider`, `model` and "
    "`as_of` before believing a reward.",
    "Normalisation is fixed by the spec, not fitted: nothing of validation or test is in train.",
)


def render(card: Mapping[str, Any]) -> str:
    """Write the card as Markdown."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    yield "# Transitions of a trading policy"
    yield ""
    yield f"{card['transitions']} transitions from {card['first']} to {card['last']}, source `{card['source']}`."
    yield f"State `{card['spec']['name']}`, sha256 `{card['spec_sha256']}`: {len(card['features'])} numbers of the "
    yield "snapshot and as many masks of the unknown. Definitions: `tasks/core/evaluation/rl.py` and `rl.py`."
    yield ""
    yield "## Splits"
    yield f"By time, cut at {' and '.join(card['cuts'])}; steps across a cut are purged, those that start within "
    yield f"{card['embargo_s'] / 3600:g} h after one are left out."
    yield ""
    yield from _table(("split", "transitions"), card["splits"].items())
    yield from _table(("left out", "records or steps"), card["left_out"].items())
    yield "## Behaviour"
    for name in ("decider", "model", "prompt_version", "rung", "symbol", "action", "status", "codes"):
        if any(card[name]):
            yield from _table((name, "transitions"), card[name].items())
    yield "## Ranges"
    yield from _ranges("column", card["ranges"])
    yield from _ranges("feature, normalised", card["features"])
    yield "## Caveats"
    yield from (f"- {caveat}" for caveat in CAVEATS)
    yield ""
    yield "## Files"
    yield from _table(("file", "sha256"), card["sha256"].items())


def _ranges(title: str, ranges: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    names = ("known", "unknown", "min", "max", "mean")
    yield from _table((title, *names), ((key, *(each.get(n, "") for n in names)) for key, each in ranges.items()))


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
    yield ""
