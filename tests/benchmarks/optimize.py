"""Prompts written by evidence: what finds an improvement that is there, and how often one is found where none is.

A server trades by the RSI where the instructions hold one certain sentence, else sells. Once that sentence is among
those that are proposed, on candles whose drift turns; ten times nothing helps: the server draws by instructions and
question, on candles without drift. No MLflow: the search, the bar and the locked window alone.
"""

import os
import sys
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from tasks import optimize as stage
from tasks.adapters.variants import variants
from tasks.core.lab import optimize
from tasks.core.simulation.paid_replies import Spending
from tasks.moments import MomentsRequest, gather
from tasks.optimize import Assignment, OptimizationRequest, Search
from tasks.settings import settings

SEEDS, CANDIDATES = 10, 8
TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / part) for part in ("adapters", "core", "flows")]


def searched(folder: str, seed: int, drift: float, sentences: tuple[str, ...]) -> tuple[str, bool]:
    """Optimise `single` on candles of a seed; returns a line of what came of it, and whether there is a challenger."""
    from tests.flows.test_optimize_flow import SYMBOL, InstructedModel, tape

    path = Path(folder) / f"{seed}.parquet"
    tape(seed, drift).to_parquet(path)
    with InstructedModel(*sentences, draws=not drift) as server:
        os.environ |= {"QUARTERDECK_HOME": f"{folder}/{seed}", "QUARTERDECK_MODEL_BASE_URL": server.url}
        settings.cache_clear()
        chosen = gather(MomentsRequest(name="bench", candles={SYMBOL: str(path)}, events=300, mask=True), None)
        [variant, *_] = variants(("llm:single",), ("openai/test",), {}, settings())
        request = OptimizationRequest(role="single", moments="bench@1", candidates=CANDIDATES)
        parents = {"single": stage.load_prompt("single")}
        work = Assignment(request, SimpleNamespace(name="bench@1"), chosen, optimize.split(chosen), variant, parents)
        calls, usd = stage.estimated(work)
        spending = Spending(Decimal(100))
        searching, tried = stage.search(work, spending, lambda: None)
        shown = _shown(searching, tried)
        parts = "/".join(str(len(part)) for part in work.parts)
        what = f"moments={parts} minibatch={searching.batch} deviation_r={searching.deviation_r:.2f} tried={tried}"
        spent = f"asked={spending.asked} reused={spending.reused} usd={spending.spent_usd} (at most {calls}, {usd})"
        return f"{what} {spent}\n    {shown[1]}", shown[0]


def _shown(searching: Search, tried: int) -> tuple[bool, str]:
    best = searching.best
    if best is None:
        return False, "no candidate got beyond its minibatch"
    criteria = stage.judge(searching, best, tried)
    passed = all(each.passed for each in criteria)
    if passed:
        criteria = (*criteria, stage.open_locked(searching, best))
    return passed and criteria[-1].passed, "; ".join(
        f"{'' if each.passed else 'not '}{each.name}: {each.value}" for each in criteria
    )


def main() -> None:
    """Print what was found where something helps, and over ten seeds where nothing does."""
    from tests.flows.test_optimize_flow import HELPS, NEVER

    with TemporaryDirectory() as folder:
        text, found = searched(folder, 8, 2e-4, (*NEVER, HELPS))
        print(f"one of four sentences helps: challenger={found} {text}")
        challengers = 0
        for seed in range(100, 100 + SEEDS):
            text, found = searched(folder, seed, 0.0, NEVER)
            challengers += found
            print(f"nothing helps, seed {seed}: challenger={found} {text}", flush=True)
        print(f"where no prompt can help: {challengers} challengers over {SEEDS} seeds")


if __name__ == "__main__":
    main()
