"""Records older than trails: what their ladder told in sentences, read once, for deciding again.

Nothing else reads an error, a flag or an attempt of ours. A record that has a trail passes through.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from tasks.core.types.decision import Answer, ModelCall, Rung, ToolCall, Why

_OPEN = re.compile(r"breaker open until (\d\d):(\d\d):(\d\d) UTC after (\d+) errors")
_NEAR = re.compile(r"cached:(\d+\.\d+):(\d+)s")
_EXACT = re.compile(r"cached:(\w+):(\d+)s")
_LATE_PLANNER = "late:planner"


def with_trail(old: Answer, as_of: datetime) -> Answer:
    """Return an answer as today's release would have kept it, as far as deciding again needs it."""
    if old.trail:
        return old
    ages = {role: [int(age) for known, age in _kept(old) if known == role] for role, _ in _kept(old)}
    return old.model_copy(
        update={
            "trail": (*_shut(old, as_of), *_planning(old), *_near(old, as_of)),
            "calls": tuple(_asked(call, old, ages) for call in old.calls),
            "tool_calls": tuple(_tool(call) for call in old.tool_calls),
        }
    )


def stood(old: Answer) -> bool:
    """Return whether a hold for lack of answers was taken for one: its error ended, by chance, in a flag's words."""
    return not old.trail and old.source == "hold" and old.rung != "hold"


def without_trail(new: Answer, old: Answer) -> Answer:
    """Return an answer as the release before trails would have kept it, to compare with `old`, one of its."""
    new = new.model_copy(update={"rung": old.rung}) if stood(old) else new
    calls = tuple(call.model_copy(update={"trail": ()}) for call in new.calls)
    tools = tuple(call.model_copy(update={"dropped": False, "late": False}) for call in new.tool_calls)
    return new.model_copy(update={"trail": (), "calls": calls, "tool_calls": tools})


def _kept(old: Answer) -> list[tuple[str, str]]:
    """Return (role, age) of each reply that was kept; a near decision's distance is no role."""
    return [(found[1], found[2]) for flag in old.flags if (found := _EXACT.fullmatch(flag))]


def _shut(old: Answer, as_of: datetime) -> Iterator[Rung]:
    found = _OPEN.fullmatch(old.errors[0]) if old.errors else None
    if found is not None:
        hour, minute, second, errors = map(int, found.groups())
        until = as_of.replace(hour=hour, minute=minute, second=second, microsecond=0)
        until = until if until > as_of else until + timedelta(days=1)
        yield Rung(rung="primary", source="", why=Why.BREAKER_OPEN, retry_at=until, errors=errors)


def _planning(old: Answer) -> Iterator[Rung]:
    if _LATE_PLANNER in old.flags:
        yield Rung(rung="primary", source="", role="planner", why=Why.OUT_OF_TIME)


def _near(old: Answer, as_of: datetime) -> Iterator[Rung]:
    found = _NEAR.fullmatch(old.flags[-1]) if old.flags and old.rung == "cache" else None
    if found is not None:
        age_s, distance = int(found[2]), float(found[1])
        at = as_of - timedelta(seconds=age_s)
        yield Rung(rung="cache", source="cache", as_of=at, distance=distance, age_s=age_s)


def _asked(call: ModelCall, old: Answer, ages: Mapping[str, list[int]]) -> ModelCall:
    """Say of a reply that it was kept, or a cheap model's; `ages` of a role's are used up in their order."""
    if call.error:
        return call
    if ages.get(call.role):
        kept = Rung(rung="cache", source="cache", role=call.role, age_s=ages[call.role].pop(0))
        return call.model_copy(update={"trail": (kept,)})
    if old.rung == "cheap":
        return call.model_copy(update={"trail": tuple(r.model_copy(update={"rung": "cheap"}) for r in call.tried())})
    return call


def _tool(call: ToolCall) -> ToolCall:
    dropped = f"dropped:{call.tool}" in call.flags
    return call.model_copy(update={"dropped": dropped, "late": call.error == "timeout"})
