"""`make bench`: measure what the issues give numbers for; `make bench ARGS="backtest"` picks a part.

Machines are noisy: read the figures as ratios, CPU seconds before wall seconds.
"""

import importlib
import sys

PARTS = (
    "market", "guard", "matching", "backtest", "compare", "coverage", "startup", "idle", "warm", "quality", "deciders",
    "export", "replay", "cycles", "mask", "moments", "optimize",
)  # fmt: skip


def main(wanted: list[str]) -> None:
    """Run the wanted parts, all without arguments."""
    for name in wanted or list(PARTS):
        if name not in PARTS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(PARTS)}")
        print(f"== {name}")
        importlib.import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
