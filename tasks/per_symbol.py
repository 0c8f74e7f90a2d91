"""One symbol's trouble is not another's: a task over many symbols returns for each its result or what it raised."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from tasks.retries import is_tried_again

G = TypeVar("G")
T = TypeVar("T")


def apart(work: Callable[[str, G], T], given: Mapping[str, G | Exception]) -> dict[str, T | Exception]:
    """Do `work` for each symbol; an exception takes the place of its result, and one that was given is passed on.

    What infrastructure broke is no symbol's own trouble: it is raised as long as the whole task is tried again.
    """
    return {symbol: one if isinstance(one, Exception) else _tried(work, symbol, one) for symbol, one in given.items()}


def _tried(work: Callable[[str, G], T], symbol: str, one: G) -> T | Exception:
    try:
        return work(symbol, one)
    except Exception as e:
        if is_tried_again(e):
            raise
        return e


def result(of: T | Exception) -> T:
    """Return a symbol's result, or raise what came instead."""
    if isinstance(of, Exception):
        raise of
    return of
