"""Echoes: a model that is too weak to decide copies the example that stands in its own prompt.

What adds risk and equals such an example in its word and in every number is nobody's decision. Its text and its symbol
do not count; what reduces risk is never an echo.
"""

from collections.abc import Iterator
from functools import cache
from json import JSONDecodeError, JSONDecoder
from typing import Any

from tasks.core.decision.actions import Unusable, parse_as, parse_reply
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.types import ENTRIES, Dto

_JSON = JSONDecoder(parse_float=str, parse_int=str, strict=False)  # numbers are read as a reply's are
_WORDS = ("action", "signal")


def echoed(said: object, prompt: Prompt) -> bool:
    """Return whether an entry, a strategist's proposal or a portfolio's order equals an example in `prompt`."""
    return isinstance(said, Dto) and _adds_risk(said) and _numbers(said) in _examples(prompt.system, type(said))


def echo_of(prompt: Prompt) -> Unusable:
    """Return why an echo is no decision."""
    return Unusable("ECHO", f"an example of {prompt.name}/{prompt.version}, number by number")


def _adds_risk(said: Dto) -> bool:
    word = next((getattr(said, name) for name in _WORDS if hasattr(said, name)), "")
    return isinstance(said, ENTRIES) or word in ("long", "short", "add", "buy", "sell")


@cache
def _examples(text: str, cls: type[Dto]) -> frozenset[tuple[object, ...]]:
    """Return the word and numbers of every object in `text` that reads as a `cls`."""
    read = (
        parse_reply(each, str(each.get("symbol", "?"))) if cls in ENTRIES else parse_as(each, cls)
        for each in _objects(text)
    )
    return frozenset(_numbers(each) for each in read if isinstance(each, cls) and not isinstance(each, Unusable))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    at = 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = _JSON.raw_decode(text, at)
        except JSONDecodeError:
            end = at + 1
        else:
            yield from _inside(value)
        at = end


def _inside(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _inside(each)


def _numbers(said: Dto) -> tuple[object, ...]:
    """Return the word and the numbers of a reply, in the order of its fields; 1.50 is 1.5."""
    fields = said.model_dump(exclude={"symbol", "instrument"})
    nested = {f"{name}.{n}": v for name, of in fields.items() if isinstance(of, dict) for n, v in of.items()}
    words = tuple(fields[name] for name in _WORDS if name in fields)
    numbers = {n: v for n, v in (fields | nested).items() if not isinstance(v, str | bool | tuple | list | dict)}
    return (*words, *sorted(numbers.items(), key=lambda each: each[0]))
