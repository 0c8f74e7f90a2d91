"""Answers of a venue with one number in them that no venue means."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal

INSANE = ("1e999999999", "-1e400")
IDS = ("orderId", "orderLinkId", "execId", "symbol", "retCode", "userID", "readOnly", "unified", "uta", "u")


def changed(value: object, change: Callable[[str, object], object], name: str = "") -> object:
    """Return an answer with every number in it changed; numbers of all rows of a list have one name."""
    if isinstance(value, dict):
        return {key: changed(each, change, f"{name}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        rows = any(isinstance(each, list | dict) for each in value)
        return [changed(each, change, name if rows else f"{name}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, bool) or name.rpartition(".")[2] in IDS or not _is_number(value):
        return value
    return change(name, value)


def numbers(answer: object) -> list[str]:
    """Return the names of an answer's numbers."""
    found: dict[str, None] = {}

    def note(name: str, value: object) -> object:
        found[name] = None
        return value

    changed(answer, note)
    return list(found)


def spoiled(answer: object, name: str, value: object) -> object:
    """Return the answer with `value` for the number of that name."""
    return changed(answer, lambda other, sane: value if other == name else sane)


def each(answers: dict[str, object], values: tuple[object, ...]) -> Iterator[tuple[str, str, object]]:
    """Yield every path, number and value."""
    for path, answer in answers.items():
        for name in numbers(answer):
            for value in values:
                yield path, name, value


def _is_number(value: object) -> bool:
    with suppress(ArithmeticError, ValueError):
        return Decimal(str(value)).is_finite()
    return False
