"""The dataset card for people: what is in it, how it is to be read, and what it must not be taken for."""

from collections.abc import Mapping
from typing import Any

from tasks.core.pages.markdown import table

CAVEATS = (
    "`reward` is of the whole account: with several symbols on it, it holds what the others made too; use "
    "`reward_symbol`.",
    "`reward_r` stands on the step on which a trade closed; a trade that opened before a cut may close after it.",
    "Steps are decision points, not bars: their length varies (`elapsed_s`), and quiet bars are not among them. "
    "Discount by time, not by steps.",
    "Actions are the behaviour policy's after the guard; what it never did, no dataset can teach. `propensity` is that "
    "of `action`, `asked_propensity` that of `asked_action`; where a policy draws, HOLD has the latter only. Of kind "
    "`vote_share` neither is a probability.",
    "Fills of a replay are modelled, its book too, and its funding is unknown; a live account's are the venue's.",
    "A language model's decisions about a time before its training cutoff may be memory: see `decider`, `model` and "
    "`as_of` before believing a reward.",
    "Normalisation is fixed by the spec, not fitted: nothing of validation or test is in train.",
)


def render(card: Mapping[str, Any]) -> str:
    """Write the card as Markdown."""
    names = ("known", "unknown", "min", "max", "mean")
    ranges = [
        table((title, *names), ((key, *(each.get(name, "") for name in names)) for key, each in card[part].items()))
        for title, part in (("column", "ranges"), ("feature, normalised", "features"))
    ]
    behaviour = [
        table((name, "transitions"), card[name].items())
        for name in ("decider", "model", "prompt_version", "rung", "symbol", "action", "status", "codes")
        if any(card[name])
    ]
    parts = [
        "# Transitions of a trading policy",
        f"{card['transitions']} transitions from {card['first']} to {card['last']}, source `{card['source']}`.\n"
        f"State `{card['spec']['name']}`, sha256 `{card['spec_sha256']}`: {len(card['features'])} numbers of the\n"
        "snapshot and as many masks of the unknown. Definitions: `tasks/core/lab/rl.py`.",
        "## Splits",
        f"By time, cut at {' and '.join(card['cuts'])}; steps across a cut are purged, those that start within\n"
        f"{card['embargo_s'] / 3600:g} h after one are left out.",
        table(("split", "transitions"), card["splits"].items()),
        table(("left out", "records or steps"), card["left_out"].items()),
        "## Behaviour",
        *behaviour,
        "## Ranges",
        *ranges,
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in CAVEATS),
        "## Files",
        table(("file", "sha256"), card["sha256"].items()),
    ]
    return "\n\n".join(parts) + "\n"
