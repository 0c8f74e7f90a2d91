"""Prompts written by evidence: what one is scored by on moments, and what it must show to become a challenger.

Moments are cut by time. Candidates are written from the first part and chosen by the second; the last, the locked
window, is opened once, for the one that was chosen. What comes of a moment takes a day, so a part ends a day before the
next begins (López de Prado, Advances in Financial Machine Learning, 2018, chapter 7: purging). The best of many is
better by luck, so its interval is as much wider as candidates were tried on these days (Bonferroni).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import ndiff
from typing import NamedTuple

import numpy as np

from tasks.core.decision.kinds import asking
from tasks.core.decision.llm.prompt import Prompt, parse_prompt, written
from tasks.core.decision.rules import Sizes, entry
from tasks.core.errors import InputError
from tasks.core.lab.moments import Evaluated, Moment, evaluated
from tasks.core.lab.statistics import FEWEST, interval
from tasks.core.pages import numbers
from tasks.core.simulation.counterfactual import HORIZON_BARS
from tasks.core.types import Criterion, Dto, Strategy, answered, duration

INVALID_R, DENIED_R = 0.5, 0.1  # taken off for no usable reply or an echo, and for what the guard denied
BROKEN_R = -5.0  # a moment, of a candidate that is no prompt: less than a trade can lose
STANDARD_ERROR_R = 0.15  # of a minibatch's mean, at most
SMALLEST, LEAST_LOCKED = 3, 10  # moments of a minibatch, and of the locked window
TRAIN, VALIDATION = 0.4, 0.4  # shares; the rest is locked
LONGEST = 2  # times the version in use: a longer prompt costs more each time, and learns moments by heart
SHOWN, ASKED_CHARACTERS, REPLY_CHARACTERS = 12, 1500, 800  # of a minibatch to whoever reflects
SEED = 7

REFLECTION = f"""You improve the instructions that a trading model is given with every question. These are they:
<instructions>
<curr_param>
</instructions>

How the model did with them. R is money after costs over what the trade risked; the score is R less what doing nothing
would have earned, less {INVALID_R} without a usable reply and {DENIED_R} where the guard denied the answer:
<side_info>

Write instructions with which it will do better on other moments of other markets. Find what the good scores have in
common and the bad ones lack, and make it a rule that can be checked in what the model is shown; single moments are
noise, never repeat one, nor what was proposed before. Keep what explains the fields of the reply and of the market, by
the same names. No ${{...}}, no line "## user", no example of a reply, at most {LONGEST} times the length. Answer with
one JSON object: reasoning, and prompt, which is the whole new text of the instructions."""


class NewInstructions(Dto):
    """What the reflection model answers."""

    reasoning: str = ""
    prompt: str


class Parts(NamedTuple):
    """The places of moments by time, each part a day after the one before."""

    train: list[int]
    validation: list[int]
    locked: list[int]


def split(ordered: Sequence[Moment]) -> Parts:
    """Cut moments, in order of time, into parts; raises InputError where one would be too small to say anything."""
    n, day = len(ordered), HORIZON_BARS * duration("5m")
    first, second = (ordered[int(n * share)].as_of for share in (TRAIN, TRAIN + VALIDATION))
    bounds = ((datetime.min.replace(tzinfo=UTC), first - day), (first, second - day), (second, ordered[-1].as_of))
    parts = Parts(*([i for i in range(n) if low <= ordered[i].as_of <= high] for low, high in bounds))
    for (name, part), least in zip(parts._asdict().items(), (SMALLEST, FEWEST, LEAST_LOCKED), strict=True):
        if len(part) < least:
            raise InputError(f"{n} moments leave {len(part)} for {name}, which needs {least}: keep more")
    return parts


def score(found: Evaluated) -> float:
    """Return what an answer was worth over doing nothing, in R, less its punishment."""
    denied = DENIED_R * (found.is_valid and not found.verdict.allowed)
    return found.value_r - denied - INVALID_R * (not found.is_valid)


def scores(found: Sequence[Evaluated]) -> np.ndarray:
    return np.array([score(each) for each in found])


def feedback(found: Evaluated) -> str:
    """Return in sentences what came of an answer, for whoever writes the next prompt."""
    action, codes = found.answer.decision.action, ", ".join(found.verdict.codes)
    if not found.is_valid:
        came = f"No usable reply: {'; '.join(found.answer.errors)}."
    elif not found.verdict.allowed:
        came = f"{action} was denied by the guard: {codes}."
    else:
        came = f"{action} earned {found.net_r:+.2f} R within a day, doing nothing {found.net_r - found.value_r:+.2f} R."
        came += f" The guard changed it: {codes}." if codes else ""
    moved = ", ".join(f"{name.removesuffix('_pct')} {value:+.2f} %" for name, value in found.moment.moved.items())
    return f"Score {score(found):+.2f} R. {came} The price after: {moved}."


def record(found: Evaluated, role: str) -> dict[str, str]:
    """Return one moment as the reflection model reads it: what the role was asked and replied, and what came of it."""
    call = next((each for each in found.answer.calls if each.prompt and each.prompt.name == role), None)
    asked, reply = (call.messages[-1]["content"], call.raw_reply) if call else ("nothing: not its turn", "")
    return {"Asked": asked[:ASKED_CHARACTERS], "Replied": reply[:REPLY_CHARACTERS], "Feedback": feedback(found)}


def proposal(parent: str, instructions: str, result: str) -> dict[str, str]:
    """Return an earlier proposal as the reflection model reads it: what it added to the version in use."""
    added = (each[2:] for each in ndiff(parent.splitlines(), instructions.splitlines()) if each.startswith("+ "))
    return {"Proposed": "\n".join(added)[:REPLY_CHARACTERS], "Feedback": result}


def telling(found: Sequence[Evaluated]) -> list[Evaluated]:
    """Return the worst and the best of a minibatch, as many as are shown."""
    ordered = sorted(found, key=score)
    return ordered if len(ordered) <= SHOWN else [*ordered[: SHOWN // 2], *ordered[-SHOWN // 2 :]]


def minibatch(of: np.ndarray) -> tuple[int, float]:
    """Return how many moments a minibatch has, and the deviation of scores it follows from, in R.

    of: scores of the version in use on the training part. n = (deviation / STANDARD_ERROR_R)^2, so that the standard
    error of a minibatch's mean is at most that; at least SMALLEST, at most all. The deviation is the 90th percentile of
    those of 1,000 bootstrap samples: few moments rarely show how far scores spread.
    """
    drawn = np.random.default_rng(SEED).choice(of, (1000, len(of)))
    deviation = float(np.quantile(drawn.std(axis=1, ddof=1), 0.9))
    return min(max(math.ceil((deviation / STANDARD_ERROR_R) ** 2), SMALLEST), len(of)), deviation


def floors(chosen: Sequence[Moment], strategy: Strategy) -> dict[str, float]:
    """Return what whoever looks at nothing makes of moments, in mean R over doing nothing: entries sized by rules."""

    def always(way: int) -> float:
        asked = ((each, answered(entry(each.symbol, way, "always", Sizes()), "rules")) for each in chosen)
        return float(np.mean([evaluated(moment, answer, strategy).value_r for moment, answer in asked]))

    return {"always HOLD": 0.0, "always long": always(1), "always short": always(-1)}


def assembled(parent: Prompt, instructions: str, head: Mapping[str, object] = {}, number: int = 0) -> Prompt:
    """Return `parent` with other instructions, its system part: head, variables and schema of the reply stay.

    Raises InputError saying why it would be no such prompt.
    """
    if instructions == parent.system:
        return parent
    version = f"v{number or parent.number + 1:03}"
    prompt = parse_prompt(written(parent, version, instructions, parent.user, head), f"{parent.name}/{version}")
    if (prompt.system, prompt.user) != (instructions, parent.user):
        raise InputError("'## user' may stand in no line of it, nor spaces around it")
    if len(instructions) > LONGEST * len(parent.system):
        raise InputError(f"{len(instructions)} characters are more than {LONGEST} times those of {parent.version}")
    before, after = (set(re.findall(r"\w+", text)) for text in (parent.system, instructions))
    if lost := sorted(before.intersection(_fields(asking(parent.name).schema_of(parent))) - after):
        raise InputError(f"it no longer says what the reply's {', '.join(lost)} is")
    return prompt


def _fields(schema: object) -> Iterator[str]:
    """Yield the name of every property, however deep."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        yield from properties if isinstance(properties, Mapping) else ()
        schema = list(schema.values())
    for each in schema if isinstance(schema, list) else ():
        yield from _fields(each)


def shown_better(
    ours: np.ndarray, theirs: np.ndarray, floor: Mapping[str, float], tried: int, confidence: float
) -> tuple[Criterion, ...]:
    """Return what the best candidate must show on the validation part; scores of the same moments in order of time.

    tried: candidates on these days. The interval's level is 1 - (1 - confidence) / tried.
    """
    mean, level = ours.mean(), 1 - (1 - confidence) / tried
    gap = interval(ours - theirs, level)
    edge = f"{numbers.interval(gap.model_dump(), 3)} R a moment, {len(ours)} moments"
    bar = f"its {level:.2%} interval above 0: {tried} tried on these days"
    earned = f"{mean:+.3f} R a moment"
    floors = [_criterion(name, earned, f"above {least:+.3f}", bool(mean > least)) for name, least in floor.items()]
    return (*floors, _criterion("version in use", edge, bar, None if gap.low is None else gap.low > 0))


def not_contradicted(ours: np.ndarray, theirs: np.ndarray) -> Criterion:
    """Return whether the locked window says the same: a mean difference above 0."""
    gap = (ours - theirs).mean()
    return _criterion("locked window", f"{gap:+.3f} R a moment, {len(ours)} moments", "above 0", bool(gap > 0))


def _criterion(name: str, value: str, threshold: str, passed: bool | None) -> Criterion:
    return Criterion(name=name, value=value, threshold=threshold, passed=bool(passed), unknown=passed is None)
