"""Records older than trails: what their ladder told in sentences, read once, for deciding again.

Nothing else reads an error, a flag or an attempt of ours. A record that has a trail passes through.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from tasks.core.types import Answer, ModelCall, Rung, Why

_OPEN = re.compile(r"breaker open until (\d\d):(\d\d):(\d\d) UTC after (\d+) errors")
_NEAR = re.compile(r"cached:(\d+\.\d+):(\d+)s")
_EXACT = re.compile(r"cached:(\w+):(\d+)s")  # a near decision's distance is no role


def with_trail(old: Answer, as_of: datetime) -> Answer:
    """Return an answer as today's release would have kept it, as far as deciding again needs it."""
    if old.trail:
        return old
    ages = defaultdict(list)  # of the replies that were kept, by role
    for exact in filter(None, map(_EXACT.fullmatch, old.flags)):
        ages[exact[1]].append(int(exact[2]))
    tools = [
        call.replace(dropped=f"dropped:{call.tool}" in call.flags, late=call.error == "timeout")
        for call in old.tool_calls
    ]
    calls = tuple(_with_trail(call, old, ages[call.role]) for call in old.calls)
    return old.replace(trail=tuple(_rungs(old, as_of)), calls=calls, tool_calls=tuple(tools))


def stood(old: Answer) -> bool:
    """Return whether a hold for lack of answers passed for an answer because its error ended in a flag's words."""
    return not old.trail and old.source == "hold" and old.rung != "hold"


def without_trail(new: Answer, old: Answer) -> Answer:
    """Return an answer as the release before trails would have kept it, to compare with `old`, one of its."""
    calls = tuple(call.replace(trail=()) for call in new.calls)
    tools = tuple(call.replace(dropped=False, late=False) for call in new.tool_calls)
    rung = old.rung if stood(old) else new.rung
    return new.replace(rung=rung, trail=(), calls=calls, tool_calls=tools)


def _rungs(old: Answer, as_of: datetime) -> Iterator[Rung]:
    if shut := _OPEN.fullmatch("".join(old.errors[:1])):
        hour, minute, second, errors = map(int, shut.groups())
        until = as_of.replace(hour=hour, minute=minute, second=second, microsecond=0)
        until += timedelta(days=until <= as_of)
        yield Rung(rung="primary", source="", why=Why.BREAKER_OPEN, retry_at=until, errors=errors)
    if "late:planner" in old.flags:
        yield Rung(rung="primary", source="", role="planner", why=Why.OUT_OF_TIME)
    if old.rung == "cache" and (near := _NEAR.fullmatch("".join(old.flags[-1:]))):
        age_s, distance = int(near[2]), float(near[1])
        at = as_of - timedelta(seconds=age_s)
        yield Rung(rung="cache", source="cache", as_of=at, distance=distance, age_s=age_s)


def _with_trail(call: ModelCall, old: Answer, ages: list[int]) -> ModelCall:
    """Mark a reply as cached or a cheap model's; the `ages` of its role are used up in their order."""
    trail = call.trail
    if ages and not call.error:
        trail = (Rung(rung="cache", source="cache", role=call.role, age_s=ages.pop(0)),)
    elif old.rung == "cheap" and not call.error:
        trail = tuple(rung.replace(rung="cheap") for rung in call.tried())
    return call.replace(trail=trail)
