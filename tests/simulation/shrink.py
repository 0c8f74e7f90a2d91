"""From a seed that fails to the fewest faults with which it does."""

from tests.simulation.world import Told, lived

TRIES = 200


def shrunk(seed: int, days: float) -> Told:
    """Return what becomes of the world with as few of its faults as still break it; raises ValueError if none do.

    Faults are left out by ever smaller parts as long as something still breaks (delta debugging).
    """
    told = lived(seed, days)
    if not told.breaches:
        raise ValueError(f"seed {seed} does not fail")
    parts, tries = 2, 0
    while tries < TRIES and parts <= 2 * len(told.faults):
        names = list(told.faults)
        size = max(1, -(-len(names) // parts))
        for start in range(0, len(names), size):
            tries += 1
            rest = frozenset(names[:start] + names[start + size :])
            fewer = lived(seed, days, rest)
            if fewer.breaches:
                told, parts = fewer, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts *= 2
    return told
