"""Plain tables of what a soak has shown."""

from collections import Counter

from tests.soak.week import Soaked


def text(seen: Soaked) -> str:
    """Return the tables."""
    closes = seen.closes
    lines = [
        f"15m closes due: {closes.due}, each once: {_counted(closes.statuses)}; between them by event: "
        f"{_counted(closes.between)}; candles due and there: {closes.candles}",
        f"decided: {_counted(closes.actions)}",
        f"runs: {_counted(seen.stories)}; failed: {_counted(seen.failed)}",
        f"faults at closes: {_counted(seen.faults)}; requests: {seen.requests}, orders: {seen.orders}, "
        f"fills: {seen.fills}",
        f"halts lifted by hand: {_counted(seen.halts)}",
        f"longest without a stop: {seen.naked_s:.0f} s; most at risk: {seen.risk_pct:.2f} %",
        "",
        *seen.memory.table(),
        *_by_run(seen),
        "",
    ]
    for name, files in seen.files.items():
        lines += [*files.table(name), ""]
    return "\n".join([*lines, f"breaches: {len(seen.breaches)}", *(f"  {breach}" for breach in seen.breaches)])


def _by_run(seen: Soaked) -> list[str]:
    """Through Prefect: what one flow run adds to the memory of the processes that are there for all of them."""
    memory, after = seen.memory, seen.memory.warm_up()
    if "worker" not in memory.hours:
        return []
    runs_a_day = 24 * seen.stories.total() / max(memory.hours["worker"])
    told = (f"{name} {1000 * memory.slope(name, after) / runs_a_day:.1f} kB" for name in memory.hours)
    return [f"that is by run ({runs_a_day:.0f} a day): {', '.join(told)}"]


def _counted(counts: Counter[str]) -> str:
    return " ".join(f"{name}={n}" for name, n in counts.most_common()) or "none"
