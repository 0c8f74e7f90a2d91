"""Chance from a seed, drawn by name: what one thing draws does not depend on what was drawn before it.

So a fault can be left out of a world and everything else in it stays possible: that is how a failing seed is shrunk.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
SCALE = 2.0**64


class Luck:
    """All the chance of one world. `only`: the faults that may happen, by name; None: any."""

    def __init__(self, seed: int, only: frozenset[str] | None = None) -> None:
        self.seed, self.only = seed, only
        self.struck: dict[str, str] = {}  # the faults that happened: name -> kind
        self._key = seed.to_bytes(8, "big", signed=True)

    def draw(self, name: str) -> float:
        """Return a number from 0 to 1 that belongs to `name`."""
        return int.from_bytes(blake2b(name.encode(), key=self._key, digest_size=8).digest()) / SCALE

    def between(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * self.draw(name)

    def choice(self, name: str, of: Sequence[T]) -> T:
        return of[int(self.draw(name) * len(of))]

    def weighted(self, name: str, odds: Mapping[T, float]) -> T:
        """Return one of the keys, each as often as its weight says."""
        left = self.draw(name) * sum(odds.values())
        for each, weight in odds.items():
            left -= weight
            if left < 0:
                return each
        return next(reversed(odds))

    def fault(self, name: str, odds: Mapping[str, float], rate: float) -> str:
        """Return which fault happens under this name, "" for none: `rate` says how often one does."""
        if self.draw(name) >= rate or (self.only is not None and name not in self.only):
            return ""
        kind = self.weighted(f"{name}?", odds)
        self.struck[name] = kind
        return kind
