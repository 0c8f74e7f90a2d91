"""What was killed where, and what came of it."""

from collections import Counter
from typing import Any

from tasks.crash_points import STEPS
from tests.chaos.bars import FAULTS, INSTANT, Tally


def table(tally: Tally) -> str:
    """Return kills by step and fault, and the totals below."""
    kinds = list(FAULTS)
    head = [f"{i:2} {kind}" for i, kind in enumerate(kinds)]
    lines = [
        "faults: " + ", ".join(head),
        f"{'killed at':22}" + "".join(f"{i:4}" for i in range(len(kinds))) + "   all",
    ]
    for step in (*STEPS, INSTANT):
        counts = [tally.kills[step, kind] for kind in kinds]
        lines.append(f"{step:22}" + "".join(f"{n or '.':>4}" for n in counts) + f"{sum(counts):6}")
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in document(tally).items())])


def document(tally: Tally) -> dict[str, Any]:
    """Return the totals."""
    sorts = Counter(kind for breach in tally.breaches for kind in SORTS if f": {kind}" in breach)
    never = [step for step in STEPS if not sum(tally.kills[step, kind] for kind in FAULTS)]
    return {
        "kills": sum(tally.kills.values()), "bars": tally.bars, "runs": tally.runs, "runs_failed": tally.failed,
        "orders": tally.orders, "fills": tally.fills, "actions": dict(tally.actions.most_common()),
        "scenes": dict(tally.scenes.most_common()),
        "steps_never_died_at": never, **{name: sorts[kind] for kind, name in SORTS.items()},
        "longest_unprotected_s": tally.naked_s, "longest_unprotected_where_stops_attach_s": tally.naked_attached_s,
        "seconds_per_run": {kind: round(s / tally.ran[kind], 1) for kind, s in tally.seconds.most_common()},
        "largest_risk_pct": round(tally.risk_pct, 3), "breaches": tally.breaches,
    }  # fmt: skip


SORTS = {
    "duplicate": "duplicates", "lost": "lost", "limit": "limit_breaches", "mismatch": "mismatches", "naked": "naked",
    "halt": "halts", "flattened": "flattened_without_cause", "beside": "entries_beside_a_foreign_position",
}  # fmt: skip
